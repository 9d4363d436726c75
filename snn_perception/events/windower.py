"""Cuts a stream of events into windows of sensor time, silent ones included."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from snn_perception.types import JITTER_US, DecodedEvents, EventArray, EventWindow, SensorSize

_LONG_AGO_US = -(1 << 63)


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

    Attributes:
        windows, gaps, disordered: counted since the start.
    """

    def __init__(
        self,
        window_us: int,
        size: SensorSize,
        *,
        max_gap_us: int | None = None,
        t_start_us: int | None = None,
        stream: str = "",
    ) -> None:
        if window_us <= 0:
            raise ValueError(f"window_us must be positive, got {window_us}")
        self.window_us, self.size, self.max_gap_us, self.stream = window_us, size, max_gap_us, stream
        self.windows = self.gaps = self.disordered = 0
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
        events, ticks = decoded.to_event_array(), decoded.us_divisor
        reached = None if decoded.t_reached is None else decoded.t_reached // ticks
        self._note_loss(lossy, events, reached)
        done = 0
        for index, before, after in (decoded.leaps // [1, ticks, ticks]).tolist():
            if self._is_gap(before, after):
                yield from self._advance(events[done:index], before)
                yield from self.interrupt(after)
                done = index
        yield from self._advance(events[done:] if done else events, reached)

    def resumes_us(self, decoded: DecodedEvents) -> int | None:
        """Return the sensor time at which the stream goes on after the last gap in these events; None without a gap."""
        ticks = decoded.us_divisor
        for _, before, after in (decoded.leaps[::-1] // [1, ticks, ticks]).tolist():
            if self._is_gap(before, after):
                return int(after)
        return None

    def interrupt(self, resumes_us: int | None = None) -> Iterator[EventWindow]:
        """Yield the open window and start a new grid: the stream jumped (to `resumes_us`) or began anew."""
        if self._start_us is None:  # nothing since the last interruption, but time may have been told
            self._now_us = _LONG_AGO_US
            return
        self.gaps += 1
        if resumes_us is not None and self._start_us <= resumes_us < self._start_us + self.window_us:
            self._lossy = True  # the jump ends in the window in which it began: there is nothing to cut
            return
        if self._parts or (resumes_us is not None and resumes_us > self._start_us):
            yield self._close()
        self._start_us = None
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
        self._after_gap = True

    def _note_loss(self, lossy: bool, events: EventArray, reached_us: int | None) -> None:
        """Mark what may lack events: the open window, and every later one that begins before the next known time."""
        known_us = int(events.t[0]) if len(events) else reached_us
        self._lossy |= lossy
        self._loss_is_open |= lossy
        if self._loss_is_open and known_us is not None:
            self._lost_until_us, self._loss_is_open = known_us, False

    def _is_gap(self, before_us: int, after_us: int) -> bool:
        if after_us < before_us - JITTER_US:
            return True
        return self.max_gap_us is not None and after_us - before_us > self.max_gap_us

    def _advance(self, events: EventArray, reached_us: int | None) -> Iterator[EventWindow]:
        """Yield what `events` (no gap among them) and the time reached after them close."""
        if len(events):
            events = self._in_order(events)
            if self._start_us is None:
                self._start_us = int(events.t[0]) // self.window_us * self.window_us
            elif events.t[0] < self._start_us:  # before the data set's start
                events = events[int(np.searchsorted(events.t, self._start_us)) :]
        while len(events):
            assert self._start_us is not None
            cut = int(np.searchsorted(events.t, self._start_us + self.window_us))
            if cut:
                self._parts.append(events[:cut])
            if cut == len(events):
                break
            events = events[cut:]
            yield self._close()
        if reached_us is not None:
            self._now_us = max(self._now_us, reached_us)
        while self._start_us is not None and self._now_us >= self._start_us + self.window_us:
            yield self._close()

    def _in_order(self, events: EventArray) -> EventArray:
        """Return the events with time that never runs backwards, and note the time they reach."""
        t = events.t
        if t[0] < self._now_us or (t[1:] < t[:-1]).any():
            ordered = np.maximum(np.maximum.accumulate(t), self._now_us)
            self.disordered += int(np.count_nonzero(ordered != t))
            events = EventArray(events.x, events.y, events.p, ordered, events.size)
        self._now_us = int(events.t[-1])
        return events

    def _close(self) -> EventWindow:
        assert self._start_us is not None
        end_us = self._start_us + self.window_us
        window = EventWindow(
            EventArray.concatenate(self._parts, self.size),
            self._start_us,
            end_us,
            self.stream,
            lossy=self._lossy or self._lost_until_us > self._start_us,
            after_gap=self._after_gap,
        )
        self._parts, self._lossy, self._after_gap, self._start_us = [], False, False, end_us
        self.windows += 1
        return window
