"""Detections as serialized ``vision_msgs/msg/Detection2DArray``, byte for byte what the node publishes, without ROS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from snn_perception.events.whole_bag import typestore
from snn_perception.types import Detections

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

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


class DetectionSerializer:
    """Turns detections into messages.

    Args:
        types: with `VISION_DEFINITIONS`; made where not given.
        frame_id: of every header.
        class_names: names to write as `class_id`; its number as text without them.
    """

    def __init__(
        self, types: Typestore | None = None, *, frame_id: str = "", class_names: Sequence[str] | None = None
    ) -> None:
        self._store = typestore(VISION_DEFINITIONS) if types is None else types
        self._frame_id, self._class_names = frame_id, class_names
        known = self._store.types
        self._time, self._header = known["builtin_interfaces/msg/Time"], known["std_msgs/msg/Header"]
        self._point, self._pose = known["vision_msgs/msg/Point2D"], known["vision_msgs/msg/Pose2D"]
        self._box, self._detection = known["vision_msgs/msg/BoundingBox2D"], known["vision_msgs/msg/Detection2D"]
        self._hypothesis = known["vision_msgs/msg/ObjectHypothesis"]
        self._with_pose = known["vision_msgs/msg/ObjectHypothesisWithPose"]
        self._array = known[DETECTION_ARRAY]
        self._nowhere = known["geometry_msgs/msg/PoseWithCovariance"](
            pose=known["geometry_msgs/msg/Pose"](
                position=known["geometry_msgs/msg/Point"](x=0.0, y=0.0, z=0.0),
                orientation=known["geometry_msgs/msg/Quaternion"](x=0.0, y=0.0, z=0.0, w=1.0),
            ),
            covariance=np.zeros(36),
        )

    def serialize(self, detections: Detections, stamp_ns: int) -> bytes:
        """Return one message: boxes in sensor pixels, every header stamped `stamp_ns`."""
        sec, nanosec = divmod(max(0, stamp_ns), 1_000_000_000)
        header = self._header(stamp=self._time(sec=min(sec, _LAST_S), nanosec=nanosec), frame_id=self._frame_id)
        rows = zip(detections.xyxy.tolist(), detections.score.tolist(), detections.class_id.tolist(), strict=True)
        found = []
        for (x1, y1, x2, y2), score, class_id in rows:
            label = str(class_id) if self._class_names is None else self._class_names[class_id]
            centre = self._pose(position=self._point(x=(x1 + x2) / 2, y=(y1 + y2) / 2), theta=0.0)
            hypothesis = self._with_pose(hypothesis=self._hypothesis(class_id=label, score=score), pose=self._nowhere)
            box = self._box(center=centre, size_x=x2 - x1, size_y=y2 - y1)
            found.append(self._detection(header=header, results=[hypothesis], bbox=box, id=""))
        return bytes(self._store.serialize_cdr(self._array(header=header, detections=found), DETECTION_ARRAY))
