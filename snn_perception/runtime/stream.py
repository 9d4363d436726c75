"""What belongs to one camera between windows, and when it is put back to rest."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from snn_perception.state import State
from snn_perception.types import EventWindow, SensorSize


@dataclass(frozen=True)
class StreamState:
    """One camera's memory: the membranes and where in sensor time they stand.

    Attributes:
        model: membrane state after the last window; None is rest.
        t_end_us: end of the last window; None before the first.
        windows: windows seen. gaps: how often the next window did not follow on. resets: how often that, or a jump of
            time or another sensor size, put the membranes to rest.
    """

    model: State = None
    t_end_us: int | None = None
    windows: int = 0
    gaps: int = 0
    resets: int = 0
    size: SensorSize | None = None


class Continuity(Enum):
    """How a window stands to the one before it in its stream."""

    FIRST = "first"
    FOLLOWS = "follows"
    HELD = "windows are missing, the membranes are held"
    RESET = "interrupted, the membranes go to rest"


def continuity(window: EventWindow, stream: StreamState, *, stride_us: int, max_gap_us: int) -> Continuity:
    """Return how `window` follows on in its stream.

    It is a reset after a gap in the stream, when sensor time runs backwards, when the sensor size changed, and when
    more than `max_gap_us` of windows is missing; when less is missing (dropped under load) the membranes are held.
    """
    if stream.t_end_us is None:
        return Continuity.FIRST
    expected_us = stream.t_end_us + stride_us
    missing_us = window.t_end_us - expected_us
    if window.after_gap or missing_us < 0 or missing_us > max_gap_us or window.events.size != stream.size:
        return Continuity.RESET
    return Continuity.FOLLOWS if missing_us == 0 else Continuity.HELD
