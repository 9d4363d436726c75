"""What recordings that are one file of events share: size, notes, and how the file is opened."""

from __future__ import annotations

import io
import logging
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from snn_perception.errors import EventDataError
from snn_perception.events.recording import Recording
from snn_perception.types import SensorSize

log = logging.getLogger(__name__)


class EventFile(Recording):
    """A recording in one file. `_stated` is the size that was given or that the file states, None if neither."""

    notes: list[str]
    _stated: SensorSize | None = None
    _done = _total = 0
    _note_level = logging.WARNING

    @property
    def size_inferred(self) -> bool:  # type: ignore[override]
        """Whether `size` is a guess from the events' coordinates."""
        return self._stated is None

    @cached_property
    def size(self) -> SensorSize:  # type: ignore[override]
        """Sensor size: given, stated by the file, or found by one pass over the coordinates."""
        return self._stated or self._infer_size()

    def progress(self) -> tuple[int, int]:
        """Return bytes done and bytes in all."""
        return self._done, self._total

    @abstractmethod
    def _infer_size(self) -> SensorSize:
        """Return the smallest size that holds every event; EventDataError if there are none."""

    def _note(self, text: str) -> None:
        """Keep a finding for people and log it, once."""
        if text not in self.notes:
            self.notes.append(text)
            log.log(self._note_level, "%s: %s", self.path, text)


@contextmanager
def opened(path: Path) -> Iterator[io.FileIO]:
    """Open a file without Python's buffer: pieces are larger than it. Raises EventDataError, while reading too."""
    try:
        with path.open("rb", buffering=0) as file:
            yield file
    except OSError as error:
        raise EventDataError(
            f"{path}: cannot be read: {error.strerror or error}; check the file and its permissions"
        ) from error


def kind_of(path: Path) -> str:
    """Return what lies at a path that is no file, in words."""
    if path.is_dir():
        return "a folder"
    return "something that is not a regular file" if path.exists() else "nothing there"
