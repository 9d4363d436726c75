"""`sensor_msgs/Image` to our values and back."""

from __future__ import annotations

import numpy as np
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from snn_perception.ros.messages import ns_to_stamp, stamp_to_ns
from snn_perception.types import RawImage


def raw_image_from(msg: Image) -> RawImage:
    """Return an Image as a `RawImage` that views the message's bytes; nothing in it is checked yet."""
    return RawImage(
        data=np.frombuffer(msg.data, np.uint8),
        encoding=msg.encoding,
        height=msg.height,
        width=msg.width,
        step=msg.step,
        stamp_ns=stamp_to_ns(msg.header.stamp),
        frame_id=msg.header.frame_id,
    )


def image_message_from(raw: RawImage) -> Image:
    """Return a `RawImage` as the ROS message."""
    msg = Image(
        header=Header(stamp=ns_to_stamp(raw.stamp_ns), frame_id=raw.frame_id),
        height=raw.height,
        width=raw.width,
        encoding=raw.encoding,
        step=raw.step,
    )
    msg.data.frombytes(raw.data.tobytes())  # assigning a NumPy array would convert byte by byte
    return msg
