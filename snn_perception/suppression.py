"""Greedy non-maximum suppression as a loop: a box is compared with those only that are still there behind it."""

from __future__ import annotations

from typing import Any

import numpy as np

from snn_perception.events.jit import kernel

Array = np.ndarray[Any, Any]


@kernel
def without_rivals(boxes, class_ids, iou_threshold, limit):  # type: ignore[no-untyped-def]
    """Return the indices int64 [K] of boxes that no kept one of their class before them overlaps by more than allowed.

    Args:
        boxes: xyxy [N, 4], best first, float32 or float64; the arithmetic is `boxes.iou_matrix`'s in that type, so that
            both decide alike.
        class_ids: int64 [N]. iou_threshold: of the boxes' type. limit: boxes at most.
    """
    count = len(boxes)
    is_out = np.zeros(count, np.bool_)
    kept = np.empty(min(count, limit), np.int64)
    found = 0
    for i in range(count):
        if is_out[i]:
            continue
        if found == limit:
            break
        kept[found] = i
        found += 1
        x1, y1, x2, y2 = boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3]
        area = (x2 - x1) * (y2 - y1)
        for j in range(i + 1, count):
            if is_out[j] or class_ids[j] != class_ids[i]:
                continue
            width = min(x2, boxes[j, 2]) - max(x1, boxes[j, 0])
            height = min(y2, boxes[j, 3]) - max(y1, boxes[j, 1])
            if width > 0 and height > 0:
                overlap = width * height
                other = (boxes[j, 2] - boxes[j, 0]) * (boxes[j, 3] - boxes[j, 1])
                # Not as a quotient of what may be 0 (an overlap too small for its type), or no number at all.
                if overlap > 0 and overlap / (area + other - overlap) > iou_threshold:
                    is_out[j] = True
    return kept[:found]


def suppress(boxes: Array, scores: Array, class_ids: Array, iou_threshold: float, limit: int) -> Array:
    """Return the indices that greedy suppression within each class keeps, at most `limit`, best first.

    A box is suppressed by a kept box of its class with a higher score and an IoU above `iou_threshold`; equal scores
    keep their order. Boxes xyxy [N, 4], scores [N], class_ids [N].
    """
    order = np.argsort(-scores, kind="stable")
    kept = without_rivals(boxes[order], class_ids[order].astype(np.int64), boxes.dtype.type(iou_threshold), limit)
    return order[kept]
