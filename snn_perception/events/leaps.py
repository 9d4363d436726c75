"""Steps of sensor time too large to be ordinary, for encodings in which every event tells its own time."""

from __future__ import annotations

import numpy as np

from snn_perception.types import I64, JITTER_US, LEAP_US


class KnownTime:
    """The last time a stream told of, carried from packet to packet; finds the leaps between known times.

    Attributes:
        t: in the source's ticks; None before the first event.
    """

    def __init__(self, ticks_per_us: int) -> None:
        self.t: int | None = None
        self._forward, self._backward = LEAP_US * ticks_per_us, -JITTER_US * ticks_per_us

    def advance(self, t: I64) -> I64:
        """Return the leaps int64 [K, 3] among times int64 [N] and on the way to them, as (index, before, after)."""
        if not len(t):
            return np.empty((0, 3), np.int64)
        before = np.empty_like(t)
        before[0] = t[0] if self.t is None else self.t
        before[1:] = t[:-1]
        step = t - before
        at = np.flatnonzero((step > self._forward) | (step < self._backward))
        self.t = int(t[-1])
        return np.stack([at.astype(np.int64), before[at], t[at]], axis=1)
