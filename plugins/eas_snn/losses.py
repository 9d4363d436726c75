"""Loss of a batch as YOLOX has it: overlap and L1 of matched boxes, cross-entropy of objectness and class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from snn_perception.api import Targets, cxcywh_to_xyxy, sum_over_ranks, xyxy_to_cxcywh

from .assignment import Assignment, Objects, Predictions, assign
from .points import BOX, CLASSES, OBJECTNESS, STRIDES, Points, anchor_points, decode_boxes, in_rows

BOX_WEIGHT = 5.0
_LEAST = 1e-8  # keeps the logarithm of a side finite


def yolox_loss(
    levels: Sequence[Tensor],
    targets: Sequence[Targets | None],
    strides: Sequence[int] = STRIDES,
    *,
    l1: bool = True,
) -> dict[str, Tensor]:
    """Return the losses ``box``, ``objectness``, ``class`` and, if `l1`, ``l1`` of a batch; their sum is trained.

    Args:
        levels: raw maps [B, 5 + K, h, w], channels 4 box codes, objectness, K classes; before any sigmoid.
        targets: of each row, boxes in pixels of the network input. A row with None is unlabelled and counts for
            nothing; one with targets but no boxes is known to be empty, and has the loss of its objectness.
        strides: of the levels, in pixels.

    Raises:
        ValueError: for a class_id the head does not have.
    """
    rows = in_rows(levels)
    objects = [_objects(target, rows) for target in targets]
    return batch_loss(rows, objects, anchor_points(levels, strides, rows.dtype), l1=l1)


def batch_loss(
    rows: Tensor, objects: Sequence[Objects | None], points: Points, *, l1: bool = True
) -> dict[str, Tensor]:
    """Return the losses of raw outputs [B, A, 5 + K]; `objects` as `targets` of `yolox_loss`.

    All are sums over the labelled rows, divided by max(1, matched anchor points of these), counted over all processes
    that train together, so that their losses add up to that of the whole batch.
    """
    labelled = [(i, one) for i, one in enumerate(objects) if one is not None]
    known = rows[[i for i, _ in labelled]]
    boxes = decode_boxes(known[..., BOX], points)
    matched = _matched(known, boxes, points, [one for _, one in labelled])
    at = (matched.row, matched.anchor)
    is_object = torch.zeros_like(known[..., OBJECTNESS])
    is_object[at] = 1.0
    classes = known[..., CLASSES][at]
    class_targets = F.one_hot(matched.class_id, classes.shape[-1]) * matched.iou[:, None]
    codes = box_codes(matched.cxcywh, points, matched.anchor)
    sums = {
        "box": BOX_WEIGHT * overlap_loss(boxes[at], matched.cxcywh).sum(),
        "objectness": F.binary_cross_entropy_with_logits(known[..., OBJECTNESS], is_object, reduction="sum"),
        "class": F.binary_cross_entropy_with_logits(classes, class_targets, reduction="sum"),
    }
    if l1:
        sums["l1"] = (known[..., BOX][at] - codes).abs().sum()
    count = sum_over_ranks(torch.tensor(len(matched.anchor), device=rows.device)).clamp(min=1)
    return {name: term / count for name, term in sums.items()}


def overlap_loss(boxes: Tensor, truth: Tensor) -> Tensor:
    """Return ``1 - IoU^2`` of each of M pairs of boxes cxcywh [M, 4]."""
    a, b = cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(truth)
    sides = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0)
    overlap = sides.prod(dim=1)
    union = boxes[:, 2:].prod(dim=1) + truth[:, 2:].prod(dim=1) - overlap
    return 1 - (overlap / union) ** 2


def box_codes(cxcywh: Tensor, points: Points, anchor: Tensor) -> Tensor:
    """Return the raw outputs [M, 4] that mean the boxes cxcywh [M, 4] at anchor points with these indices [M]."""
    stride = points.stride[anchor, None]
    return torch.cat([cxcywh[:, :2] / stride - points.grid[anchor], (cxcywh[:, 2:] / stride + _LEAST).log()], dim=1)


@dataclass(frozen=True)
class _Matched:
    """Matched anchor points of a batch: batch row, anchor, class_id, iou [M] and the object's box cxcywh [M, 4]."""

    row: Tensor
    anchor: Tensor
    class_id: Tensor
    iou: Tensor
    cxcywh: Tensor


def _matched(known: Tensor, boxes: Tensor, points: Points, objects: Sequence[Objects]) -> _Matched:
    none = torch.zeros(0, dtype=torch.int64, device=known.device)
    parts = [_Matched(none, none, none, known.new_zeros(0), known.new_zeros(0, 4))]
    for i, (row, box, one) in enumerate(zip(known, boxes, objects, strict=True)):
        if len(one):
            found = assign(Predictions(box, row[:, OBJECTNESS], row[:, CLASSES]), points, one)
            parts.append(_of_row(i, found, one))
    return _Matched(*(torch.cat([getattr(part, name) for part in parts]) for name in _Matched.__dataclass_fields__))


def _of_row(i: int, found: Assignment, objects: Objects) -> _Matched:
    owner = found.owner
    return _Matched(torch.full_like(owner, i), found.anchor, objects.class_id[owner], found.iou, objects.cxcywh[owner])


def _objects(target: Targets | None, rows: Tensor) -> Objects | None:
    """Return the targets as tensors beside `rows` [B, A, 5 + K], boxes without an inside left out."""
    if target is None:
        return None
    classes = rows.shape[-1] - 5
    if len(target) and not 0 <= target.class_id.min() <= target.class_id.max() < classes:
        raise ValueError(f"targets: expected class_id in 0..{classes - 1}, got {np.unique(target.class_id)}")
    solid = (target.xyxy[:, 2:] > target.xyxy[:, :2]).all(axis=1)
    return Objects(
        xyxy_to_cxcywh(torch.from_numpy(target.xyxy[solid]).to(rows)),
        torch.from_numpy(target.class_id[solid]).to(rows.device),
    )
