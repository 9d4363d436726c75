"""What time a recording spans, for those who asked for a part that it does not have."""

from __future__ import annotations

from snn_perception.errors import EventDataError
from snn_perception.events.recording import Recording
from snn_perception.events.walk import EventWalk
from snn_perception.registry import Registry


def span_us(recording: Recording, registry: Registry) -> tuple[int, int] | None:
    """Return the earliest and the latest time of a recording's events, found by a pass over it; None without events.

    Raises:
        EventDataError: if the recording cannot be read.
    """
    earliest: int | None = None
    latest = 0
    for _, events in EventWalk(recording, registry):
        if len(events):
            begin, end = (int(t) // events.us_divisor for t in (events.t.min(), events.t.max()))
            earliest, latest = (begin, end) if earliest is None else (min(earliest, begin), max(latest, end))
    return None if earliest is None else (earliest, latest)


def nothing_between(recording: Recording, registry: Registry, from_us: int | None, to_us: int | None) -> EventDataError:
    """Return the error of a selection that holds no event; it tells what the recording spans."""
    begin = "the start" if from_us is None else f"{from_us / 1e6} s"
    end = "the end" if to_us is None else f"{to_us / 1e6} s"
    span = span_us(recording, registry)
    whole = "has no events at all" if span is None else f"spans {span[0] / 1e6:.6f} to {span[1] / 1e6:.6f} s"
    return EventDataError(f"{recording.path}: no event from {begin} to {end} of sensor time; the recording {whole}")
