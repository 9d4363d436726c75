"""Loss of a batch as YOLOv8 has it: complete IoU and distribution focal loss of boxes, cross-entropy of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from snn_perception.api import SensorSize, Targets, sum_over_ranks

from .assignment import Assignment, Objects, assign, complete_iou

STRIDES = (8, 16, 32)
BINS = 16  # of the distance from an anchor point to each side of its box, in cells
_MOST_CELLS = BINS - 1 - 0.01  # a distance lies between two bins


@dataclass(frozen=True)
class Gains:
    """Weights of the three parts, with the published defaults."""

    box: float = 7.5
    classes: float = 0.5
    dfl: float = 1.5


@dataclass(frozen=True)
class Anchors:
    """Cells of all levels, finest first, row by row: centres (x, y) [A, 2] in cells, stride [A, 1] in px."""

    centres: Tensor
    stride: Tensor


def yolo_loss(
    raw_levels: Sequence[Tensor],
    targets: Sequence[Targets | None],
    size: SensorSize,
    *,
    strides: Sequence[int] = STRIDES,
    gains: Gains | None = None,
) -> dict[str, Tensor]:
    """Return the losses ``box``, ``class`` and ``dfl`` of a batch, scalars; their sum is trained.

    Each is a sum over the labelled rows, divided by max(1, sum of the scores to predict) and, as published, times the
    number of labelled rows; both are counted over all processes that train together, so that their losses add up to
    that of the whole batch. A row with None is unlabelled and counts for nothing; one with targets but no boxes is
    known to be empty, and has the class loss of its background.

    Args:
        raw_levels: raw maps [B, 64 + K, h, w]: 16 logits for each of left, top, right, bottom, then K class logits.
        targets: of each row, boxes in pixels of the network input of `size`.
        strides: of the levels, in px.

    Raises:
        ValueError: for levels that are not those of `size`, or a class_id the head does not have.
    """
    _check_levels(raw_levels, size, strides)
    rows = in_rows(raw_levels)
    anchors = make_anchors(raw_levels, strides, rows.dtype)
    labelled = [i for i, target in enumerate(targets) if target is not None]
    known = rows[labelled]
    objects = _objects([target for target in targets if target is not None], known)
    return batch_loss(known, objects, anchors, gains or Gains())


def batch_loss(rows: Tensor, objects: Objects, anchors: Anchors, gains: Gains) -> dict[str, Tensor]:
    """Return the losses of raw outputs [B, A, 64 + K] of labelled rows; see `yolo_loss`."""
    sides, logits = rows[..., : 4 * BINS].unflatten(-1, (4, BINS)), rows[..., 4 * BINS :]
    boxes = boxes_at(anchors.centres, expected_distances(sides))
    assigned = assign(
        logits.detach().sigmoid(), boxes.detach() * anchors.stride, anchors.centres * anchors.stride, objects
    )
    at = assigned.is_foreground
    weight = assigned.scores[at].sum(dim=-1)
    wanted = _wanted_boxes(assigned, objects, anchors)
    distances = distances_to(wanted, anchors.centres.expand(len(rows), -1, -1)[at])
    sums = {
        "box": gains.box * ((1 - complete_iou(boxes[at], wanted)) * weight).sum(),
        "class": gains.classes * F.binary_cross_entropy_with_logits(logits, assigned.scores, reduction="sum"),
        "dfl": gains.dfl * (distribution_loss(sides[at], distances) * weight).sum(),
    }
    count = sum_over_ranks(torch.stack([assigned.scores.sum(), assigned.scores.new_tensor(float(len(rows)))]))
    return {name: part * (count[1] / count[0].clamp(min=1)) for name, part in sums.items()}


def in_rows(levels: Sequence[Tensor]) -> Tensor:
    """Return [B, A, 64 + K], at least float32, of raw levels [B, 64 + K, h, w]; A in the order of `make_anchors`."""
    rows = torch.cat([level.flatten(2) for level in levels], dim=2).transpose(1, 2)
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def make_anchors(levels: Sequence[Tensor], strides: Sequence[int], dtype: torch.dtype) -> Anchors:
    """Return the anchor points of levels [B, C, h, w] that lie `strides` pixels apart."""
    centres, steps = [], []
    for level, stride in zip(levels, strides, strict=True):
        height, width = level.shape[-2:]
        y, x = (torch.arange(side, device=level.device, dtype=dtype) + 0.5 for side in (height, width))
        centres.append(torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1).reshape(-1, 2))
        steps.append(torch.full((height * width, 1), float(stride), device=level.device, dtype=dtype))
    return Anchors(torch.cat(centres), torch.cat(steps))


def expected_distances(sides: Tensor) -> Tensor:
    """Return the expectation [..., 4] in cells of the distances with these logits [..., 4, 16]: the mean over bins."""
    return sides.softmax(dim=-1) @ torch.arange(BINS, dtype=sides.dtype, device=sides.device)


def boxes_at(centres: Tensor, distances: Tensor) -> Tensor:
    """Return boxes xyxy [..., 4] from distances left, top, right, bottom [..., 4] around centres [..., 2]."""
    return torch.cat([centres - distances[..., :2], centres + distances[..., 2:]], dim=-1)


def distances_to(xyxy: Tensor, centres: Tensor) -> Tensor:
    """Return distances left, top, right, bottom [..., 4] from centres [..., 2] to the sides of boxes [..., 4]."""
    return torch.cat([centres - xyxy[..., :2], xyxy[..., 2:] - centres], dim=-1)


def distribution_loss(sides: Tensor, distances: Tensor) -> Tensor:
    """Return the distribution focal loss [M] of logits [M, 4, 16]: mean over sides (Li et al., NeurIPS 2020, eq. 6).

    A distance [M, 4] in cells, cut to what the bins can say, is shared out between the two bins it lies between.
    """
    distances = distances.clamp(0, _MOST_CELLS)
    low = distances.floor()
    share = (distances - low)[..., None]
    log_p = sides.log_softmax(dim=-1)
    index = low.long()[..., None]
    loss = -((1 - share) * log_p.gather(-1, index) + share * log_p.gather(-1, index + 1))
    return loss.squeeze(-1).mean(dim=-1)


def _wanted_boxes(assigned: Assignment, objects: Objects, anchors: Anchors) -> Tensor:
    """Return the boxes xyxy [M, 4] in cells that the foreground is to predict."""
    row, anchor = torch.nonzero(assigned.is_foreground, as_tuple=True)
    return objects.xyxy[row, assigned.owner[row, anchor]] / anchors.stride[anchor]


def _check_levels(levels: Sequence[Tensor], size: SensorSize, strides: Sequence[int]) -> None:
    grids = [tuple(level.shape[-2:]) for level in levels]
    expected = [(-(-size.height // stride), -(-size.width // stride)) for stride in strides]
    if grids != expected:
        raise ValueError(f"raw_levels: expected grids {expected} for an input of {size} px, got {grids}")


def _objects(targets: Sequence[Targets], rows: Tensor) -> Objects:
    """Return targets as padded tensors beside `rows` [B, A, 64 + K], boxes without an inside left out."""
    classes = rows.shape[-1] - 4 * BINS
    boxes, class_ids = [], []
    for target in targets:
        if len(target) and not 0 <= target.class_id.min() <= target.class_id.max() < classes:
            raise ValueError(f"targets: expected class_id in 0..{classes - 1}, got {np.unique(target.class_id)}")
        solid = (target.xyxy[:, 2:] > target.xyxy[:, :2]).all(axis=1)
        boxes.append(torch.from_numpy(target.xyxy[solid]))
        class_ids.append(torch.from_numpy(target.class_id[solid]))
    return Objects.padded(boxes, class_ids, rows)
