"""Reading NumPy's ``.npy`` files as data alone: flat dtypes, no pickle, nothing allocated before the sizes agree.

`numpy.load` would do for honest files. It also believes a header that announces more than the file holds, and builds
any dtype that one describes.
"""

from __future__ import annotations

import ast
import io
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from snn_perception.errors import EventDataError

MAGIC = b"\x93NUMPY"
MAX_HEADER_BYTES = 10_000  # as NumPy itself allows; a label file's header takes 200 to 400
MAX_ITEM_BYTES = 1 << 12
_FORMAT = re.compile(r"[<>=|]?(?:[biufc]\d{1,2}|[SUV]\d{1,4}|[?])")


@dataclass(frozen=True)
class NpyHeader:
    """What the header of an ``.npy`` file announces, its length checked against what the file holds.

    Attributes:
        dtype, shape, fortran_order: of the array; `rows` is its number of items.
        trailing_bytes: after the last item.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran_order: bool
    trailing_bytes: int

    @property
    def rows(self) -> int:
        """Number of items."""
        return math.prod(self.shape)


def read_npy(path: str | Path) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """Return the array of an ``.npy`` file (versions 1 to 3), and notes for a person.

    Raises:
        EventDataError: if the file cannot be read, or is no such file, or holds other than numbers, text and flat
            records of them, or less than its header says.
    """
    with _opened(Path(path)) as (file, total):
        return parse_npy(file, total, str(path))


def read_npy_header(path: str | Path) -> NpyHeader:
    """Return what the header of an ``.npy`` file announces; nothing else is read. Raises as `read_npy` does."""
    with _opened(Path(path)) as (file, total):
        return parse_npy_header(file, total, str(path))


def parse_npy(file: BinaryIO, total_bytes: int, where: str) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """Return the array (read-only) that starts where `file` stands, and notes for a person.

    Args:
        total_bytes: how many bytes there are from there on.
        where: names the source in errors.

    Raises:
        EventDataError: as for `read_npy`.
    """
    header = parse_npy_header(file, total_bytes, where)
    raw = file.read(header.rows * header.dtype.itemsize)
    if len(raw) < header.rows * header.dtype.itemsize:
        raise EventDataError(f"{where}: ended while it was read; copy it again")
    flat: npt.NDArray[Any] = np.frombuffer(raw, header.dtype) if raw else np.empty(0, header.dtype)
    array = flat.reshape(header.shape, order="F") if header.fortran_order else flat.reshape(header.shape)
    trailing = header.trailing_bytes
    return array, (f"{trailing} bytes after the last row ignored",) if trailing else ()


def parse_npy_header(file: BinaryIO, total_bytes: int, where: str) -> NpyHeader:
    """Return the header at which `file` stands, and leave it at the data. Arguments and errors as for `parse_npy`."""
    header, header_bytes = _header(file, where)
    dtype = _dtype(header["descr"], where)
    shape = _shape(header["shape"], where)
    wanted, held = math.prod(shape) * dtype.itemsize, total_bytes - header_bytes
    if wanted > held:
        raise EventDataError(
            f"{where}: its header announces {math.prod(shape)} rows of {dtype.itemsize} bytes, got {max(held, 0)} of "
            f"{wanted} bytes; the file is cut off or damaged: copy it again"
        )
    return NpyHeader(dtype, shape, bool(header["fortran_order"]), held - wanted)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Open a regular file; yield it and its length in bytes."""
    try:
        if not path.is_file():
            what = "a folder" if path.is_dir() else "no regular file" if path.exists() else "nothing there"
            raise EventDataError(f"{path}: expected an .npy file, got {what}")
        with path.open("rb") as file:
            total = file.seek(0, io.SEEK_END)
            file.seek(0)
            yield file, total
    except OSError as error:
        raise EventDataError(f"{path}: cannot be read: {error.strerror or error}; check its permissions") from error


def _header(file: BinaryIO, where: str) -> tuple[dict[str, Any], int]:
    """Return the header's dictionary, its three keys present, and the bytes up to the data."""
    start = file.read(8)
    if not start.startswith(MAGIC) or len(start) < 8:
        raise EventDataError(f"{where}: expected an .npy file, got one that begins with {start!r}")
    version = start[6]
    if version not in (1, 2, 3):
        raise EventDataError(f"{where}: expected .npy version 1, 2 or 3, got {version}; save it again with NumPy")
    length_bytes = 2 if version == 1 else 4
    length = int.from_bytes(file.read(length_bytes), "little")
    if length > MAX_HEADER_BYTES:
        raise EventDataError(
            f"{where}: expected a header of at most {MAX_HEADER_BYTES} bytes, got {length}; the file is damaged"
        )
    text = file.read(length)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's, of numbers grown together with words in damaged text
            header = ast.literal_eval(text.decode("utf-8" if version == 3 else "latin1").strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        header = None
    if not isinstance(header, dict) or {"descr", "fortran_order", "shape"} - set(header):
        raise EventDataError(
            f"{where}: expected a header with descr, fortran_order and shape, got {text[:60]!r}; the file is damaged"
        )
    return header, 8 + length_bytes + length


def _shape(shape: Any, where: str) -> tuple[int, ...]:
    fits = isinstance(shape, tuple) and len(shape) <= 8
    if not fits or any(type(side) is not int or not 0 <= side < 1 << 40 for side in shape):
        raise EventDataError(f"{where}: expected a shape of at most 8 sides, got {shape!r:.60}; the file is damaged")
    return tuple(shape)


def _dtype(descr: Any, where: str) -> np.dtype[Any]:
    """Return the dtype a header describes: one format, or a flat list of named ones (unnamed ones are padding)."""
    if isinstance(descr, str):
        return _format(descr, where)
    if not isinstance(descr, list) or not 0 < len(descr) <= 256:
        raise EventDataError(f"{where}: expected a list of fields, got {descr!r:.60}")
    names: list[str] = []
    formats: list[np.dtype[Any]] = []
    offsets: list[int] = []
    at = 0
    for entry in descr:
        name, field = _field(entry, where)
        if name:
            names.append(name)
            formats.append(field)
            offsets.append(at)
        at += field.itemsize
    if at > MAX_ITEM_BYTES or len(set(names)) < len(names) or not names:
        raise EventDataError(f"{where}: expected rows of differently named fields, got {descr!r:.200}")
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": at})


def _field(entry: Any, where: str) -> tuple[str, np.dtype[Any]]:
    """Return name and dtype of one field; a padding has no name."""
    fits = isinstance(entry, tuple) and len(entry) in (2, 3)
    name = entry[0] if fits else None
    if isinstance(name, tuple) and len(name) == 2:  # a title before the name
        name = name[1]
    if not isinstance(name, str):
        raise EventDataError(f"{where}: expected fields as (name, format), got {entry!r:.80}")
    field = _format(entry[1], where)
    if len(entry) == 2:
        return name, field
    shape = _shape(entry[2] if isinstance(entry[2], tuple) else (entry[2],), where)
    if math.prod(shape) * field.itemsize > MAX_ITEM_BYTES or not all(shape):
        raise EventDataError(f"{where}: field '{name:.40}' has the impossible shape {shape}; the file is damaged")
    return name, np.dtype((field, shape))


def _format(text: Any, where: str) -> np.dtype[Any]:
    try:
        dtype = np.dtype(text) if isinstance(text, str) and _FORMAT.fullmatch(text) else None
    except TypeError:
        dtype = None  # a letter and a width that do not go together
    if dtype is None or not dtype.itemsize:
        raise EventDataError(f"{where}: expected numbers or text, got a field of format {text!r:.60} (no objects)")
    return dtype
