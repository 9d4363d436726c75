"""A replay as a ROS 2 bag: what the camera sent, and beside it what was seen."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from snn_perception.errors import EventDataError
from snn_perception.events.bag_messages import (
    EVENT_PACKET,
    EVENT_PACKET_DEFINITION,
    EVENT_TYPES,
    serialize_event_packet,
)
from snn_perception.events.bag_storage import StoredMessage
from snn_perception.events.evt3_encode import Evt3Encoder, lead_in
from snn_perception.events.recording import Recording
from snn_perception.events.rosbag2 import BagRecording
from snn_perception.events.whole_bag import LONE_SUFFIX, WholeBag, check_absent, check_topic, typestore
from snn_perception.images.messages import IMAGE
from snn_perception.images.recording import ImageBag, ImageRecording
from snn_perception.runtime.detection_messages import DETECTION_ARRAY, VISION_DEFINITIONS, serialize_detections
from snn_perception.runtime.replay import Replayed
from snn_perception.types import EventArray, EventWindow, Packet, SensorSize

PACKET_US = 4_000  # of sensor time, as drivers send


def check_replay_bag(path: Path, events_topic: str | None, detections_topic: str) -> None:
    """Raise EventDataError or SnnPerceptionError unless such a bag can be made; for a check before long work."""
    if path.suffix and path.suffix.lower() != LONE_SUFFIX:
        raise EventDataError(
            f"{path}: expected the name of a bag: a file that ends in {LONE_SUFFIX}, or a folder (no suffix); "
            "for detections as text use --detections"
        )
    for topic in filter(None, (events_topic, detections_topic)):
        check_topic(path, topic)
    if events_topic == detections_topic:
        raise EventDataError(f"{path}: events and detections on the same topic '{events_topic}'; name two")
    check_absent(path)


class ReplayBag:
    """Writes a replay's input and detections into a bag that appears when the ``with`` block ends without an error.

    The messages of a bag are copied as they were recorded, with their log times; detections lie behind the message that
    completed their window. What is no bag's is written as EVT3 packets from the windows, on the clock of sensor time.
    Images from files are not copied. Detections are stamped with the sensor time of their window's end, as the node
    does with ``stamp_source: sensor``.

    Attributes:
        input_messages, detection_messages: written so far.

    Args:
        path: a folder, or a lone ``.mcap`` file; must not exist.
        recording: what is replayed.
        stride_us: from one window to the next.
        events_topic: of what was replayed; ``/events``, or ``/image`` for images, by default.
        storage: of a folder: ``sqlite3`` or ``mcap``.

    Raises:
        EventDataError: if `path` exists, or for events that EVT3 cannot tell.
        SnnPerceptionError: if it cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        recording: Recording | ImageRecording,
        stride_us: int,
        *,
        events_topic: str | None = None,
        detections_topic: str = "/detections",
        storage: str = "sqlite3",
    ) -> None:
        self.path = Path(path)
        is_images = isinstance(recording, ImageRecording)
        events_topic = events_topic or ("/image" if is_images else "/events")
        check_replay_bag(self.path, events_topic, detections_topic)
        self.input_messages = self.detection_messages = 0
        self._events_topic, self._detections_topic = events_topic, detections_topic
        # A name that recorders used before, for the same fields.
        types = typestore(dict.fromkeys(EVENT_TYPES, EVENT_PACKET_DEFINITION) | VISION_DEFINITIONS)
        self._bag = WholeBag(self.path, types, storage)
        self._source = recording if isinstance(recording, (BagRecording, ImageBag)) else None
        self._input_type = _input_type(recording)
        frame_id = recording.first.frame_id if isinstance(recording, ImageRecording) else recording.frame_id
        self._frame_id = frame_id
        self._encoder: _WindowEncoder | None = None
        if isinstance(recording, Recording) and self._source is None:
            self._encoder = _WindowEncoder(recording.size, stride_us, recording.frame_id)
        self._log_time_ns = 0

    def __enter__(self) -> ReplayBag:
        with ExitStack() as stack:
            stack.enter_context(self._bag)
            if self._input_type:
                self._bag.add_topic(self._events_topic, self._input_type)
            self._bag.add_topic(self._detections_topic, DETECTION_ARRAY)
            if self._source is not None:
                self._source.listen(self._copy)
                stack.callback(self._source.listen, None)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def write(self, step: Replayed) -> None:
        """Add a window's detections, and before them its events where no messages are copied."""
        if self._encoder is not None:
            assert isinstance(step.window, EventWindow)
            try:
                packets = self._encoder.packets(step.window)
            except EventDataError as error:
                raise EventDataError(f"{self.path}: {error}") from error
            for packet in packets:
                self._copy(StoredMessage(packet.stamp_ns, serialize_event_packet(packet)))
        stamp_ns = step.window.t_end_us * 1000
        log_time_ns = self._log_time_ns if self._source is not None else stamp_ns
        message = serialize_detections(step.detections, stamp_ns, frame_id=self._frame_id)
        self._bag.write(self._detections_topic, log_time_ns, message)
        self.detection_messages += 1

    def _copy(self, message: StoredMessage) -> None:
        self._log_time_ns = message.log_time_ns
        self._bag.write(self._events_topic, message.log_time_ns, message.data)
        self.input_messages += 1


class _WindowEncoder:
    """Writes windows as the packets of a camera; sensor time is told from 0, so that a reader gets the same times."""

    def __init__(self, size: SensorSize, stride_us: int, frame_id: str) -> None:
        self._size, self._stride_us, self._frame_id = size, stride_us, frame_id
        self._encoder: Evt3Encoder | None = None
        self._seq = 0

    def packets(self, window: EventWindow) -> list[Packet]:
        """Return the packets of what a window adds to the one before; they tell its end. EventDataError as EVT3's."""
        begin_us = window.t_end_us - self._stride_us
        made = []
        for start_us in range(begin_us, window.t_end_us, PACKET_US):
            head = b""
            if self._encoder is None:
                head = lead_in(start_us)
                self._encoder = Evt3Encoder(self._size, t_start_us=start_us)
            end_us = min(start_us + PACKET_US, window.t_end_us)
            data = head + self._encoder.encode(_between(window.events, start_us, end_us), end_us)
            made.append(
                Packet(
                    np.frombuffer(data, np.uint8),
                    "evt3",
                    self._size,
                    seq=self._seq,
                    stamp_ns=start_us * 1000,
                    frame_id=self._frame_id,
                )
            )
            self._seq += 1
        return made


def _between(events: EventArray, start_us: int, end_us: int) -> EventArray:
    first, end = np.searchsorted(events.t, (start_us, end_us)).tolist()
    return events[first:end]


def _input_type(recording: Recording | ImageRecording) -> str | None:
    """Return the type of the messages to write beside the detections; None for none."""
    if isinstance(recording, BagRecording):
        return recording.message_type
    if isinstance(recording, ImageBag):
        return IMAGE
    return EVENT_PACKET if isinstance(recording, Recording) else None
