"""A ROS 2 bag of any topics, written without ROS, that appears under its name only once it is whole."""

from __future__ import annotations

import re
import shutil
import sqlite3
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snn_perception.errors import EventDataError
from snn_perception.whole_file import cannot_write, check_writable

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

STORAGES = ("sqlite3", "mcap")
LONE_SUFFIX = ".mcap"
_TOPIC = re.compile(r"(/[A-Za-z_][A-Za-z0-9_]*)+")
_LATEST_NS = (1 << 63) - 1


def check_topic(path: Path, topic: str) -> None:
    """Raise EventDataError unless `topic`, for the bag at `path`, is a full topic name."""
    if not _TOPIC.fullmatch(topic):
        raise EventDataError(f"{path}: expected a full topic name such as /event_camera/events, got '{topic}'")


def check_absent(path: Path) -> None:
    """Raise EventDataError or SnnPerceptionError unless a bag can be made at `path`, where there is nothing yet."""
    if path.exists() or path.is_symlink():
        raise EventDataError(f"{path}: exists already; remove it or choose another name")
    check_writable(path)


def typestore(definitions: Mapping[str, str]) -> Typestore:
    """Return the message types of ROS 2 Jazzy and those given: name -> text of its .msg file."""
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    types = get_typestore(Stores.ROS2_JAZZY)
    for name, text in definitions.items():
        types.register(get_types_from_msg(text, name))
    return types


class WholeBag:
    """Takes serialized messages and makes a bag of them: a folder, or a lone ``.mcap`` file where the name ends so.

    After an error, also one of the ``with`` block itself, nothing is left behind.

    Args:
        path: must not exist.
        types: of the messages (see `typestore`).
        storage: ``sqlite3`` or ``mcap``; a lone file is always the latter.

    Raises:
        EventDataError: if `path` exists, or for a topic name or log time that a bag cannot hold.
        SnnPerceptionError: if it cannot be put there.
    """

    def __init__(self, path: str | Path, types: Typestore, storage: str = "sqlite3") -> None:
        self.path = Path(path)
        self._is_lone = self.path.suffix.lower() == LONE_SUFFIX
        self._name = self.path.stem if self._is_lone else self.path.name
        self._storage = "mcap" if self._is_lone else storage
        if self._storage not in STORAGES:
            raise EventDataError(f"{path}: unknown bag storage '{storage}'; known: {', '.join(STORAGES)}")
        self._types = types
        self._connections: dict[str, Any] = {}
        self._partial: Path | None = None
        self._writer: Any = None

    def __enter__(self) -> WholeBag:
        from rosbags.rosbag2 import StoragePlugin, Writer

        check_absent(self.path)
        plugin = {"sqlite3": StoragePlugin.SQLITE3, "mcap": StoragePlugin.MCAP}[self._storage]
        try:
            folder = self.path.absolute().parent
            self._partial = Path(tempfile.mkdtemp(prefix=f".{self.path.name}.", suffix=".partial", dir=folder))
            self._writer = Writer(self._partial / self._name, version=8, storage_plugin=plugin)
            self._writer.open()
        except (OSError, sqlite3.Error) as error:
            self._remove()
            raise self._refused(error) from error
        return self

    def __exit__(self, kind: Any, *error: Any) -> None:
        try:
            self._writer.close()
            if kind is None:
                self._put_in_place()
        except (OSError, sqlite3.Error) as failure:
            if kind is None:
                raise self._refused(failure) from failure
        finally:
            self._remove()

    def note(self, key: str, value: str) -> None:
        """Keep a text in the bag's metadata; a lone file has no place for it."""
        self._writer.set_custom_data(key, value)

    def add_topic(self, topic: str, message_type: str) -> None:
        """Announce a topic; all of them before the first message."""
        check_topic(self.path, topic)
        self._connections[topic] = self._writer.add_connection(topic, message_type, typestore=self._types)

    def write(self, topic: str, log_time_ns: int, data: bytes | memoryview) -> None:
        """Add a serialized message to an announced topic."""
        if not 0 <= log_time_ns <= _LATEST_NS:
            raise EventDataError(f"{self.path}: topic '{topic}': expected a stamp from 1970 on, got {log_time_ns} ns")
        try:
            self._writer.write(self._connections[topic], log_time_ns, data)
        except (OSError, sqlite3.Error) as error:
            raise self._refused(error) from error

    def _put_in_place(self) -> None:
        assert self._partial is not None
        made = self._partial / self._name
        if self._is_lone:
            (made,) = made.glob(f"*{LONE_SUFFIX}")
        made.rename(self.path)

    def _remove(self) -> None:
        if self._partial is not None:
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial = None

    def _refused(self, error: Exception) -> Exception:
        return cannot_write(self.path, error if isinstance(error, OSError) else OSError(str(error)))
