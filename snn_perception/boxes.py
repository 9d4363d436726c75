"""Boxes in plain torch: forms, overlap, clipping and class-wise non-maximum suppression.

``xyxy`` is (x1, y1, x2, y2), half-open; ``cxcywh`` is centre and size. Any float dtype, any device.
"""

from __future__ import annotations

import torch
from torch import Tensor


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


def class_wise_nms(boxes: Tensor, scores: Tensor, class_ids: Tensor, iou_threshold: float) -> Tensor:
    """Return the indices kept by greedy non-maximum suppression within each class, best score first.

    A box is suppressed by a kept box of its class with a higher score and an IoU above `iou_threshold`; equal scores
    keep their input order. Boxes xyxy [N, 4], scores [N], class_ids [N].
    """
    order = scores.argsort(descending=True, stable=True)
    boxes, class_ids = boxes[order], class_ids[order]
    rivals = (iou_matrix(boxes, boxes) > iou_threshold) & (class_ids[:, None] == class_ids[None, :])
    rivals = rivals.triu(diagonal=1)
    # Greedy suppression as a fixed point: each pass settles at least one more box of every chain of rivals, and real
    # scenes have short chains, so a few matrix operations replace a loop over boxes.
    keep = torch.ones(len(order), dtype=torch.bool, device=boxes.device)
    while True:
        settled = ~rivals[keep].any(dim=0)
        if torch.equal(settled, keep):
            return order[keep]
        keep = settled
