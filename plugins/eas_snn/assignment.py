"""SimOTA: which anchor points answer for which object (Ge et al., arXiv 2107.08430, sec. 2.1, with the centre rule).

An anchor point is a candidate if it lies within 1.5 strides of the centre of some object. Every object takes its
cheapest candidates, as many as its overlaps with the predictions add up to, and an anchor point that several take goes
to the object for which it is the cheapest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from snn_perception.api import cxcywh_to_xyxy, iou_matrix

from .points import Points

CENTRE_STRIDES = 1.5  # half the side of the square around an object's centre
OVERLAP_WEIGHT = 3.0
FOREIGN_COST = 1e6  # of a candidate that is not in the object's own square
OVERLAPS_COUNTED = 10
_LEAST = 1e-8  # keeps the logarithm of no overlap finite


@dataclass(frozen=True)
class Objects:
    """Ground truth of one image: cxcywh [G, 4] in pixels of the network input, class_id int64 [G]."""

    cxcywh: Tensor
    class_id: Tensor

    def __len__(self) -> int:
        return len(self.class_id)


@dataclass(frozen=True)
class Predictions:
    """Outputs of one image at all A anchor points: cxcywh [A, 4] in pixels, logits objectness [A], classes [A, K]."""

    cxcywh: Tensor
    objectness: Tensor
    classes: Tensor


@dataclass(frozen=True)
class Assignment:
    """Matched anchor points, increasing: anchor, owner (index of an object) int64 [M], and the overlap iou [M]."""

    anchor: Tensor
    owner: Tensor
    iou: Tensor


@torch.no_grad()
def assign(predicted: Predictions, points: Points, objects: Objects) -> Assignment:
    """Return the anchor points that each object of an image trains; carries no gradient.

    An object without an anchor point in its own square, such as one whose centre lies outside the image, gets none
    (the reference fails on it, or gives it one that belongs to another).
    """
    in_own_square = near_centres(points, objects.cxcywh)
    (reachable,) = torch.nonzero(in_own_square.any(dim=1), as_tuple=True)
    (candidates,) = torch.nonzero(in_own_square.any(dim=0), as_tuple=True)
    if not len(candidates):
        return Assignment(candidates, reachable, predicted.cxcywh.new_zeros(0))
    iou = iou_matrix(cxcywh_to_xyxy(objects.cxcywh[reachable]), cxcywh_to_xyxy(predicted.cxcywh[candidates]))
    cost = class_cost(predicted.classes[candidates], predicted.objectness[candidates], objects.class_id[reachable])
    cost = cost - OVERLAP_WEIGHT * (iou + _LEAST).log()
    cost = cost + FOREIGN_COST * ~in_own_square[reachable][:, candidates]
    taken = cheapest(cost, wanted(iou))
    (matched,) = torch.nonzero(taken.any(dim=0), as_tuple=True)
    contested = taken[:, matched].sum(dim=0) > 1
    owner = torch.where(contested, cost[:, matched].argmin(dim=0), taken[:, matched].int().argmax(dim=0))
    return Assignment(candidates[matched], reachable[owner], iou[owner, matched])


def near_centres(points: Points, cxcywh: Tensor) -> Tensor:
    """Return bool [G, A]: whether a point lies strictly within 1.5 of its strides, in x and y, of a box's centre."""
    distance = (points.centres[None] - cxcywh[:, None, :2]).abs().amax(dim=-1)
    return distance < CENTRE_STRIDES * points.stride


def class_cost(classes: Tensor, objectness: Tensor, class_id: Tensor) -> Tensor:
    """Return [G, C], the cross-entropy of C predictions against the class of G objects, summed over the classes.

    The prediction is ``sqrt(sigmoid(class) sigmoid(objectness))``. In float32 whatever the input, as published.
    """
    scores = (classes.float().sigmoid() * objectness.float().sigmoid()[:, None]).sqrt()
    one_hot = F.one_hot(class_id, classes.shape[1]).to(scores.dtype)
    table = (len(class_id), *scores.shape)
    terms = F.binary_cross_entropy(scores.expand(table), one_hot[:, None].expand(table), reduction="none")
    return terms.sum(dim=-1)


def wanted(iou: Tensor) -> Tensor:
    """Return how many candidates each object takes, int64 [G]: its ten largest overlaps of [G, C] added up, or one."""
    largest = iou.topk(min(OVERLAPS_COUNTED, iou.shape[1]), dim=1).values
    return largest.sum(dim=1).long().clamp(min=1)


def cheapest(cost: Tensor, count: Tensor) -> Tensor:
    """Return bool [G, C]: the `count` [G] cheapest of each row of costs; of equal ones the first."""
    order = cost.argsort(dim=1, stable=True)
    among = torch.arange(cost.shape[1], device=cost.device) < count[:, None]
    return torch.zeros_like(among).scatter(1, order, among)
