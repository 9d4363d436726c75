"""The layout of point clouds (sensor_msgs/PointCloud2), and events written as one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np

from snn_perception.errors import EventDataError
from snn_perception.events.payload import MAX_PACKET_BYTES
from snn_perception.events.point_kernels import pack
from snn_perception.types import DecodedEvents, EventArray, PointLayout

DATATYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}  # as in sensor_msgs/PointField
CODES = {name: code for code, name in DATATYPES.items()}
MAX_FIELDS = 256
POINT = np.dtype([("x", "<u2"), ("y", "<u2"), ("t", "<u4"), ("p", "u1")])  # what `pack_points` writes

Field = tuple[str, int, int, int]  # name, offset, datatype, count


def layout_from_fields(
    fields: Sequence[Field], point_step: int, width: int, height: int, row_step: int, is_bigendian: bool
) -> PointLayout:
    """Return the layout that a PointCloud2 message describes; a row_step of 0 stands for rows without a gap.

    Raises:
        EventDataError: if fields overlap, share a name, have an unknown datatype or leave the point, or if the rows do.
    """
    if not 1 <= point_step <= MAX_PACKET_BYTES:
        raise EventDataError(f"point cloud: expected a point_step in 1..{MAX_PACKET_BYTES} bytes, got {point_step}")
    if width < 0 or height < 0:
        raise EventDataError(f"point cloud: expected a width and height of at least 0, got {width} and {height}")
    if len(fields) > MAX_FIELDS:
        raise EventDataError(f"point cloud: expected at most {MAX_FIELDS} fields, got {len(fields)}")
    row_step = row_step or width * point_step
    if height > 1 and row_step < width * point_step:
        raise EventDataError(
            f"point cloud: expected a row_step of at least {width} x {point_step} bytes, got {row_step}; "
            "the sender's layout is wrong"
        )
    return PointLayout(_point_dtype(tuple(fields), point_step, is_bigendian), width, height, row_step)


def fields_of(layout: PointLayout) -> list[Field]:
    """Return the fields that describe a layout in a PointCloud2 message, in the order of their offsets."""
    fields = []
    for name, (dtype, offset) in ((name, entry[:2]) for name, entry in (layout.dtype.fields or {}).items()):
        count = int(np.prod(dtype.shape, dtype=np.int64))
        fields.append((name, int(offset), CODES[dtype.base.str[1:]], count))
    return sorted(fields, key=lambda field: field[1])


def pack_points(events: EventArray | DecodedEvents, stamp_ns: int) -> tuple[PointLayout, bytes]:
    """Return events as the points of a cloud stamped `stamp_ns`, and their layout.

    Fields: x u16, y u16, t u32 (ns after the stamp), p u8; 9 bytes per point, little endian, one row. Nanoseconds of
    the source are kept.

    Raises:
        EventDataError: if an event precedes the stamp, or follows it by 2^32 ns (4.3 s) or more.
    """
    ticks_ns = 1 if isinstance(events, DecodedEvents) and events.time_unit == "ns" else 1000
    points = np.empty(len(events) * POINT.itemsize, np.uint8)
    earliest = latest = 0
    if len(events):
        earliest, latest = pack(events.x, events.y, events.p, events.t, ticks_ns, stamp_ns, points)
    if not 0 <= earliest <= latest < 1 << 32:
        raise EventDataError(
            f"point cloud: expected events 0..{(1 << 32) - 1} ns after the stamp, got {earliest}..{latest} ns; send "
            "shorter clouds, stamped with the time of their first event"
        )
    return PointLayout(POINT, len(events), 1, len(points)), points.tobytes()


@lru_cache(maxsize=16)  # a stream's clouds are all alike
def _point_dtype(fields: tuple[Field, ...], point_step: int, is_bigendian: bool) -> np.dtype:
    formats = [_field_dtype(field, point_step, is_bigendian) for field in fields]
    _refuse_overlap(fields, formats)
    return np.dtype(
        {
            "names": [field[0] for field in fields],
            "formats": formats,
            "offsets": [field[1] for field in fields],
            "itemsize": point_step,
        }
    )


def _field_dtype(field: Field, point_step: int, is_bigendian: bool) -> np.dtype:
    name, offset, code, count = field
    if code not in DATATYPES:
        raise EventDataError(f"point cloud: field '{name}': expected a datatype in 1..8, got {code}")
    dtype = np.dtype((">" if is_bigendian else "<") + DATATYPES[code])
    count = max(1, count)  # some senders leave it 0
    if offset < 0 or offset + count * dtype.itemsize > point_step:
        raise EventDataError(
            f"point cloud: field '{name}' of {count} x {dtype.itemsize} bytes at offset {offset} leaves the point "
            f"of {point_step} bytes"
        )
    return dtype if count == 1 else np.dtype((dtype, (count,)))


def _refuse_overlap(fields: Sequence[Field], formats: Sequence[np.dtype]) -> None:
    names = [field[0] for field in fields]
    if len(set(names)) < len(names) or "" in names:
        raise EventDataError(f"point cloud: expected fields with names of their own, got {names}")
    ends = [field[1] + dtype.itemsize for field, dtype in zip(fields, formats, strict=True)]
    spans = sorted((field[1], end, field[0]) for field, end in zip(fields, ends, strict=True))
    for (_, end, name), (start, _, other) in pairwise(spans):
        if start < end:
            raise EventDataError(f"point cloud: fields '{name}' and '{other}' overlap at offset {start}")
