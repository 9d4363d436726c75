"""Writing Prophesee DAT files, so that reading gives the same events back."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from snn_perception.errors import EventDataError
from snn_perception.events.dat_header import EVENT_BYTES, EVENT_TYPES, MOST_OFFSET_US, TIME_OFFSET_KEY
from snn_perception.events.dat_kernels import HALF_WRAP_US, WRAP_US, mend
from snn_perception.events.jit import kernel
from snn_perception.events.windower import decreases
from snn_perception.types import DecodedEvents, EventArray, SensorSize
from snn_perception.whole_file import cannot_write, whole_file


def write_dat(
    path: str | Path, chunks: Iterable[EventArray | DecodedEvents], size: SensorSize, event_type: int = 12
) -> int:
    """Return the number of events written to a DAT file at `path`, which appears only once it is whole.

    Equal events give equal bytes: the header holds no date. Times have 32 bits there and wrap every 71.6 minutes; where
    the first event lies beyond the first wrap, a header line tells how many went before it.

    Args:
        path: the file; one that exists is replaced.
        chunks: the events, in the order to write; nanoseconds become microseconds.
        size: sensor size, for the header.
        event_type: 12 (EventCD) or 0 (Event2D, as GEN1 has it); the events are the same.

    Raises:
        EventDataError: if an event lies outside the sensor, or its time cannot be told from 32 bits: a negative one, or
            a step of 2^31 us and more across a multiple of 2^32. The message names the event.
        SnnPerceptionError: if the file cannot be put there.
    """
    path = Path(path)
    if event_type not in EVENT_TYPES:
        raise EventDataError(f"{path}: expected DAT event type {' or '.join(map(str, EVENT_TYPES))}, got {event_type}")
    events = (chunk for chunk in map(_in_us, chunks) if len(chunk))
    first = next(events, None)
    offset_us = _offset_us(first)
    encoder = _Encoder(path, size, offset_us)
    try:
        with whole_file(path) as partial, partial.open("wb") as file:
            file.write(_header(size, event_type, offset_us))
            for chunk in chain([] if first is None else [first], events):
                file.write(encoder.words(chunk).data)
    except OSError as error:  # a full disk, for instance; sources raise errors of their own
        raise cannot_write(path, error) from error
    return encoder.written


def _in_us(chunk: EventArray | DecodedEvents) -> EventArray:
    return chunk.to_event_array() if isinstance(chunk, DecodedEvents) else chunk


def _offset_us(first: EventArray | None) -> int:
    """Return the multiple of 2^32 us below the first event; 0 also for a time that is refused later."""
    t = 0 if first is None else int(first.t[0])
    return t // WRAP_US * WRAP_US if 0 <= t < MOST_OFFSET_US else 0


def _header(size: SensorSize, event_type: int, offset_us: int) -> bytes:
    what = "CD" if event_type == 12 else EVENT_TYPES[event_type]
    lines = [f"Data file containing {what} events.", "Version 2", f"Height {size.height}", f"Width {size.width}"]
    if offset_us:
        lines.append(f"{TIME_OFFSET_KEY} {offset_us}")
    return "".join(f"% {line}\n" for line in [*lines, "end"]).encode() + bytes([event_type, EVENT_BYTES])


@kernel
def pack_words(x, y, p, t, width, height, words):  # type: ignore[no-untyped-def]
    """Fill words uint64 [N] from columns; return whether all lie on the sensor and have a polarity of 0 or 1."""
    most_x, most_y, most_p = np.uint16(0), np.uint16(0), np.uint8(0)
    for i in range(len(t)):
        most_x, most_y, most_p = max(most_x, x[i]), max(most_y, y[i]), max(most_p, p[i])
    for i in range(len(t)):
        place = np.uint32(x[i]) | np.uint32(y[i]) << np.uint32(14) | np.uint32(p[i]) << np.uint32(28)
        words[i] = np.uint64(t[i]) & np.uint64(0xFFFFFFFF) | np.uint64(place) << np.uint64(32)
    return most_x < width and most_y < height and most_p < 2


class _Encoder:
    """Packs columns into words and checks each chunk by decoding its times again, as a reader will."""

    def __init__(self, path: Path, size: SensorSize, offset_us: int) -> None:
        self.written = 0
        self._path, self._size, self._offset_us = path, size, offset_us
        self._last, self._epoch = 0, 0

    def words(self, events: EventArray) -> npt.NDArray[np.uint64]:
        """Return the words uint64 [N] of a chunk."""
        words = np.empty(len(events), np.uint64)
        width, height = self._size.width, self._size.height
        if not pack_words(events.x, events.y, events.p, events.t, width, height, words):
            for name, column, limit in (("x", events.x, width), ("y", events.y, height), ("p", events.p, 2)):
                outside, remedy = f"outside 0..{limit - 1} in {name}", f"give a size that holds all, not {self._size}"
                self._refuse(column >= limit, outside, remedy)
        wrong = "at a time that 32 bits in this place cannot tell"
        if not self._is_steady(events.t):
            self._refuse(
                self._times_again(words) != events.t,
                wrong,
                "times must not be negative, nor step back or leave a silence over 35 minutes where they wrap (every "
                "71.6 minutes): mend their order first, or write another format",
            )
        self.written += len(events)
        return words

    def _is_steady(self, t: npt.NDArray[np.int64]) -> bool:
        """Return whether time runs forward by less than 2^31 us from the last event on, which 32 bits tell for sure."""
        before = self._offset_us + self._epoch + self._last
        if not 0 <= int(t[0]) - before < HALF_WRAP_US or decreases(t) or int(t[-1]) - before >= HALF_WRAP_US:
            return False
        self._last, self._epoch = int(t[-1]) & 0xFFFFFFFF, int(t[-1]) - self._offset_us & ~0xFFFFFFFF
        return True

    def _times_again(self, words: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Return the times that a reader will find."""
        n = len(words)
        t, x, y = np.empty(n, np.int64), np.zeros(n, np.uint16), np.zeros(n, np.uint16)
        leaps = np.empty((n, 3), np.int64)
        _, _, self._last, self._epoch = mend(
            words, 1, 1, self._last, self._epoch, t, x, y, np.zeros(n, np.uint8), leaps
        )
        return t + self._offset_us if self._offset_us else t

    def _refuse(self, bad: npt.NDArray[np.bool_], what: str, remedy: str) -> None:
        if bad.any():
            at = self.written + int(np.argmax(bad))
            raise EventDataError(f"{self._path}: cannot be written as DAT: event {at} lies {what}; {remedy}")
