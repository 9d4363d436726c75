"""Lines of text files that people and programs write, read without trusting their length."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from snn_perception.errors import EventDataError


def read_lines(path: Path, most: int, what: str) -> Iterator[tuple[str, str]]:
    """Yield each line with its line end, cut after `most` characters, and where it stands, for errors.

    Args:
        what: the file is meant to be, such as ``a journal``.

    Raises:
        EventDataError: if the file cannot be read as text.
    """
    try:
        with path.open(encoding="utf-8") as file:
            number = 0
            while line := file.readline(most):
                number += 1
                yield line, f"{path}: line {number}"
    except (OSError, UnicodeDecodeError) as error:
        raise EventDataError(f"{path}: cannot be read as {what}: {error}") from error
