"""Writing Prophesee DAT files, so that reading gives the same events back."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from snn_perception.errors import EventDataError
from snn_perception.events.dat_header import EVENT_BYTES, EVENT_TYPES
from snn_perception.events.dat_kernels import mend
from snn_perception.types import DecodedEvents, EventArray, SensorSize
from snn_perception.whole_file import whole_file


def write_dat(
    path: str | Path, chunks: Iterable[EventArray | DecodedEvents], size: SensorSize, event_type: int = 12
) -> int:
    """Return the number of events written to a DAT file at `path`, which appears only once it is whole.

    Equal events give equal bytes: the header holds no date.

    Args:
        path: the file; one that exists is replaced.
        chunks: the events, in the order to write; nanoseconds become microseconds.
        size: sensor size, for the header.
        event_type: 12 (EventCD) or 0 (Event2D, as GEN1 has it); the events are the same.

    Raises:
        EventDataError: if an event lies outside the sensor, or its time cannot be told from 32 bits: the first at or
            beyond 2^32 us, a negative one, or a step of 2^31 us and more across a multiple of 2^32. The message names
            the event.
        SnnPerceptionError: if the file cannot be put there.
    """
    path = Path(path)
    if event_type not in EVENT_TYPES:
        raise EventDataError(f"{path}: expected DAT event type {' or '.join(map(str, EVENT_TYPES))}, got {event_type}")
    encoder = _Encoder(path, size)
    with whole_file(path) as partial, partial.open("wb") as file:
        file.write(_header(size, event_type))
        for chunk in chunks:
            file.write(encoder.words(chunk).data)
    return encoder.written


def _header(size: SensorSize, event_type: int) -> bytes:
    what = "CD" if event_type == 12 else EVENT_TYPES[event_type]
    lines = [f"Data file containing {what} events.", "Version 2", f"Height {size.height}", f"Width {size.width}", "end"]
    return "".join(f"% {line}\n" for line in lines).encode() + bytes([event_type, EVENT_BYTES])


class _Encoder:
    """Packs columns into words and checks each chunk by decoding its times again, as a reader will."""

    def __init__(self, path: Path, size: SensorSize) -> None:
        self.written = 0
        self._path, self._size = path, size
        self._last, self._epoch = 0, 0

    def words(self, chunk: EventArray | DecodedEvents) -> npt.NDArray[np.uint64]:
        """Return the words uint64 [N] of a chunk."""
        events = chunk.to_event_array() if isinstance(chunk, DecodedEvents) else chunk
        for name, column, limit in (
            ("x", events.x, self._size.width),
            ("y", events.y, self._size.height),
            ("p", events.p, 2),
        ):
            self._refuse(
                column >= limit, f"outside 0..{limit - 1} in {name}", f"give a size that holds all, not {self._size}"
            )
        place = events.x.astype(np.uint64) | events.y.astype(np.uint64) << np.uint64(14)
        place |= events.p.astype(np.uint64) << np.uint64(28)
        words: npt.NDArray[np.uint64] = (events.t & 0xFFFFFFFF).astype(np.uint64) | place << np.uint64(32)
        again = self._times_again(words)
        wrong = "at a time that 32 bits in this place cannot tell"
        self._refuse(
            again != events.t, wrong, "start near 0, and leave no silence over 35 minutes across a wrap (71.6 minutes)"
        )
        self.written += len(events)
        return words

    def _times_again(self, words: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        n = len(words)
        t, x, y = np.empty(n, np.int64), np.zeros(n, np.uint16), np.zeros(n, np.uint16)
        leaps = np.empty((n, 3), np.int64)
        _, _, self._last, self._epoch = mend(
            words, 1, 1, self._last, self._epoch, t, x, y, np.zeros(n, np.uint8), leaps
        )
        return t

    def _refuse(self, bad: npt.NDArray[np.bool_], what: str, remedy: str) -> None:
        if bad.any():
            at = self.written + int(np.argmax(bad))
            raise EventDataError(f"{self._path}: cannot be written as DAT: event {at} lies {what}; {remedy}")
