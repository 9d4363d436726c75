"""Writing plain HDF5 recordings, so that reading gives the same events back."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from snn_perception.errors import EventDataError
from snn_perception.events.hdf5 import MAX_TIME_US
from snn_perception.types import DecodedEvents, EventArray, SensorSize
from snn_perception.whole_file import cannot_write, whole_file

CHUNK_ROWS = 1 << 16
COMPRESSIONS = ("zstd", "gzip", None)
_DTYPES = {"x": np.uint16, "y": np.uint16, "t": np.int64, "p": np.uint8}


def write_hdf5(
    path: str | Path,
    chunks: Iterable[EventArray | DecodedEvents],
    size: SensorSize,
    *,
    compression: str | None = "zstd",
) -> int:
    """Return the number of events written to an HDF5 file at `path`, which appears only once it is whole.

    The layout is ``events/{x,y,t,p}`` with ``events/height`` and ``events/width``. Equal events give equal bytes: no
    time of writing is kept.

    Args:
        path: the file; one that exists is replaced.
        chunks: the events, in the order to write; nanoseconds become microseconds.
        size: sensor size, stored beside them.
        compression: ``zstd`` (Blosc, as hdf5plugin gives it; ``gzip`` where that is missing), ``gzip`` or None.

    Raises:
        EventDataError: if an event lies outside the sensor or at a negative time, named by its number; or for an
            unknown compression.
        SnnPerceptionError: if the file cannot be put there.
    """
    path = Path(path)
    if compression not in COMPRESSIONS:
        known = ", ".join(map(str, COMPRESSIONS))
        raise EventDataError(f"{path}: expected compression {known}, got {compression!r}")
    import h5py

    with whole_file(path) as partial, _Unfailing(partial) as sink:
        with h5py.File(sink, "w") as file:
            writer = _Writer(file, path, size, _filter_options(compression))
            for chunk in chunks:
                writer.add(chunk)
                if sink.error is not None:
                    break
            written = writer.finish()
        if sink.error is not None:
            raise cannot_write(path, sink.error)
    return written


class _Unfailing(io.RawIOBase):
    """A file that keeps the system's refusals (a full disk) to itself; see `error`.

    The HDF5 library takes the whole process down when it meets one while it closes a file.
    """

    def __init__(self, path: Path) -> None:
        self.error: OSError | None = None
        self._file = path.open("r+b", buffering=0)

    def write(self, data: Any) -> int:
        try:
            left = memoryview(data).cast("B")
            while len(left) and self.error is None:
                left = left[self._file.write(left) :]
        except OSError as error:
            self.error = error
        return len(data)

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer) or 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def truncate(self, size: int | None = None) -> int:
        try:
            return self._file.truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def close(self) -> None:
        self._file.close()
        super().close()


def _filter_options(compression: str | None) -> dict[str, Any]:
    """Return what h5py's `create_dataset` takes for a compression."""
    if compression == "zstd":
        try:
            import hdf5plugin
        except ImportError:
            compression = "gzip"
        else:
            return dict(hdf5plugin.Blosc(cname="zstd", clevel=1, shuffle=hdf5plugin.Blosc.SHUFFLE))
    return {"compression": "gzip", "compression_opts": 4, "shuffle": True} if compression == "gzip" else {}


class _Writer:
    """Gathers events to whole chunks and appends those."""

    def __init__(self, file: Any, path: Path, size: SensorSize, options: dict[str, Any]) -> None:
        self._path, self._size = path, size
        self._waiting: list[EventArray] = []
        self._held = self._written = 0
        group = file.create_group("events", track_order=False)
        for name, side in (("height", size.height), ("width", size.width)):
            group.create_dataset(name, data=np.int64(side), track_times=False)
        self._columns = {
            name: group.create_dataset(
                name, (0,), dtype, maxshape=(None,), chunks=(CHUNK_ROWS,), track_times=False, **options
            )
            for name, dtype in _DTYPES.items()
        }

    def add(self, chunk: EventArray | DecodedEvents) -> None:
        """Take in the next events; raise EventDataError for one that does not belong."""
        events = chunk.to_event_array() if isinstance(chunk, DecodedEvents) else chunk
        for name, column, limit in (
            ("x", events.x, self._size.width),
            ("y", events.y, self._size.height),
            ("p", events.p, 2),
        ):
            self._refuse(column >= limit, f"outside 0..{limit - 1} in {name}; give a size that holds all")
        self._refuse((events.t < 0) | (events.t > MAX_TIME_US), f"at a time outside 0..{MAX_TIME_US} us")
        self._waiting.append(events)
        self._held += len(events)
        if self._held >= CHUNK_ROWS:
            self._append(self._held // CHUNK_ROWS * CHUNK_ROWS)

    def finish(self) -> int:
        """Write what waits; return the number of events in all."""
        self._append(self._held)
        return self._written

    def _append(self, count: int) -> None:
        events = EventArray.concatenate(self._waiting, self._size)
        for name, column in self._columns.items():
            column.resize(self._written + count, axis=0)
            if count:
                column[self._written :] = getattr(events, name)[:count]
        self._waiting, self._held = [events[count:]], self._held - count
        self._written += count

    def _refuse(self, bad: Any, what: str) -> None:
        if bad.any():
            number = self._written + self._held + int(np.argmax(bad))
            raise EventDataError(f"{self._path}: cannot be written: event {number} lies {what}")
