"""Drops events that a sensor sent more than once (about one in seven of GEN1's, mostly at x > 255)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from snn_perception.events.jit import kernel
from snn_perception.events.payload import trimmed
from snn_perception.types import DecodedEvents, SensorSize

_LAST_RUN = (1 << 32) - 1  # the largest number that the table holds
_RUN, _TIME, _KEPT, _PLACES = range(4)


class DuplicateFilter:
    """Keeps the first of the events that are equal in t, x, y and p; pass a stream's events through it in order.

    A run is a stretch of events at one time, also over the ends of pieces. For each pixel and polarity a table holds
    the number of the run in which it last had an event: an event is a duplicate if that is the run under way, and only
    then, so each event costs one look-up, however many share its time, and memory is 8 bytes per pixel. While time
    does not decrease, equal times are one run, and every duplicate is found. Where time runs back and forth (disorder,
    a recording played again) one time has several runs; a copy in a later run is kept. No other event is ever dropped.

    Attributes:
        dropped: duplicates found so far.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._size: SensorSize | None = None
        self._last_run = np.empty((0, 0, 0), np.uint32)  # [2, H, W]
        self._state = np.zeros(_PLACES, np.int64)

    def filter(self, events: DecodedEvents) -> DecodedEvents:
        """Return the events without duplicates, and without copying where there are none; leaps stay in their places.

        Events outside the sensor (no decoder lets them through) and of a polarity other than 0 or 1 are kept.
        """
        if events.size != self._size:
            self._size = events.size
            self._last_run = np.zeros((2, events.size.height, events.size.width), np.uint32)
            self._state[_RUN] = 1
        n = len(events)
        if not n:
            return events
        if self._state[_RUN] + n > _LAST_RUN:  # number the runs anew: all but the one under way are over
            self._last_run[:] = self._last_run == self._state[_RUN]
            self._state[_RUN] = 1
        columns = tuple(np.ascontiguousarray(getattr(events, name)) for name in "xypt")
        kept = tuple(np.empty_like(column) for column in columns)
        leap_at = np.ascontiguousarray(events.leaps[:, 0])
        new_leap_at = np.empty_like(leap_at)
        keep_first_of_equals(columns, leap_at, self._last_run, self._state, kept, new_leap_at)
        count = int(self._state[_KEPT])
        if count == n:
            return events
        self.dropped += n - count
        x, y, p, t = (trimmed(column, count) for column in kept)
        leaps = np.concatenate([new_leap_at[:, None], events.leaps[:, 1:]], axis=1)
        return replace(events, x=x, y=y, p=p, t=t, leaps=leaps)


@kernel
def keep_first_of_equals(columns, leap_at, last_run, state, kept_columns, new_leap_at):  # type: ignore[no-untyped-def]
    """Fill the kept columns and the leaps' new indices int64 [K] (`leap_at` does not decrease); advance `state`."""
    x, y, p, t = columns
    kept_x, kept_y, kept_p, kept_t = kept_columns
    width, height, cells = np.uint64(last_run.shape[2]), np.uint64(last_run.shape[1]), last_run.reshape(-1)
    run, time = np.uint32(state[_RUN]), state[_TIME]
    kept, start = 0, 0
    for leap in range(len(leap_at) + 1):
        stop = min(leap_at[leap], len(t)) if leap < len(leap_at) else len(t)
        for i in range(start, stop):
            run += np.uint32(t[i] != time)
            time = t[i]
            kept_x[kept], kept_y[kept], kept_p[kept], kept_t[kept] = x[i], y[i], p[i], time
            column, row, polarity = np.uint64(x[i]), np.uint64(y[i]), np.uint64(p[i])
            if column < width and row < height and polarity < np.uint64(2):
                cell = (polarity * height + row) * width + column
                kept += cells[cell] != run
                cells[cell] = run
            else:
                kept += 1
        start = max(start, stop)
        if leap < len(leap_at):
            new_leap_at[leap] = kept
    state[_RUN], state[_TIME], state[_KEPT] = run, time, kept
