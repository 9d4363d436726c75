"""``~/debug_image``: windows drawn with their detections, in a thread of its own, and only while somebody looks."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import Image

from snn_perception.ros.image_messages import image_message_from
from snn_perception.ros.results import WindowResult
from snn_perception.runtime.render import draw_window
from snn_perception.types import RawImage

_END_S = 5.0  # for the picture in hand when the node is cleaned up


class DebugImages:
    """Draws the latest window of each camera that is looked at, at most `debug_image_hz` times a second.

    The inference thread only leaves the window here (`offer`), after its detections went out; one that was not drawn
    before the next came is not drawn at all. The thread has no lower priority than inference: both need Python's lock,
    and who holds it must not be kept waiting.

    Args:
        settings: the node's, read at each window.
    """

    def __init__(self, node: LifecycleNode, cameras: Sequence[str], settings: Mapping[str, Any]) -> None:
        self._node, self._settings = node, settings
        self._publishers: dict[str, Any] = {}
        self._due_ns: dict[str, int] = {}
        for camera in cameras:
            self.add(camera)
        self._slots: dict[str, WindowResult] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="debug images", daemon=True)
        self._thread.start()

    def add(self, camera: str) -> Any:
        """Return the new publisher of another camera."""
        topic = f"~/{camera}/debug_image" if camera else "~/debug_image"
        self._due_ns[camera] = 0
        self._publishers[camera] = self._node.create_lifecycle_publisher(Image, topic, 1)
        return self._publishers[camera]

    def offer(self, result: WindowResult) -> None:
        """Leave a window to be drawn if somebody looks and it is time; returns at once."""
        camera, hz = result.job.camera, self._settings["debug_image_hz"]
        if not hz or not self._publishers[camera].get_subscription_count():
            return
        now_ns = time.monotonic_ns()
        if now_ns < self._due_ns[camera]:
            return
        period_ns = int(1e9 / hz)
        # From the time that was due, so that windows which come at their own pace reach the full rate.
        due_ns = self._due_ns[camera] + period_ns
        self._due_ns[camera] = due_ns if due_ns > now_ns else now_ns + period_ns
        with self._changed:
            self._slots[camera] = result
            self._changed.notify()

    def destroy(self) -> None:
        """End the thread and take the publishers down."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(_END_S)
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)

    def _run(self) -> None:
        while (result := self._next()) is not None:
            try:
                self._publishers[result.job.camera].publish(_message(result))
            except Exception as error:  # a picture that fails costs nothing but itself
                self._node.get_logger().warning(f"no debug image: {error}", throttle_duration_sec=10.0)

    def _next(self) -> WindowResult | None:
        """Return the window that has waited longest; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._slots))
            if self._closed:
                return None
            return self._slots.pop(next(iter(self._slots)))


def _message(result: WindowResult) -> Image:
    """Return the picture of a window under the stamp of its detections."""
    job = result.job
    picture = draw_window(job.window, result.detections, result.spec.classes)
    height, width = picture.shape[:2]
    raw = RawImage(
        np.ascontiguousarray(picture).reshape(-1), "rgb8", height, width, 3 * width, job.stamp_ns, job.frame_id
    )
    return image_message_from(raw)
