"""Detections more often than once a window, for models whose membranes go on from window to window.

Overlapping windows must not simply be fed to such a model: each event would come several times, and the membranes would
live several times too fast. Two ways keep the dynamics that were trained:

* ``phase_banks``: several states for each camera, each on windows of the trained length, shifted against one another.
* ``peek``: one state; between its windows the model looks at the part of the next one that is there, and forgets it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from snn_perception.errors import SpecError
from snn_perception.spec import ModelSpec
from snn_perception.types import EventWindow, Window

RateMode = Literal["phase_banks", "peek"]
RATE_MODES = get_args(RateMode)


@dataclass(frozen=True)
class Part:
    """What is to be done with a window that overlaps others.

    Attributes:
        window: as the model sees it. phase: which of the camera's states it belongs to.
        peek_at_us: sensor time up to which its events are there, where it is only looked at; None for a window that
            changes the state.
    """

    window: Window
    phase: int = 0
    peek_at_us: int | None = None


class FasterRate:
    """Turns windows that end `times` as often as the trained ones into parts.

    Args:
        window_us: the trained length, and the trained distance.

    Attributes:
        stride_us: distance at which windows are to be cut.

    Raises:
        SpecError: if the length cannot be divided so.
    """

    def __init__(self, window_us: int, times: int, mode: RateMode) -> None:
        if times < 1 or window_us % times:
            raise SpecError(f"rate_times: expected a divisor of the model's window of {window_us} us, got {times}")
        if mode not in RATE_MODES:
            raise SpecError(f"rate_mode: expected {' or '.join(RATE_MODES)}, got {mode!r}")
        self.window_us, self.times, self.mode = window_us, times, mode
        self.stride_us = window_us // times
        self._fresh: set[int] = set()  # phases that have not seen a window since the stream began anew

    def part(self, window: EventWindow) -> Part:
        """Return what the next window is for."""
        phase = window.t_end_us // self.stride_us % self.times
        if window.after_gap:
            self._fresh = set(range(self.times))
        if self.mode == "peek" and phase:
            return Part(self._so_far(window), peek_at_us=window.t_end_us)
        begins = phase in self._fresh
        self._fresh.discard(phase)
        return Part(window if begins == window.after_gap else replace(window, after_gap=begins), phase)

    def _so_far(self, window: EventWindow) -> EventWindow:
        """Return the window of the grid that is under way, with the events that are there."""
        begin_us = (window.t_end_us - 1) // self.window_us * self.window_us
        events = window.events[int(window.events.t.searchsorted(begin_us)) :]
        is_first = 0 in self._fresh
        return EventWindow(
            events, begin_us, begin_us + self.window_us, stream=window.stream, lossy=window.lossy, after_gap=is_first
        )


def faster_rate(settings: Mapping[str, Any], spec: ModelSpec) -> FasterRate | None:
    """Return the rate that parameters ``rate_times`` and ``rate_mode`` ask for; None for one look at each window.

    Raises:
        SpecError: if the model's windows cannot be divided so.
    """
    times = settings["rate_times"]
    if times == 1:
        return None
    if spec.stride_us != spec.window_us:
        raise SpecError("rate_times: the model's own windows overlap already; leave it at 1")
    return FasterRate(spec.window_us, times, settings["rate_mode"])


def stream_name(camera: str, phase: int) -> str:
    """Return under which name a phase's state of a camera is kept; that of phase 0 is the camera's own."""
    return f"{camera}@{phase}" if phase else camera


def camera_of(stream: str) -> str:
    """Return the camera of a stream's name."""
    return stream.partition("@")[0]
