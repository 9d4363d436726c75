"""Decodes events sent as points of a sensor_msgs/PointCloud2; there is no standard for it, so fields go by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from snn_perception.errors import EventDataError
from snn_perception.events.intervals import Columns
from snn_perception.events.leaps import KnownTime
from snn_perception.events.payload import MAX_TIME_BASE, all_trimmed, check_event_count, sensor_size
from snn_perception.events.point_kernels import unpack
from snn_perception.events.point_layout import POINT, fields_of, layout_from_fields, pack_points
from snn_perception.types import I64, U8, DecodedEvents, Losses, Packet, PointLayout, SensorSize

TIME_NAMES = ("t", "timestamp", "ts", "time")
POLARITY_NAMES = ("p", "polarity", "intensity")
EPOCH_S = 1e8  # seconds from here on (March 1973) are counted from 1970, smaller ones from the cloud's stamp

__all__ = ["PointCloudDecoder", "fields_of", "layout_from_fields", "pack_points"]


class PointCloudDecoder:
    """Returns the events of one stream's clouds, in ns, in the order of the points.

    Fields, of any numeric type: `x`, `y`; the time `t`, `timestamp`, `ts` or `time`; the polarity `p`, `polarity` or
    `intensity` (ON where above 0). Integer times are ns after the cloud's stamp, float32 seconds after it. float64
    are seconds, after the stamp or, from 1e8 on, since 1970: one or the other for a whole cloud, as most of its points
    say. Fractions of a pixel are cut off. Points whose coordinates are negative, not finite or outside the sensor are
    dropped, as are those without a usable time or polarity.

    An empty cloud tells that its stamp was reached, unless its times are absolute or may be negative.

    Attributes:
        size: of the sensor, for packets that state none; clouds do not.
    """

    time_unit = "ns"

    def __init__(self, *, size: SensorSize | None = None) -> None:
        self.size = size
        self._known = KnownTime(1000)

    def decode(self, packet: Packet) -> DecodedEvents:
        """Return what the packet holds.

        Raises:
            EventDataError: if neither packet nor decoder knows the sensor size, or a field that is needed is missing.
        """
        size = sensor_size(packet, self.size)
        layout = packet.layout
        if layout is None:
            raise EventDataError(f"{packet.encoding} packet: expected a layout of its points, got none")
        if not 0 <= packet.stamp_ns < MAX_TIME_BASE:
            raise EventDataError(f"{packet.encoding} packet: expected a stamp after 1970, got {packet.stamp_ns} ns")
        x_name, y_name, t_name, p_name = _names(layout.dtype)
        points, ragged = _points(packet.data, layout)
        check_event_count(packet, len(points))
        if layout.dtype == POINT:
            (x, y, p, t), outside, unknown = *_our_columns(points, size, packet.stamp_ns), 0
        else:
            (x, y, p, t), outside, unknown = _columns(
                points[x_name], points[y_name], points[p_name], points[t_name], size, packet.stamp_ns
            )
        leaps = self._known.advance(t if len(t) else self._silence(packet, layout.dtype[t_name]))
        return DecodedEvents(
            x,
            y,
            p,
            t,
            size,
            self.time_unit,
            t_reached=self._known.t,
            leaps=leaps,
            losses=Losses(outside, unknown, ragged=ragged),
        )

    def resync(self) -> None:
        """Do nothing: every cloud stands for itself."""

    def _silence(self, packet: Packet, time: np.dtype[Any]) -> I64:
        """Return the time that a cloud without events tells: its stamp, or none."""
        relative = time.kind == "u" or (time.kind == "f" and time.itemsize == 4)
        known = self._known.t
        if len(packet.data) or not relative or (known is not None and packet.stamp_ns < known):
            return np.empty(0, np.int64)
        return np.array([packet.stamp_ns], np.int64)


def _names(dtype: np.dtype[Any]) -> tuple[str, str, str, str]:
    """Return the names of x, y, time and polarity among a point's fields."""
    found = []
    for wanted in (("x",), ("y",), TIME_NAMES, POLARITY_NAMES):
        name = next((name for name in wanted if name in (dtype.names or ())), None)
        if name is None:
            raise EventDataError(
                f"pointcloud2 packet: expected a field named {' or '.join(wanted)}, got the fields "
                f"{', '.join(dtype.names or ()) or '(none)'}; rename it in the sender"
            )
        if dtype[name].shape:
            raise EventDataError(f"pointcloud2 packet: field '{name}': expected count 1, got {dtype[name].shape[0]}")
        found.append(name)
    x, y, t, p = found
    return x, y, t, p


