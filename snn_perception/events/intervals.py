"""Events cut into intervals of sensor time, as drivers cut a stream into messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from snn_perception.errors import EventDataError
from snn_perception.types import I64, U8, U16, DecodedEvents, EventArray

MOST_EVENTS = 1 << 20  # a message of more grows beyond what middleware and memory like
Columns = tuple[U16, U16, U8, I64]  # x, y, p, t


def columns_of(events: EventArray | DecodedEvents) -> Columns:
    """Return x, y, p, t."""
    return events.x, events.y, events.p, events.t


def by_interval(chunks: Iterable[Columns], interval: int, *, max_silence: int) -> Iterator[tuple[int, int, Columns]]:
    """Yield (start, reached, columns) for each interval from that of the first event on, the empty ones included.

    Intervals are half-open, on a grid from time 0. `reached` is the interval's end; where it holds more than
    `MOST_EVENTS`, they come in parts, and that of a part but the last is the time of its last event.

    Args:
        chunks: events in order of time. Where they are not, they may come with the wrong interval.
        interval: its length, in the ticks of t.
        max_silence: ticks without an event that are still believed.

    Raises:
        ValueError: if `interval` is not positive.
        EventDataError: for a longer silence, before its intervals are made.
    """
    if interval <= 0:
        raise ValueError(f"the interval must be positive, got {interval}")
    start: int | None = None
    parts: list[Columns] = []
    held = 0
    for columns in chunks:
        t, at = columns[3], 0
        if start is None and len(t):
            start = int(t[0]) // interval * interval
        while at < len(t):
            assert start is not None
            inside = int(np.searchsorted(t[at:], start + interval))
            if not inside and t[at] < start + interval:  # out of order: whoever encodes it will tell
                inside = 1
            cut = at + min(inside, MOST_EVENTS - held)
            if cut > at:
                parts.append(_rows(columns, at, cut))
                held += cut - at
            if cut < at + inside:
                yield start, int(t[cut - 1]), _joined(parts)
                parts, held, at = [], 0, cut
                continue
            at = cut
            if at < len(t):
                _require_believable(int(t[at]) - start - interval, max_silence)
                yield start, start + interval, _joined(parts)
                parts, held, start = [], 0, start + interval
    if start is not None:
        yield start, start + interval, _joined(parts)


def _rows(columns: Columns, first: int, end: int) -> Columns:
    x, y, p, t = columns
    return x[first:end], y[first:end], p[first:end], t[first:end]


def _joined(parts: list[Columns]) -> Columns:
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return _NONE
    x, y, p, t = (np.concatenate(column) for column in zip(*parts, strict=True))
    return x, y, p, t


def _require_believable(silence: int, most: int) -> None:
    if silence > most:
        raise EventDataError(
            f"silence of {silence} ticks between events, expected at most {most}; mend the times or split the recording"
        )


_NONE: Columns = (np.empty(0, np.uint16), np.empty(0, np.uint16), np.empty(0, np.uint8), np.empty(0, np.int64))
