"""The events before a label: windows that end at label times, and windows of whole recordings (`WindowRule`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from snn_perception.data.labels import Labels
from snn_perception.data.window_rule import WindowRule
from snn_perception.errors import EventDataError
from snn_perception.events.recording import Recording
from snn_perception.events.window_source import events_between
from snn_perception.registry import Registry
from snn_perception.types import I64, EventArray, EventWindow

STEPS_BACK = 2  # of one window each, under `lookback`

EventsBetween = Callable[[int, int], EventArray]


class LabelWindows:
    """The windows of one recording that are not on the grid; each is read by itself, from where it begins.

    Raises:
        EventDataError: if the recording holds packets, whose times are known only by decoding all before.
    """

    def __init__(self, recording: Recording, registry: Registry, window_us: int, rule: WindowRule) -> None:
        if recording.is_packets:
            raise EventDataError(
                f"{recording.path}: windows: {rule.kind} needs a recording that can be read from any time on, and this "
                "one holds packets; make it DAT or HDF5 with 'convert', or use windows: grid"
            )
        self._recording, self._window_us, self._rule = recording, window_us, rule
        self._between: EventsBetween = partial(events_between, recording, registry)

    def at(self, t_us: int) -> EventWindow:
        """Return the window of a label time.

        Raises:
            EventDataError: if the events cannot be read.
        """
        if not self._rule.is_whole:
            return label_window(self._between, t_us, self._window_us, lookback=self._rule.lookback)
        return recording_window(self._recording.read(), self._window_us if self._rule.kind == "recording_end" else None)


def label_window(between: EventsBetween, t_us: int, window_us: int, *, lookback: bool = False) -> EventWindow:
    """Return the window that ends at a label time, as `WindowRule` says.

    Args:
        between: returns the events of ``[start_us, stop_us)``.
    """
    if not lookback:
        return EventWindow(between(max(0, t_us - window_us), max(0, t_us)), t_us - window_us, t_us)
    begins = [max(0, t_us - (1 + back) * window_us) for back in range(1 + STEPS_BACK)]
    for begin_us in begins:
        events = between(begin_us, begin_us + window_us)
        if len(events):
            break
    else:
        begin_us = begins[0]
    return EventWindow(events, begin_us, begin_us + window_us)


def recording_window(events: EventArray, last_us: int | None = None) -> EventWindow:
    """Return all events of a recording as one window, or those of its last `last_us`.

    The window ends 1 us after the last event; a whole one begins at time 0, or with the first event before it.
    """
    end_us = int(events.t[-1]) + 1 if len(events) else 1
    if last_us is None:
        return EventWindow(events, min(0, int(events.t[0])) if len(events) else 0, end_us)
    first = int(events.t.searchsorted(end_us - last_us))
    return EventWindow(events[first:], end_us - last_us, end_us)


def label_times(labels: Labels) -> I64:
    """Return the times of labels, int64 [N], ascending, each once; those before sensor time 0 have no window."""
    times = np.unique(labels.t_us)
    return times[times >= 0]
