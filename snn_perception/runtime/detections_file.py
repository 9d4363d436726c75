"""Detections of a replay as JSON lines: one line per window, empty ones too, every number as it was.

A line holds ``window`` (number from 0), ``t_start_us``, ``t_end_us``, ``events``, ``lossy``, ``after_gap``, and the
columns ``xyxy``, ``score`` and ``class_id`` of its detections; ``steps`` where a model may have stopped early. Floats
are written in the shortest decimal form that reads back as the same float32.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from snn_perception.errors import EventDataError, SnnPerceptionError
from snn_perception.runtime.lines import read_lines
from snn_perception.types import F32, Detections, Window
from snn_perception.whole_file import cannot_write, whole_file

MAX_LINE_CHARACTERS = 64 << 20  # far above any window's detections; a longer line is no file of ours


@dataclass(frozen=True)
class WindowDetections:
    """One line: which window it was, how many events it had, and what was seen in it (boxes in sensor pixels)."""

    window: int
    t_start_us: int
    t_end_us: int
    events: int
    lossy: bool
    after_gap: bool
    detections: Detections


class DetectionsWriter:
    """Writes one line per window; the file appears under its name when the ``with`` block ends without an error.

    Raises:
        SnnPerceptionError: if the file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.windows = 0

    def __enter__(self) -> DetectionsWriter:
        with ExitStack() as stack:
            temporary = stack.enter_context(whole_file(self.path))
            self._file = temporary.open("w", encoding="utf-8", newline="\n")
            stack.callback(self._close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def write(self, window: Window, detections: Detections) -> None:
        """Add the line of the next window.

        Raises:
            SnnPerceptionError: if a box or score is not a finite number, or the disk is full.
        """
        line = to_line(self.windows, window, detections)
        try:
            self._file.write(line + "\n")
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self.windows += 1

    def _close(self) -> None:
        try:
            self._file.close()
        except OSError as error:  # the last lines do not fit on the disk
            raise cannot_write(self.path, error) from error


def to_line(number: int, window: Window, detections: Detections) -> str:
    """Return the JSON of one window, without a line end; the same input gives the same text.

    Raises:
        SnnPerceptionError: if a box or score is not a finite number.
    """
    if not (np.isfinite(detections.xyxy).all() and np.isfinite(detections.score).all()):
        raise SnnPerceptionError(
            f"window {number} at {window.t_start_us} us: the model gave boxes or scores that are not finite numbers; "
            "its weights do not suit this input"
        )
    line = {
        "window": number,
        "t_start_us": window.t_start_us,
        "t_end_us": window.t_end_us,
        "events": window.event_count,
        "lossy": window.lossy,
        "after_gap": window.after_gap,
        "xyxy": _shortest(detections.xyxy),
        "score": _shortest(detections.score),
        "class_id": detections.class_id.tolist(),
        **({} if detections.steps is None else {"steps": detections.steps}),
    }
    return json.dumps(line, separators=(", ", ": "), allow_nan=False)


def read_detections(path: str | Path) -> Iterator[WindowDetections]:
    """Yield the windows of a file written by `DetectionsWriter`, bit for bit as they were.

    Raises:
        EventDataError: if the file is missing or a line is not what it should be, with the line's number.
    """
    for line, where in read_lines(Path(path), MAX_LINE_CHARACTERS, "detections"):
        yield _parse(line, where)


def _shortest(values: F32) -> list[Any]:
    """Return nested lists of floats whose text is the shortest that gives the float32 back.

    A reader parses the text as a float64 first; where rounding twice would end at a neighbour, the exact value stays.
    """
    flat = values.ravel()
    short = np.array([float(str(value)) for value in flat], np.float64)
    same = np.where(short.astype(np.float32) == flat, short, flat.astype(np.float64))
    nested: list[Any] = same.reshape(values.shape).tolist()
    return nested


def _parse(line: str, where: str) -> WindowDetections:
    try:
        values = json.loads(line)
        count = len(values["score"])
        return WindowDetections(
            window=_integer(values["window"]),
            t_start_us=_integer(values["t_start_us"]),
            t_end_us=_integer(values["t_end_us"]),
            events=_integer(values["events"]),
            lossy=bool(values["lossy"]),
            after_gap=bool(values["after_gap"]),
            detections=Detections(
                np.array(values["xyxy"], np.float32).reshape(count, 4),
                np.array(values["score"], np.float32),
                np.array(values["class_id"], np.int64),
                _integer(values["t_end_us"]),
                None if values.get("steps") is None else _integer(values["steps"]),
            ),
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise EventDataError(
            f"{where}: expected one window's detections as JSON, got {line[:60]!r} ({error})"
        ) from None


def _integer(value: object) -> int:
    if type(value) is not int:
        raise ValueError(f"expected an integer, got {value!r}")
    return value
