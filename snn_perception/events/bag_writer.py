"""Writing ROS 2 bags of event messages without ROS, such as ``ros2 bag play`` reads."""

from __future__ import annotations

import re
import shutil
import sqlite3
import tempfile
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
from snn_perception.types import Packet
from snn_perception.whole_file import cannot_write, check_writable

STORAGES = ("sqlite3", "mcap")
SENSOR_SIZE_KEY = "event_sensor_size"  # in the bag's custom data: WxH
_TOPIC = re.compile(r"(/[A-Za-z_][A-Za-z0-9_]*)+")


def check_bag(path: str | Path, storage: str = "sqlite3", topic: str = "/event_camera/events") -> None:
    """Raise EventDataError or SnnPerceptionError unless such a bag can be made; for a check before long work."""
    path = Path(path)
    if storage not in STORAGES:
        raise EventDataError(f"{path}: unknown bag storage '{storage}'; known: {', '.join(STORAGES)}")
    if not _TOPIC.fullmatch(topic):
        raise EventDataError(f"{path}: expected a full topic name such as /event_camera/events, got '{topic}'")
    if path.exists() or path.is_symlink():
        raise EventDataError(f"{path}: exists already; remove it or choose another name")
    check_writable(path)


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
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    path = Path(path)
    check_bag(path, storage, topic)
    types = get_typestore(Stores.ROS2_JAZZY)
    types.register(get_types_from_msg(EVENT_PACKET_DEFINITION, EVENT_PACKET))
    plugin = {"sqlite3": StoragePlugin.SQLITE3, "mcap": StoragePlugin.MCAP}[storage]
    partial, written = None, 0
    try:
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.absolute().parent))
        with Writer(partial / path.name, version=8, storage_plugin=plugin) as writer:
            stream = iter(packets)
            first = next(stream, None)
            is_cloud = first is not None and first.layout is not None
            if is_cloud and first is not None and first.size is not None:  # the message has no place for it
                writer.set_custom_data(SENSOR_SIZE_KEY, str(first.size))
            serialize = serialize_point_cloud if is_cloud else serialize_event_packet
            connection = writer.add_connection(topic, POINT_CLOUD if is_cloud else EVENT_PACKET, typestore=types)
            for packet in chain([] if first is None else [first], stream):
                if not 0 <= packet.stamp_ns < 1 << 63:
                    raise EventDataError(
                        f"{path}: packet {written}: expected a stamp from 1970 on, got {packet.stamp_ns} ns"
                    )
                writer.write(connection, packet.stamp_ns, serialize(packet))
                written += 1
        (partial / path.name).rename(path)
    except (OSError, sqlite3.Error) as error:
        raise cannot_write(path, error if isinstance(error, OSError) else OSError(str(error))) from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
    return written
