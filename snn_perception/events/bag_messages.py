"""ROS messages of event cameras as bytes (CDR, XCDR1), read and written without ROS.

A bag stores each message as its serialized bytes. The payload is handed over as a view of the message.
"""

from __future__ import annotations

import struct
from functools import lru_cache

from snn_perception.errors import EventDataError
from snn_perception.events.cdr import CdrReader, CdrWriter, aligned, text
from snn_perception.types import Packet, PointLayout, SensorSize

EVENT_PACKET = "event_camera_msgs/msg/EventPacket"
POINT_CLOUD = "sensor_msgs/msg/PointCloud2"
EVENT_TYPES = (EVENT_PACKET, "event_array_msgs/msg/EventArray")  # the old name, with the same fields
MESSAGE_TYPES = (*EVENT_TYPES, POINT_CLOUD)
# Comments apart, upstream's: names, order and types make the type hash that peers compare.
EVENT_PACKET_DEFINITION = """std_msgs/Header header
uint32 height
uint32 width
uint64 seq
uint64 time_base
string encoding
bool is_bigendian
uint8[] events
"""

_MAX_POINT_FIELDS = 64


def parse_message(data: bytes | memoryview, message_type: str) -> Packet:
    """Return the packet in one serialized message of a type in `MESSAGE_TYPES`; its payload is a view of `data`.

    Raises:
        EventDataError: for bytes that are no such message, or an impossible sensor size.
    """
    try:
        cdr = CdrReader(data)
        return _point_cloud(cdr) if message_type == POINT_CLOUD else _event_packet(cdr)
    except (ValueError, struct.error) as error:
        raise EventDataError(f"{message_type} of {len(data)} bytes: {error}; the message is damaged") from None


def serialize_event_packet(packet: Packet) -> bytes:
    """Return the packet as a serialized EventPacket (little endian).

    Raises:
        EventDataError: for a packet that lacks what the message needs, a sensor size for instance.
    """
    if packet.size is None or packet.layout is not None:
        raise EventDataError(
            f"a packet of encoding {packet.encoding!r} without sensor size cannot become an {EVENT_PACKET}"
        )
    writer = CdrWriter()
    try:
        writer.put("iI", *divmod(packet.stamp_ns, 1_000_000_000))
        writer.string(packet.frame_id)
        writer.put("II", packet.size.height, packet.size.width)
        writer.put("QQ", packet.seq or 0, packet.time_base)
        writer.string(packet.encoding)
        writer.put("?", packet.is_bigendian)
        writer.put("I", len(packet.data))
    except struct.error as error:
        raise EventDataError(f"packet {packet.seq}: a number does not fit an {EVENT_PACKET}: {error}") from None
    return writer.head() + packet.data.tobytes()


def serialize_point_cloud(packet: Packet) -> bytes:
    """Return the packet as a serialized PointCloud2 (little endian).

    Raises:
        EventDataError: for a packet without a layout of points, or numbers that the message cannot hold.
    """
    from snn_perception.events.point_layout import fields_of

    layout = packet.layout
    if layout is None:
        raise EventDataError(f"a packet of encoding {packet.encoding!r} without points cannot become a {POINT_CLOUD}")
    writer = CdrWriter()
    try:
        writer.put("iI", *divmod(packet.stamp_ns, 1_000_000_000))
        writer.string(packet.frame_id)
        fields = fields_of(layout)
        writer.put("III", layout.height, layout.width, len(fields))
        for name, offset, datatype, count in fields:
            writer.string(name)
            writer.put("IBI", offset, datatype, count)
        writer.put("?II", packet.is_bigendian, layout.dtype.itemsize, layout.row_step)
        writer.put("I", len(packet.data))
    except struct.error as error:
        raise EventDataError(
            f"cloud of {layout.width} points: a number does not fit a {POINT_CLOUD}: {error}"
        ) from None
    return writer.head() + packet.data.tobytes() + b"\1"  # is_dense: no point is invalid


def _event_packet(cdr: CdrReader) -> Packet:
    """Return an EventPacket; a camera sends a thousand a second, so that its head is read in one go."""
    frame_bytes = cdr.name_bytes_at(_FRAME_AT)
    encoding_bytes = cdr.name_bytes_at(_second_name_at(frame_bytes))
    head = cdr.layout(_head_codes(frame_bytes, encoding_bytes))
    seconds, nanoseconds, _, frame_id, height, width, seq, time_base, _, encoding, is_bigendian, count = cdr.head(head)
    return Packet(
        data=cdr.bytes_from(head.size, count),
        encoding=text(encoding),
        size=_sensor_size(height, width),
        seq=seq,
        time_base=time_base,
        is_bigendian=is_bigendian,
        stamp_ns=seconds * 1_000_000_000 + nanoseconds,
        frame_id=text(frame_id),
    )


_FRAME_AT = 8  # behind the stamp


@lru_cache(maxsize=64)
def _second_name_at(frame_bytes: int) -> int:
    """Return where the encoding lies: behind frame_id, height and width (4 bytes each), seq and time_base (8 each)."""
    return aligned(aligned(_FRAME_AT + 4 + frame_bytes, 4) + 8, 8) + 16


@lru_cache(maxsize=64)
def _head_codes(frame_bytes: int, encoding_bytes: int) -> str:
    """Return the layout of all that is before the payload, as of `struct`, without its byte order."""
    sides_at = aligned(_FRAME_AT + 4 + frame_bytes, 4)
    numbers_at, encoding_at = aligned(sides_at + 8, 8), _second_name_at(frame_bytes)
    flag_at = encoding_at + 4 + encoding_bytes
    pads = (
        sides_at - (_FRAME_AT + 4 + frame_bytes),
        numbers_at - (sides_at + 8),
        aligned(flag_at + 1, 4) - (flag_at + 1),
    )
    return f"iII{frame_bytes}s{pads[0]}xII{pads[1]}xQQI{encoding_bytes}s?{pads[2]}xI"


@lru_cache(maxsize=16)
def _sensor_size(height: int, width: int) -> SensorSize:
    """Return the size of a sensor; a camera states the same one with each packet."""
    return SensorSize(height, width)


def _point_cloud(cdr: CdrReader) -> Packet:
    from snn_perception.events.pointcloud import layout_from_fields

    stamp_ns, frame_id = cdr.stamp_ns(), cdr.string()
    height, width = cdr.take("I"), cdr.take("I")
    count = cdr.take("I")
    if count > _MAX_POINT_FIELDS:
        raise ValueError(f"a point of {count} fields")
    fields = [(cdr.string(), cdr.take("I"), cdr.take("B"), cdr.take("I")) for _ in range(count)]
    is_bigendian = bool(cdr.take("B"))
    point_step, row_step = cdr.take("I"), cdr.take("I")
    layout: PointLayout = layout_from_fields(
        fields, is_bigendian=is_bigendian, point_step=point_step, width=width, height=height, row_step=row_step
    )
    return Packet(
        data=cdr.payload(),
        encoding="pointcloud2",
        size=None,
        is_bigendian=is_bigendian,
        stamp_ns=stamp_ns,
        frame_id=frame_id,
        layout=layout,
    )
