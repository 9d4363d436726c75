"""HDF5 files read with bounds: nothing is allocated or decoded before the sizes agree, no other file is followed."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from snn_perception.errors import EventDataError
from snn_perception.events.hdf5_chunks import ChunkTable
from snn_perception.events.hdf5_codecs import BadChunk
from snn_perception.events.hdf5_filters import check_filters, decoded
from snn_perception.events.hdf5_messages import UNDEFINED, BadStructure
from snn_perception.events.hdf5_structure import MAGIC, StoredData, Structure

__all__ = ["MAGIC", "Hdf5File", "Rows", "opened_hdf5"]

MAX_CHUNK_BYTES = 1 << 26  # of one chunk, and of the chunks of one range of rows; common are 0.1 to 4 MiB
BLOCK_BYTES = 1 << 20  # of data that lie in one piece, so much is read at a time
MAX_ITEM_BYTES = 1 << 12


class Hdf5File:
    """An opened file; every damage in it is an EventDataError that names it."""

    def __init__(self, path: Path, file: io.FileIO) -> None:
        self.path = path
        with _told(path, "it"):
            self._structure = Structure(path, file)

    def close(self) -> None:
        """Let go of the file."""
        self._structure.close()

    def find(self, name: str) -> StoredData | None:
        """Return the data set called `name` (``group/name``), None where there is none."""
        with _told(self.path, name):
            return self._structure.find(name)

    def names(self) -> list[str]:
        """Return the names in the root group."""
        with _told(self.path, "its table of contents"):
            return self._structure.names()

    def attribute(self, group: str, name: str) -> Any:
        """Return an attribute of one number or text of a group ("" for the root); None where there is no such one."""
        with _told(self.path, f"attribute {name}"):
            return self._structure.attribute(group, name)

    def rows(self, name: str, tables: dict[str, ChunkTable] | None = None) -> Rows:
        """Return the rows of a data set.

        Args:
            tables: where chunks lie, as found by passes before; this one adds to it.

        Raises:
            EventDataError: if there is no such data set, or it cannot be read (see `Rows`).
        """
        data = self.find(name)
        if data is None:
            raise EventDataError(f"{self.path}: expected a data set '{name}', got none of that name")
        return Rows(self, data, tables if tables is not None else {})

    def small_numbers(self, name: str) -> npt.NDArray[Any] | None:
        """Return the at most 16 numbers of a data set [N] (a scalar is [1]), None where there are no such."""
        data = self.find(name)
        if data is None or data.item.dtype is None or data.item.dtype.kind not in "iuf" or data.shape is None:
            return None
        if not 0 < math.prod(data.shape) <= 16:
            return None
        if data.shape:
            return self.rows(name).read(0, data.shape[0]).reshape(-1)
        return np.frombuffer(self.in_one_piece(data, 0, data.item.item_bytes), data.item.dtype).copy()

    def in_one_piece(self, data: StoredData, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to `stop` of data that are not in chunks."""
        with _told(self.path, data.name):
            if data.inline is not None:
                part = data.inline[start:stop]
                if len(part) < stop - start:
                    raise BadStructure("it holds less than its shape says")
                return part
            if data.address == UNDEFINED:
                raise BadStructure("it was never written, or the file is cut off")
            return self._structure.read(data.address + start, stop - start)

    def stored_chunk(self, table: ChunkTable, where: tuple[int, ...], plain_bytes: int) -> tuple[bytes, int]:
        """Return the bytes of a chunk as they lie in the file, and the filters it skipped; raise BadChunk."""
        found = table.find(where)
        if found is None:
            raise BadChunk("it was never written, or the file is cut off")
        address, size, skipped = found
        if size > 2 * plain_bytes + (1 << 16):
            raise BadChunk(f"it claims {size} bytes for {plain_bytes}")
        try:
            return self._structure.read(address, size), skipped
        except BadStructure as error:
            raise BadChunk(str(error)) from None

    def load_chunks(self, data: StoredData) -> ChunkTable:
        """Return where the chunks of a data set lie."""
        assert data.load_chunks is not None
        with _told(self.path, data.name):
            return data.load_chunks()


@contextmanager
def opened_hdf5(path: Path) -> Iterator[Hdf5File]:
    """Yield the file, which is closed at the end of the block.

    Raises:
        EventDataError: if it cannot be opened, or begins otherwise than HDF5 files do.
    """
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no regular file" if path.exists() else "nothing there"
        raise EventDataError(f"{path}: expected an HDF5 file, got {what}")
    try:
        raw = path.open("rb", buffering=0)
    except OSError as error:
        raise EventDataError(
            f"{path}: cannot be read: {error.strerror or error}; check the file and its permissions"
        ) from error
    with raw:
        file = Hdf5File(path, raw)
        try:
            yield file
        finally:
            file.close()


