"""One camera of the node: its subscription, the way to its windows, and the figures that diagnostics show."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
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
from snn_perception.events.bag_messages import EVENT_PACKET, POINT_CLOUD, parse_message
from snn_perception.events.stream import PacketWindows
from snn_perception.registry import Registry
from snn_perception.ros.jobs import WindowJob
from snn_perception.ros.qos import overridable, overrides_of
from snn_perception.ros.queue import JobQueue
from snn_perception.ros.receiving import OwnThread, Receiver
from snn_perception.runtime.pace import Pace
from snn_perception.runtime.pipeline import DetectionPipeline
from snn_perception.runtime.rates import Part, faster_rate
from snn_perception.runtime.stages import Arrival, Stages, arrival
from snn_perception.types import EventWindow, SensorSize, Window

log = logging.getLogger(__name__)
MESSAGE_TYPES = {"event_packet": (EventPacket, EVENT_PACKET), "pointcloud2": (PointCloud2, POINT_CLOUD)}
FIRST_PACKET_NS = 5_000_000_000
RECENT = 256  # windows whose latency the diagnostics summarise


@dataclass
class CameraFigures:
    """Counts and recent latencies of one camera. Written by several threads, each its own fields.

    Attributes:
        reported: what was lost by the last report of diagnostics, by name.
    """

    bad_packets: int = 0
    dropped_windows: int = 0
    published: int = 0
    failed_windows: int = 0
    failed_messages: int = 0
    gaps: int = 0
    resets: int = 0
    detections: int = 0
    late_windows: int = 0
    caught_up_windows: int = 0
    batched_windows: int = 0
    last_packet_ns: int = 0
    latency_ns: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT))
    inference_ns: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT))
    network_steps: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT))
    stages: deque[Stages] = field(default_factory=lambda: deque(maxlen=RECENT))
    pace: Pace = field(default_factory=Pace)
    reported: dict[str, int] = field(default_factory=dict)


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


class Camera(ABC):
    """Receives one camera's messages, makes windows, and queues them. Runs in a thread of its own; touches no GPU.

    Args:
        message_type, leaf: of its topic, which lies below the camera's name. depth: of its subscription.
        raw: whether `_windows_of` takes messages as bytes.
    """

    def __init__(
        self,
        node: LifecycleNode,
        name: str,
        settings: dict[str, Any],
        queue: JobQueue,
        *,
        message_type: Any,
        leaf: str,
        depth: int,
        raw: bool = False,
    ) -> None:
        # The first packet may take some seconds longer: discovery, a camera that is just starting.
        self.name, self.figures = name, CameraFigures(last_packet_ns=time.monotonic_ns() + FIRST_PACKET_NS)
        self._node, self._queue = node, queue
        self._silence_ns = int(settings["silence_warning_s"] * 1e9)
        self._frame_id = ""
        self._timeout_s: float | None = None
        self._taken_ns = self._received_ns = 0  # when the message in hand came: to us, and to this host before
        topic = f"{name}/{leaf}" if name else leaf
        self.topic = node.resolve_topic_name(topic)
        with overrides_of(self.topic, "subscription"):
            self._subscription = node.create_subscription(
                message_type,
                topic,
                _not_called,
                event_qos(depth, settings["qos_reliability"]),
                callback_group=OwnThread(),
                event_callbacks=SubscriptionEventCallbacks(incompatible_qos=self._on_incompatible_qos),
                qos_overriding_options=overridable(),
                raw=raw,
            )
        # One that sends too much is taken from less often, and when nobody else is in need of the processor.
        self._receiver = Receiver(
            node,
            self._subscription,
            self._on_message,
            rests=lambda: queue.was_behind(name),
            give_way=lambda: queue.give_way(name),
            has_taken=lambda: queue.has_taken(name),
        )

    def start(self) -> None:
        """Begin to receive; what comes of it may be published before this returns."""
        self._receiver.start()

    @abstractmethod
    def received(self) -> dict[str, int | str]:
        """Return what came, by name, for diagnostics; ``packets`` is the number of messages that were of use."""

    @abstractmethod
    def losses(self) -> dict[str, int]:
        """Return what was lost on the way to windows, by name, for diagnostics."""

    @abstractmethod
    def _windows_of(self, msg: Any) -> Iterable[Window]:
        """Yield the windows that a message closes, with `_frame_id` set; EventDataError for one that is of no use."""

    @abstractmethod
    def _stamp_ns(self, window: Window) -> int:
        """Return the stamp of a window's detections."""

    def _last_windows(self) -> Iterable[Window]:
        """Yield what is left when the node stops listening."""
        return ()

    def _decoded_ns(self) -> int:
        """Return when the message in hand was decoded, on the monotonic clock; an earlier time if it was not."""
        return 0

    def _host_ns(self, window: Window, stamp_ns: int) -> int:
        """Return when a window ended on the clock of the message stamps; `stamp_ns` is that of its detections."""
        return stamp_ns

    def _part(self, window: Window) -> Part:
        """Return what a window is for."""
        return Part(window)

    @property
    def is_silent(self) -> bool:
        """Whether no packet has come for longer than the user's limit."""
        return time.monotonic_ns() - self.figures.last_packet_ns > self._silence_ns

    @abstractmethod
    def serve(self, pipeline: DetectionPipeline) -> None:
        """Prepare windows for another model from the next one on; from any thread."""

    def stop(self, end_s: float, room_s: float) -> None:
        """Stop receiving and queue the last, partial window.

        Args:
            end_s: for so long the message in hand may wait for room; then its windows, and the last one, are not
                queued any more.
            room_s: for so long the last window waits for room; then the oldest one is dropped for it, and counted.
        """
        has_ended = self._receiver.stop(end_s)
        self._node.destroy_subscription(self._subscription)
        if has_ended:
            self._timeout_s = room_s
            self._taken_ns, self._received_ns = time.monotonic_ns(), 0
            self._queue_windows(self._last_windows)

    def _on_message(self, msg: Any, received_ns: int) -> None:
        self.figures.last_packet_ns = self._taken_ns = time.monotonic_ns()
        self._received_ns = received_ns
        self._queue_windows(lambda: self._windows_of(msg))

    def _queue_windows(self, windows: Callable[[], Iterable[Window]]) -> None:
        try:
            for window in windows():
                self._put(window)
        except Exception as error:  # a node must outlive one bad message, whatever a plugin raised
            self.figures.bad_packets += 1
            reason = str(error) if isinstance(error, EventDataError) else f"{type(error).__name__}: {error}"
            self._node.get_logger().error(f"topic '{self.topic}': {reason}", throttle_duration_sec=2.0)
            log.debug("the message cannot be used", exc_info=error)

    def _put(self, window: Window) -> None:
        part = self._part(window)
        stamp_ns = self._stamp_ns(window)  # of its own end, where it is only looked at
        arrived = self._arrived(window, stamp_ns)
        now_ns = time.monotonic_ns()
        job = WindowJob(self.name, part.window, stamp_ns, self._frame_id, now_ns, part.phase, part.peek_at_us, arrived)
        dropped = self._queue.put(job, self._timeout_s)
        if dropped:
            self.figures.dropped_windows += dropped
            self._node.get_logger().warning(
                f"topic '{self.topic}': inference is behind, dropped {self.figures.dropped_windows} window(s) so far",
                throttle_duration_sec=2.0,
            )

    def _arrived(self, window: Window, stamp_ns: int) -> Arrival:
        """Return how the message in hand came, which closed a window."""
        decoded_ns = max(self._taken_ns, self._decoded_ns())
        return arrival(self._taken_ns, decoded_ns, self._received_ns, self._host_ns(window, stamp_ns))

    def _on_incompatible_qos(self, info: QoSRequestedIncompatibleQoSInfo) -> None:
        self._node.get_logger().warning(
            f"topic '{self.topic}': a publisher's QoS does not match (policy {info.last_policy_kind}), nothing will "
            "arrive from it; try qos_reliability:=best_effort"
        )


