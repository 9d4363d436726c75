"""Events to tensors, as the published systems define them."""

from snn_perception.events.grid import Bins, Filled, GridRepresentation
from snn_perception.events.representations.counts import EventCount, MicroBins, StackedHistogram
from snn_perception.events.representations.latest import TernaryImage, TimeSurface
from snn_perception.events.representations.voxel_cube import VoxelCube
from snn_perception.events.representations.voxel_grid import VoxelGrid

__all__ = [
    "Bins",
    "EventCount",
    "Filled",
    "GridRepresentation",
    "MicroBins",
    "StackedHistogram",
    "TernaryImage",
    "TimeSurface",
    "VoxelCube",
    "VoxelGrid",
]
