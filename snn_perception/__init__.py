"""snn_perception: spiking neural network object detection on event cameras, in ROS 2 and offline."""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from snn_perception.checkpoint import load_checkpoint, save_checkpoint
    from snn_perception.detector import build_preset
    from snn_perception.discovery import load_registry
    from snn_perception.runtime.pipeline import DetectionPipeline
    from snn_perception.runtime.replay import replay
    from snn_perception.types import Detections, EventArray

_PUBLIC = {
    "load_checkpoint": "checkpoint",
    "save_checkpoint": "checkpoint",
    "build_preset": "detector",
    "load_registry": "discovery",
    "DetectionPipeline": "runtime.pipeline",
    "replay": "runtime.replay",
    "Detections": "types",
    "EventArray": "types",
}
__all__ = [
    "DetectionPipeline",
    "Detections",
    "EventArray",
    "__version__",
    "build_preset",
    "load_checkpoint",
    "load_registry",
    "replay",
    "save_checkpoint",
]


def __getattr__(name: str) -> object:
    """Import a public name on first use: importing the package alone loads neither torch nor ROS."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'snn_perception' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"snn_perception.{_PUBLIC[name]}"), name)
