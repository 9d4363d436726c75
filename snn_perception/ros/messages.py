"""Our values as ROS messages. Event messages that come are parsed by `events.bag_messages`, live as from bags."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from builtin_interfaces.msg import Time
from event_camera_msgs.msg import EventPacket
from geometry_msgs.msg import PoseWithCovariance
from rclpy.serialization import deserialize_message, serialize_message
from std_msgs.msg import Header
from vision_msgs.msg import (
    BoundingBox2D,
    Detection2D,
    Detection2DArray,
    LabelInfo,
    ObjectHypothesis,
    ObjectHypothesisWithPose,
    Point2D,
    Pose2D,
    VisionClass,
    VisionInfo,
)

from snn_perception.errors import SnnPerceptionError
from snn_perception.runtime.detection_messages import serialize_detections
from snn_perception.types import Detections, Packet


def stamp_to_ns(stamp: Time) -> int:
    """Return a ROS time as nanoseconds."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def ns_to_stamp(ns: int) -> Time:
    """Return nanoseconds as a ROS time, held to what its 32-bit seconds can express."""
    sec, nanosec = divmod(max(0, ns), 1_000_000_000)
    return Time(sec=min(sec, 2**31 - 1), nanosec=nanosec)


def event_packet_from(packet: Packet) -> EventPacket:
    """Return a `Packet` of any EventPacket encoding as the ROS message."""
    assert packet.size is not None
    msg = EventPacket(
        header=Header(stamp=ns_to_stamp(packet.stamp_ns), frame_id=packet.frame_id),
        height=packet.size.height,
        width=packet.size.width,
        seq=packet.seq or 0,
        time_base=packet.time_base,
        encoding=packet.encoding,
        is_bigendian=packet.is_bigendian,
    )
    # Assigning a NumPy array would convert byte by byte: 13 ms per 100 kB.
    msg.events.frombytes(packet.data.tobytes())
    return msg


def to_detection2d_array(
    detections: Detections, header: Header, classes: Sequence[str], *, class_names: bool = False
) -> Detection2DArray:
    """Return the detections as one message, boxes in sensor pixels, every header the given one.

    `class_id` is the number as text, or with `class_names` the class's name.
    """
    found = []
    rows = zip(detections.xyxy.tolist(), detections.score.tolist(), detections.class_id.tolist(), strict=True)
    for (x1, y1, x2, y2), score, class_id in rows:
        label = classes[class_id] if class_names else str(class_id)
        hypothesis = ObjectHypothesisWithPose(
            hypothesis=ObjectHypothesis(class_id=label, score=score), pose=PoseWithCovariance()
        )
        box = BoundingBox2D(
            center=Pose2D(position=Point2D(x=(x1 + x2) / 2, y=(y1 + y2) / 2), theta=0.0), size_x=x2 - x1, size_y=y2 - y1
        )
        found.append(Detection2D(header=header, results=[hypothesis], bbox=box, id=""))
    return Detection2DArray(header=header, detections=found)


def require_layout() -> None:
    """See that detections serialized without ROS are messages of the installed `vision_msgs`.

    Raises:
        SnnPerceptionError: if they are not: a middleware would send bytes that no subscriber can read.
    """
    classes, stamp_ns = ("car", "two-wheeler"), 3_000_000_007
    two = Detections(
        np.array([[1, 2, 4, 8], [3, 5, 9, 17]], np.float32), np.array([0.5, 0.25], np.float32), np.array([1, 0]), 0
    )
    header = Header(stamp=ns_to_stamp(stamp_ns), frame_id="camera")
    expected = to_detection2d_array(two, header, classes, class_names=True)
    sent = serialize_detections(two, stamp_ns, frame_id=header.frame_id, class_names=classes)
    if len(sent) != len(serialize_message(expected)) or deserialize_message(sent, Detection2DArray) != expected:
        raise SnnPerceptionError(
            "the installed vision_msgs has another Detection2DArray than vision_msgs 4; install that of your ROS "
            "distribution (Humble or later) and see what 'doctor' says"
        )


def from_detection2d_array(msg: Detection2DArray) -> Detections:
    """Return the detections of a message with numeric class ids, for stamps in sensor time; boxes as float32."""
    boxes = [found.bbox for found in msg.detections]
    best = [found.results[0].hypothesis for found in msg.detections]
    centre = np.array([(b.center.position.x, b.center.position.y) for b in boxes], np.float64).reshape(-1, 2)
    half = np.array([(b.size_x, b.size_y) for b in boxes], np.float64).reshape(-1, 2) / 2
    return Detections(
        np.concatenate([centre - half, centre + half], axis=1).astype(np.float32),
        np.array([h.score for h in best], np.float32),
        np.array([int(h.class_id) for h in best], np.int64),
        stamp_to_ns(msg.header.stamp) // 1000,
    )


def same_messages(expected: Sequence[Detections], messages: Sequence[Detection2DArray], classes: Sequence[str]) -> bool:
    """Return whether a node published, number for number, what was computed: one message for each, stamped with the
    sensor time of its window's end."""
    if len(messages) != len(expected):
        return False
    for detections, msg in zip(expected, messages, strict=True):
        header = Header(stamp=ns_to_stamp(detections.t_us * 1000), frame_id=msg.header.frame_id)
        if to_detection2d_array(detections, header, classes) != msg:
            return False
    return True


def to_label_info(classes: Sequence[str], header: Header, threshold: float) -> LabelInfo:
    """Return the class numbers and names, and the score threshold in force."""
    class_map = [VisionClass(class_id=number, class_name=name) for number, name in enumerate(classes)]
    return LabelInfo(header=header, class_map=class_map, threshold=threshold)


def to_vision_info(method: str, location: str, version: int, header: Header) -> VisionInfo:
    """Return what made the detections, and where its class names are to be found."""
    return VisionInfo(header=header, method=method, database_location=location, database_version=version)
