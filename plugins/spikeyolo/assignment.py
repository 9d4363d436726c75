"""Which anchor points answer for which object: task-aligned assignment (Feng et al., ICCV 2021, "TOOD"), as in YOLOv8.

An anchor point is a candidate for the objects that it lies in. Its alignment with one is what its prediction says of
the object's class and place, ``score^0.5 overlap^6``; each object takes its ten best aligned candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SCORE_POWER = 0.5
OVERLAP_POWER = 6.0
CANDIDATES = 10  # of each object
_MARGIN_PX = 1e-9  # an anchor point lies inside by more than this
_LEAST = 1e-9  # keeps an alignment of 0 dividable
_CIOU_LEAST = 1e-7


@dataclass(frozen=True)
class Objects:
    """Ground truth, each row padded to G objects: xyxy [B, G, 4] in px, class_id int64 and is_real bool [B, G]."""

    xyxy: Tensor
    class_id: Tensor
    is_real: Tensor

    @staticmethod
    def padded(boxes: Sequence[Tensor], class_ids: Sequence[Tensor], like: Tensor) -> Objects:
        """Return the objects of B rows, boxes [G_i, 4] and class ids [G_i], with the device and dtype of `like`."""
        most = max((len(ids) for ids in class_ids), default=0)
        xyxy = like.new_zeros(len(boxes), most, 4)
        class_id = torch.zeros(len(boxes), most, dtype=torch.int64, device=like.device)
        is_real = torch.zeros(len(boxes), most, dtype=torch.bool, device=like.device)
        for row, (box, ids) in enumerate(zip(boxes, class_ids, strict=True)):
            xyxy[row, : len(ids)], class_id[row, : len(ids)], is_real[row, : len(ids)] = box.to(xyxy), ids, True
        return Objects(xyxy, class_id, is_real)


@dataclass(frozen=True)
class Assignment:
    """What A anchor points are to predict.

    Attributes:
        is_foreground: bool [B, A], anchor points that answer for an object.
        owner: int64 [B, A], index of that object; 0 elsewhere.
        scores: [B, A, K], the class scores to predict: 0 in the background.
    """

    is_foreground: Tensor
    owner: Tensor
    scores: Tensor


@torch.no_grad()
def assign(scores: Tensor, boxes: Tensor, centres: Tensor, objects: Objects) -> Assignment:
    """Return what each anchor point is to predict; carries no gradient.

    An anchor point that several objects take goes to the one that its box overlaps most, among all that it lies in. Its
    score is its alignment, scaled so that the best of its object has that object's largest overlap.

    Args:
        scores: predicted class scores after the sigmoid [B, A, K]. boxes: predicted xyxy [B, A, 4] in px.
        centres: of the anchor points (x, y) [A, 2] in px.
    """
    inside = are_inside(centres, objects.xyxy) & objects.is_real[..., None]
    overlap = complete_iou(objects.xyxy[:, :, None], boxes[:, None]).clamp(min=0) * inside
    of_class = scores.transpose(1, 2).gather(1, objects.class_id[..., None].expand(-1, -1, scores.shape[1]))
    alignment = of_class**SCORE_POWER * overlap**OVERLAP_POWER * inside
    taken = _best(alignment) & inside
    owned = _one_owner(taken, overlap)
    if not owned.shape[1]:
        nothing = torch.zeros_like(scores)
        return Assignment(nothing.any(dim=2), nothing[..., 0].long(), nothing)
    alignment, overlap = alignment * owned, overlap * owned
    scale = overlap.amax(dim=2, keepdim=True) / (alignment.amax(dim=2, keepdim=True) + _LEAST)
    strength = (alignment * scale).amax(dim=1)
    is_foreground, owner = owned.any(dim=1), owned.int().argmax(dim=1)
    class_id = objects.class_id.gather(1, owner)
    wanted = torch.zeros_like(scores).scatter(2, class_id[..., None], (strength * is_foreground)[..., None])
    return Assignment(is_foreground, owner, wanted)


def are_inside(centres: Tensor, xyxy: Tensor) -> Tensor:
    """Return bool [B, G, A]: whether an anchor point [A, 2] lies strictly inside a box [B, G, 4]."""
    distances = torch.cat([centres - xyxy[:, :, None, :2], xyxy[:, :, None, 2:] - centres], dim=-1)
    return distances.amin(dim=-1) > _MARGIN_PX


def complete_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the complete IoU [...] of pairs of xyxy boxes [..., 4], as in YOLOv8 (Zheng et al., AAAI 2020, eq. 10).

    ``IoU - distance^2 / diagonal^2 - alpha v`` of the boxes' centres, the diagonal of what encloses both, and the
    difference v of their aspects; its weight alpha carries no gradient.
    """
    ax1, ay1, ax2, ay2 = a.unbind(-1)
    bx1, by1, bx2, by2 = b.unbind(-1)
    aw, ah, bw, bh = ax2 - ax1, ay2 - ay1 + _CIOU_LEAST, bx2 - bx1, by2 - by1 + _CIOU_LEAST  # heights alone: published
    shared_width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    shared = shared_width * (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    iou = shared / (aw * ah + bw * bh - shared + _CIOU_LEAST)
    wide = torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)
    high = torch.maximum(ay2, by2) - torch.minimum(ay1, by1)
    distance = ((bx1 + bx2 - ax1 - ax2) ** 2 + (by1 + by2 - ay1 - ay2) ** 2) / 4
    v = 4 / math.pi**2 * (torch.atan(bw / bh) - torch.atan(aw / ah)) ** 2
    alpha = (v / (v - iou + (1 + _CIOU_LEAST))).detach()
    return iou - distance / (wide**2 + high**2 + _CIOU_LEAST) - alpha * v


def _best(alignment: Tensor) -> Tensor:
    """Return bool [B, G, A]: the best aligned anchor points of each object."""
    order = alignment.topk(min(CANDIDATES, alignment.shape[2]), dim=2).indices
    return torch.zeros_like(alignment, dtype=torch.bool).scatter(2, order, True)


def _one_owner(taken: Tensor, overlap: Tensor) -> Tensor:
    """Return `taken` [B, G, A] with contested anchor points given to the object of the largest overlap."""
    if not taken.shape[1]:
        return taken
    contested = taken.sum(dim=1, keepdim=True) > 1
    most = torch.zeros_like(taken).scatter(1, overlap.argmax(dim=1, keepdim=True), True)
    return torch.where(contested, most, taken)