def _not_called(msg: Any) -> None:
    """Stand in for the callback that a subscription must have: its messages are taken by a receiver."""


class EventCamera(Camera):
    """A camera of events, on topic ``events``.

    Attributes:
        packets: what decodes its packets and cuts its windows.
    """

    def __init__(
        self,
        node: LifecycleNode,
        name: str,
        settings: dict[str, Any],
        registry: Registry,
        pipeline: DetectionPipeline,
        queue: JobQueue,
    ) -> None:
        message_type, self._message_type = MESSAGE_TYPES[settings["input_type"]]
        self._from_sensor = settings["stamp_source"] == "sensor"
        width, height = settings["sensor_width"], settings["sensor_height"]
        self._rate = faster_rate(settings, pipeline.spec)
        self.packets = PacketWindows(
            registry,
            pipeline.spec.window_us,
            stride_us=pipeline.spec.stride_us if self._rate is None else self._rate.stride_us,
            max_gap_us=settings["max_gap_ms"] * 1000,
            name=name,
            size=SensorSize(height, width) if width and height else None,
            topic=node.resolve_topic_name(f"{name}/events" if name else "events"),
            drop_duplicates=settings["drop_duplicates"],
            make_filler=pipeline.make_filler if self._rate is None else None,
        )
        depth = settings["qos_depth"]
        super().__init__(node, name, settings, queue, message_type=message_type, leaf="events", depth=depth, raw=True)

    def serve(self, pipeline: DetectionPipeline) -> None:
        """Fill the grids of another model from the next window on; from any thread."""
        if self._rate is None:
            self.packets.fill_with(pipeline.make_filler)

    def received(self) -> dict[str, int | str]:
        """Return counts of packets, events and windows, and how far the sensor's clock drifts."""
        counts, windower, duplicates = self.packets.stream.counts, self.packets.windower, self.packets.duplicates
        return {
            "packets": counts.packets,
            "events": counts.events,
            "sequence gaps": counts.sequence_gaps,
            "stream restarts": counts.restarts,
            "windows": windower.windows if windower else 0,
            "disordered events": windower.disordered if windower else 0,
            "duplicate events": duplicates.dropped if duplicates is not None else 0,
            "sensor clock drift ppm": f"{self.packets.clock.drift_ppm:.1f}",
            "skipped looks": self._queue.skipped_peeks[self.name],
        }

    def losses(self) -> dict[str, int]:
        """Return counts of packets that are missing or of no use, of what decoders could not use, and of gaps."""
        counts, windower = self.packets.stream.counts, self.packets.windower
        return {
            "lost packets": counts.lost_packets,
            "late packets": counts.late_packets,
            "duplicate packets": counts.duplicates,
            "undecodable data": counts.losses.total,
            "stream gaps": windower.gaps if windower else 0,
            "events beyond a window's bound": windower.overflowed if windower else 0,
        }

    def _windows_of(self, msg: bytes) -> Iterable[Window]:
        packet = parse_message(msg, self._message_type)
        self._frame_id = packet.frame_id
        return self.packets.push(packet)

    def _last_windows(self) -> Iterable[Window]:
        return self.packets.flush()

    def _decoded_ns(self) -> int:
        return self.packets.decoded_ns

    def _host_ns(self, window: Window, stamp_ns: int) -> int:
        return self.packets.clock.to_host_ns(window.t_end_us) if self._from_sensor else stamp_ns

    def _part(self, window: Window) -> Part:
        return Part(window) if self._rate is None or not isinstance(window, EventWindow) else self._rate.part(window)

    def _stamp_ns(self, window: Window) -> int:
        return window.t_end_us * 1000 if self._from_sensor else self.packets.clock.to_host_ns(window.t_end_us)
