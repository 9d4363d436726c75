"""The core's own components, declared through the same hooks as any plugin's; factories are imported on first use."""

from __future__ import annotations

from snn_perception.hookspecs import hookimpl
from snn_perception.registry import Component

_EVENTS = "snn_perception.events"


@hookimpl
def snn_representations() -> list[Component]:
    return [
        Component("voxel_cube", f"{_EVENTS}.representations:VoxelCube", "presence per pixel, polarity and time bin"),
    ]


@hookimpl
def snn_event_decoders() -> list[Component]:
    return [
        Component("evt3", f"{_EVENTS}.evt3:Evt3Decoder", "EventPacket, Prophesee EVT 3.0 words"),
        Component("libcaer", f"{_EVENTS}.libcaer:LibcaerDecoder", "EventPacket, libcaer polarity events"),
        Component("libcaer_cmp", f"{_EVENTS}.libcaer:LibcaerCmpDecoder", "EventPacket, libcaer compressed words"),
        Component("mono", f"{_EVENTS}.mono:MonoDecoder", "EventPacket, one 64-bit word per event"),
        Component("pointcloud2", f"{_EVENTS}.pointcloud:PointCloudDecoder", "sensor_msgs/PointCloud2 of x, y, t, p"),
    ]


@hookimpl
def snn_event_readers() -> list[Component]:
    return [
        Component("dat", f"{_EVENTS}.dat:DatRecording", "Prophesee DAT, types 0 and 12"),
        Component("rosbag2", f"{_EVENTS}.rosbag2:BagRecording", "ROS 2 bag, sqlite3 or MCAP"),
    ]
