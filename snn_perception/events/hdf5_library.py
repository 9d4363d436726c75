"""What is asked of the HDF5 library: names and chunks of files whose structures bear checksums."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import numpy as np

from snn_perception.events.hdf5_chunks import ChunkTable
from snn_perception.events.hdf5_messages import BadStructure

# What h5py raises for damaged structures.
_ERRORS = (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError, ArithmeticError, SystemError)


class LibraryFile:
    """A file that is opened by the library once something is asked of it. h5py is imported then, not before."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = None

    def close(self) -> None:
        """Close the file, if it was ever opened."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def address(self, name: str) -> int | None:
        """Return the address of the object called `name`, None where there is none; links to elsewhere are none."""
        import h5py

        try:
            found = self._opened()
            for part in name.split("/"):
                link = found.get(part, getlink=True) if isinstance(found, h5py.Group) else None
                if not isinstance(link, h5py.HardLink):
                    return None
                found = found[part]
            return int(h5py.h5o.get_info(found.id).addr)
        except _ERRORS as error:
            raise BadStructure(_said(error)) from error

    def list_chunks(self, name: str, table: ChunkTable, file_bytes: int) -> None:
        """Put where the chunks of a data set lie into a table."""
        offsets, columns = array("Q"), [array("q") for _ in range(3)]
        limit = file_bytes // 4 + 64  # no file names more

        def take(info: Any) -> bool | None:
            offsets.extend(info.chunk_offset)
            for column, value in zip(columns, (info.byte_offset, info.size, info.filter_mask), strict=True):
                column.append(int(value or 0))
            return True if len(offsets) > limit else None  # anything but None ends the walk

        try:
            dataset = self._opened()[name]
            dataset.id.chunk_iter(take)
            rank = len(dataset.shape)
        except _ERRORS as error:
            raise BadStructure(_said(error)) from error
        if len(columns[0]):
            address, size, skipped = (np.array(column, np.int64) for column in columns)
            table.add(np.array(offsets, np.uint64).reshape(-1, rank), address, size, skipped)

    def _opened(self) -> Any:
        if self._file is None:
            import h5py

            self._file = h5py.File(self._path, "r", rdcc_nbytes=0)
        return self._file


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
