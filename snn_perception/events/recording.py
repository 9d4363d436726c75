"""What a recording on disk offers, whatever its format; readers are plugins (hook ``snn_event_readers``)."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from snn_perception.errors import EventDataError
from snn_perception.registry import Registry
from snn_perception.types import DecodedEvents, Packet, SensorSize

log = logging.getLogger(__name__)


class Recording(ABC):
    """A recording, read front to back any number of times; opening it reads no more than its header.

    It is one of two kinds. A packet recording (a bag) yields the camera's own messages from `packets`, to be decoded
    as the live node decodes them. A file recording (DAT) yields events from `chunks`.

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

    def chunks(self, max_events: int = 1 << 16) -> Iterator[DecodedEvents]:
        """Yield events in pieces of at most `max_events`, time unwrapped."""
        raise EventDataError(f"{self.path}: a {self.format} recording holds packets, not events; decode its packets")

    def progress(self) -> tuple[int, int]:
        """Return (done, total) of the pass under way, in any unit, for a progress bar; (0, 0) if unknown."""
        return (0, 0)


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
