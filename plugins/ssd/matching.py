"""Which default box answers for which ground truth (Liu et al., 2016, sec. 2.2, "Matching strategy")."""

from __future__ import annotations

import torch
from torch import Tensor

UNMATCHED = -1


def match(iou: Tensor, threshold: float) -> Tensor:
    """Return, for each default box, the index of its ground truth or -1: int64 [A].

    A default box takes the ground truth it overlaps most if that overlap reaches `threshold`. Then each ground truth
    takes the default box that it overlaps most, whatever the overlap; of two that want the same box, the later has it.

    Args:
        iou: overlaps [G, A] of ground truth and default boxes, G at least 1.

    Raises:
        ValueError: without ground truth.
    """
    if len(iou) == 0:
        raise ValueError("matching needs at least one ground-truth box; leave samples without targets out")
    overlap, truth = iou.max(dim=0)
    matched = torch.where(overlap >= threshold, truth, UNMATCHED)
    index = torch.arange(len(iou), device=iou.device)
    # `matched[best] = index` leaves open who wins where `best` repeats; the largest index is the later ground truth.
    return matched.scatter_reduce(0, iou.argmax(dim=1), index, reduce="amax", include_self=False)
