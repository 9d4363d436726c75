"""Writing ROS 2 bags of event messages without ROS, such as ``ros2 bag play`` reads."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from snn_perception.errors import EventDataError
from snn_perception.events.bag_messages import (
    EVENT_PACKET,
    EVENT_PACKET_DEFINITION,
    POINT_CLOUD,
    serialize_event_packet,
    serialize_point_cloud,
)
from snn_perception.events.whole_bag import STORAGES, WholeBag, check_absent, check_topic, typestore
from snn_perception.types import Packet

SENSOR_SIZE_KEY = "event_sensor_size"  # in the bag's custom data: WxH


def check_bag(path: str | Path, storage: str = "sqlite3", topic: str = "/event_camera/events") -> None:
    """Raise EventDataError or SnnPerceptionError unless such a bag can be made; for a check before long work."""
    path = Path(path)
    if storage not in STORAGES:
        raise EventDataError(f"{path}: unknown bag storage '{storage}'; known: {', '.join(STORAGES)}")
    check_topic(path, topic)
    check_absent(path)


def write_bag(
    path: str | Path, packets: Iterable[Packet], storage: str = "sqlite3", topic: str = "/event_camera/events"
) -> int:
    """Return the number of packets written to a ROS 2 bag at `path`, a folder that appears only once it is whole.

    A message's log time is its packet's stamp.

    Args:
        path: the folder; must not exist.
        packets: in the order to write; all with a sensor size (event_camera_msgs/msg/EventPacket), or all with a
            layout of points (sensor_msgs/msg/PointCloud2).
        storage: ``sqlite3`` or ``mcap``.
        topic: its full name.

    Raises:
        EventDataError: if `path` exists, for another storage or topic name, or a packet that its message cannot hold.
        SnnPerceptionError: if the folder cannot be put there.
    """
    path = Path(path)
    check_bag(path, storage, topic)
    written = 0
    with WholeBag(path, typestore({EVENT_PACKET: EVENT_PACKET_DEFINITION}), storage) as bag:
        stream = iter(packets)
        first = next(stream, None)
        is_cloud = first is not None and first.layout is not None
        if is_cloud and first is not None and first.size is not None:  # the message has no place for it
            bag.note(SENSOR_SIZE_KEY, str(first.size))
        serialize = serialize_point_cloud if is_cloud else serialize_event_packet
        bag.add_topic(topic, POINT_CLOUD if is_cloud else EVENT_PACKET)
        for packet in chain([] if first is None else [first], stream):
            bag.write(topic, packet.stamp_ns, serialize(packet))
            written += 1
    return written
