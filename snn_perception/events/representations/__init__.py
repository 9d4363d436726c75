"""Events to tensors, as the published systems define them. Each is loaded when it is first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from snn_perception.events.grid import Bins, Filled, GridRepresentation

if TYPE_CHECKING:
    from snn_perception.events.representations.counts import EventCount, MicroBins, StackedHistogram
    from snn_perception.events.representations.latest import TernaryImage, TimeSurface
    from snn_perception.events.representations.voxel_cube import VoxelCube
    from snn_perception.events.representations.voxel_grid import VoxelGrid

_WHERE = {
    **dict.fromkeys(("EventCount", "MicroBins", "StackedHistogram"), "counts"),
    **dict.fromkeys(("TernaryImage", "TimeSurface"), "latest"),
    "VoxelCube": "voxel_cube",
    "VoxelGrid": "voxel_grid",
}
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


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
