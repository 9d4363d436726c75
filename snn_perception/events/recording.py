"""What a recording on disk offers, whatever its format; readers are plugins (hook ``snn_event_readers``)."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from snn_perception.errors import EventDataError
from snn_perception.registry import Registry
from snn_perception.types import DecodedEvents, EventArray, Packet, SensorSize

log = logging.getLogger(__name__)

CHUNK_EVENTS = 1 << 16


class Recording(ABC):
    """A recording, read front to back any number of times; opening it reads no more than its header.

    It is one of two kinds. A packet recording (a bag) yields the camera's own messages from `packets`, to be decoded
    as the live node decodes them. A file recording (DAT, RAW, HDF5) yields events from `chunks`.

    A reader may also have `size_inferred` (its size is a guess from the events' coordinates) and `notes` (what a
    person should know about the file, found so far).

    Attributes:
        path, format: where it is and its format's name (``dat``, ``rosbag2``).
        encoding: of the payload (``evt3``, ``dat``, ...).
        size: sensor size.
        is_packets: which kind it is.
    """

    path: Path
    format: str
    encoding: str
    size: SensorSize
    is_packets: bool = False
    frame_id: str = ""

    @staticmethod
    @abstractmethod
    def claims(path: Path) -> bool:
        """Return whether the file or folder is of this format, from its name and first bytes."""

    def packets(self) -> Iterator[Packet]:
        """Yield the messages in order. Raises EventDataError if the file is damaged beyond its last whole message."""
        raise EventDataError(f"{self.path}: a {self.format} recording holds events, not packets; read it by chunks")

    def chunks(
        self, max_events: int = CHUNK_EVENTS, *, start_us: int | None = None, align_us: int | None = None
    ) -> Iterator[DecodedEvents]:
        """Yield events in pieces of at most `max_events`, time unwrapped.

        Args:
            start_us: begin with the first event at which sensor time has reached it, in place of the first of all.
                What follows is, event for event, what a pass from the front gives from there on.
            align_us: let pieces end where a multiple of it lies between two events, as far as `max_events` allows, so
                that windows of that length need not be joined from pieces. A reader may ignore it.
        """
        raise EventDataError(f"{self.path}: a {self.format} recording holds packets, not events; decode its packets")

    def read(self) -> EventArray:
        """Return all events of a file recording, late ones set to the time already reached; they must fit in memory."""
        from snn_perception.events.windower import in_time_order  # brings numba, which a plugin's import does not need

        return in_time_order(EventArray.concatenate([piece.to_event_array() for piece in self.chunks()], self.size))

    def progress(self) -> tuple[int, int]:
        """Return (done, total) of the pass under way, in any unit, for a progress bar; (0, 0) if unknown."""
        return (0, 0)


def from_time_on(pieces: Iterable[DecodedEvents], start_us: int) -> Iterator[DecodedEvents]:
    """Yield the pieces without what comes before the first event at which time has reached `start_us`."""
    pieces = iter(pieces)
    for piece in pieces:
        reached = np.flatnonzero(piece.t >= start_us * piece.us_divisor)
        if len(reached):
            _, rest = piece.split(int(reached[0]))
            begins_with_leap = len(rest.leaps) and rest.leaps[0, 0] == 0  # from what is left out
            yield replace(rest, leaps=rest.leaps[1:]) if begins_with_leap else rest
            break
    yield from pieces


def open_recording(path: str | Path, registry: Registry, *, reader: str | None = None, **options: object) -> Recording:
    """Return the recording at `path`, read by the one reader that claims it (or by the one named).

    Raises:
        EventDataError: if it does not exist, no reader claims it, or its header is damaged.
    """
    path = Path(path)
    if not path.exists():
        raise EventDataError(f"{path}: no such file or folder")
    name = reader or find_reader(path, registry)
    if name is None:
        known = ", ".join(registry.names("event_reader")) or "none"
        raise EventDataError(f"{path}: not a recording that is known here; readers: {known}")
    recording: Recording = registry.build("event_reader", name, path, **options)
    return recording


def find_reader(path: Path, registry: Registry) -> str | None:
    """Return the name of the first reader that claims a file or folder, None if none does."""
    for name in registry.names("event_reader"):
        try:
            claims = registry.find("event_reader", name).component.resolve().claims  # type: ignore[attr-defined]
        except (ImportError, AttributeError) as error:
            log.warning("event reader '%s' is left out: %s", name, error)
            continue
        if claims(path):
            return name
    return None
