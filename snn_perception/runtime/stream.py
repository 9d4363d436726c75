"""What belongs to one camera between windows, and when it is put back to rest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from snn_perception.state import State
from snn_perception.types import ImageWindow, SensorSize, Window


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


class CarriedGaps:
    """Remembers interruptions whose first window was left out, so that the next window that is run tells of them.

    Time alone would not always: a camera that began anew may soon be where it was before.
    """

    def __init__(self) -> None:
        self._streams: set[str] = set()

    def leave_out(self, stream: str, window: Window) -> None:
        """Take note that a window of a stream is not run."""
        if window.after_gap:
            self._streams.add(stream)

    def tell(self, stream: str, window: Window, *, is_peek: bool = False) -> Window:
        """Return the next window of a stream that is run; after a mere peek the one behind it tells the same."""
        if stream not in self._streams:
            return window
        if not is_peek:
            self._streams.discard(stream)
        return window if window.after_gap else replace(window, after_gap=True)


class Continuity(Enum):
    """How a window stands to the one before it in its stream."""

    FIRST = "first"
    FOLLOWS = "follows"
    HELD = "windows are missing, the membranes are held"
    RESET = "interrupted, the membranes go to rest"


def continuity(window: Window, stream: StreamState, *, stride_us: int, max_gap_us: int) -> Continuity:
    """Return how `window` follows on in its stream.

    It is a reset after a gap in the stream, when sensor time runs backwards, when the sensor size changed, and when
    more than `max_gap_us` of windows is missing; when less is missing (dropped under load) the membranes are held.

    Images come when the camera takes them, not on a grid, and nothing tells of one that is missing: an image follows
    where its stamp is later than the last one's, by at most `max_gap_us`.
    """
    if stream.t_end_us is None:
        return Continuity.FIRST
    if window.after_gap or window.size != stream.size:
        return Continuity.RESET
    if isinstance(window, ImageWindow):
        return Continuity.FOLLOWS if 0 < window.t_end_us - stream.t_end_us <= max_gap_us else Continuity.RESET
    expected_us = stream.t_end_us + stride_us
    missing_us = window.t_end_us - expected_us
    if missing_us < 0 or missing_us > max_gap_us:
        return Continuity.RESET
    return Continuity.FOLLOWS if missing_us == 0 else Continuity.HELD
