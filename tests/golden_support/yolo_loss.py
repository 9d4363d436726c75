"""SpikeYOLO's training and metric: raw maps and labels to matches, losses and gradients; curves to precision."""

from __future__ import annotations

import numpy as np
import torch
from snn_perception_plugins.spikeyolo.assignment import Objects, assign
from snn_perception_plugins.spikeyolo.losses import (
    BINS,
    STRIDES,
    Gains,
    batch_loss,
    boxes_at,
    expected_distances,
    in_rows,
    make_anchors,
)

from snn_perception.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from snn_perception.evaluation.trapezoid import average_precision
from snn_perception.registry import Registry
from tests.golden_support.vectors import Vector

_TERMS = ("box", "class", "dfl")  # in the order of the stored figures


def check_yolo_loss(vector: Vector, registry: Registry) -> None:
    """Check the arrays ``loss_*``, ``tal_*``, ``dfl_*``, ``anchor*`` and ``ap_*`` of a vector."""
    _check_assigner(vector)
    _check_losses(vector)
    _check_distances(vector)
    recall, precision = vector.input("ap_recall"), vector.input("ap_precision")
    vector.compare("ap_value", np.array(average_precision(recall, precision)))


def _tensor(vector: Vector, name: str) -> torch.Tensor:
    return torch.from_numpy(vector.input(name))


def _check_assigner(vector: Vector) -> None:
    class_id = _tensor(vector, "tal_gt_labels")[..., 0].long()
    objects = Objects(_tensor(vector, "tal_gt_bboxes_xyxy_px"), class_id, _tensor(vector, "tal_mask_gt")[..., 0] > 0)
    scores, boxes = _tensor(vector, "tal_pred_scores_sigmoid"), _tensor(vector, "tal_pred_bboxes_xyxy_px")
    found = assign(scores, boxes, _tensor(vector, "tal_anchor_points_px"), objects)
    assert found.is_foreground.any(), f"{vector}: an assignment without foreground proves nothing"
    vector.compare("tal_fg", found.is_foreground)
    vector.compare("tal_scores", found.scores)
    for name, value in (("tal_gt_index", found.owner), ("tal_labels", class_id.gather(1, found.owner))):
        background = _tensor(vector, name)  # of which nothing is said there
        vector.compare(name, torch.where(found.is_foreground, value, background))


def _check_losses(vector: Vector) -> None:
    levels = [_tensor(vector, f"loss_raw{i}").requires_grad_() for i in range(len(STRIDES))]
    rows = in_rows(levels)
    anchors = make_anchors(levels, STRIDES, rows.dtype)
    terms = batch_loss(rows, _labels(vector, rows, levels[0]), anchors, Gains())
    total = torch.stack(list(terms.values())).sum()
    vector.compare("loss_items_box_cls_dfl", torch.stack([terms[name] for name in _TERMS]) / len(rows))
    vector.compare("loss_total", total)
    for i, gradient in enumerate(torch.autograd.grad(total, levels, retain_graph=True)):
        vector.compare(f"loss_raw{i}_grad", gradient)
    nothing = Objects.padded([torch.zeros(0, 4)] * len(rows), [torch.zeros(0, dtype=torch.int64)] * len(rows), rows)
    terms = batch_loss(rows, nothing, anchors, Gains())
    vector.compare("loss_empty_items", torch.stack([terms[name] for name in _TERMS]) / len(rows))
    vector.compare("loss_empty_total", torch.stack(list(terms.values())).sum())


def _labels(vector: Vector, rows: torch.Tensor, finest: torch.Tensor) -> Objects:
    height, width = (side * STRIDES[0] for side in finest.shape[-2:])
    xyxy = cxcywh_to_xyxy(_tensor(vector, "loss_bboxes_xywh_normalised"))
    xyxy = xyxy * torch.tensor([width, height, width, height], dtype=xyxy.dtype)
    class_id, owner = _tensor(vector, "loss_cls").long(), _tensor(vector, "loss_batch_idx")
    own = [owner == row for row in range(len(rows))]
    return Objects.padded([xyxy[mine] for mine in own], [class_id[mine] for mine in own], rows)


def _check_distances(vector: Vector) -> None:
    maps = [torch.zeros(1, 1, 2, 3, dtype=torch.float64), torch.zeros(1, 1, 1, 2, dtype=torch.float64)]
    anchors = make_anchors(maps, (8, 16), torch.float64)
    vector.compare("anchors_2x3s8_1x2s16", anchors.centres)
    vector.compare("anchor_strides_2x3s8_1x2s16", anchors.stride)
    sides = _tensor(vector, "dfl_in").unflatten(1, (4, BINS)).permute(0, 3, 1, 2)
    distances = expected_distances(sides)
    vector.compare("dfl_out_ltrb", distances.transpose(1, 2))
    boxes = xyxy_to_cxcywh(boxes_at(anchors.centres[: distances.shape[1]], distances)) * STRIDES[0]
    vector.compare("dfl_decode_xywh_px_anchors0to5_stride8", boxes.transpose(1, 2))
