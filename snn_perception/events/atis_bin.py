"""ATIS ``.bin`` recordings (N-MNIST, N-Caltech101; Orchard et al., Front. Neurosci. 2015) and their annotations.

Five bytes per event: x, y, then polarity (bit 7) and 23 bits of time in microseconds, big endian. A record in row 240
is no event: it says that time has overflowed, and adds 2^13 us to all times after it. Nothing states the sensor's size.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from snn_perception.errors import EventDataError
from snn_perception.events.event_file import EventFile, kind_of, opened
from snn_perception.events.jit import kernel
from snn_perception.events.recording import CHUNK_EVENTS, from_time_on
from snn_perception.types import F32, JITTER_US, DecodedEvents, Losses, SensorSize

log = logging.getLogger(__name__)

EVENT_BYTES = 5
OVERFLOW_ROW = 240
OVERFLOW_US = 1 << 13
LARGEST = SensorSize(180, 240)  # of the data sets in this format
MAX_ANNOTATION_BYTES = 1 << 20  # real ones take some hundred
_SAMPLE_EVENTS = 2048
_FEWEST_EVENTS = 8  # fewer tell nothing of what a file is
_NO_LEAPS = np.empty((0, 3), np.int64)


class AtisBinRecording(EventFile):
    """An ATIS ``.bin`` file.

    Time is unwrapped to int64 by the file's overflow records. Where it runs backwards it stays so; steps back beyond
    `JITTER_US` are reported as leaps.

    Args:
        path: the file.
        size: (height, width) of the sensor; by default the smallest that holds every event, found by a pass over the
            file (`size_inferred`). N-MNIST: (34, 34); N-Caltech101: at most (180, 240), differing per recording.

    Attributes:
        notes: what a person should know about the file (a ragged tail, an inferred size), found so far.

    Raises:
        EventDataError: if the file cannot be read.
    """

    format = "atis_bin"
    encoding = "atis_bin"
    _note_level = logging.INFO  # every such file infers its size

    def __init__(self, path: str | Path, *, size: tuple[int, int] | list[int] | None = None) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise EventDataError(f"{self.path}: expected an ATIS .bin file, got {kind_of(self.path)}")
        with opened(self.path) as file:
            self._total = file.seek(0, io.SEEK_END)
        self.notes: list[str] = []
        self._done = 0
        self._stated = SensorSize(*size) if size is not None else None

    @staticmethod
    def claims(path: Path) -> bool:
        """Return whether `path` is called ``.bin`` and its first records are such events.

        They are where all lie on the largest sensor of these data sets, at more than one place, and time seldom falls:
        other binary files do not get there.
        """
        if path.suffix.lower() != ".bin" or not path.is_file():
            return False
        try:
            with path.open("rb") as file:
                return _looks_like_events(file.read(_SAMPLE_EVENTS * EVENT_BYTES))
        except OSError:
            return False

    def chunks(
        self, max_events: int = CHUNK_EVENTS, *, start_us: int | None = None, align_us: int | None = None
    ) -> Iterator[DecodedEvents]:
        """Yield the events in pieces of at most `max_events`; t in us, unwrapped (see `Recording.chunks`).

        Events outside the sensor are dropped and counted in the piece they were in; the bytes of an unfinished last
        event are counted in the last piece. `start_us` is found by a pass from the front, since an event's time depends
        on the overflows before it; `align_us` is ignored: these recordings take less than a second.

        Raises:
            ValueError: if `max_events` or `align_us` is not positive.
        """
        if max_events < 1 or (align_us is not None and align_us < 1):
            raise ValueError(f"max_events and align_us must be at least 1, got {max_events} and {align_us}")
        pieces = self._pieces(max_events)
        yield from pieces if start_us is None else from_time_on(pieces, start_us)

    def _pieces(self, max_events: int) -> Iterator[DecodedEvents]:
        size = self.size
        epoch, last = 0, -1
        for records, ragged in self._records(max_events):
            n = len(records)
            t, x, y, p = np.empty(n, np.int64), np.empty(n, np.uint16), np.empty(n, np.uint16), np.empty(n, np.uint8)
            leaps = np.empty((n, 3), np.int64)
            kept, outside, found, falls, epoch, last = split_records(
                records, size.width, size.height, epoch, last, t, x, y, p, leaps
            )
            if ragged:
                self._note(f"ends within an event: {ragged} bytes of {EVENT_BYTES} ignored")
            yield DecodedEvents(
                x[:kept],
                y[:kept],
                p[:kept],
                t[:kept],
                size,
                t_reached=last if last >= 0 else None,
                leaps=leaps[:found].copy() if found else _NO_LEAPS,
                losses=Losses(outside=outside, ragged=ragged),
                in_order=not falls,
            )

    def _records(self, max_records: int) -> Iterator[tuple[npt.NDArray[np.uint8], int]]:
        """Yield (records uint8 [N, 5], bytes of a ragged tail)."""
        self._done = 0
        with opened(self.path) as file:
            while data := _read(file, max_records * EVENT_BYTES):
                self._done += len(data)
                whole, tail = divmod(len(data), EVENT_BYTES)
                yield np.frombuffer(data, np.uint8, whole * EVENT_BYTES).reshape(whole, EVENT_BYTES), tail

    def _infer_size(self) -> SensorSize:
        width = height = 0
        for records, _ in self._records(CHUNK_EVENTS):
            events = records[records[:, 1] != OVERFLOW_ROW]
            if len(events):
                width, height = max(width, int(events[:, 0].max()) + 1), max(height, int(events[:, 1].max()) + 1)
        if not width:
            raise EventDataError(f"{self.path}: states no sensor size and holds no events; give the size: --size WxH")
        size = SensorSize(height, width)
        self._note(f"states no sensor size; used is {size} px, the smallest that holds its events")
        return size


@kernel
def split_records(records, width, height, epoch, last, t, x, y, p, leaps):  # type: ignore[no-untyped-def]
    """Fill the columns from records uint8 [N, 5].

    `epoch` is what the overflows so far add; `last` is the time before the first event, -1 for none.

    Returns:
        (events kept, dropped outside the sensor, leaps found, whether time falls somewhere, epoch, last time). The kept
        events lie at the front of the columns, the leaps at the front of `leaps` [N, 3] as (index among the kept,
        time before, time after).
    """
    kept, outside, found, falls = 0, 0, 0, False
    for i in range(len(records)):
        row = records[i, 1]
        if row == OVERFLOW_ROW:
            epoch += OVERFLOW_US
            continue
        high = np.int64(records[i, 2])
        now = epoch + ((high & 0x7F) << 16 | np.int64(records[i, 3]) << 8 | np.int64(records[i, 4]))
        if last > now:
            falls = True
            if last - now > JITTER_US:
                leaps[found, 0], leaps[found, 1], leaps[found, 2] = kept, last, now
                found += 1
        last = now
        if records[i, 0] < width and row < height:
            t[kept], x[kept], y[kept], p[kept] = now, records[i, 0], row, high >> 7
            kept += 1
        else:
            outside += 1
    return kept, outside, found, falls, epoch, last


def read_ncaltech_annotation(path: str | Path) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int16]]:
    """Return the outlines of an N-Caltech101 annotation: (of the box, of the object), each int16 [2, K], x and y.

    The box's corners are the smallest and largest x and y of its outline (`outline_box`).

    Raises:
        EventDataError: if the file cannot be read, or holds no two outlines of the lengths it states.
    """
    path = Path(path)
    if not path.is_file():
        raise EventDataError(f"{path}: expected an N-Caltech101 annotation, got {kind_of(path)}")
    with opened(path) as file:
        data = _read(file, MAX_ANNOTATION_BYTES + 1)
    if len(data) > MAX_ANNOTATION_BYTES:
        raise EventDataError(f"{path}: expected an N-Caltech101 annotation of some hundred bytes, got over 1 MiB")
    numbers = np.frombuffer(data, "<i2", len(data) // 2).astype(np.int16)
    box, at = _outline(numbers, 0, "box", path)
    outline, _ = _outline(numbers, at, "object", path)
    return box, outline


def outline_box(outline: npt.NDArray[np.int16]) -> F32:
    """Return the box around an outline [2, K] as float32 [4]: left, top, width and height in pixels."""
    low, high = outline.min(axis=1).astype(np.float32), outline.max(axis=1).astype(np.float32)
    return np.concatenate([low, high - low])


def _outline(numbers: npt.NDArray[np.int16], at: int, what: str, path: Path) -> tuple[npt.NDArray[np.int16], int]:
    """Return the outline [2, K] that begins at a place, and the place after it."""
    rows, columns = (int(number) for number in numbers[at : at + 2]) if len(numbers) >= at + 2 else (0, 0)
    count, left = rows * columns, len(numbers) - at - 2
    if rows < 1 or columns < 1 or 2 not in (rows, columns) or count > left:
        raise EventDataError(
            f"{path}: expected the outline of the {what} as rows, columns and 2 x K numbers, got {rows} x {columns} "
            f"with {max(left, 0)} numbers left; is it an N-Caltech101 annotation?"
        )
    points = numbers[at + 2 : at + 2 + count].reshape(rows, columns, order="F")  # column after column
    return (points if rows == 2 else points.T).copy(), at + 2 + count


def _looks_like_events(head: bytes) -> bool:
    records = np.frombuffer(head, np.uint8, len(head) // EVENT_BYTES * EVENT_BYTES).reshape(-1, EVENT_BYTES)
    is_event = records[:, 1] != OVERFLOW_ROW
    events = records[is_event].astype(np.int64)
    if len(events) < _FEWEST_EVENTS:
        return False
    inside = bool((events[:, 0] < LARGEST.width).all() and (events[:, 1] < LARGEST.height).all())
    moves = bool((events[1:, :2] != events[:-1, :2]).any())
    epoch = OVERFLOW_US * np.cumsum(~is_event)[is_event]
    t = epoch + ((events[:, 2] & 0x7F) << 16 | events[:, 3] << 8 | events[:, 4])
    step = np.diff(t)
    return inside and moves and int(t[-1]) > int(t[0]) and int((step < 0).sum()) * 20 <= len(step)


def _read(file: io.FileIO, count: int) -> bytes:
    """Return `count` bytes, or all that are left."""
    parts: list[Any] = []
    while count and (part := file.read(count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
