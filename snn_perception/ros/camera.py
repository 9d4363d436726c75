"""One camera of the node: its subscription, decoding, windows, and the figures that diagnostics show."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from event_camera_msgs.msg import EventPacket
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSDurabilityPolicy, QoSHistoryPolicy, QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import PointCloud2

try:
    from rclpy.event_handler import QoSRequestedIncompatibleQoSInfo, SubscriptionEventCallbacks
except ImportError:  # its name in Humble
    from rclpy.qos_event import QoSRequestedIncompatibleQoSInfo, SubscriptionEventCallbacks

from snn_perception.errors import EventDataError
from snn_perception.events.stream import PacketWindows
from snn_perception.registry import Registry
from snn_perception.ros.messages import packet_from_event_packet, packet_from_point_cloud
from snn_perception.ros.queue import JobQueue, WindowJob
from snn_perception.runtime.pipeline import DetectionPipeline
from snn_perception.types import EventWindow, Packet, SensorSize

MESSAGE_TYPES = {
    "event_packet": (EventPacket, packet_from_event_packet),
    "pointcloud2": (PointCloud2, packet_from_point_cloud),
}
FIRST_PACKET_NS = 5_000_000_000
RECENT = 256  # windows whose latency the diagnostics summarise


@dataclass
class CameraFigures:
    """Counts and recent latencies of one camera. Written by two threads, each its own fields."""

    bad_packets: int = 0
    dropped_windows: int = 0
    published: int = 0
    failed_windows: int = 0
    failed_messages: int = 0
    gaps: int = 0
    resets: int = 0
    detections: int = 0
    last_packet_ns: int = 0
    latency_ns: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT))
    inference_ns: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT))


def event_qos(depth: int, reliability: str) -> QoSProfile:
    """Return the profile for event topics: volatile, deep, and best effort unless told otherwise (0: keep all).

    A lost packet costs the decoder its place, so the queue is deep; camera drivers publish best effort, which a
    reliable subscription would not hear.
    """
    return QoSProfile(
        depth=depth,
        history=QoSHistoryPolicy.KEEP_LAST if depth else QoSHistoryPolicy.KEEP_ALL,
        reliability=QoSReliabilityPolicy.BEST_EFFORT if reliability == "best_effort" else QoSReliabilityPolicy.RELIABLE,
        durability=QoSDurabilityPolicy.VOLATILE,
    )


class Camera:
    """Receives one camera's messages, cuts windows, and queues them. Runs in the executor; touches no GPU."""

    def __init__(
        self,
        node: LifecycleNode,
        name: str,
        settings: dict[str, Any],
        registry: Registry,
        pipeline: DetectionPipeline,
        queue: JobQueue,
    ) -> None:
        # The first packet may take some seconds longer: discovery, a camera that is just starting.
        self.name, self.figures = name, CameraFigures(last_packet_ns=time.monotonic_ns() + FIRST_PACKET_NS)
        self._node, self._queue = node, queue
        self._from_sensor = settings["stamp_source"] == "sensor"
        self._silence_ns = int(settings["silence_warning_s"] * 1e9)
        self._frame_id = ""
        self._timeout_s: float | None = None
        topic = f"{name}/events" if name else "events"
        self.topic = node.resolve_topic_name(topic)
        width, height = settings["sensor_width"], settings["sensor_height"]
        self.packets = PacketWindows(
            registry,
            pipeline.spec.window_us,
            stride_us=pipeline.spec.stride_us,
            max_gap_us=settings["max_gap_ms"] * 1000,
            name=name,
            size=SensorSize(height, width) if width and height else None,
            topic=self.topic,
            drop_duplicates=settings["drop_duplicates"],
            make_filler=pipeline.make_filler,
        )
        message_type, self._to_packet = MESSAGE_TYPES[settings["input_type"]]
        self._subscription = node.create_subscription(
            message_type,
            topic,
            self._on_message,
            event_qos(settings["qos_depth"], settings["qos_reliability"]),
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=self._on_incompatible_qos),
        )

    @property
    def is_silent(self) -> bool:
        """Whether no packet has come for longer than the user's limit."""
        return time.monotonic_ns() - self.figures.last_packet_ns > self._silence_ns

    def flush(self, timeout_s: float) -> None:
        """Queue the last, partial window; if there is no room for so long, it is dropped and counted."""
        self._timeout_s = timeout_s
        self._queue_windows(self.packets.flush)

    def destroy(self) -> None:
        """Stop receiving."""
        self._node.destroy_subscription(self._subscription)

    def _on_message(self, msg: Any) -> None:
        self.figures.last_packet_ns = time.monotonic_ns()

        def windows() -> Any:
            packet: Packet = self._to_packet(msg)
            self._frame_id = packet.frame_id
            return self.packets.push(packet)

        self._queue_windows(windows)

    def _queue_windows(self, windows: Callable[[], Any]) -> None:
        try:
            for window in windows():
                self._put(window)
        except EventDataError as error:
            self.figures.bad_packets += 1
            self._node.get_logger().error(f"topic '{self.topic}': {error}", throttle_duration_sec=2.0)

    def _put(self, window: EventWindow) -> None:
        end_us = window.t_end_us
        stamp_ns = end_us * 1000 if self._from_sensor else self.packets.clock.to_host_ns(end_us)
        job = WindowJob(self.name, window, stamp_ns, self._frame_id, time.monotonic_ns())
        dropped = self._queue.put(job, self._timeout_s)
        if dropped:
            self.figures.dropped_windows += dropped
            self._node.get_logger().warning(
                f"topic '{self.topic}': inference is behind, dropped {self.figures.dropped_windows} window(s) so far",
                throttle_duration_sec=2.0,
            )

    def _on_incompatible_qos(self, info: QoSRequestedIncompatibleQoSInfo) -> None:
        self._node.get_logger().warning(
            f"topic '{self.topic}': a publisher's QoS does not match (policy {info.last_policy_kind}), nothing will "
            "arrive from it; try qos_reliability:=best_effort"
        )
