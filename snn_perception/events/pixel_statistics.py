"""Which pixels fire how often: hot ones, silent columns and rows, and events that come twice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from snn_perception.events.jit import kernel
from snn_perception.types import I64, DecodedEvents

MAX_PIXELS = 1 << 24  # sixteen times the largest event camera; a sensor beyond it is a damaged header

# A pixel is hot if it stands far above the whole sensor and far above its own surroundings. The first alone (a median
# and a median absolute deviation, after Iglewicz and Hoaglin, 1993, who cut at 3.5) also picks lamps and edges that
# stay in place, since counts per pixel have a heavy tail; but light falls on groups of pixels, a defect on one or two.
_DEVIATIONS = 10.0
_TIMES_SURROUNDINGS = 8.0
_MIN_EVENTS = 20  # ... and has enough events to tell, at a rate that chance does not give
_MIN_RATE_HZ = 5.0
_TO_SIGMA = 1.4826  # median absolute deviation to standard deviation of a normal distribution


@dataclass(frozen=True)
class HotPixel:
    """A pixel that fires without cause: its place, events, rate in Hz, and share of all events of the recording."""

    x: int
    y: int
    events: int
    rate_hz: float
    share: float


class PixelStatistics:
    """Events per pixel, and exact duplicates, counted as `DuplicateFilter` drops them.

    Takes 24 bytes per pixel. For sensors beyond `MAX_PIXELS` nothing is counted (`is_counted`).

    Attributes:
        duplicates: events that repeat one of the same pixel and polarity within a run of equal times.
    """

    def __init__(self) -> None:
        self.duplicates = 0
        self.is_counted = True
        # Of each pixel: events, and the number of the run of equal times in which it last had an OFF and an ON event.
        # Side by side, since reaching them is what takes time.
        self._cells = np.empty((0, 0, 3), np.int64)
        self._run = np.array([1, 0], np.int64)  # number and time of the run under way; 0 is none

    def add(self, events: DecodedEvents) -> None:
        """Count the next events."""
        if not self.is_counted:
            return
        height, width = self._cells.shape[:2]
        if events.size.height > height or events.size.width > width:
            self._grow(max(height, events.size.height), max(width, events.size.width))
        if self.is_counted:
            self.duplicates += _count(events.t, events.x, events.y, events.p, self._cells, self._run)

    @property
    def counts(self) -> I64:
        """Events per pixel, int64 [H, W]; of the largest height and width, where a stream changes its size."""
        return self._cells[:, :, 0]

    @property
    def active_share(self) -> float:
        """Share of the pixels that have fired at all."""
        return float(np.count_nonzero(self.counts) / self.counts.size) if self.counts.size else 0.0

    def _grow(self, height: int, width: int) -> None:
        self.is_counted = height * width <= MAX_PIXELS
        if not self.is_counted:
            self._cells = np.empty((0, 0, 3), np.int64)
            return
        earlier = self._cells
        self._cells = np.zeros((height, width, 3), np.int64)
        self._cells[: earlier.shape[0], : earlier.shape[1]] = earlier


def hot_pixels(counts: I64, duration_us: int) -> list[HotPixel]:
    """Return the hot pixels, the worst first.

    A pixel is hot if its count exceeds, all at once: the median of the active pixels by 10 standard deviations (as
    told by the median absolute deviation), 8 times its second busiest neighbour, 20 events, and 5 events/s.

    Args:
        counts: events per pixel, int64 [H, W].
        duration_us: what they were counted over.
    """
    active = counts[counts > 0]
    if not len(active):
        return []
    seconds = max(duration_us, 1) / 1e6
    median = float(np.median(active))
    spread = _TO_SIGMA * float(np.median(np.abs(active - median)))
    floor = max(median + _DEVIATIONS * spread, float(_MIN_EVENTS), _MIN_RATE_HZ * seconds)
    y, x = np.nonzero(counts > floor)
    events = counts[y, x]
    alone = events > _TIMES_SURROUNDINGS * _surroundings(counts, x, y)
    total = int(active.sum())
    rows = sorted(zip(events[alone].tolist(), y[alone].tolist(), x[alone].tolist(), strict=True), reverse=True)
    return [HotPixel(px, py, n, n / seconds, n / total) for n, py, px in rows]


def silent_ranges(sums: I64) -> list[tuple[int, int]]:
    """Return the ranges (first, last) of columns or rows without any event, from their sums int64 [N]."""
    silent = np.concatenate([[False], sums == 0, [False]])
    edges = np.flatnonzero(silent[1:] != silent[:-1])
    return [(int(first), int(last) - 1) for first, last in zip(edges[::2], edges[1::2], strict=True)]


def _surroundings(counts: I64, x: I64, y: I64) -> I64:
    """Return the count of the second busiest of the eight neighbours of each pixel; beyond the edge all is silent."""
    around = np.zeros((8, len(x)), np.int64)
    steps = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
    for row, (dy, dx) in enumerate(steps):
        ny, nx = y + dy, x + dx
        inside = (ny >= 0) & (ny < counts.shape[0]) & (nx >= 0) & (nx < counts.shape[1])
        around[row, inside] = counts[ny[inside], nx[inside]]
    return np.partition(around, 6, axis=0)[6]


@kernel
def _count(t, x, y, p, cells, state):  # type: ignore[no-untyped-def]
    """Count events at their pixels; returns how many of them are duplicates."""
    duplicates = np.int64(0)
    run, time = state[0], state[1]
    for i in range(len(t)):
        run += t[i] != time
        time = t[i]
        row, column, slot = y[i], x[i], 2 if p[i] != 0 else 1
        cells[row, column, 0] += 1
        duplicates += cells[row, column, slot] == run
        cells[row, column, slot] = run
    state[0], state[1] = run, time
    return duplicates
