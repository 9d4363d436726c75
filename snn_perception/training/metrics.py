"""Figures of a run as they come: JSON lines, and a TensorBoard event file where it is asked for."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from snn_perception.errors import SnnPerceptionError
from snn_perception.whole_file import cannot_write

log = logging.getLogger(__name__)


class MetricsLog:
    """A file of JSON lines that only grows, each line in the file before `write` returns.

    A killed process leaves whole lines and at most one half line, which the next opening cuts off.

    Attributes:
        lines: whole lines in the file. With the number saved beside the state of a run, `truncate_to` takes away what
            was written after that state.

    Raises:
        SnnPerceptionError: if the file cannot be made or written to.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self._ends = self._ends_of_lines()
        self._cut(self._size)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def lines(self) -> int:
        """Whole lines in the file."""
        return len(self._ends)

    def write(self, values: Mapping[str, Any]) -> None:
        """Append one line; numbers that are not finite become null, since JSON has none of them.

        Raises:
            SnnPerceptionError: if the system refuses, of a full disk for instance; the file is as before.
        """
        line = json.dumps(_finite(dict(values)), allow_nan=False).encode() + b"\n"
        before = self._size
        try:
            done = 0
            while done < len(line):
                done += os.write(self._handle, line[done:])
        except OSError as error:
            self._cut(before)
            raise cannot_write(self.path, error) from error
        self._ends.append(before + len(line))

    def truncate_to(self, lines: int) -> None:
        """Keep the first `lines` lines alone. Where there are fewer, all stay and a warning says so."""
        if lines > self.lines:
            log.warning("%s: expected %d lines of earlier figures, there are %d", self.path, lines, self.lines)
            return
        del self._ends[max(0, lines) :]
        self._cut(self._size)

    def close(self) -> None:
        """Close the file; once is enough."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    @property
    def _size(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _ends_of_lines(self) -> list[int]:
        ends, at = [], 0
        with self.path.open("rb") as file:
            for line in file:
                at += len(line)
                if line.endswith(b"\n"):
                    ends.append(at)
        return ends

    def _cut(self, size: int) -> None:
        try:
            if os.fstat(self._handle).st_size > size:
                os.ftruncate(self._handle, size)
        except OSError as error:
            raise cannot_write(self.path, error) from error


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics file; a last line that is not whole yet is left out.

    Raises:
        SnnPerceptionError: if the file is missing, or a line is no JSON object.
    """
    path = Path(path)
    found: list[dict[str, Any]] = []
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SnnPerceptionError(f"{path}: cannot be read: {error.strerror or error}") from error
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            values = json.loads(line)
        except ValueError as error:
            raise SnnPerceptionError(f"{path}:{number}: expected a line of JSON: {error}") from None
        if not isinstance(values, dict):
            raise SnnPerceptionError(f"{path}:{number}: expected a JSON object, got {type(values).__name__}")
        found.append(values)
    return found


class ScalarSink(Protocol):
    """Takes named numbers at a step."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoardSink:
    """Numbers into a TensorBoard event file.

    Args:
        folder: where the file goes. first_step: what an earlier run wrote from this step on is not shown any more.

    Raises:
        SnnPerceptionError: if the package ``tensorboard`` is not installed.
    """

    def __init__(self, folder: str | Path, first_step: int = 0) -> None:
        purge = {"purge_step": first_step + 1} if first_step else {}
        self._writer: Any = summary_writer()(log_dir=str(folder), **purge)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write each number at a step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is still held back, and close the file."""
        self._writer.close()


def summary_writer() -> Any:
    """Return torch's class that writes TensorBoard files; for a check before long work too.

    Raises:
        SnnPerceptionError: if the package ``tensorboard`` is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise SnnPerceptionError(
            f"--tensorboard needs a package that is not installed ({error}); pip install tensorboard"
        ) from None
    return SummaryWriter


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value
