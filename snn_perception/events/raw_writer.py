"""Writing Prophesee RAW files of EVT3 words, so that reading gives the same events back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from snn_perception.errors import EventDataError
from snn_perception.events.evt3_encode import MAX_SILENCE_US, Evt3Encoder, lead_in
from snn_perception.events.evt3_kernels import WRAP_US
from snn_perception.events.raw_header import header_bytes
from snn_perception.types import DecodedEvents, EventArray, SensorSize
from snn_perception.whole_file import cannot_write, whole_file


def write_raw(
    path: str | Path,
    chunks: Iterable[EventArray | DecodedEvents],
    size: SensorSize,
    *,
    t_start_us: int | None = None,
) -> int:
    """Return the number of events written to an EVT3 RAW file at `path`, which appears only once it is whole.

    Equal chunks give equal bytes: the header holds no date. EVT3 has 24 bits of time and a reader counts the wraps that
    it sees, so the file begins with time words from time 0 on, through the silence before the first event. Where that
    would be more than a day (times since an epoch), it begins at the last multiple of 2^24 us before the event, and the
    header tells that in a line of our own, ``% time_offset_us``: `RawRecording` adds it, other programs give times
    without it.

    Args:
        path: the file; one that exists is replaced.
        chunks: the events in order of time; nanoseconds become microseconds. Triggers are not written.
        size: sensor size, at most 2048x2048.
        t_start_us: begin at the last multiple of 2^24 us at or before this time in place of 0 or the first event.

    Raises:
        EventDataError: if an event is out of order, outside the sensor, before the file's time 0, or after a silence of
            more than a day; the message names it.
        SnnPerceptionError: if the file cannot be put there.
    """
    path = Path(path)
    arrays = _in_us(chunks)
    first = next(arrays, None)
    first_us = None if first is None else int(first.t[0])
    offset_us = _offset(first_us, t_start_us)
    encoder = _Encoder(path, size, offset_us)
    try:
        with whole_file(path) as partial, partial.open("wb") as file:
            file.write(header_bytes(size, offset_us))
            if first is not None and first_us is not None:
                file.write(encoder.begin(first_us))
                for events in chain([first], arrays):
                    file.write(encoder.words(events))
    except OSError as error:  # a full disk, for instance; sources raise errors of their own
        raise cannot_write(path, error) from error
    return encoder.written


def _in_us(chunks: Iterable[EventArray | DecodedEvents]) -> Iterator[EventArray]:
    arrays = (chunk.to_event_array() if isinstance(chunk, DecodedEvents) else chunk for chunk in chunks)
    return (events for events in arrays if len(events))


def _offset(first_us: int | None, t_start_us: int | None) -> int:
    """Return the time of the words' 0, a multiple of 2^24 us."""
    if t_start_us is None:
        if first_us is None or 0 <= first_us <= MAX_SILENCE_US:
            return 0
        t_start_us = first_us
    return t_start_us // WRAP_US * WRAP_US


class _Encoder:
    """Encodes chunks, and says of an event that cannot be written which one of the file it is."""

    def __init__(self, path: Path, size: SensorSize, offset_us: int) -> None:
        self.written = 0
        self._path, self._size, self._offset_us = path, size, offset_us
        self._last_us: int | None = None
        self._encoder: Evt3Encoder | None = None

    def begin(self, first_us: int) -> bytes:
        """Return the words that lead to the time of the first event."""
        try:
            self._encoder = Evt3Encoder(self._size, self_contained=False, t_start_us=first_us - self._offset_us)
            return lead_in(first_us - self._offset_us)
        except EventDataError as error:
            raise EventDataError(f"{self._path}: cannot be written as EVT3: {error}") from error

    def words(self, events: EventArray) -> bytes:
        """Return the words of the next events."""
        assert self._encoder is not None
        shifted = events
        if self._offset_us:
            shifted = EventArray(events.x, events.y, events.p, events.t - self._offset_us, events.size)
        try:
            data = self._encoder.encode(shifted)
        except EventDataError as error:
            self._refuse_disorder(events)
            raise EventDataError(
                f"{self._path}: cannot be written as EVT3, from event {self.written} on: {error}"
            ) from error
        self.written += len(events)
        self._last_us = int(events.t[-1])
        return data

    def _refuse_disorder(self, events: EventArray) -> None:
        before = np.concatenate([events.t[:1] if self._last_us is None else [self._last_us], events.t[:-1]])
        late = np.flatnonzero(events.t < before)
        if len(late):
            at = int(late[0])
            raise EventDataError(
                f"{self._path}: cannot be written as EVT3: event {self.written + at} at t={events.t[at]} us precedes "
                f"t={before[at]} us; sort the events by time, or write a DAT file, which keeps their order"
            )
