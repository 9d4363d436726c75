"""The node `player`: publishes a recording of events or images as the camera would have, at its own pace."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import rclpy
from event_camera_msgs.msg import EventPacket
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.duration import Duration
from rclpy.exceptions import ParameterException, ROSInterruptException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from sensor_msgs.msg import Image

from snn_perception.discovery import load_registry
from snn_perception.errors import EventDataError, SnnPerceptionError
from snn_perception.events.evt3_encode import packetize
from snn_perception.events.recording import Recording, open_recording
from snn_perception.events.stream import EventStream
from snn_perception.images.recording import DEFAULT_FPS, ImageRecording, holds_images, open_images
from snn_perception.registry import Registry
from snn_perception.ros.camera import event_qos
from snn_perception.ros.image_messages import image_message_from
from snn_perception.ros.messages import event_packet_from
from snn_perception.types import EventArray, Packet

RETRY_S = 0.002
IMAGES_KEPT = 5  # they are large, and nobody waits for an old one
log = logging.getLogger(__name__)


def recording_packets(recording: Recording, registry: Registry, interval_us: int) -> Iterator[Packet]:
    """Yield a recording as EventPackets: a camera's own as they are, everything else encoded as evt3.

    `interval_us` is the sensor time of one encoded packet; 0 keeps a camera's packets and means 1 ms otherwise.
    """
    if recording.is_packets and recording.encoding != "pointcloud2" and not interval_us:
        yield from recording.packets()
        return
    encoded = packetize(_events(recording, registry), recording.size, interval_us=interval_us or 1000)
    yield from (replace(packet, frame_id=recording.frame_id) for packet in encoded)


def _events(recording: Recording, registry: Registry) -> Iterator[EventArray]:
    if not recording.is_packets:
        yield from (chunk.to_event_array() for chunk in recording.chunks())
        return
    stream = EventStream(registry, size=recording.size, topic=str(recording.path))
    for packet in recording.packets():
        try:
            piece = stream.decode(packet)
        except EventDataError as error:  # passed over, as the detector and a replay do
            log.warning("%s: a packet cannot be read: %s", recording.path, error)
            continue
        if piece is not None:
            yield piece.events.to_event_array()


@dataclass(frozen=True)
class Played:
    """A message, and the time of its header, which it is due at."""

    msg: Any
    stamp_ns: int


def image_messages(recording: ImageRecording) -> Iterator[Played]:
    """Yield a recording's images as they are, hostile ones too."""
    for raw in recording.images():
        yield Played(image_message_from(raw), raw.stamp_ns)


