"""HDF5 files of events, made by hand."""

import h5py
import numpy as np

from snn_perception.types import EventArray, SensorSize

SIZE = SensorSize(240, 304)
TABLE = np.dtype({"names": ["x", "y", "p", "t"], "formats": ["<u2", "<u2", "<i2", "<i8"], "offsets": [0, 2, 4, 8]})
TRIGGER = np.dtype({"names": ["p", "t", "id"], "formats": ["<i2", "<i8", "<i2"], "offsets": [0, 8, 16]})


def some_events(count: int = 1000, seed: int = 0) -> EventArray:
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 304, count).astype(np.uint16), rng.integers(0, 240, count).astype(np.uint16)
    t = np.cumsum(rng.integers(0, 60, count)).astype(np.int64)
    return EventArray(x, y, rng.integers(0, 2, count).astype(np.uint8), t, SIZE)


def plain(path, columns, *, prefix="events/", size=SIZE, chunk=64, dtypes=(), extra=(), libver="earliest", **options):
    """Write columns of any type by hand."""
    dtypes = dict(dtypes)
    if isinstance(columns, EventArray):
        columns = {name: getattr(columns, name) for name in "xytp"}
    with h5py.File(path, "w", libver=libver) as file:
        for name, column in columns.items():
            column = np.asarray(column).astype(dtypes.get(name, np.asarray(column).dtype))
            more = {"chunks": (chunk,), "maxshape": (None,), **options} if chunk else {}
            file.create_dataset(prefix + name, data=column, **more)
        if size is not None:
            file[f"{prefix}height"], file[f"{prefix}width"] = size.height, size.width
        for name, value in dict(extra).items():
            file[name] = value
    return path


def tables(path, events: EventArray, *, geometry="304x240", triggers=(), libver="earliest", **options):
    """Write Prophesee's layout."""
    rows = np.zeros(len(events), TABLE)
    for name in "xypt":
        rows[name] = getattr(events, name)
    steps = np.arange(-2000, int(events.t[-1]) + 1, 2000)
    indexes = np.zeros(len(steps), [("id", "<u8"), ("ts", "<i8")])
    indexes["id"], indexes["ts"] = np.searchsorted(events.t, steps), np.maximum(steps, -1)
    with h5py.File(path, "w", libver=libver) as file:
        file.attrs["version"] = "1.0"
        if geometry is not None:
            file.attrs["geometry"] = geometry
        file.create_dataset("CD/events", data=rows, **{"chunks": (128,), "maxshape": (None,), **options})
        file.create_dataset("CD/indexes", data=indexes, chunks=(16,), maxshape=(None,))
        file["CD/indexes"].attrs["offset"] = "0"
        if len(triggers):
            file.create_dataset("EXT_TRIGGER/events", data=np.array(triggers, TRIGGER), chunks=(4,), maxshape=(None,))
    return path


def rows_of(chunks) -> list[tuple[int, int, int, int]]:
    """Return (t, x, y, p) of every event."""
    return [tuple(map(int, row)) for c in chunks for row in zip(c.t, c.x, c.y, c.p, strict=True)]


def events_of(recording, **options) -> EventArray:
    chunks = list(recording.chunks(**options))
    return EventArray.concatenate([chunk.to_event_array() for chunk in chunks], recording.size)


def assert_same(one: EventArray, other: EventArray):
    for name in "txyp":
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
