"""What the node tells the world about detections: the messages, what each took, and what their classes mean."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray, LabelInfo, VisionInfo

from snn_perception.ros.debug_images import DebugImages
from snn_perception.ros.messages import ns_to_stamp, require_layout, to_label_info, to_vision_info
from snn_perception.ros.qos import overridable, overrides_of
from snn_perception.ros.results import WindowResult
from snn_perception.ros.timing import timing_message
from snn_perception.runtime.detection_messages import serialize_detections
from snn_perception.runtime.stages import Stages
from snn_perception.spec import ModelSpec

LATCHED = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)


class Outlet:
    """Publishers of the detections of one or more cameras.

    Args:
        settings: the node's, read at each message.

    Raises:
        SnnPerceptionError: if the installed `vision_msgs` has other fields than the messages that are sent.
    """

    def __init__(self, node: LifecycleNode, cameras: Sequence[str], settings: Mapping[str, Any]) -> None:
        require_layout()
        self._node, self._settings = node, settings
        self._detections: dict[str, Any] = {}
        self._timing: dict[str, Any] = {}
        try:
            for camera in cameras:
                self._add(camera)
        except Exception:
            self._destroy_added()
            raise
        self._label_info = node.create_publisher(LabelInfo, "label_info", LATCHED)
        self._vision_info = node.create_publisher(VisionInfo, "vision_info", LATCHED)
        self._debug_images = DebugImages(node, cameras, settings)
        self._version = 0

    def join(self, camera: str) -> None:
        """Make the publishers of a camera that joins while the node is active; those of one that left are there."""
        if camera not in self._detections:
            for publisher in (*self._add(camera), self._debug_images.add(camera)):
                publisher.on_activate(None)  # the node's own activation has been

    def _add(self, camera: str) -> tuple[Any, Any]:
        topic = f"{camera}/detections" if camera else "detections"
        with overrides_of(self._node.resolve_topic_name(topic), "publisher"):
            self._detections[camera] = self._node.create_lifecycle_publisher(
                Detection2DArray, topic, QoSProfile(depth=10), qos_overriding_options=overridable()
            )
        self._timing[camera] = self._node.create_lifecycle_publisher(DiagnosticArray, f"{topic}/timing", 10)
        return self._detections[camera], self._timing[camera]

    def destroy(self) -> None:
        """Take the publishers down."""
        self._debug_images.destroy()
        self._destroy_added()
        for publisher in (self._label_info, self._vision_info):
            self._node.destroy_publisher(publisher)

    def _destroy_added(self) -> None:
        for publisher in (*self._detections.values(), *self._timing.values()):
            self._node.destroy_lifecycle_publisher(publisher)

    def publish(self, result: WindowResult) -> Stages:
        """Send the detections of a window, and what it took if somebody listens; returns the latter."""
        job = result.job
        class_names = result.spec.classes if self._settings["class_id_format"] == "name" else None
        self._detections[job.camera].publish(
            serialize_detections(result.detections, job.stamp_ns, frame_id=job.frame_id, class_names=class_names)
        )
        stages = result.stages(time.monotonic_ns())
        if self._timing[job.camera].get_subscription_count():
            header = Header(stamp=ns_to_stamp(job.stamp_ns), frame_id=job.frame_id)
            self._timing[job.camera].publish(timing_message(result, stages, header))
        self._debug_images.offer(result)
        return stages

    def describe(self, spec: ModelSpec, *, is_new: bool = False) -> None:
        """Tell the classes, the threshold and what makes the detections; a new model has the next version."""
        self._version += is_new
        header = Header(stamp=self._node.get_clock().now().to_msg())
        self._label_info.publish(to_label_info(spec.classes, header, float(self._settings["score_threshold"])))
        method = f"{spec.backbone.name}+{spec.head.name}"
        location = f"{self._node.get_fully_qualified_name()}/model.classes"
        self._vision_info.publish(to_vision_info(method, location, self._version, header))