class Rows:
    """A data set's rows [N, ...] along its first axis, decoded a range of chunks at a time.

    Attributes:
        name: for messages. shape: N and the sides of a row. dtype: of an item. step: rows per chunk.

    Raises:
        EventDataError: if its items are no plain numbers or tables of them, a chunk takes too much memory, or its
            compression is not read here.
    """

    def __init__(self, file: Hdf5File, data: StoredData, tables: dict[str, ChunkTable]) -> None:
        self._file, self._data, self._tables = file, data, tables
        self.name, path = data.name, file.path
        if not data.shape:
            raise EventDataError(f"{path}: expected rows in {self.name}, got a data set without axes")
        if data.item.dtype is None or data.item.item_bytes > MAX_ITEM_BYTES:
            raise EventDataError(f"{path}: expected numbers in {self.name}, got {data.item.what}")
        self.shape, self.dtype, self.chunk = data.shape, data.item.dtype, data.chunk
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        self.step = self.chunk[0] if self.chunk else max(1, BLOCK_BYTES // max(1, row_bytes))
        self._check_memory()
        check_filters(data.filters, self.name, path)
        self._row_bytes = row_bytes
        self._held: dict[int, npt.NDArray[Any]] = {}

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return the rows from `start` up to `stop`; the chunks they lie in are kept until the next call.

        Raises:
            EventDataError: if a chunk is missing or damaged.
        """
        numbers = range(start // self.step, -(-stop // self.step)) if stop > start else range(0)
        self._held = {number: block for number, block in self._held.items() if number in numbers}
        for number in numbers:
            if number not in self._held:
                self._held[number] = self._block(number)
        if len(numbers) == 1:
            at = numbers[0] * self.step
            return self._held[numbers[0]][start - at : stop - at]
        parts = []
        for number in numbers:
            at = number * self.step
            parts.append(self._held[number][max(0, start - at) : stop - at])
        return np.concatenate(parts) if parts else np.empty((0, *self.shape[1:]), self.dtype)

    def _check_memory(self) -> None:
        """Refuse chunks that no memory should hold."""
        inner = 1
        for side, step in zip(self.shape[1:], (self.chunk or self.shape)[1:], strict=True):
            inner *= -(-side // step) * step if step else 0
        if self.step * inner * self.dtype.itemsize > MAX_CHUNK_BYTES:
            raise EventDataError(
                f"{self._file.path}: expected chunks of at most {MAX_CHUNK_BYTES >> 20} MiB in {self.name}, got "
                f"{self.chunk or self.shape} of {self.dtype}; write it anew with smaller chunks (h5repack -l)"
            )

    def _block(self, number: int) -> npt.NDArray[Any]:
        """Return the rows of one range of chunks, decoded and writable."""
        start, stop = number * self.step, min((number + 1) * self.step, len(self))
        if self.chunk is None:
            data = self._file.in_one_piece(self._data, start * self._row_bytes, stop * self._row_bytes)
            return np.frombuffer(bytearray(data), self.dtype).reshape(stop - start, *self.shape[1:])
        if self.name not in self._tables:
            self._tables[self.name] = self._file.load_chunks(self._data)
        try:
            return self._chunks(number, self.chunk)[: stop - start]
        except BadChunk as error:
            raise EventDataError(
                f"{self._file.path}: {self.name}, rows {start} to {stop} cannot be decoded: {error}; copy the "
                "file again"
            ) from None

    def _chunks(self, number: int, chunk: tuple[int, ...]) -> npt.NDArray[Any]:
        """Return a whole range of chunks, also where it reaches beyond the last row."""
        counts = [-(-side // step) for side, step in zip(self.shape[1:], chunk[1:], strict=True)]
        if math.prod(counts) == 1:
            whole = self._chunk((number, *(0 for _ in counts)), chunk)
        else:
            whole = np.empty((chunk[0], *(n * step for n, step in zip(counts, chunk[1:], strict=True))), self.dtype)
            for where in product(*map(range, counts)):
                place = tuple(slice(at * step, (at + 1) * step) for at, step in zip(where, chunk[1:], strict=True))
                whole[(slice(None), *place)] = self._chunk((number, *where), chunk)
        return whole[(slice(None), *(slice(side) for side in self.shape[1:]))]

    def _chunk(self, where: tuple[int, ...], chunk: tuple[int, ...]) -> npt.NDArray[Any]:
        plain_bytes = math.prod(chunk) * self.dtype.itemsize
        stored, skipped = self._file.stored_chunk(self._tables[self.name], where, plain_bytes)
        data = decoded(stored, self._data.filters, skipped, plain_bytes)
        return np.frombuffer(bytearray(data), self.dtype).reshape(chunk)


@contextmanager
def _told(path: Path, what: str) -> Iterator[None]:
    """Turn damaged structures met inside into one EventDataError that says that `what` cannot be read."""
    try:
        yield
    except (BadStructure, OSError, MemoryError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise EventDataError(
            f"{path}: {what} cannot be read: {reason:.200}; the file is damaged, cut off or of a kind that is not read "
            "here: copy it again, or write it anew with 'h5repack OLD NEW'"
        ) from error
