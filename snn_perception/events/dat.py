"""Prophesee DAT recordings (GEN1, 1Mpx, N-CARS): 8 bytes per event behind a text header.

Reading goes through one buffer of a chunk's length, so memory does not grow with the file, and a file that shrinks
meanwhile ends the recording instead of the process (as it would under a memory map).
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from snn_perception.errors import EventDataError
from snn_perception.events.dat_header import (
    EVENT_BYTES,
    MAX_HEADER_BYTES,
    DatHeader,
    looks_like_dat,
    parse_header,
    stated_size,
)
from snn_perception.events.dat_kernels import HALF_WRAP_US, mend, split_words, survey
from snn_perception.events.recording import Recording
from snn_perception.types import DecodedEvents, Losses, SensorSize

log = logging.getLogger(__name__)

CHUNK_EVENTS = 1 << 16
_NO_LEAPS = np.empty((0, 3), np.int64)
_LOW = np.uint64(0xFFFFFFFF)


class DatRecording(Recording):
    """A DAT file, types 0 and 12.

    Time is unwrapped to int64: a drop of more than 2^31 us starts the next 2^32 us. Smaller drops are disorder and stay
    as they are in `t`; those beyond `JITTER_US` are reported as leaps. Silence is no leap: a file is complete.

    Args:
        path: the file.
        size: (height, width) of the sensor, in place of what the header states. Where neither does, the smallest size
            that holds every event is used, found by a pass over the file (`size_inferred`).

    Attributes:
        header: what the header says.
        notes: what a person should know about the file (a ragged tail, an inferred size), found so far.

    Raises:
        EventDataError: if the file cannot be read or its header is not one of these.
    """

    format = "dat"
    encoding = "dat"

    def __init__(self, path: str | Path, *, size: tuple[int, int] | list[int] | None = None) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise EventDataError(f"{self.path}: expected a DAT file, got {_kind_of(self.path)}")
        with _opened(self.path) as file:
            head = file.read(MAX_HEADER_BYTES + 2)
            self._total = file.seek(0, io.SEEK_END)
        self.header: DatHeader = parse_header(head, self.path)
        self.notes: list[str] = []
        self._done = 0
        self._stated = SensorSize(*size) if size is not None else stated_size(self.header, self.path)

    @staticmethod
    def claims(path: Path) -> bool:
        """Return whether `path` is a file called ``.dat``, or of any other name with the header of one."""
        if not path.is_file():
            return False
        if path.suffix.lower() == ".dat":
            return True
        try:
            with path.open("rb") as file:
                return looks_like_dat(file.read(MAX_HEADER_BYTES + 2))
        except OSError:
            return False

    @property
    def size_inferred(self) -> bool:
        """Whether `size` is a guess from the events' coordinates."""
        return self._stated is None

    @cached_property
    def size(self) -> SensorSize:  # type: ignore[override]
        """Sensor size: given, stated by the header, or found by one pass over the coordinates."""
        return self._stated or self._infer_size()

    def chunks(self, max_events: int = CHUNK_EVENTS) -> Iterator[DecodedEvents]:
        """Yield the events in pieces of at most `max_events`; t in us, unwrapped.

        Events outside the sensor are dropped and counted in the piece they were in; the bytes of an unfinished last
        event are counted in the last piece.

        Raises:
            ValueError: if `max_events` is not positive.
        """
        if max_events < 1:
            raise ValueError(f"max_events must be at least 1, got {max_events}")
        splitter = _Splitter(self.size)
        ragged = 0
        for words, tail in self._words(max_events):
            ragged = tail
            yield splitter.split(words, Losses(ragged=tail))
        if ragged:
            self._note(f"ends within an event: {ragged} bytes of {EVENT_BYTES} ignored")

    def progress(self) -> tuple[int, int]:
        """Return bytes done and bytes in all."""
        return self._done, self._total

    def _words(self, max_events: int) -> Iterator[tuple[npt.NDArray[np.uint64], int]]:
        """Yield (words [N], bytes of a ragged tail); the words are valid until the next piece."""
        buffer = memoryview(bytearray(max_events * EVENT_BYTES))
        self._done = self.header.data_offset
        with _opened(self.path) as file:
            file.seek(self.header.data_offset)
            while filled := _fill(file, buffer):
                self._done += filled
                whole, tail = divmod(filled, EVENT_BYTES)
                yield np.frombuffer(buffer, np.uint64, whole), tail

    def _infer_size(self) -> SensorSize:
        largest_x = largest_y = events = odd = 0
        for words, _ in self._words(CHUNK_EVENTS):
            x, y, odd_here = survey(words)
            largest_x, largest_y, odd = max(largest_x, int(x)), max(largest_y, int(y)), odd + int(odd_here)
            events += len(words)
        if not events:
            raise EventDataError(f"{self.path}: states no sensor size and holds no events; give the size: --size WxH")
        if 2 * odd > events:  # polarity is 0 or 1 in 4 bits: other bytes than events miss that 7 times in 8
            raise EventDataError(f"{self.path}: holds no DAT header, and its bytes are no DAT events; not a DAT file")
        size = SensorSize(largest_y + 1, largest_x + 1)
        self._note(f"states no sensor size; used is {size} px, the smallest that holds its events")
        return size

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
            log.warning("%s: %s", self.path, text)


class _Splitter:
    """Turns words into columns and keeps the time state between chunks."""

    def __init__(self, size: SensorSize) -> None:
        self.size = size
        self._last = 0  # 32-bit time of the latest event
        self._epoch = 0  # time of its latest wrap

    def split(self, words: npt.NDArray[np.uint64], losses: Losses) -> DecodedEvents:
        n = len(words)
        t, x, y, p = np.empty(n, np.int64), np.empty(n, np.uint16), np.empty(n, np.uint16), np.empty(n, np.uint8)
        largest_x, largest_y, decreases = split_words(words, self._epoch, t, x, y, p)
        size, leaps = self.size, _NO_LEAPS
        first, last = (int(words[0] & _LOW), int(words[-1] & _LOW)) if n else (self._last, self._last)
        unsteady = decreases or first < self._last or last - self._last > HALF_WRAP_US
        if unsteady or largest_x >= size.width or largest_y >= size.height:
            found_leaps = np.empty((n, 3), np.int64)
            kept, found, self._last, self._epoch = mend(
                words, size.width, size.height, self._last, self._epoch, t, x, y, p, found_leaps
            )
            leaps = found_leaps[:found].copy()
            t, x, y, p = t[:kept], x[:kept], y[:kept], p[:kept]
            losses += Losses(outside=n - kept)
        else:
            self._last = last
        reached = self._epoch + self._last if n else None
        return DecodedEvents(x, y, p, t, self.size, t_reached=reached, leaps=leaps, losses=losses)


@contextmanager
def _opened(path: Path) -> Iterator[io.FileIO]:
    """Open without Python's buffer: chunks are larger than it."""
    try:
        with path.open("rb", buffering=0) as file:
            yield file
    except OSError as error:
        raise EventDataError(
            f"{path}: cannot be read: {error.strerror or error}; check the file and its permissions"
        ) from error


def _fill(file: io.FileIO, buffer: memoryview) -> int:
    """Return how many bytes were read into `buffer`: all of it, or what is left of the file."""
    filled = 0
    while filled < len(buffer) and (got := file.readinto(buffer[filled:])):
        filled += got
    return filled


def _kind_of(path: Path) -> str:
    if path.is_dir():
        return "a folder"
    return "something that is not a regular file" if path.exists() else "nothing there"
