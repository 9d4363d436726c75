"""`sensor_msgs/Image` as bytes (CDR), read and written without ROS."""

from __future__ import annotations

import struct

from snn_perception.errors import EventDataError
from snn_perception.events.cdr import CdrReader, CdrWriter
from snn_perception.types import RawImage

IMAGE = "sensor_msgs/msg/Image"


def parse_image(data: bytes | memoryview) -> RawImage:
    """Return the image in one serialized message; its bytes are a view of `data`, its numbers are not checked yet.

    Raises:
        EventDataError: for bytes that are no such message.
    """
    try:
        cdr = CdrReader(data)
        stamp_ns, frame_id = cdr.stamp_ns(), cdr.string()
        height, width = cdr.take("I"), cdr.take("I")
        encoding, _big_endian, step = cdr.string(), cdr.take("B"), cdr.take("I")
        return RawImage(cdr.payload(), encoding, height, width, step, stamp_ns, frame_id)
    except (ValueError, struct.error) as error:
        raise EventDataError(f"{IMAGE} of {len(data)} bytes: {error}; the message is damaged") from None


def serialize_image(raw: RawImage) -> bytes:
    """Return the image as a serialized message (little endian).

    Raises:
        EventDataError: for a number that the message cannot hold.
    """
    writer = CdrWriter()
    try:
        writer.put("iI", *divmod(raw.stamp_ns, 1_000_000_000))
        writer.string(raw.frame_id)
        writer.put("II", raw.height, raw.width)
        writer.string(raw.encoding)
        writer.put("BI", 0, raw.step)
        writer.put("I", raw.data.size)
    except struct.error as error:
        raise EventDataError(f"image of {raw.width}x{raw.height} px: a number does not fit {IMAGE}: {error}") from None
    return writer.head() + raw.data.tobytes()
