"""Connected regions of a mask, and the boxes around them: a loop over pixels, compiled."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from snn_perception.events.jit import kernel
from snn_perception.types import I64


def component_boxes(mask: npt.NDArray[np.bool_]) -> I64:
    """Return left, top, right, bottom (half-open) and pixel count of each region of a mask [H, W]: int64 [K, 5].

    Pixels that touch, corners included, are of one region. Regions come in the order of their first pixel, row by row.
    """
    height, width = mask.shape
    parent = np.empty(height * width // 2 + 2, np.int32)  # no more regions begin than every second pixel of a row
    number = np.zeros((height + 1, width + 2), np.int32)  # a margin spares the loop its borders
    found = _label(mask, number, parent)
    boxes = np.empty((found, 5), np.int64)
    kept = _bound(mask, number, parent, boxes)
    return boxes[:kept]


@kernel
def _root(parent, one):  # type: ignore[no-untyped-def]
    while parent[one] != one:
        parent[one] = parent[parent[one]]
        one = parent[one]
    return one


@kernel
def _label(mask, number, parent):  # type: ignore[no-untyped-def]
    """Give each pixel of the mask a number above 0, equal ones to no two regions; `parent` tells which are one."""
    count = 1
    height, width = mask.shape
    for y in range(height):
        for x in range(width):
            if not mask[y, x]:
                continue
            own = 0
            for near in (number[y + 1, x], number[y, x], number[y, x + 1], number[y, x + 2]):
                if near == 0:
                    continue
                root = _root(parent, near)
                if own == 0:
                    own = root
                elif root < own:
                    parent[own] = root
                    own = root
                else:
                    parent[root] = own
            if own == 0:
                own = count
                parent[own] = own
                count += 1
            number[y + 1, x + 1] = own
    return count


@kernel
def _bound(mask, number, parent, boxes):  # type: ignore[no-untyped-def]
    """Fill in the boxes of all regions; returns how many there are."""
    place = np.full(len(boxes), -1, np.int64)
    kept = 0
    height, width = mask.shape
    for y in range(height):
        for x in range(width):
            if not mask[y, x]:
                continue
            root = _root(parent, number[y + 1, x + 1])
            at = place[root]
            if at < 0:
                at = place[root] = kept
                boxes[at] = (x, y, x, y, 0)
                kept += 1
            box = boxes[at]
            box[0] = min(box[0], x)
            box[2] = max(box[2], x + 1)
            box[3] = y + 1
            box[4] += 1
    return kept