class PlayerNode(Node):
    """Publishes one recording on `events`, or on `image` where it holds images, then ends.

    Parameters: `recording`; `topic` (of a bag that has several: one of events or of images); `rate` (1.0 is real time,
    0 as fast as it goes); `interval_us` (re-cut events into packets of so much sensor time, 0 keeps the recording's);
    `fps` (images per second of a folder of image files); `reliability`; `wait_for_subscriptions` (how many to wait for
    before the first packet); `loop`.
    """

    def __init__(self) -> None:
        super().__init__("player")
        self.declare_parameter("recording", "")
        self.declare_parameter("topic", "")
        self.declare_parameter("fps", DEFAULT_FPS, ParameterDescriptor(dynamic_typing=True))
        self.declare_parameter("rate", 1.0, ParameterDescriptor(dynamic_typing=True))  # 1 is as good as 1.0
        self.declare_parameter("interval_us", 0)
        self.declare_parameter("reliability", "best_effort")
        self.declare_parameter("wait_for_subscriptions", 1)
        self.declare_parameter("loop", False)
        self._check()
        self._recording = self._open()
        is_images = isinstance(self._recording, ImageRecording)
        # Reliable means that nothing may be lost: keep all, and let a full writer hold the player back.
        depth = 0 if self._value("reliability") == "reliable" else IMAGES_KEPT if is_images else 1000
        message_type, topic = (Image, "image") if is_images else (EventPacket, "events")
        self._publisher = self.create_publisher(message_type, topic, event_qos(depth, self._value("reliability")))
        self.published = self.held_back = 0

    def _open(self) -> Recording | ImageRecording:
        path, topic = Path(self._value("recording")), self._value("topic") or None
        if path.exists() and holds_images(path, topic):
            return open_images(path, topic=topic, fps=self._value("fps"))
        return open_recording(path, self._registry, **({"topic": topic} if topic else {}))

    @cached_property
    def _registry(self) -> Registry:
        return load_registry()

    def _messages(self) -> Iterator[Played]:
        if isinstance(self._recording, ImageRecording):
            yield from image_messages(self._recording)
            return
        for packet in recording_packets(self._recording, self._registry, self._value("interval_us")):
            yield Played(event_packet_from(packet), packet.stamp_ns)

    def _check(self) -> None:
        """Raise SnnPerceptionError for a parameter that makes no sense."""
        rate, fps, reliability = self._value("rate"), self._value("fps"), self._value("reliability")
        if not self._value("recording"):
            raise SnnPerceptionError("parameter 'recording' is empty; set it with --ros-args -p recording:=PATH")
        if not isinstance(rate, (int, float)) or isinstance(rate, bool) or rate < 0:
            raise SnnPerceptionError(f"rate must be a number of at least 0 (as fast as it goes), got {rate!r}")
        if not isinstance(fps, (int, float)) or isinstance(fps, bool) or not 0 < fps <= 1e6:
            raise SnnPerceptionError(f"fps must be a number above 0 and up to a million, got {fps!r}")
        if reliability not in ("best_effort", "reliable"):
            raise SnnPerceptionError(f"reliability must be best_effort or reliable, got {reliability!r}")

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def play(self) -> None:
        """Publish the whole recording, once or for ever, and wait until reliable subscribers have it all."""
        self._wait_for_subscriptions()
        while rclpy.ok():
            self._play_once()
            if not self._value("loop"):
                break
        self._publisher.wait_for_all_acked(Duration(seconds=60))

    def _wait_for_subscriptions(self) -> None:
        wanted = self._value("wait_for_subscriptions")
        if self._publisher.get_subscription_count() < wanted:
            self.get_logger().info(f"waiting for {wanted} subscription(s) on {self._publisher.topic_name}")
        while rclpy.ok() and self._publisher.get_subscription_count() < wanted:
            rclpy.spin_once(self, timeout_sec=0.05)

    def _play_once(self) -> None:
        rate: float = self._value("rate")
        begin_ns, first_ns = time.monotonic_ns(), None
        for played in self._messages():
            first_ns = played.stamp_ns if first_ns is None else first_ns
            if rate > 0:
                due_ns = begin_ns + (played.stamp_ns - first_ns) / rate
                time.sleep(max(0.0, (due_ns - time.monotonic_ns()) / 1e9))
            self._publish(played.msg)
            if not rclpy.ok():
                return

    def _publish(self, msg: EventPacket | Image) -> None:
        while rclpy.ok():
            try:
                self._publisher.publish(msg)
            except RuntimeError:  # RCLError, which rclpy does not export
                self.held_back += 1  # the writer's history is full: wait for subscribers to catch up
                time.sleep(RETRY_S)
                continue
            self.published += 1
            return


def main(argv: list[str] | None = None) -> int:
    """Play one recording; the last line on stdout tells how many packets went out. Returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(arguments):
        print(f"usage: player_node --ros-args -p recording:=PATH [-p NAME:=VALUE ...]\n\n{PlayerNode.__doc__}")
        return 0
    node = None
    try:
        rclpy.init(args=["player_node", *arguments])
        node = PlayerNode()
        node.play()
    except (KeyboardInterrupt, ExternalShutdownException, ROSInterruptException):
        pass
    except (SnnPerceptionError, ParameterException, RuntimeError) as error:
        print(f"player_node: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    finally:
        if node is not None:
            print(json.dumps({"published": node.published, "held_back": node.held_back}), flush=True)
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
