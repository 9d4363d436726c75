"""Reading NumPy's ``.npz`` archives as data alone: members are read as `snn_perception.data.npy` reads files."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy.typing as npt

from snn_perception.data.npy import parse_npy
from snn_perception.errors import EventDataError

MAX_MEMBER_BYTES = 1 << 28  # unpacked; labels of a minute take below 1 MiB
_PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_npz(path: str | Path, names: tuple[str, ...]) -> tuple[dict[str, npt.NDArray[Any]], tuple[str, ...]]:
    """Return the named arrays of an ``.npz`` file (read-only; those that it lacks are missing), and notes for a person.

    Raises:
        EventDataError: if the file cannot be read, is no such archive, or a member holds other than plain arrays or
            less than its header says.
    """
    path = Path(path)
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no regular file" if path.exists() else "nothing there"
        raise EventDataError(f"{path}: expected an .npz file, got {what}")
    arrays: dict[str, npt.NDArray[Any]] = {}
    notes: list[str] = []
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            for name in names:
                info = members.get(f"{name}.npy")
                if info is not None:
                    _check(info, f"{path}: {name}")
                    with archive.open(info) as member:
                        arrays[name], more = parse_npy(member, info.file_size, f"{path}: {name}")  # type: ignore[arg-type]
                        notes += (f"{name}: {note}" for note in more)
    except OSError as error:
        raise EventDataError(
            f"{path}: cannot be read: {error.strerror or error}; check the file and its permissions"
        ) from error
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        RuntimeError,
        NotImplementedError,
        ValueError,
        OverflowError,
    ) as e:
        raise EventDataError(f"{path}: expected an .npz archive, got a damaged one ({e!s:.100}); copy it again") from e
    return arrays, tuple(notes)


def _check(info: zipfile.ZipInfo, where: str) -> None:
    """Refuse what would take more memory than any such file, or is packed otherwise than NumPy does."""
    if info.file_size > MAX_MEMBER_BYTES or info.compress_type not in _PLAIN:
        raise EventDataError(
            f"{where}: expected at most {MAX_MEMBER_BYTES >> 20} MiB, stored or deflated, got {info.file_size} bytes "
            f"by method {info.compress_type}; the file is damaged"
        )
