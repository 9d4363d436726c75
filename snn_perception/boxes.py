"""Boxes in plain torch: forms, overlap, clipping and class-wise non-maximum suppression.

``xyxy`` is (x1, y1, x2, y2), half-open; ``cxcywh`` is centre and size. Any float dtype, any device.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_LOOP_TYPES = {torch.float32: np.float32, torch.float64: np.float64}
_PIECE = 1024  # candidates whose overlaps with one another are computed at once, on a GPU


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Return [..., 4] centre and size of xyxy boxes."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Return [..., 4] corners of boxes given by centre and size."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def box_area(boxes: Tensor) -> Tensor:
    """Return [...] areas of xyxy boxes."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou_matrix(a: Tensor, b: Tensor) -> Tensor:
    """Return [N, M] intersection over union of xyxy boxes a [N, 4] and b [M, 4]; 0 where both are empty."""
    ax1, ay1, ax2, ay2 = a[:, None].unbind(-1)
    bx1, by1, bx2, by2 = b[None].unbind(-1)
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    overlap = width * height
    union = box_area(a)[:, None] + box_area(b)[None] - overlap
    return torch.where(overlap > 0, overlap / union, torch.zeros_like(overlap))


def clip_boxes(boxes: Tensor, height: float, width: float) -> Tensor:
    """Return xyxy boxes [..., 4] cut to [0, width] x [0, height]."""
    x = boxes[..., 0::2].clamp(0, width)
    y = boxes[..., 1::2].clamp(0, height)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1)


def class_wise_nms(
    boxes: Tensor, scores: Tensor, class_ids: Tensor, iou_threshold: float, limit: int | None = None
) -> Tensor:
    """Return the indices kept by greedy non-maximum suppression within each class, best score first.

    A box is suppressed by a kept box of its class with a higher score and an IoU above `iou_threshold`; equal scores
    keep their input order. Boxes xyxy [N, 4], scores [N], class_ids [N].

    Args:
        limit: boxes at most; None: all that are left.
    """
    order = scores.argsort(descending=True, stable=True)
    boxes, class_ids = boxes[order], class_ids[order]
    limit = len(order) if limit is None else limit
    if boxes.device.type == "cpu" and boxes.dtype in _LOOP_TYPES:
        from snn_perception.suppression import without_rivals  # brings numba, which loading plugins does not need

        least = np.dtype(_LOOP_TYPES[boxes.dtype]).type(iou_threshold)
        kept = without_rivals(boxes.detach().numpy(), class_ids.long().numpy(), least, limit)
        return order[torch.from_numpy(kept)]
    return order[_without_rivals(boxes, class_ids, iou_threshold, limit)]


def _without_rivals(boxes: Tensor, class_ids: Tensor, iou_threshold: float, limit: int) -> Tensor:
    """Return what `suppression.without_rivals` does, on any device: in pieces, since the overlaps of many thousand
    candidates with one another would fill the memory."""
    kept = torch.empty(0, dtype=torch.long, device=boxes.device)
    for piece in torch.split(torch.arange(len(boxes), device=boxes.device), _PIECE):
        beaten = _rivals(boxes, class_ids, kept, piece, iou_threshold)
        alive = piece[~beaten.any(dim=0)]
        kept = torch.cat([kept, alive[_settled(_rivals(boxes, class_ids, alive, alive, iou_threshold))]])
        if len(kept) >= limit:
            break
    return kept[:limit]


def _rivals(boxes: Tensor, class_ids: Tensor, one: Tensor, other: Tensor, iou_threshold: float) -> Tensor:
    return (iou_matrix(boxes[one], boxes[other]) > iou_threshold) & (class_ids[one][:, None] == class_ids[other][None])


def _settled(rivals: Tensor) -> Tensor:
    """Return which of boxes [N], best first, greedy suppression keeps, given which are rivals [N, N].

    As a fixed point: each pass settles at least one more box of every chain of rivals, and real scenes have short
    chains, so that a few matrix operations replace a loop over boxes.
    """
    rivals = rivals.triu(diagonal=1)
    keep = torch.ones(len(rivals), dtype=torch.bool, device=rivals.device)
    while True:
        settled = ~rivals[keep].any(dim=0)
        if torch.equal(settled, keep):
            return keep
        keep = settled
