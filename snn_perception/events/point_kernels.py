"""The inner loops of point clouds in the layout that we write: x u16, y u16, t u32, p u8, packed, little endian."""

from __future__ import annotations

import numpy as np

from snn_perception.events.jit import kernel

POINT_BYTES = 9


@kernel
def pack(x, y, p, t, ticks, stamp_ns, out):  # type: ignore[no-untyped-def]
    """Fill bytes uint8 [9 N] from columns, t in `ticks` ns; return the earliest and latest time after the stamp, ns."""
    earliest = latest = t[0] * ticks - stamp_ns
    for i in range(len(t)):
        after = t[i] * ticks - stamp_ns
        earliest, latest = min(earliest, after), max(latest, after)
        at = POINT_BYTES * i
        out[at], out[at + 1] = x[i] & 0xFF, x[i] >> 8
        out[at + 2], out[at + 3] = y[i] & 0xFF, y[i] >> 8
        out[at + 4], out[at + 5] = after & 0xFF, after >> 8 & 0xFF
        out[at + 6], out[at + 7] = after >> 16 & 0xFF, after >> 24 & 0xFF
        out[at + 8] = p[i]
    return earliest, latest


@kernel
def unpack(data, width, height, stamp_ns, x, y, p, t):  # type: ignore[no-untyped-def]
    """Fill the columns from bytes uint8 [9 N]; return how many points lie on the sensor: those come first."""
    kept = 0
    for i in range(len(data) // POINT_BYTES):
        at = POINT_BYTES * i
        column = np.uint16(data[at]) | np.uint16(data[at + 1]) << np.uint16(8)
        row = np.uint16(data[at + 2]) | np.uint16(data[at + 3]) << np.uint16(8)
        after = np.int64(data[at + 4]) | np.int64(data[at + 5]) << 8 | np.int64(data[at + 6]) << 16
        x[kept], y[kept], p[kept] = column, row, data[at + 8] != 0
        t[kept] = stamp_ns + (after | np.int64(data[at + 7]) << 24)
        kept += column < width and row < height
    return kept
