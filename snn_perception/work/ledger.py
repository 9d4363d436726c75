"""What is done already, so that an interrupted run goes on where it stopped.

An output is addressed by a digest of what it is made from: the identity of its input and the options. Whoever changes
either gets another key, and so another output.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from pathlib import Path, PurePath
from typing import Any

from snn_perception.errors import SnnPerceptionError
from snn_perception.whole_file import cannot_write, whole_file

_KEY = re.compile(r"[0-9a-f]{64}")


def unit_key(*parts: object) -> str:
    """Return the SHA-256 (hex) of some values: plain ones, paths, frozen dataclasses, and lists and dicts of those.

    Raises:
        TypeError: for any other value, and for keys of dicts that are not text.
        ValueError: for numbers that are not finite.
    """
    return hashlib.sha256(_canonical([_plain(part) for part in parts])).hexdigest()


def file_identity(path: str | Path) -> list[list[Any]]:
    """Return what tells whether a file (or any file of a folder) was changed: names, sizes, times of last change.

    Raises:
        OSError: if it is not there.
    """
    path = Path(path)
    if not path.is_dir():
        return [_identity_of_one("", path)]
    files = [Path(folder) / name for folder, _, names in os.walk(path) for name in names]
    return sorted(_identity_of_one(file.relative_to(path).as_posix(), file) for file in files)


class Ledger:
    """A folder with one small file for each unit that is done; several processes may use it at a time."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def get(self, key: str) -> dict[str, Any] | None:
        """Return what was put under a key (see `unit_key`); None if there is nothing, or if it is damaged."""
        try:
            entry = json.loads(self._path(key).read_bytes())
            value = entry["value"]
            is_whole = isinstance(value, dict) and entry["sha256"] == unit_key(key, value)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):  # ValueError: no JSON, no UTF-8
            return None
        return value if is_whole else None

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Note a unit as done, with plain values that `get` gives back; what was there is replaced.

        Raises:
            SnnPerceptionError: if it cannot be written.
            TypeError, ValueError: for values that JSON does not hold.
        """
        entry = json.dumps({"sha256": unit_key(key, value), "value": value}, allow_nan=False)
        path = self._path(key)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self.folder, error) from error
        with whole_file(path) as temporary:
            try:
                temporary.write_text(entry, "utf-8")
            except OSError as error:
                raise cannot_write(path, error) from error

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise SnnPerceptionError(f"{self.folder}: expected the key of a unit (see unit_key), got {key!r}")
        return self.folder / f"{key}.json"


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _plain(value: object) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"expected a dict whose keys are text, got {value!r}")
        return {key: _plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"dataclass": type(value).__qualname__, **fields}
    raise TypeError(f"expected plain values, paths and dataclasses, got {type(value).__name__}: {value!r}")


def _identity_of_one(name: str, path: Path) -> list[Any]:
    status = path.stat()
    return [name, status.st_size, status.st_mtime_ns]
