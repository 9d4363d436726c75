"""ROS 2 bags (sqlite3 and MCAP) of event-camera topics, read and written without ROS."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from snn_perception.errors import EventDataError
from snn_perception.events.bag_mcap import MAGIC as MCAP_MAGIC
from snn_perception.events.bag_mcap import McapStorage
from snn_perception.events.bag_messages import EVENT_TYPES, MESSAGE_TYPES, POINT_CLOUD, parse_message
from snn_perception.events.bag_sqlite import MAGIC as SQLITE_MAGIC
from snn_perception.events.bag_sqlite import SqliteStorage
from snn_perception.events.bag_storage import BagStorage, StoredMessage, inflate_message
from snn_perception.events.bag_writer import SENSOR_SIZE_KEY, write_bag
from snn_perception.events.pointcloud import PointCloudDecoder
from snn_perception.events.recording import Recording
from snn_perception.types import MAX_SIDE_PX, Packet, SensorSize

__all__ = ["BagRecording", "write_bag"]

log = logging.getLogger(__name__)

METADATA = "metadata.yaml"
MAX_METADATA_BYTES = 1 << 22
_INFORMATION = "rosbag2_bagfile_information"
_FILE_LIST = re.compile(r"^[ \t]*relative_file_paths:[ \t]*(?:\n((?:[ \t]*-[ \t].*\n?)+)|\[([^\]\n]*)\])", re.MULTILINE)
_SENSOR_SIZE = re.compile(rf"^[ \t]+{SENSOR_SIZE_KEY}:[ \t]*['\"]?(\d{{1,5}})x(\d{{1,5}})['\"]?[ \t]*$", re.MULTILINE)
_SUFFIXES = {".db3": SqliteStorage, ".mcap": McapStorage}


class BagRecording(Recording):
    """The messages of one event topic in a bag: a folder with ``metadata.yaml``, or a lone storage file.

    Files are read by what they are, not by what the metadata says they are: recorders leave its storage field empty,
    or no metadata at all when the power goes. Messages come by their log time, file after file.

    Args:
        path: folder, ``.db3`` or ``.mcap``.
        topic: which topic; needed where several hold events.
        size: (height, width) of the sensor for messages that state none (PointCloud2). Without it the size that our
            own writer notes in the metadata, or else the smallest that holds every event, found by a pass over the bag
            (`size_inferred`).

    Attributes:
        topic, message_type: the topic that is read.
        skipped: messages of the latest pass that could not be read.

    Raises:
        EventDataError: if there is no such bag, no or more than one event topic, or no readable message on it.
    """

    format = "rosbag2"
    is_packets = True

    def __init__(
        self, path: str | Path, *, topic: str | None = None, size: tuple[int, int] | list[int] | None = None
    ) -> None:
        self.path = Path(path)
        self.skipped = 0
        self._notes: list[str] = []
        self._size = SensorSize(*size) if size is not None else None
        try:
            self._files = self._find_files()
            self._bytes = [file.stat().st_size for file in self._files]
        except OSError as error:
            raise _unreadable(self.path, error) from error
        self._reading = 0
        self._storages: dict[int, BagStorage] = {}
        self.topic, self.message_type = self._choose_topic(topic)
        first = next(self.packets(), None)
        if first is None:
            raise EventDataError(
                f"{self.path}: topic '{_shown(self.topic)}' holds no messages; was the camera running?"
            )
        self.encoding, self.frame_id = first.encoding, first.frame_id
        self._size = first.size or self._size  # what the bag states holds

    @staticmethod
    def claims(path: Path) -> bool:
        """Return whether `path` is a bag's folder, a storage file by its suffix, or a file that begins as MCAP does."""
        try:
            if path.is_dir():
                return _INFORMATION.encode() in _head(path / METADATA) or bool(_storage_files(path))
            return path.is_file() and (path.suffix in _SUFFIXES or _head(path).startswith(MCAP_MAGIC))
        except OSError:
            return False

    @cached_property
    def size(self) -> SensorSize:  # type: ignore[override]
        """Sensor size: given, stated by the first message, or found by one pass over the events."""
        return self._size or self._infer_size()

    @property
    def size_inferred(self) -> bool:
        """Whether `size` is a guess from the events' coordinates."""
        return self._size is None

    @property
    def notes(self) -> list[str]:
        """What a person should know about the bag, found so far."""
        return self._notes + [
            f"{storage.path.name}: {note}" for _, storage in sorted(self._storages.items()) for note in storage.notes
        ]

    def packets(self) -> Iterator[Packet]:
        """Yield the topic's packets by log time; messages that cannot be read are counted in `skipped`.

        Raises:
            EventDataError: if not one message could be read.
        """
        self.skipped, read = 0, 0
        for number in range(len(self._files)):
            self._reading, storage = number, self._storage(number)
            for message in _messages(storage, self.topic) if storage else ():
                try:
                    packet = parse_message(inflate_message(message.data), self.message_type)
                except EventDataError as error:
                    if not self.skipped:
                        self._note(f"topic '{_shown(self.topic)}', message {read + 1}: {error}; left out")
                    self.skipped += 1
                    continue
                read += 1
                yield packet
        if self.skipped and not read:
            raise EventDataError(
                f"{self.path}: none of {self.skipped} messages on '{_shown(self.topic)}' can be read: {self.notes[-1]}"
            )

    def progress(self) -> tuple[int, int]:
        """Return bytes done (of whole files, and in proportion of the one that is read) and bytes in all."""
        storage = self._storages.get(self._reading)
        part = self._bytes[self._reading] * storage.fraction if storage else 0
        return sum(self._bytes[: self._reading]) + int(part), sum(self._bytes)

    def _infer_size(self) -> SensorSize:
        decoder, largest_x, largest_y = PointCloudDecoder(size=SensorSize(MAX_SIDE_PX, MAX_SIDE_PX)), -1, -1
        for packet in self.packets():
            with suppress(EventDataError):  # whoever decodes it for its events will tell
                if len(events := decoder.decode(packet)):
                    largest_x, largest_y = max(largest_x, int(events.x.max())), max(largest_y, int(events.y.max()))
        if largest_x < 0:
            raise EventDataError(
                f"{self.path}: '{_shown(self.topic)}' states no sensor size and holds no events; give the size"
            )
        size = SensorSize(largest_y + 1, largest_x + 1)
        self._note(
            f"'{_shown(self.topic)}' states no sensor size; used is {size} px, the smallest that holds its events"
        )
        return size

    def _find_files(self) -> list[Path]:
        """Return the storage files in order."""
        if self.path.is_file():
            return [self.path]
        if not self.path.is_dir():
            raise EventDataError(f"{self.path}: expected a bag's folder, a .db3 or an .mcap file, got none of these")
        present = _storage_files(self.path)
        named = [self.path / Path(name).name for name in self._names_in_metadata()]  # never out of this folder
        lost = [file.name for file in named if file not in present]
        packed = [name for name in lost if name.endswith(".zstd")]
        if packed:
            raise EventDataError(
                f"{self.path}: its storage is compressed as a whole; unpack it first: zstd -d {packed[0]}"
            )
        if lost:
            self._note(f"the metadata names {lost[0]:.80}, which is not there ({len(lost)} missing)")
        files = [file for file in named if file in present] or present
        if not files:
            raise EventDataError(f"{self.path}: expected .db3 or .mcap files in a bag's folder, found none")
        return files

    def _names_in_metadata(self) -> list[str]:
        """Return the storage files that the metadata lists; none where it is missing or damaged, which is noted."""
        file = self.path / METADATA
        if not file.is_file():  # neither there nor something to wait for, as a pipe would be
            self._note(f"has no {METADATA}; its storage files are read by name")
            return []
        try:
            if file.stat().st_size > MAX_METADATA_BYTES:
                raise ValueError(f"larger than {MAX_METADATA_BYTES} bytes")
            metadata = file.read_text("utf-8", "replace")
            self._size = self._size or _noted_size(metadata)
            return _listed_files(metadata)
        except (OSError, ValueError) as error:
            self._note(f"{METADATA} is damaged ({type(error).__name__}); its storage files are read by name")
        return []

    def _storage(self, number: int) -> BagStorage | None:
        """Return an opened storage file; None, with a note, for a damaged one beside whole ones."""
        if number not in self._storages:
            try:
                self._storages[number] = _open_storage(self._files[number])
            except EventDataError as error:
                if len(self._files) == 1:
                    raise
                self._note(f"left out: {error}")
                return None
        return self._storages[number]

    def _choose_topic(self, wanted: str | None) -> tuple[str, str]:
        """Return (topic, type) from the first file that has one fit to choose."""
        known: dict[str, str] = {}
        for number in range(len(self._files)):
            storage = self._storage(number)
            known.update(storage.topics if storage else {})
            if wanted in known or (wanted is None and set(known.values()) & set(MESSAGE_TYPES)):
                break
        listed = _listed(f"{_shown(name)} ({_shown(kind)})" for name, kind in sorted(known.items()))
        if wanted is not None:
            if known.get(wanted) not in MESSAGE_TYPES:
                raise EventDataError(f"{self.path}: no events on topic '{wanted}'; topics: {listed}")
            return wanted, known[wanted]
        for types in (EVENT_TYPES, (POINT_CLOUD,)):
            found = sorted(name for name, kind in known.items() if kind in types)
            if len(found) > 1:
                raise EventDataError(
                    f"{self.path}: several topics hold events; choose one: {_listed(map(_shown, found))}"
                )
            if found:
                return found[0], known[found[0]]
        raise EventDataError(f"{self.path}: expected a topic of type {' or '.join(MESSAGE_TYPES)}; topics: {listed}")

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text)
            log.warning("%s: %s", self.path, text)


