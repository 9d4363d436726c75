"""Cuts a stream of events into windows of sensor time, silent ones included."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from snn_perception.events.jit import kernel
from snn_perception.types import JITTER_US, DecodedEvents, EventArray, EventWindow, SensorSize

if TYPE_CHECKING:  # it brings torch, which reading a recording does not need
    from snn_perception.events.filling import Filler

_LONG_AGO_US = -(1 << 63)
_OVERLAP = "windows that overlap share events, so no grid can be filled as they arrive"


class Windower:
    """Turns events, as they arrive, into half-open windows ``[k * window_us, (k + 1) * window_us)`` of sensor time.

    The first window is the one that holds the first event (or `t_start_us`, as data sets want it). From there on every
    window comes out, also those without events: neurons leak through silence. A window is closed by sensor time alone,
    by an event or a time word at or past its end, so how the stream was cut into packets does not show (as long as its
    time does not run backwards: what a late event is late for depends on what the packet before had told).

    A gap is a step of known sensor time forward by more than `max_gap_us`, or backwards beyond jitter. It closes the
    open window, and the next one starts a new grid with `after_gap` set. Without `max_gap_us` (a file on disk, which is
    complete) only a backward jump is one. Smaller backward steps are disorder: such events are moved up to the time
    already reached, and counted.

    With a `stride_us` shorter than the window, of which it must be a part, windows overlap: one ends at every multiple
    of the stride and reaches back `window_us`, also to before the first event or the last gap, where there is nothing.

    A `filler` is given the events as they come; each window then carries the grid that it filled.

    With `max_events`, a window holds no more than the first so many (of each stride, its share): a stream whose time
    stands still could otherwise fill all memory. What comes beyond is dropped and counted, and the window is lossy.

    Attributes:
        windows, gaps, disordered, overflowed: counted since the start; the latter are events beyond `max_events`.
    """

    def __init__(
        self,
        window_us: int,
        size: SensorSize,
        *,
        stride_us: int | None = None,
        max_gap_us: int | None = None,
        t_start_us: int | None = None,
        stream: str = "",
        filler: Filler | None = None,
        max_events: int | None = None,
    ) -> None:
        stride_us = window_us if stride_us is None else stride_us
        if window_us <= 0 or stride_us <= 0 or window_us % stride_us:
            raise ValueError(f"window_us must be a positive multiple of stride_us, got {window_us} and {stride_us}")
        if filler is not None and stride_us != window_us:
            raise ValueError(_OVERLAP)
        self.window_us, self.stride_us, self.size = window_us, stride_us, size
        self.max_gap_us, self.stream = max_gap_us, stream
        self._earlier: deque[tuple[list[EventArray], bool]] = deque(maxlen=window_us // stride_us - 1)
        self._filler = self._next_filler = filler
        self._room = self._most = None if max_events is None else max(1, max_events * stride_us // window_us)
        self.windows = self.gaps = self.disordered = self.overflowed = 0
        self._start_us = t_start_us
        self._now_us = _LONG_AGO_US
        self._parts: list[EventArray] = []
        self._lossy = self._after_gap = self._loss_is_open = False
        self._lost_until_us = _LONG_AGO_US

    def push(self, decoded: DecodedEvents | EventArray, *, lossy: bool = False) -> Iterator[EventWindow]:
        """Yield the windows that these events, and the time they reach, close.

        The iterator must be run to its end before the next push; it is lazy so that a damaged file which jumps years
        ahead costs no memory. `lossy`: packets before these events were lost, which marks the open window and those up
        to the first known time.
        """
        if isinstance(decoded, EventArray):
            self._note_loss(lossy, decoded, None)
            yield from self._advance(decoded, int(decoded.t[-1]) if len(decoded) else None)
            return
        events = decoded.to_event_array()
        reached = None if decoded.t_reached is None else decoded.t_reached // decoded.us_divisor
        self._note_loss(lossy, events, reached)
        done = 0
        for index, before, after in _leaps_us(decoded):
            if self._is_gap(before, after):
                yield from self._advance(events[done:index], before, decoded.in_order)
                yield from self.interrupt(after)
                done = index
        yield from self._advance(events[done:] if done else events, reached, decoded.in_order)

    def span_us(self, decoded: DecodedEvents, told_us: int | None) -> int:
        """Return for how long these events, not yet pushed, let windows follow on one another.

        Gaps do not count, nor silence after them, before the next event. `told_us`: the time known before these.
        """
        if decoded.t_reached is None:
            return 0
        if not len(decoded.leaps) and told_us is not None and self._start_us is not None:
            return max(0, decoded.t_reached // decoded.us_divisor - told_us)
        gaps = [leap for leap in _leaps_us(decoded) if self._is_gap(leap[1], leap[2])]
        ticks, span_us, done = decoded.us_divisor, 0, 0
        begin = told_us if self._start_us is not None else None
        for index, end_us in [*((gap[0], gap[1]) for gap in gaps), (len(decoded), decoded.t_reached // ticks)]:
            if begin is None and index > done:
                begin = int(decoded.t[done]) // ticks
            if begin is not None:
                span_us += max(0, end_us - begin)
            begin, done = None, index
        return span_us

    def resumes_us(self, decoded: DecodedEvents) -> int | None:
        """Return the sensor time at which the stream goes on after the last gap in these events; None without a gap."""
        for _, before, after in reversed(_leaps_us(decoded)):
            if self._is_gap(before, after):
                return int(after)
        return None

    def fill_with(self, filler: Filler | None) -> None:
        """Give events to another filler from the next window on; the open one goes on with its own.

        Raises:
            ValueError: for windows that overlap.
        """
        if filler is not None and self.stride_us != self.window_us:
            raise ValueError(_OVERLAP)
        if self._parts:
            self._next_filler = filler
        else:
            self._filler = self._next_filler = filler

    def interrupt(self, resumes_us: int | None = None) -> Iterator[EventWindow]:
        """Yield the open window and start a new grid: the stream jumped (to `resumes_us`) or began anew."""
        if self._start_us is None:  # nothing since the last interruption, but time may have been told
            self._now_us = _LONG_AGO_US
            return
        self.gaps += 1
        if resumes_us is not None and self._start_us <= resumes_us < self._start_us + self.stride_us:
            self._lossy = True  # the jump ends in the window in which it began: there is nothing to cut
            return
        if self._parts or (resumes_us is not None and resumes_us > self._start_us):
            yield self._close()
        self._start_us = None
        self._earlier.clear()
        self._now_us = _LONG_AGO_US
        self._lost_until_us = min(self._lost_until_us, _LONG_AGO_US if resumes_us is None else resumes_us)
        self._after_gap = True

    def flush(self) -> Iterator[EventWindow]:
        """Yield the last, partial window if it holds events; for the end of a recording or of a stream."""
        if self._start_us is not None and self._parts:
            yield self._close()

    def continue_counts(self, earlier: Windower) -> None:
        """Go on counting where the windower of the same camera before this one stopped; what follows is after a gap."""
        self.windows, self.gaps, self.disordered = earlier.windows, earlier.gaps, earlier.disordered
        self.overflowed = earlier.overflowed
        self._after_gap = True

    def _note_loss(self, lossy: bool, events: EventArray, reached_us: int | None) -> None:
        """Mark what may lack events: the open window, and every later one that begins before the next known time."""
        self._lossy |= lossy
        self._loss_is_open |= lossy
        if not self._loss_is_open:
            return
        known_us = int(events.t[0]) if len(events) else reached_us
        # A decoder that still waits for time after the loss repeats the time before it: that tells of no end.
        if known_us is not None and (len(events) or known_us > self._now_us):
            self._lost_until_us, self._loss_is_open = known_us, False

    def _is_gap(self, before_us: int, after_us: int) -> bool:
        if after_us < before_us - JITTER_US:
            return True
        return self.max_gap_us is not None and after_us - before_us > self.max_gap_us

    def _advance(self, events: EventArray, reached_us: int | None, in_order: bool = False) -> Iterator[EventWindow]:
        """Yield what `events` (no gap among them) and the time reached after them close."""
        if len(events):
            events, first_us = self._in_order(events, in_order)
            if self._start_us is None:
                self._start_us = first_us // self.stride_us * self.stride_us
            elif first_us < self._start_us:  # before the data set's start
                events = events[int(np.searchsorted(events.t, self._start_us)) :]
        while len(events):
            assert self._start_us is not None
            if self._now_us < self._start_us + self.stride_us:  # the last one's time
                self._take(events)
                break
            cut = int(np.searchsorted(events.t, self._start_us + self.stride_us))
            if cut:
                self._take(events[:cut])
            events = events[cut:]
            yield self._close()
        if reached_us is not None:
            self._now_us = max(self._now_us, reached_us)
        while self._start_us is not None and self._now_us >= self._start_us + self.stride_us:
            yield self._close()

    def _in_order(self, events: EventArray, in_order: bool) -> tuple[EventArray, int]:
        """Return the events with time that never runs backwards, and that of the first; note the time they reach."""
        first_us = int(events.t[0])
        if not in_order or first_us < self._now_us:
            events, moved = moved_up(events, self._now_us)
            self.disordered += moved
            first_us = int(events.t[0])
        self._now_us = int(events.t[-1])
        return events, first_us

    def _take(self, events: EventArray) -> None:
        """Add events, at least one, to the open window."""
        assert self._start_us is not None
        if self._room is not None:
            if len(events) > self._room:
                self.overflowed += len(events) - self._room
                self._lossy = True
                if not self._room:
                    return
                events = events[: self._room]
            self._room -= len(events)
        self._parts.append(events)
        if self._filler is not None:
            self._filler.add(events, self._start_us, self._start_us + self.stride_us)

    def _close(self) -> EventWindow:
        assert self._start_us is not None
        end_us = self._start_us + self.stride_us
        parts, lossy = self._parts, self._lossy or self._lost_until_us > self._start_us
        if self._earlier.maxlen:
            parts, lossy = self._with_earlier(parts, lossy)
        events = EventArray.joined(parts, self.size)
        window = EventWindow(
            events,
            end_us - self.window_us,
            end_us,
            self.stream,
            lossy,
            self._after_gap,
            None if self._filler is None else self._filler.take(events),
        )
        self._parts, self._lossy, self._after_gap, self._start_us = [], False, False, end_us
        self._filler = self._next_filler
        self._room = self._most
        self.windows += 1
        return window

    def _with_earlier(self, parts: list[EventArray], lossy: bool) -> tuple[list[EventArray], bool]:
        """Return what an overlapping window holds besides its newest part, and keep that for the next ones."""
        strides = [*self._earlier, (parts, lossy)]
        self._earlier.append((parts, lossy))
        return [part for some, _ in strides for part in some], any(was_lossy for _, was_lossy in strides)


def _leaps_us(decoded: DecodedEvents) -> list[list[int]]:
    """Return the leaps with their times in microseconds."""
    if not len(decoded.leaps):
        return []
    ticks = decoded.us_divisor
    leaps: list[list[int]] = (decoded.leaps // [1, ticks, ticks]).tolist()
    return leaps


def moved_up(events: EventArray, reached_us: int) -> tuple[EventArray, int]:
    """Return events, at least one, with late ones moved up to the time already reached, and how many were."""
    t = events.t
    if t[0] >= reached_us and not decreases(t):
        return events, 0
    ordered = np.maximum(np.maximum.accumulate(t), reached_us)
    return EventArray(events.x, events.y, events.p, ordered, events.size), int(np.count_nonzero(ordered != t))


def in_time_order(events: EventArray) -> EventArray:
    """Return the events with late ones moved up to the time already reached; the same object if there are none."""
    return moved_up(events, int(events.t[0]))[0] if len(events) else events


@kernel
def decreases(t):  # type: ignore[no-untyped-def]
    """Return whether times int64 [N] fall somewhere."""
    signs = np.int64(0)
    for i in range(1, len(t)):
        signs |= t[i] - t[i - 1]  # negative as soon as one difference is; no branch, so that it runs in vectors
    return signs < 0
