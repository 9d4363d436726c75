"""Events over time in a fixed number of bins, for a recording of any duration."""

from __future__ import annotations

import numpy as np

from snn_perception.events.jit import kernel
from snn_perception.types import I64, DecodedEvents

MAX_BINS = 240  # as many as a plot has room for
FINEST_US = 125  # 8 kHz; doubled it gives 1 ms, 64 ms, 256 ms ...


class RateBins:
    """Counts of events, and of ON events, in at most `MAX_BINS` equal bins of sensor time.

    The bins start at multiples of their width. Where time leaves them, before or after, their width doubles and pairs
    of them merge; so the outcome depends on the earliest and the latest event alone, not on order or pieces: the
    narrowest width ``125 us * 2^k`` at which `MAX_BINS` bins hold them all.
    """

    def __init__(self) -> None:
        self._counts = np.zeros((2, MAX_BINS), np.int64)  # all events, ON events
        self._ticks = 1
        self._width = 0  # in ticks of the source; 0 before the first event
        self._origin = 0  # number of the first bin, counted from time 0
        self._low = self._high = 0  # numbers of the first and the last bin that an event has fallen into

    def add(self, events: DecodedEvents) -> None:
        """Count the next events."""
        if not len(events):
            return
        if not self._width:
            self._ticks = events.us_divisor
            self._width = FINEST_US * self._ticks
            self._origin = self._low = self._high = int(events.t[0]) // self._width
        done = 0
        while done < len(events):
            done = _fill(events.t, events.p, done, self._width, self._origin, self._counts)
            if done < len(events):
                self._make_room(int(events.t[done]))
        # The kernel reports no bins; which are in use shows in the counts.
        used = np.flatnonzero(self._counts[0])
        self._low, self._high = self._origin + int(used[0]), self._origin + int(used[-1])

    @property
    def bin_us(self) -> int:
        """Width of a bin; 0 without events."""
        return self._width // self._ticks

    @property
    def t_start_us(self) -> int:
        """Sensor time at which the first bin begins; at or before the first event."""
        return self._low * self.bin_us

    @property
    def events(self) -> I64:
        """Events of each bin, int64 [N], from the one with the earliest event to the one with the latest."""
        return self._part(0)

    @property
    def on(self) -> I64:
        """ON events of each bin, int64 [N]."""
        return self._part(1)

    def _part(self, row: int) -> I64:
        if not self._width:
            return np.empty(0, np.int64)
        return self._counts[row, self._low - self._origin : self._high - self._origin + 1].copy()

    def _make_room(self, t: int) -> None:
        """Widen and shift the bins until they hold time `t` too."""
        used = np.flatnonzero(self._counts[0])
        numbers = self._origin + used  # int64: a bin's number times its width is a time, which fits
        counts = self._counts[:, used]
        low = min(int(numbers[0]), t // self._width) if len(used) else t // self._width
        high = max(int(numbers[-1]), t // self._width) if len(used) else t // self._width
        while high - low >= MAX_BINS:
            low, high, numbers, self._width = low // 2, high // 2, numbers // 2, self._width * 2
        self._origin = low
        self._counts = np.zeros_like(self._counts)
        for row in (0, 1):
            np.add.at(self._counts[row], numbers - low, counts[row])


@kernel
def _fill(t, p, begin, width, origin, counts):  # type: ignore[no-untyped-def]
    """Count events from index `begin` on; returns the index of the first one outside all bins, or their number."""
    low = high = np.int64(0)  # bounds of the bin of the event before: a division per event costs more than the rest
    n = on = at = np.int64(0)
    for i in range(begin, len(t)):
        now = t[i]
        if now < low or now >= high:
            counts[0, at] += n
            counts[1, at] += on
            n = on = np.int64(0)
            at = now // width - origin
            if at < 0 or at >= counts.shape[1]:
                return i
            low = (now // width) * width
            high = low + width
        n += 1
        on += p[i] != 0
    counts[0, at] += n
    counts[1, at] += on
    return len(t)
