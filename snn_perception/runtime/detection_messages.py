"""Detections as serialized ``vision_msgs/msg/Detection2DArray`` (CDR, little endian), without ROS.

The node publishes these bytes, and a replay writes them: made as objects, and then serialized, a hundred detections
would cost the node a quarter of a network's time.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache

from snn_perception.events.cdr import aligned
from snn_perception.types import Detections

DETECTION_ARRAY = "vision_msgs/msg/Detection2DArray"
# Upstream's, comments apart: names, order and types make the type hash that peers compare.
VISION_DEFINITIONS = {
    "vision_msgs/msg/Point2D": "float64 x\nfloat64 y\n",
    "vision_msgs/msg/Pose2D": "vision_msgs/Point2D position\nfloat64 theta\n",
    "vision_msgs/msg/BoundingBox2D": "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y\n",
    "vision_msgs/msg/ObjectHypothesis": "string class_id\nfloat64 score\n",
    "vision_msgs/msg/ObjectHypothesisWithPose": (
        "vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose\n"
    ),
    "vision_msgs/msg/Detection2D": (
        "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n"
        "vision_msgs/BoundingBox2D bbox\nstring id\n"
    ),
    DETECTION_ARRAY: "std_msgs/Header header\nvision_msgs/Detection2D[] detections\n",
}
_LAST_S = 2**31 - 1  # a ROS time has 32 bits of seconds
_ENCAPSULATION = b"\x00\x01\x00\x00"
_NOWHERE = struct.pack("<43d", 0, 0, 0, 0, 0, 0, 1, *[0] * 36)  # position, orientation, covariance
_NO_ID = b"\0"


def serialize_detections(
    detections: Detections, stamp_ns: int, *, frame_id: str = "", class_names: Sequence[str] | None = None
) -> bytes:
    """Return one message: boxes in sensor pixels, every header with the stamp and the frame.

    Args:
        stamp_ns: held to what the 32-bit seconds of a ROS time can express.
        class_names: names to write as `class_id`; its number as text without them.
    """
    sec, nanosec = divmod(max(0, stamp_ns), 1_000_000_000)
    frame = _stored(frame_id)
    header = min(sec, _LAST_S), nanosec, len(frame), frame
    begin = _begin(len(frame))
    parts, at = [_ENCAPSULATION, begin.pack(*header, len(detections))], begin.size
    for (x1, y1, x2, y2), score, class_id in zip(
        detections.xyxy.tolist(), detections.score.tolist(), detections.class_id.tolist(), strict=True
    ):
        label = _stored(str(class_id) if class_names is None else class_names[class_id])
        one = _detection(at % 8, len(frame), len(label))
        box = (x1 + x2) / 2, (y1 + y2) / 2, 0.0, x2 - x1, y2 - y1
        parts.append(one.pack(*header, 1, len(label), label, score, _NOWHERE, *box, len(_NO_ID), _NO_ID))
        at += one.size
    return b"".join(parts)


@lru_cache(maxsize=256)
def _stored(text: str) -> bytes:
    return text.encode() + b"\0"


@lru_cache(maxsize=64)
def _begin(frame_bytes: int) -> struct.Struct:
    """Return the layout of the array's header and its number of detections."""
    at = 12 + frame_bytes
    return struct.Struct(f"<iII{frame_bytes}s{aligned(at, 4) - at}xI")


@lru_cache(maxsize=512)
def _detection(begin: int, frame_bytes: int, label_bytes: int) -> struct.Struct:
    """Return the layout of a Detection2D with one hypothesis that begins at a place, modulo 8.

    Header; number of results; class_id and score; pose with covariance; centre, angle and sides; id.
    """
    header_at = aligned(begin, 4)
    results_at = aligned(header_at + 12 + frame_bytes, 4)
    label_end = results_at + 8 + label_bytes
    pads = header_at - begin, results_at - (header_at + 12 + frame_bytes), aligned(label_end, 8) - label_end
    return struct.Struct(
        f"<{pads[0]}xiII{frame_bytes}s{pads[1]}xII{label_bytes}s{pads[2]}xd{len(_NOWHERE)}s5dI{len(_NO_ID)}s"
    )
