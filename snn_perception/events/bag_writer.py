"""Writing ROS 2 bags of EventPackets without ROS, such as ``ros2 bag play`` reads."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from snn_perception.errors import EventDataError
from snn_perception.events.bag_messages import EVENT_PACKET, EVENT_PACKET_DEFINITION, serialize_event_packet
from snn_perception.types import Packet


def write_bag(
    path: str | Path, packets: Iterable[Packet], storage: str = "sqlite3", topic: str = "/event_camera/events"
) -> int:
    """Return the number of packets written to a ROS 2 bag at `path`, a folder that appears only once it is whole.

    A message's log time is its packet's stamp.

    Args:
        path: the folder; must not exist.
        packets: with sensor size, in the order to write.
        storage: ``sqlite3`` or ``mcap``.
        topic: of type event_camera_msgs/msg/EventPacket.

    Raises:
        EventDataError: if `path` exists, for another storage, or a packet that an EventPacket cannot hold.
    """
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    path = Path(path)
    plugins = {"sqlite3": StoragePlugin.SQLITE3, "mcap": StoragePlugin.MCAP}
    if storage not in plugins:
        raise EventDataError(f"{path}: unknown bag storage '{storage}'; known: {', '.join(plugins)}")
    if path.exists():
        raise EventDataError(f"{path}: exists already; remove it or choose another name")
    types = get_typestore(Stores.ROS2_JAZZY)
    types.register(get_types_from_msg(EVENT_PACKET_DEFINITION, EVENT_PACKET))
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.absolute().parent))
    written = 0
    try:
        with Writer(partial / path.name, version=8, storage_plugin=plugins[storage]) as writer:
            connection = writer.add_connection(topic, EVENT_PACKET, typestore=types)
            for packet in packets:
                writer.write(connection, packet.stamp_ns, serialize_event_packet(packet))
                written += 1
        (partial / path.name).rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return written
