"""What every packet decoder checks first, and the payload as an array of records."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from snn_perception.errors import EventDataError
from snn_perception.types import I64, U8, U16, Packet, SensorSize

MAX_PACKET_BYTES = 1 << 26  # drivers cut packets by time, at some milliseconds; this is a tenth of a saturated second
MAX_PACKET_EVENTS = 1 << 26  # 0.8 GiB decoded; EVT3 vectors hold up to 6 events per byte, so bytes alone bound little
MAX_PACKET_MARKS = 1 << 22  # trigger edges and leaps of time; a camera sends some thousand in a second at most
MAX_TIME_BASE = 1 << 62  # ns: year 2116; below it no time of a packet overflows int64


def sensor_size(packet: Packet, otherwise: SensorSize | None = None) -> SensorSize:
    """Return the sensor size that the packet states, or the other one.

    Raises:
        EventDataError: if there is neither, or the packet is larger than any camera sends.
    """
    size = packet.size or otherwise
    if size is None:
        raise EventDataError(f"{packet.encoding} packet: expected a sensor size, got none; set the size of the sensor")
    if len(packet.data) > MAX_PACKET_BYTES:
        raise EventDataError(
            f"{packet.encoding} packet: expected at most {MAX_PACKET_BYTES} bytes, got {len(packet.data)}; "
            "let the driver send shorter packets"
        )
    return size


def time_base(packet: Packet) -> int:
    """Return the base of the packet's times. Raises EventDataError if times on it would not fit in int64."""
    if not 0 <= packet.time_base < MAX_TIME_BASE:
        raise EventDataError(
            f"{packet.encoding} packet: expected a time_base in 0..{MAX_TIME_BASE} ns, got {packet.time_base}; "
            "the header is damaged"
        )
    return packet.time_base


def records(packet: Packet, dtype: npt.DTypeLike) -> tuple[npt.NDArray[Any], int]:
    """Return the payload as read-only native records (a view where possible) and the number of left-over bytes.

    `dtype` is the unsigned integer of one record; its byte order is that of the packet.
    """
    data, native = packet.data, np.dtype(dtype)
    if not data.flags.c_contiguous:
        data = np.ascontiguousarray(data)
    ragged = len(data) % native.itemsize
    words = (data[:-ragged] if ragged else data).view(native)
    if packet.is_bigendian != (sys.byteorder == "big"):
        words = words.byteswap()
    elif not words.flags.aligned:
        words = words.copy()
    words.flags.writeable = False  # one type for the compiled kernels, whatever the source
    return words, ragged


def check_event_count(packet: Packet, events: int) -> None:
    """Raise EventDataError if the packet claims more events than any camera can send in one."""
    if events > MAX_PACKET_EVENTS:
        raise EventDataError(
            f"{packet.encoding} packet of {len(packet.data)} bytes: expected at most {MAX_PACKET_EVENTS} events, "
            f"got {events}; let the driver send shorter packets"
        )


def check_mark_count(marks: int) -> None:
    """Raise EventDataError for more trigger edges and leaps of time than any camera can send in one packet."""
    if marks > MAX_PACKET_MARKS:
        raise EventDataError(
            f"expected at most {MAX_PACKET_MARKS} trigger edges and leaps of time in one piece, got more; "
            "the data is damaged or hostile"
        )


def all_trimmed(columns: tuple[U16, U16, U8, I64], count: int) -> tuple[U16, U16, U8, I64]:
    """Return the first `count` rows of columns of one length, as `trimmed` does."""
    x, y, p, t = columns
    if 2 * count < len(x):
        return x[:count].copy(), y[:count].copy(), p[:count].copy(), t[:count].copy()
    return x[:count], y[:count], p[:count], t[:count]


def trimmed(column: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """Return the first `count` rows: a view, or a copy where the view would keep much more memory alive."""
    return column[:count].copy() if 2 * count < len(column) else column[:count]
