"""What a live run decided, line by line, so that it can be computed again offline, number for number.

A journal is JSON lines. The first tells the model and the settings; then, in the order in which the inference thread
went, ``window`` for every window that was run (those dropped under load are not there), ``batch`` for windows of
several cameras that were run as one batch, whose size may decide about rounding, ``catch_up`` for one that was run for
its state alone, ``peek`` for one that was only looked at, ``set`` for a setting that changed, ``reset``,
``load`` and ``shadow`` for what was done to the state and the model, ``swap`` where the new model took over (with
``failed``: where it was given up), ``failed`` for a window that raised. ``after_gap`` stands at windows that were taken
for the first after an interruption: those are, and the next ones where those were dropped.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snn_perception.errors import EventDataError, SnnPerceptionError
from snn_perception.runtime.lines import read_lines
from snn_perception.whole_file import cannot_write

FORMAT = 1
MAX_LINE_CHARACTERS = 1 << 20
_NEEDED: dict[str, tuple[str, ...]] = {  # kind -> values that it cannot be repeated without
    "journal": ("format", "spec", "score_threshold", "max_detections", "geometry", "max_gap_us"),
    "window": ("t_us",),
    "batch": ("windows",),
    "catch_up": ("t_us",),
    "peek": ("t_us", "at_us"),
    "set": ("name", "value"),
    "reset": (),
    "load": ("file",),
    "shadow": ("model", "warm_us"),
    "swap": ("model",),
    "failed": ("t_us",),
}


@dataclass(frozen=True)
class Entry:
    """One line: its kind, the camera it is about (empty: all, or the only one), and its values."""

    kind: str
    camera: str = ""
    values: dict[str, Any] = field(default_factory=dict)


def batch_of(rows: Sequence[Entry]) -> Entry:
    """Return windows that were run as one batch as one line, so that a kill leaves all of them or none."""
    return Entry("batch", "", {"windows": [{"camera": row.camera, **row.values} for row in rows]})


def windows_in(entry: Entry) -> list[Entry]:
    """Return a line for each window that a line tells of: those of a batch, the line itself, or none."""
    if entry.kind != "batch":
        return [entry] if "t_us" in entry.values else []
    rows = [dict(row) for row in entry.values["windows"]]
    return [Entry("window", row.pop("camera"), row) for row in rows]


class JournalWriter:
    """Appends entries to a file as they come; each line is out when `write` returns, so that a kill loses none.

    Raises:
        SnnPerceptionError: if the file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("x", encoding="utf-8", newline="\n", buffering=1)
        except FileExistsError:
            raise SnnPerceptionError(f"{self.path}: is there already; a journal is of one run, name another") from None
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def write(self, entry: Entry) -> None:
        """Add one line.

        Raises:
            SnnPerceptionError: if the disk is full, or the file was closed.
        """
        line = json.dumps({entry.kind: entry.camera, **entry.values}, separators=(",", ":"))
        with self._lock:
            try:
                self._file.write(line + "\n")
            except OSError as error:
                raise cannot_write(self.path, error) from error
            except ValueError as error:  # a window that took longer than anybody waited for
                raise SnnPerceptionError(f"{self.path}: was closed") from error

    def close(self) -> None:
        """Close the file; what a full disk did not take is left out, as `write` has told."""
        with suppress(OSError):
            self._file.close()


def read_journal(path: str | Path) -> Iterator[Entry]:
    """Yield the entries of a journal; a last line that was cut off by a kill is left out.

    Raises:
        EventDataError: if the file is missing or a line is not what it should be, with the line's number.
    """
    is_first = True
    for line, where in read_lines(Path(path), MAX_LINE_CHARACTERS, "a journal"):
        if not line.endswith("\n") and len(line) < MAX_LINE_CHARACTERS:
            return
        entry = _parse(line, where)
        if (entry.kind == "journal") != is_first:
            raise EventDataError(f"{where}: expected a journal's head once, as its first line")
        is_first = False
        yield entry


def _parse(line: str, where: str) -> Entry:
    try:
        values = json.loads(line)
        if not isinstance(values, dict) or not values:
            raise ValueError
        kind = next(iter(values))
        camera = values.pop(kind)
    except (ValueError, RecursionError):
        raise EventDataError(f"{where}: expected one decision as JSON, got {line[:60]!r}") from None
    if kind not in _NEEDED or not isinstance(camera, str):
        raise EventDataError(f"{where}: expected one of {', '.join(_NEEDED)}, got {line[:60]!r}")
    if missing := [name for name in _NEEDED[kind] if name not in values]:
        raise EventDataError(f"{where}: '{kind}' without {', '.join(missing)}: {line[:60]!r}")
    if "t_us" in values and not _is_interval(values["t_us"]):
        raise EventDataError(f"{where}: expected t_us: [begin, end], got {values['t_us']!r:.60}")
    if kind == "batch" and not _is_batch(values["windows"]):
        raise EventDataError(f"{where}: expected the windows of a batch, got {values['windows']!r:.60}")
    return Entry(kind, camera, values)


def _is_batch(value: object) -> bool:
    """Return whether these are windows of cameras, each of which comes once."""
    if not isinstance(value, list) or not all(isinstance(row, dict) and _is_interval(row.get("t_us")) for row in value):
        return False
    cameras = [row.get("camera") for row in value]
    return all(isinstance(camera, str) for camera in cameras) and len(set(cameras)) == len(cameras) > 1


def _is_interval(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(t) is int for t in value)
