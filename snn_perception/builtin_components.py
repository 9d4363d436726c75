"""The core's own components, declared through the same hooks as any plugin's; factories are imported on first use."""

from __future__ import annotations

from snn_perception.hookspecs import hookimpl
from snn_perception.registry import Component

_EVENTS = "snn_perception.events"
_GRIDS = f"{_EVENTS}.representations"


@hookimpl
def snn_representations() -> list[Component]:
    return [
        Component("voxel_cube", f"{_GRIDS}:VoxelCube", "presence per pixel, polarity and micro time bin"),
        Component("event_count", f"{_GRIDS}:EventCount", "events per pixel and polarity"),
        Component("stacked_histogram", f"{_GRIDS}:StackedHistogram", "events per pixel, polarity and time bin (RVT)"),
        Component("micro_bins", f"{_GRIDS}:MicroBins", "events in equal time slices from the first to the last"),
        Component("ternary_image", f"{_GRIDS}:TernaryImage", "polarity of each pixel's last event, letterboxed"),
        Component("time_surface", f"{_GRIDS}:TimeSurface", "how long ago each pixel fired, fading"),
        Component("image", f"{_GRIDS}.image:Image", "a camera's colour image, letterboxed"),
        Component("voxel_grid", f"{_GRIDS}:VoxelGrid", "signed events, shared between the nearest time bins"),
    ]


@hookimpl
def snn_event_decoders() -> list[Component]:
    return [
        Component("evt2", f"{_EVENTS}.evt2:Evt2Decoder", "EventPacket, Prophesee EVT 2.0 words"),
        Component("evt21", f"{_EVENTS}.evt2:Evt21Decoder", "EventPacket, Prophesee EVT 2.1 words, little endian"),
        Component("evt21e", f"{_EVENTS}.evt2:Evt21eDecoder", "EventPacket, Prophesee EVT 2.1 words, upper half first"),
        Component("evt3", f"{_EVENTS}.evt3:Evt3Decoder", "EventPacket, Prophesee EVT 3.0 words"),
        Component("libcaer", f"{_EVENTS}.libcaer:LibcaerDecoder", "EventPacket, libcaer polarity events"),
        Component("libcaer_cmp", f"{_EVENTS}.libcaer:LibcaerCmpDecoder", "EventPacket, libcaer compressed words"),
        Component("mono", f"{_EVENTS}.mono:MonoDecoder", "EventPacket, one 64-bit word per event"),
        Component("pointcloud2", f"{_EVENTS}.pointcloud:PointCloudDecoder", "sensor_msgs/PointCloud2 of x, y, t, p"),
    ]


@hookimpl
def snn_event_readers() -> list[Component]:
    return [
        Component("atis_bin", f"{_EVENTS}.atis_bin:AtisBinRecording", "ATIS .bin (N-MNIST, N-Caltech101)"),
        Component("dat", f"{_EVENTS}.dat:DatRecording", "Prophesee DAT, types 0 and 12"),
        Component("hdf5", f"{_EVENTS}.hdf5:Hdf5Recording", "HDF5, plain columns or Prophesee's tables"),
        Component("raw", f"{_EVENTS}.raw:RawRecording", "Prophesee RAW, EVT 2.0, 2.1 and 3.0"),
        Component("rosbag2", f"{_EVENTS}.rosbag2:BagRecording", "ROS 2 bag, sqlite3 or MCAP"),
    ]