def _points(data: U8, layout: PointLayout) -> tuple[npt.NDArray[Any], int]:
    """Return the whole points in `data`, a structured array [N], and the number of bytes that are none."""
    step = layout.dtype.itemsize
    if layout.height > 1 and layout.row_step < layout.width * step:
        raise EventDataError(f"pointcloud2 packet: rows of {layout.width} x {step} bytes overlap at {layout.row_step}")
    data = np.ascontiguousarray(data)
    if layout.height <= 1 or layout.row_step == layout.width * step:
        count = min(layout.width * layout.height, len(data) // step)
        return data[: count * step].view(layout.dtype), len(data) - count * step
    rows = min(layout.height, len(data) // layout.row_step)
    whole = data[: rows * layout.row_step].reshape(rows, layout.row_step)[:, : layout.width * step]
    rest = data[rows * layout.row_step :] if rows < layout.height else data[:0]
    count = min(layout.width, len(rest) // step)  # the last row may lack its padding, or more
    points = np.concatenate([whole.reshape(-1), rest[: count * step]]).view(layout.dtype)
    return points, len(data) - rows * layout.row_step - count * step


def _our_columns(points: npt.NDArray[Any], size: SensorSize, stamp_ns: int) -> tuple[Columns, int]:
    """Return the columns of points as we write them, and how many lay outside the sensor; ten times as fast."""
    n = len(points)
    x, y, p, t = np.empty(n, np.uint16), np.empty(n, np.uint16), np.empty(n, np.uint8), np.empty(n, np.int64)
    data = points.view(np.uint8)
    data.flags.writeable = False  # one type for the compiled kernel, whatever the source
    kept = unpack(data, size.width, size.height, stamp_ns, x, y, p, t)
    return all_trimmed((x, y, p, t), kept), n - kept


def _columns(
    x: npt.NDArray[Any],
    y: npt.NDArray[Any],
    p: npt.NDArray[Any],
    t: npt.NDArray[Any],
    size: SensorSize,
    stamp_ns: int,
) -> tuple[Columns, int, int]:
    """Return the columns of usable points, how many lay outside the sensor, and how many had no usable numbers."""
    column, x_inside = _coordinate(x, size.width)
    row, y_inside = _coordinate(y, size.height)
    time_ns, t_usable = _time_ns(t, stamp_ns)
    polarity, p_usable = _polarity(p)
    inside = x_inside & y_inside
    kept = inside & t_usable & p_usable
    outside = len(x) - int(np.count_nonzero(inside))
    unknown = len(x) - outside - int(np.count_nonzero(kept))
    if outside or unknown:
        return (column[kept], row[kept], polarity[kept], time_ns[kept]), outside, unknown
    return (column, row, polarity, time_ns), outside, unknown


def _coordinate(column: npt.NDArray[Any], limit: int) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.bool_]]:
    """Return a coordinate, cut to whole pixels, and which of them lie on the sensor (the others mean nothing)."""
    inside = (column >= 0) & (column < limit)  # false for NaN
    with np.errstate(invalid="ignore"):
        return np.where(inside, column, 0).astype(np.uint16), inside


def _time_ns(column: npt.NDArray[Any], stamp_ns: int) -> tuple[I64, npt.NDArray[np.bool_]]:
    """Return times in ns and which of them are usable."""
    if column.dtype.kind != "f":
        return column.astype(np.int64) + stamp_ns, np.ones(len(column), bool)
    with np.errstate(invalid="ignore"):  # signalling NaNs
        seconds = column.astype(np.float64)
    usable = np.abs(seconds) < MAX_TIME_BASE / 1e9 - 1  # false for NaN
    seconds = np.where(usable, seconds, 0.0)
    whole = np.floor(seconds)  # kept apart: seconds since 1970 times 1e9 would lose what float64 still holds
    t = whole.astype(np.int64) * 1_000_000_000 + np.rint((seconds - whole) * 1e9).astype(np.int64)
    if column.dtype.itemsize < 8 or np.count_nonzero(seconds >= EPOCH_S) <= len(seconds) // 2:
        t += stamp_ns
    return t, usable & (t >= 0)


def _polarity(column: npt.NDArray[Any]) -> tuple[U8, npt.NDArray[np.bool_]]:
    """Return polarities and which of them are usable."""
    usable = np.isfinite(column) if column.dtype.kind == "f" else np.ones(len(column), bool)
    return (column > 0).astype(np.uint8), usable
