"""Which labelled objects a memory-less detector cannot see: those that emit no events.

Annotators label a car that stands still, from grey-level images; the event camera shows nothing of it. Scores are
therefore also given apart for moving and silent objects.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from snn_perception.data.labels import Labels
from snn_perception.types import F32, I64, EventArray, SensorSize

WINDOW_US = 100_000
# Noise alone reaches 2.5 % of the pixels of a tile in one out of a hundred tiles of a quiet Prophesee sensor (100 ms,
# 1280x720, still scene). With the synthetic sensor at 304x240 by day, textured objects at rest have up to 1.5 % of
# their pixels active, at 3 px/s 3 % to 14 %, at 10 px/s 25 % or more; in the dark at 10 px/s 1 % to 20 %.
MIN_ACTIVE_SHARE = 0.03
# A DVXplorer at rest has 4 % of its pixels active in 100 ms, a tile at the quartile 3 %, one in a hundred 8 %.
NOISE_FACTOR = 3.0
# Where even the quiet quarter of the image moves, it no longer tells the noise.
MAX_ACTIVE_SHARE = 0.10
_TILE_PX = 16


def silent_rows(
    labels: Labels,
    events_between: Callable[[int, int], EventArray],
    *,
    window_us: int = WINDOW_US,
    min_active_share: float = MIN_ACTIVE_SHARE,
) -> npt.NDArray[np.bool_]:
    """Return which labels are of objects that emit no more than noise, bool [M].

    An object is silent where, in the last `window_us` before its label, fewer of its box's pixels saw an event than
    ``max(min_active_share, min(3 q, 0.1))``. Pixels are counted and not events, so that a hot pixel or a sensor that
    repeats events makes no motion; q, the lower quartile of that share over 16 x 16 px tiles of the same image, follows
    the noise of the sensor and of the light. A box without a pixel inside the image is silent.

    Args:
        labels: in any order; boxes in pixels of the events.
        events_between: returns the events in ``[start_us, end_us)``; called with ascending times, once for each label
            time.
    """
    silent = np.ones(len(labels), bool)
    order = np.argsort(labels.t_us, kind="stable")
    times, first = np.unique(labels.t_us[order], return_index=True)
    for t_us, begin, end in zip(times.tolist(), first, [*first[1:], len(order)], strict=False):
        rows = order[begin:end]
        start_us = max(0, t_us - window_us)
        if t_us <= start_us:
            continue
        events = events_between(start_us, t_us)
        if len(events):
            share, quiet = _active_shares(events, labels.xywh[rows])
            silent[rows] = share < max(min_active_share, min(NOISE_FACTOR * quiet, MAX_ACTIVE_SHARE))
    return silent


def _active_shares(events: EventArray, xywh: F32) -> tuple[npt.NDArray[np.float64], float]:
    """Return the share of each box's pixels that saw an event, and that of the quiet quarter of the image."""
    size = events.size
    active = np.zeros((size.height, size.width), bool)
    active[events.y, events.x] = True
    counts = np.zeros((size.height + 1, size.width + 1), np.int32)
    np.cumsum(np.cumsum(active, axis=0, dtype=np.int32), axis=1, out=counts[1:, 1:])
    x1, y1, x2, y2 = _pixel_bounds(xywh, size)
    pixels = (x2 - x1) * (y2 - y1)
    seen = counts[y2, x2] - counts[y1, x2] - counts[y2, x1] + counts[y1, x1]
    return seen / np.maximum(pixels, 1), _quiet_quarter(counts, size)


def _pixel_bounds(xywh: F32, size: SensorSize) -> tuple[I64, I64, I64, I64]:
    """Return the pixel columns x1..x2-1 and rows y1..y2-1 inside the image that each box touches."""
    boxes = xywh.astype(np.float64)
    limit = np.array([size.width, size.height], np.float64)
    low = np.floor(boxes[:, :2]).clip(0, limit).astype(np.int64)
    high = np.ceil(boxes[:, :2] + boxes[:, 2:]).clip(0, limit).astype(np.int64)
    high = np.maximum(low, high)
    return low[:, 0], low[:, 1], high[:, 0], high[:, 1]


def _quiet_quarter(counts: npt.NDArray[np.int32], size: SensorSize) -> float:
    """Return the lower quartile of the active share over whole tiles; of the image if it holds none."""
    tile_h, tile_w = min(_TILE_PX, size.height), min(_TILE_PX, size.width)
    corners = counts[::tile_h, ::tile_w]
    tiles = corners[1:, 1:] - corners[:-1, 1:] - corners[1:, :-1] + corners[:-1, :-1]
    return float(np.quantile(tiles, 0.25)) / (tile_h * tile_w)
