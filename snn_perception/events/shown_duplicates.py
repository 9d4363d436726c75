"""How many duplicates lie in the windows that are shown, which a pass over a part of a recording has to tell apart."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from snn_perception.events.duplicates import DuplicateFilter
from snn_perception.types import I64, JITTER_US, DecodedEvents, EventWindow


@dataclass(frozen=True, eq=False)
class _Section:
    """The times of some events before and after duplicates were dropped, int64 [N], not decreasing, in ticks."""

    before: I64
    after: I64
    ticks: int  # of a microsecond
    jumped_back: bool  # time did, before these

    @property
    def dropped(self) -> int:
        return len(self.before) - len(self.after)

    def ends_before(self, t_us: int) -> bool:
        return not len(self.before) or int(self.before[-1]) < t_us * self.ticks

    def dropped_before(self, t_us: int) -> int:
        return int(np.searchsorted(self.before, t_us * self.ticks) - np.searchsorted(self.after, t_us * self.ticks))


class ShownDuplicates(DuplicateFilter):
    """A `DuplicateFilter` that is told of the windows and counts what it dropped inside those that are shown.

    Attributes:
        shown: dropped from the first shown window's start to the latest one's end. An event counts at the time that
            its windows give it: late ones are moved up.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shown = 0
        self._sections: deque[_Section] = deque()  # those that later windows may yet reach into
        self._settled = 0
        self._before_first: int | None = None
        self._reached: int | None = None
        self._last_end_us: int | None = None
        self._went_back = False  # time of the windows, and no section since has begun with such a jump

    def filter(self, events: DecodedEvents) -> DecodedEvents:
        """Return the events without duplicates; see `DuplicateFilter.filter`."""
        kept = super().filter(events)
        if len(kept) < len(events):
            self._sections.extend(self._split(events, kept))
        elif len(events):
            self._reached = max(int(events.t[-1]), self._start_from(int(events.t[0]), events.us_divisor))
        return kept

    def pass_over(self, window: EventWindow) -> None:
        """Take note of a window that is not shown."""
        self._follow(window)
        self._dropped_before(window.t_start_us)

    def show(self, window: EventWindow) -> None:
        """Take note of a window that is shown."""
        self._follow(window)
        if self._before_first is None:
            self._before_first = self._dropped_before(window.t_start_us)
        self.shown = self._dropped_before(window.t_end_us) - self._before_first

    def finish(self) -> None:
        """Take note that the latest window was the recording's last."""
        if self._before_first is not None:
            self.shown = self.dropped - self._before_first

    def _follow(self, window: EventWindow) -> None:
        self._went_back |= self._last_end_us is not None and window.t_end_us <= self._last_end_us
        self._last_end_us = window.t_end_us

    def _dropped_before(self, t_us: int) -> int:
        """Return how many were dropped before a time, and forget the sections that end there."""
        while self._sections:
            section = self._sections[0]
            if section.jumped_back:  # its times are later than they look
                if not self._went_back:
                    break
                self._went_back = False
                self._sections[0] = section = replace(section, jumped_back=False)
            if not section.ends_before(t_us):
                return self._settled + section.dropped_before(t_us)  # those that follow begin later
            self._settled += self._sections.popleft().dropped
        return self._settled

    def _split(self, events: DecodedEvents, kept: DecodedEvents) -> Iterator[_Section]:
        """Yield a section for each part between leaps, which `kept` has in the same order."""
        edges = [[0, *part.leaps[:, 0].tolist(), len(part)] for part in (events, kept)]
        for number in range(len(edges[0]) - 1):
            before, after = (
                part.t[edge[number] : edge[number + 1]] for part, edge in zip((events, kept), edges, strict=True)
            )
            if not len(before):
                continue
            if number and events.leaps[number - 1, 1] > events.leaps[number - 1, 2]:
                jumped, reached = True, int(before[0])
            else:
                reached = self._start_from(int(before[0]), events.us_divisor)
                jumped = self._reached is not None and reached < self._reached
            if not events.in_order or int(before[0]) < reached:
                before, after = (np.maximum(np.maximum.accumulate(t), reached) for t in (before, after))
            self._reached = int(before[-1])
            if len(after) < len(before):
                yield _Section(before, after, events.us_divisor, jumped)

    def _start_from(self, first: int, ticks: int) -> int:
        """Return the time already reached, that of `first` after a jump back."""
        if self._reached is None or first < self._reached - JITTER_US * ticks:
            return first
        return self._reached
