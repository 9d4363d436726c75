"""Writing ATIS ``.bin`` recordings, for tests and made-up data sets."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from snn_perception.errors import EventDataError
from snn_perception.events.atis_bin import EVENT_BYTES, OVERFLOW_ROW, OVERFLOW_US
from snn_perception.types import I64, DecodedEvents, EventArray
from snn_perception.whole_file import whole_file

TIME_US = 1 << 23  # what a record can tell
MAX_MARKERS = 1 << 22  # 9.5 hours: 20 MiB of them


def write_atis_bin(path: str | Path, chunks: Iterable[EventArray | DecodedEvents]) -> int:
    """Return the number of events written to an ATIS ``.bin`` file at `path`, which appears only once it is whole.

    Where times outgrow the record's 23 bits, as many overflow records as needed come before the event.

    Args:
        chunks: the events, in the order to write; nanoseconds become microseconds.

    Raises:
        EventDataError: if an event lies outside 256 x 256, in row 240 (which marks overflows), or at a time that
            records cannot tell: a negative one, one earlier than the overflows before it, or one that takes over
            4 million of them. The message names the event.
        SnnPerceptionError: if the file cannot be put there.
    """
    path = Path(path)
    written = epoch = 0
    with whole_file(path) as partial, partial.open("wb") as file:
        for chunk in chunks:
            events = chunk.to_event_array() if isinstance(chunk, DecodedEvents) else chunk
            records, epoch = _records(events, epoch, written, path)
            file.write(records.tobytes())
            written += len(events)
    return written


def _records(events: EventArray, epoch: int, written: int, path: Path) -> tuple[npt.NDArray[np.uint8], int]:
    """Return records uint8 [N + markers, 5] and what the markers so far add."""

    def refuse(bad: npt.NDArray[np.bool_], what: str) -> None:
        if bad.any():
            raise EventDataError(
                f"{path}: cannot be written as ATIS .bin: event {written + int(np.argmax(bad))} lies {what}"
            )

    refuse((events.x > 255) | (events.y > 255), "outside 256x256; crop or scale the events first")
    refuse(events.y == OVERFLOW_ROW, f"in row {OVERFLOW_ROW}, which marks overflows; crop the events first")
    refuse(events.p > 1, "at a polarity beyond 1")
    needed = np.maximum(-(-(events.t - (TIME_US - 1)) // OVERFLOW_US), 0)
    markers = np.maximum(np.maximum.accumulate(needed), epoch // OVERFLOW_US) if len(events) else needed
    low: I64 = events.t - markers * OVERFLOW_US
    refuse((low < 0) | (markers > MAX_MARKERS), "at a time that records cannot tell; start near 0, in order")
    before = np.diff(markers, prepend=epoch // OVERFLOW_US)
    records = np.zeros((len(events) + int(before.sum()), EVENT_BYTES), np.uint8)
    records[:, 1] = OVERFLOW_ROW
    at = np.arange(len(events)) + np.cumsum(before)
    columns: list[Any] = [events.x, events.y, events.p.astype(np.int64) << 7 | low >> 16, low >> 8 & 0xFF, low & 0xFF]
    for byte, column in enumerate(columns):
        records[at, byte] = column
    return records, int(markers[-1]) * OVERFLOW_US if len(events) else epoch
