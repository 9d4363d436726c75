"""The storage files of a ROS 2 bag and the messages in them, whatever their type."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from snn_perception.errors import EventDataError
from snn_perception.events.bag_mcap import MAGIC as MCAP_MAGIC
from snn_perception.events.bag_mcap import McapStorage
from snn_perception.events.bag_sqlite import MAGIC as SQLITE_MAGIC
from snn_perception.events.bag_sqlite import SqliteStorage
from snn_perception.events.bag_storage import BagStorage, StoredMessage, inflate_message

Message = TypeVar("Message")
log = logging.getLogger(__name__)

METADATA = "metadata.yaml"
MAX_METADATA_BYTES = 1 << 22
_INFORMATION = "rosbag2_bagfile_information"
_FILE_LIST = re.compile(r"^[ \t]*relative_file_paths:[ \t]*(?:\n((?:[ \t]*-[ \t].*\n?)+)|\[([^\]\n]*)\])", re.MULTILINE)
_SUFFIXES = {".db3": SqliteStorage, ".mcap": McapStorage}


class BagFiles:
    """A bag: a folder with ``metadata.yaml``, or a lone storage file.

    Files are read by what they are, not by what the metadata says they are: recorders leave its storage field empty,
    or no metadata at all when the power goes. Messages come by their log time, file after file.

    Attributes:
        path: folder or file.
        skipped: messages of the latest pass that could not be read.
        metadata: the text of ``metadata.yaml``; empty where there is none, or it is damaged.
        listener: is given each message that `read` yields, unpacked, just before it does; to copy what is read.

    Raises:
        EventDataError: if there is no such bag.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.metadata, self.skipped = path, "", 0
        self.listener: Callable[[StoredMessage], None] | None = None
        self._notes: list[str] = []
        try:
            self._files = self._find_files()
            self._bytes = [file.stat().st_size for file in self._files]
        except OSError as error:
            raise _unreadable(self.path, error) from error
        self._reading = 0
        self._storages: dict[int, BagStorage] = {}

    @property
    def notes(self) -> list[str]:
        """What a person should know about the bag, found so far."""
        return self._notes + [
            f"{storage.path.name}: {note}" for _, storage in sorted(self._storages.items()) for note in storage.notes
        ]

    def note(self, text: str) -> None:
        """Keep a finding for people and log it, once."""
        if text not in self._notes:
            self._notes.append(text)
            log.warning("%s: %s", self.path, text)

    def read(self, topic: str, parse: Callable[[bytes | memoryview], Message]) -> Iterator[Message]:
        """Yield what `parse` makes of a topic's messages, by log time, file after file.

        Messages that it refuses with an EventDataError are counted in `skipped` and left out.

        Raises:
            EventDataError: if not one message could be read.
        """
        self.skipped, read = 0, 0
        for message in self._messages(topic):
            try:
                data = inflate_message(message.data)
                parsed = parse(data)
            except EventDataError as error:
                if not self.skipped:
                    self.note(f"topic '{shown(topic)}', message {read + 1}: {error}; left out")
                self.skipped += 1
                continue
            read += 1
            if self.listener is not None:
                self.listener(StoredMessage(message.log_time_ns, data))
            yield parsed
        if self.skipped and not read:
            raise EventDataError(
                f"{self.path}: none of {self.skipped} messages on '{shown(topic)}' can be read: {self.notes[-1]}"
            )

    def progress(self) -> tuple[int, int]:
        """Return bytes done (of whole files, and in proportion of the one that is read) and bytes in all."""
        storage = self._storages.get(self._reading)
        part = self._bytes[self._reading] * storage.fraction if storage else 0
        return sum(self._bytes[: self._reading]) + int(part), sum(self._bytes)

    def choose_topic(self, wanted: str | None, kinds: Sequence[Collection[str]], what: str) -> tuple[str, str]:
        """Return (topic, type) from the first file that has one fit to choose.

        Args:
            wanted: the topic asked for; None where the bag shall have one only.
            kinds: the types that will do, those first that are preferred.
            what: such topics hold, for people.

        Raises:
            EventDataError: if there is no such topic, or more than one.
        """
        fit = {kind for group in kinds for kind in group}
        known = self.topics(lambda found: wanted in found or (wanted is None and not fit.isdisjoint(found.values())))
        listed = _listed(f"{shown(name)} ({shown(kind)})" for name, kind in sorted(known.items()))
        if wanted is not None:
            if known.get(wanted) not in fit:
                raise EventDataError(f"{self.path}: no {what} on topic '{wanted}'; topics: {listed}")
            return wanted, known[wanted]
        for types in kinds:
            found = sorted(name for name, kind in known.items() if kind in types)
            if len(found) > 1:
                raise EventDataError(
                    f"{self.path}: several topics hold {what}; choose one: {_listed(map(shown, found))}"
                )
            if found:
                return found[0], known[found[0]]
        expected = " or ".join(kind for group in kinds for kind in group)
        raise EventDataError(f"{self.path}: expected a topic of type {expected}; topics: {listed}")

    def topics(self, enough: Callable[[dict[str, str]], bool] = lambda _: False) -> dict[str, str]:
        """Return the type of each topic, of as many files as it takes until that is `enough`."""
        known: dict[str, str] = {}
        for number in range(len(self._files)):
            storage = self._storage(number)
            known.update(storage.topics if storage else {})
            if enough(known):
                break
        return known

    def _messages(self, topic: str) -> Iterator[StoredMessage]:
        for number in range(len(self._files)):
            self._reading, storage = number, self._storage(number)
            if storage:
                yield from _messages(storage, topic)

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
            self.note(f"the metadata names {lost[0]:.80}, which is not there ({len(lost)} missing)")
        files = [file for file in named if file in present] or present
        if not files:
            raise EventDataError(f"{self.path}: expected .db3 or .mcap files in a bag's folder, found none")
        return files

    def _names_in_metadata(self) -> list[str]:
        """Return the storage files that the metadata lists; none where it is missing or damaged, which is noted."""
        file = self.path / METADATA
        if not file.is_file():  # neither there nor something to wait for, as a pipe would be
            self.note(f"has no {METADATA}; its storage files are read by name")
            return []
        try:
            if file.stat().st_size > MAX_METADATA_BYTES:
                raise ValueError(f"larger than {MAX_METADATA_BYTES} bytes")
            self.metadata = file.read_text("utf-8", "replace")
            return _listed_files(self.metadata)
        except (OSError, ValueError) as error:
            self.note(f"{METADATA} is damaged ({type(error).__name__}); its storage files are read by name")
        return []

    def _storage(self, number: int) -> BagStorage | None:
        """Return an opened storage file; None, with a note, for a damaged one beside whole ones."""
        if number not in self._storages:
            try:
                self._storages[number] = _open_storage(self._files[number])
            except EventDataError as error:
                if len(self._files) == 1:
                    raise
                self.note(f"left out: {error}")
                return None
        return self._storages[number]


def is_bag(path: Path) -> bool:
    """Return whether `path` is a bag's folder, a storage file by its suffix, or a file that begins as MCAP does."""
    try:
        if path.is_dir():
            return _INFORMATION.encode() in _head(path / METADATA) or bool(_storage_files(path))
        return path.is_file() and (path.suffix in _SUFFIXES or _head(path).startswith(MCAP_MAGIC))
    except OSError:
        return False


def shown(name: str) -> str:
    """Return a name from a file, which may be damaged, as part of a line."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:120])


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
