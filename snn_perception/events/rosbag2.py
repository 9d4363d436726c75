"""ROS 2 bags (sqlite3 and MCAP) of event-camera topics, read and written without ROS."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from snn_perception.errors import EventDataError
from snn_perception.events.bag_files import BagFiles, is_bag, shown
from snn_perception.events.bag_messages import EVENT_TYPES, POINT_CLOUD, parse_message
from snn_perception.events.bag_storage import StoredMessage
from snn_perception.events.bag_writer import SENSOR_SIZE_KEY, write_bag
from snn_perception.events.pointcloud import PointCloudDecoder
from snn_perception.events.recording import Recording
from snn_perception.types import MAX_SIDE_PX, Packet, SensorSize

__all__ = ["BagRecording", "write_bag"]

_SENSOR_SIZE = re.compile(rf"^[ \t]+{SENSOR_SIZE_KEY}:[ \t]*['\"]?(\d{{1,5}})x(\d{{1,5}})['\"]?[ \t]*$", re.MULTILINE)


class BagRecording(Recording):
    """The messages of one event topic in a bag: a folder with ``metadata.yaml``, or a lone storage file.

    Files are read by what they are, not by what the metadata says they are: recorders leave its storage field empty,
    or no metadata at all when the power goes. Messages come by their log time, file after file.

    Args:
        path: folder, ``.db3`` or ``.mcap``.
        topic: which topic; needed where several hold events.
        size: (height, width) of the sensor for messages that state none (PointCloud2). Without it the size that our
            own writer notes in the metadata, or else the smallest that holds every event, found by a pass over the bag
            (`size_inferred`).

    Attributes:
        topic, message_type: the topic that is read.

    Raises:
        EventDataError: if there is no such bag, no or more than one event topic, or no readable message on it.
    """

    format = "rosbag2"
    is_packets = True

    def __init__(
        self, path: str | Path, *, topic: str | None = None, size: tuple[int, int] | list[int] | None = None
    ) -> None:
        self.path = Path(path)
        self._bag = BagFiles(self.path)
        self._size = SensorSize(*size) if size is not None else _noted_size(self._bag.metadata)
        self.topic, self.message_type = self._bag.choose_topic(topic, (EVENT_TYPES, (POINT_CLOUD,)), "events")
        first = next(self.packets(), None)
        if first is None:
            raise EventDataError(f"{self.path}: topic '{shown(self.topic)}' holds no messages; was the camera running?")
        self.encoding, self.frame_id = first.encoding, first.frame_id
        self._size = first.size or self._size  # what the bag states holds

    @staticmethod
    def claims(path: Path) -> bool:
        """Return whether `path` is a bag's folder, a storage file by its suffix, or a file that begins as MCAP does."""
        return is_bag(path)

    @cached_property
    def size(self) -> SensorSize:  # type: ignore[override]
        """Sensor size: given, stated by the first message, or found by one pass over the events."""
        return self._size or self._infer_size()

    @property
    def size_inferred(self) -> bool:
        """Whether `size` is a guess from the events' coordinates."""
        return self._size is None

    @property
    def notes(self) -> list[str]:
        """What a person should know about the bag, found so far."""
        return self._bag.notes

    @property
    def skipped(self) -> int:
        """Messages of the latest pass that could not be read."""
        return self._bag.skipped

    def packets(self) -> Iterator[Packet]:
        """Yield the topic's packets by log time; messages that cannot be read are counted in `skipped`.

        Raises:
            EventDataError: if not one message could be read.
        """
        return self._bag.read(self.topic, lambda data: parse_message(data, self.message_type))

    def listen(self, listener: Callable[[StoredMessage], None] | None) -> None:
        """Let `listener` have every message that `packets` yields, as it was recorded; None ends that."""
        self._bag.listener = listener

    def progress(self) -> tuple[int, int]:
        """Return bytes done (of whole files, and in proportion of the one that is read) and bytes in all."""
        return self._bag.progress()

    def _infer_size(self) -> SensorSize:
        decoder, largest_x, largest_y = PointCloudDecoder(size=SensorSize(MAX_SIDE_PX, MAX_SIDE_PX)), -1, -1
        for packet in self.packets():
            with suppress(EventDataError):  # whoever decodes it for its events will tell
                if len(events := decoder.decode(packet)):
                    largest_x, largest_y = max(largest_x, int(events.x.max())), max(largest_y, int(events.y.max()))
        if largest_x < 0:
            raise EventDataError(
                f"{self.path}: '{shown(self.topic)}' states no sensor size and holds no events; give the size"
            )
        size = SensorSize(largest_y + 1, largest_x + 1)
        self._bag.note(
            f"'{shown(self.topic)}' states no sensor size; used is {size} px, the smallest that holds its events"
        )
        return size


def _noted_size(metadata: str) -> SensorSize | None:
    """Return the sensor size that our writer notes for point clouds; None without one, or for an impossible one."""
    found = _SENSOR_SIZE.search(metadata)
    width, height = (int(side) for side in found.groups()) if found else (0, 0)
    return SensorSize(height, width) if 1 <= min(height, width) <= max(height, width) <= MAX_SIDE_PX else None
