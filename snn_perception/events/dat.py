"""Prophesee DAT recordings (GEN1, 1Mpx, N-CARS): 8 bytes per event behind a text header.

Reading goes through one buffer of a chunk's length, so memory does not grow with the file, and a file that shrinks
meanwhile ends the recording instead of the process (as it would under a memory map).
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from snn_perception.errors import EventDataError
from snn_perception.events.dat_header import (
    EVENT_BYTES,
    MAX_HEADER_BYTES,
    DatHeader,
    looks_like_dat,
    looks_like_raw,
    parse_header,
    stated_size,
)
from snn_perception.events.dat_kernels import HALF_WRAP_US, WRAP_US, first_word_at, mend, split_words, survey
from snn_perception.events.dat_seek import TimeSamples, sample_times
from snn_perception.events.event_file import EventFile, kind_of, opened
from snn_perception.events.recording import CHUNK_EVENTS, from_time_on
from snn_perception.events.windower import in_time_order
from snn_perception.types import NO_LOSSES, DecodedEvents, EventArray, Losses, SensorSize

log = logging.getLogger(__name__)

_NO_LEAPS = np.empty((0, 3), np.int64)
_LOW = np.uint64(0xFFFFFFFF)


class DatRecording(EventFile):
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
            raise EventDataError(f"{self.path}: expected a DAT file, got {kind_of(self.path)}")
        with opened(self.path) as file:
            head = file.read(MAX_HEADER_BYTES + 2)
            self._total = file.seek(0, io.SEEK_END)
        self.header: DatHeader = parse_header(head, self.path)
        self.notes: list[str] = []
        self._done = 0
        self._stated = SensorSize(*size) if size is not None else stated_size(self.header, self.path)

    @staticmethod
    def claims(path: Path) -> bool:
        """Return whether `path` is a file called ``.dat`` and no RAW file, or of any name with the header of one."""
        if not path.is_file():
            return False
        is_named_dat = path.suffix.lower() == ".dat"
        try:
            with path.open("rb") as file:
                head = file.read(MAX_HEADER_BYTES + 2)
        except OSError:
            return is_named_dat
        return not looks_like_raw(head) if is_named_dat else looks_like_dat(head)

    def chunks(
        self, max_events: int = CHUNK_EVENTS, *, start_us: int | None = None, align_us: int | None = None
    ) -> Iterator[DecodedEvents]:
        """Yield the events in pieces of at most `max_events`; t in us, unwrapped (see `Recording.chunks`).

        Events outside the sensor are dropped and counted in the piece they were in; the bytes of an unfinished last
        event are counted in the last piece. `start_us` is found without a pass over the file, through times sampled
        all along it.

        Raises:
            ValueError: if `max_events` or `align_us` is not positive.
        """
        if max_events < 1 or (align_us is not None and align_us < 1):
            raise ValueError(f"max_events and align_us must be at least 1, got {max_events} and {align_us}")
        offset_us = self.header.time_offset_us
        splitter, skipped = _Splitter(self.size, offset_us), 0
        if start_us is not None:
            skipped, splitter.last, splitter.epoch = self._samples.before(start_us - offset_us)
        pieces = self._pieces(splitter, max_events, skipped, align_us)
        yield from pieces if start_us is None else from_time_on(pieces, start_us)

    def read(self) -> EventArray:
        """Return all events; see `Recording.read`. They are decoded where they stay."""
        capacity = (self._total - self.header.data_offset) // EVENT_BYTES
        columns = _new_columns(capacity)
        splitter, words = _Splitter(self.size, self.header.time_offset_us), _WordReader(CHUNK_EVENTS)
        filled, in_order = 0, True
        with opened(self.path) as file:
            file.seek(self.header.data_offset)
            while words.read(file) and filled < capacity:
                taken = words.take(min(len(words.waiting), capacity - filled))  # a file may have grown since
                part = [column[filled : filled + len(taken)] for column in columns]
                piece = splitter.split(taken, NO_LOSSES, into=part)
                filled, in_order = filled + len(piece), in_order and piece.in_order
        t, x, y, p = (column[:filled] for column in columns)
        events = EventArray(x, y, p, t, self.size)
        return events if in_order else in_time_order(events)

    def _pieces(
        self, splitter: _Splitter, max_events: int, skipped: int, align_us: int | None
    ) -> Iterator[DecodedEvents]:
        words = _WordReader(min(max_events, self._total // EVENT_BYTES + 1))
        with opened(self.path) as file:
            self._done = file.seek(self.header.data_offset + skipped * EVENT_BYTES)
            while words.read(file):
                self._done = file.tell()
                if align_us is not None:
                    while (cut := splitter.cut(words.waiting, align_us)) < len(words.waiting):
                        yield splitter.split(words.take(cut), NO_LOSSES, align_us)
                    if words.has_room and not words.is_at_end:
                        continue
                losses = Losses(ragged=words.ragged) if words.ragged else NO_LOSSES
                yield splitter.split(words.take(), losses)
        if words.ragged:
            self._note(f"ends within an event: {words.ragged} bytes of {EVENT_BYTES} ignored")

    @cached_property
    def _samples(self) -> TimeSamples:
        state = self.path.stat()
        return _samples_of(self.path, state.st_size, state.st_mtime_ns, self.header.data_offset, self._total)

    def _infer_size(self) -> SensorSize:
        largest_x = largest_y = events = odd = 0
        reader = _WordReader(CHUNK_EVENTS)
        with opened(self.path) as file:
            file.seek(self.header.data_offset)
            while reader.read(file):
                words = reader.take()
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


class _Splitter:
    """Turns words into columns and keeps the time state between chunks."""

    def __init__(self, size: SensorSize, offset_us: int = 0) -> None:
        self.size = size
        self.offset_us = offset_us  # the header's, on top of what follows
        self.last = 0  # 32-bit time of the latest event
        self.epoch = 0  # time of its latest wrap

    def cut(self, words: npt.NDArray[np.uint64], align_us: int) -> int:
        """Return where the first word lies that belongs to another multiple of `align_us` than the first one."""
        if not len(words):
            return 0
        low = int(words[0] & _LOW)
        begin_us = self.offset_us + self.epoch + (WRAP_US if self.last - low > HALF_WRAP_US else 0)
        first = begin_us + low
        return max(1, first_word_at(words, (first // align_us + 1) * align_us - begin_us))

    def split(
        self,
        words: npt.NDArray[np.uint64],
        losses: Losses,
        align_us: int | None = None,
        into: list[npt.NDArray[Any]] | None = None,
    ) -> DecodedEvents:
        """Return the words as events, in columns of their own or `into` given ones: t, x, y, p, as long as `words`.

        With `align_us`, the next word is known to lie past the next multiple of it.
        """
        n = len(words)
        t, x, y, p = _new_columns(n) if into is None else into
        largest_x, largest_y, decreases = split_words(words, self.epoch, t, x, y, p)
        size, leaps = self.size, _NO_LEAPS
        first, last = (int(words[0] & _LOW), int(words[-1] & _LOW)) if n else (self.last, self.last)
        unsteady = decreases or first < self.last or last - self.last > HALF_WRAP_US
        if unsteady or largest_x >= size.width or largest_y >= size.height:
            found_leaps = np.empty((n, 3), np.int64)
            kept, found, self.last, self.epoch = mend(
                words, size.width, size.height, self.last, self.epoch, t, x, y, p, found_leaps
            )
            leaps = found_leaps[:found].copy()
            t, x, y, p = t[:kept], x[:kept], y[:kept], p[:kept]
            losses += Losses(outside=n - kept)
        else:
            self.last = last
        if self.offset_us:
            t += self.offset_us
            leaps = leaps + np.array([0, self.offset_us, self.offset_us], np.int64)
        reached = self.offset_us + self.epoch + self.last if n else None
        if reached is not None and align_us is not None:
            reached = (reached // align_us + 1) * align_us
        return DecodedEvents(
            x, y, p, t, self.size, t_reached=reached, leaps=leaps, losses=losses, in_order=not unsteady
        )


def _new_columns(n: int) -> list[npt.NDArray[Any]]:
    """Return columns t, x, y, p for n events."""
    return [np.empty(n, np.int64), np.empty(n, np.uint16), np.empty(n, np.uint16), np.empty(n, np.uint8)]


class _WordReader:
    """A file's words in pieces through one buffer; those not taken stay in front of the next piece.

    Attributes:
        waiting: words uint64 [N] to be taken, valid until the next read. ragged: bytes after them that fill no word.
        is_at_end: nothing comes after them.
    """

    def __init__(self, max_words: int) -> None:
        self._buffer = memoryview(bytearray(max_words * EVENT_BYTES))
        self._at = 0  # byte of the first word that waits
        self.waiting = np.empty(0, np.uint64)
        self.ragged = 0
        self.is_at_end = False

    @property
    def has_room(self) -> bool:
        """Whether fewer words wait than the buffer holds."""
        return len(self.waiting) * EVENT_BYTES + self.ragged < len(self._buffer)

    def take(self, count: int | None = None) -> npt.NDArray[np.uint64]:
        """Return the first `count` words that wait, or all, and pass on."""
        count = len(self.waiting) if count is None else count
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        self._at += count * EVENT_BYTES
        return taken

    def read(self, file: io.FileIO) -> bool:
        """Fill the buffer behind the words that wait; return whether there is anything to take, ragged bytes too."""
        held = filled = len(self.waiting) * EVENT_BYTES
        self._buffer[:held] = self._buffer[self._at : self._at + held]  # may overlap, which a memoryview minds
        self._at = 0
        while filled < len(self._buffer) and (got := file.readinto(self._buffer[filled:])):
            filled += got
        self.is_at_end = filled < len(self._buffer)
        if not filled:
            return False
        whole, self.ragged = divmod(filled, EVENT_BYTES)
        self.waiting = np.frombuffer(self._buffer, np.uint64, whole)
        return True


@lru_cache(maxsize=512)  # some 100 kB each; training on random windows opens a recording for each of them
def _samples_of(path: Path, size: int, mtime_ns: int, offset: int, end: int) -> TimeSamples:
    """Return the times along a file in the state that its size and time of change tell."""
    with opened(path) as file:
        return sample_times(file, offset, end)
