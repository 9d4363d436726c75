"""A camera of images: every message is a window, and its detections bear its own stamp."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import Image

from snn_perception.images.stream import ImageStream
from snn_perception.ros.camera import Camera
from snn_perception.ros.image_messages import raw_image_from
from snn_perception.ros.queue import JobQueue
from snn_perception.runtime.pipeline import DetectionPipeline
from snn_perception.types import Window


class ImageCamera(Camera):
    """Receives ``sensor_msgs/Image`` on topic ``image``.

    Its subscription is shallow, unlike that for events: a lost image costs nothing but itself, and a deep queue of
    large messages would cost memory and show the past.

    Attributes:
        images: what makes its windows.
    """

    def __init__(
        self, node: LifecycleNode, name: str, settings: dict[str, Any], window_us: int, queue: JobQueue
    ) -> None:
        topic = node.resolve_topic_name(f"{name}/image" if name else "image")
        self.images = ImageStream(window_us, name=name, topic=topic)
        self._header_ns = self._decoded_at_ns = 0
        depth = settings["image_qos_depth"]
        super().__init__(node, name, settings, queue, message_type=Image, leaf="image", depth=depth)

    def received(self) -> dict[str, int | str]:
        """Return counts of images, which are packets and windows at once."""
        images = self.images.images
        return {"packets": images, "windows": images, "images without stamp": self.images.unstamped}

    def losses(self) -> dict[str, int]:
        """Return how often time jumped, or the size changed. Images have no numbers that would tell of lost ones."""
        return {"stream gaps": self.figures.gaps}

    def serve(self, pipeline: DetectionPipeline) -> None:
        """Prepare nothing: an image is a window as it is."""

    def _windows_of(self, msg: Image) -> Iterable[Window]:
        raw = raw_image_from(msg)
        window = self.images.push(raw)
        self._frame_id, self._header_ns, self._decoded_at_ns = raw.frame_id, raw.stamp_ns, time.monotonic_ns()
        return (window,)

    def _stamp_ns(self, window: Window) -> int:
        return self._header_ns

    def _decoded_ns(self) -> int:
        return self._decoded_at_ns
