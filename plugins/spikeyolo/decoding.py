"""Raw outputs of the head to boxes and scores, and which of them are candidates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .losses import BINS, boxes_at, in_rows, make_anchors


def decode_levels(levels: Sequence[Tensor], strides: Sequence[int], projection: Tensor) -> tuple[Tensor, Tensor]:
    """Return boxes xyxy [B, A, 4] in pixels of the network input and scores [B, A, K] of every anchor point.

    A distance is the expectation over the bins of its softmax, times the level's stride (Li et al., "Generalized focal
    loss", NeurIPS 2020, eq. 5). Anchors are in the order of level, row, column.

    Args:
        levels: raw maps [B, 64 + K, h, w], finest first: 16 logits for each of left, top, right, bottom, then classes.
        projection: distance in cells that each bin stands for [16]; 0 to 15 in every published file.
    """
    rows = in_rows(levels)
    anchors = make_anchors(levels, strides, rows.dtype)
    distances = expected(rows[..., : 4 * BINS].unflatten(-1, (4, BINS)), projection)
    return boxes_at(anchors.centres, distances) * anchors.stride, rows[..., 4 * BINS :].sigmoid()


def expected(sides: Tensor, projection: Tensor) -> Tensor:
    """Return the expected distances [..., 4] in cells of logits [..., 4, 16] over bins that stand for `projection`."""
    return sides.softmax(dim=-1) @ projection.to(sides.dtype)


def candidates(scores: Tensor, threshold: float, limit: int, *, best_class_only: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return (anchor, class_id, score) [N] of at most `limit` scores [A, K] above the threshold, best first.

    Every class above it makes a candidate of its own, unless `best_class_only`. Equal scores keep their order.
    """
    if best_class_only:
        best, of_class = scores.max(dim=1)
        (anchor,) = torch.nonzero(best > threshold, as_tuple=True)
        class_id, score = of_class[anchor], best[anchor]
    else:
        anchor, class_id = torch.nonzero(scores > threshold, as_tuple=True)
        score = scores[anchor, class_id]
    order = score.argsort(descending=True, stable=True)[:limit]
    return anchor[order], class_id[order], score[order]