def _open_storage(path: Path) -> BagStorage:
    """Return the storage in a file, by its suffix, or else by its first bytes."""
    try:
        head = _head(path)
        kind = _SUFFIXES.get(path.suffix)
        if kind is None:
            kind = SqliteStorage if head.startswith(SQLITE_MAGIC) else McapStorage
        return kind(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def _messages(storage: BagStorage, topic: str) -> Iterator[StoredMessage]:
    try:
        yield from storage.messages(topic)
    except OSError as error:
        raise _unreadable(storage.path, error) from error


def _unreadable(path: Path, error: OSError) -> EventDataError:
    return EventDataError(f"{path}: cannot be read: {error.strerror or error}; check the file and its permissions")


def _shown(name: str) -> str:
    """Return a name from a file, which may be damaged, as part of a line."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:120])


def _listed(names: Iterable[str]) -> str:
    """Return names for an error, as many as a line bears."""
    listed = ", ".join(names) or "none"
    return listed if len(listed) <= 600 else f"{listed[:600]} ..."


def _listed_files(metadata: str) -> list[str]:
    """Return the names under ``relative_file_paths``.

    Found by their lines and not by a YAML parser: hostile nesting overflows the stack of PyYAML's C loader, and takes
    either loader a time that grows with its square. Recorders write one name a line.

    Raises:
        ValueError: if there is no such list.
    """
    found = _FILE_LIST.search(metadata)
    if not found:
        raise ValueError("no relative_file_paths")
    block, flow = found.groups()
    items = flow.split(",") if flow is not None else [line.strip()[1:] for line in block.splitlines()]
    return [name for item in items if (name := item.strip().strip("'\"")) and name.isprintable()]


def _noted_size(metadata: str) -> SensorSize | None:
    """Return the sensor size that our writer notes for point clouds; None without one, or for an impossible one."""
    found = _SENSOR_SIZE.search(metadata)
    width, height = (int(side) for side in found.groups()) if found else (0, 0)
    return SensorSize(height, width) if 1 <= min(height, width) <= max(height, width) <= MAX_SIDE_PX else None


def _storage_files(folder: Path) -> list[Path]:
    """Return a folder's storage files, ``bag_10`` after ``bag_9``."""
    files = [file for file in folder.iterdir() if file.suffix in _SUFFIXES and file.is_file()]
    return sorted(files, key=lambda file: [(int(n or 0), text) for n, text in re.findall(r"(\d*)(\D*)", file.name)])


def _head(path: Path, length: int = 4096) -> bytes:
    """Return a regular file's first bytes; none of anything else, which could block."""
    with suppress(FileNotFoundError):
        if path.is_file():
            with path.open("rb") as file:
                return file.read(length)
    return b""
