"""Windows of a recording to measure on."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from torch import Tensor

from snn_perception.detector import Detector
from snn_perception.errors import EventDataError
from snn_perception.events.geometry import InputMapping
from snn_perception.events.recording import open_recording
from snn_perception.registry import Registry
from snn_perception.runtime.replay import WindowSource


def recorded_inputs(detector: Detector, path: Path, count: int, registry: Registry) -> list[Tensor]:
    """Return the inputs of the first `count` windows of a recording that hold events.

    Raises:
        EventDataError: if it cannot be read, or holds none.
    """
    spec, recording = detector.spec, open_recording(path, registry)
    source = WindowSource(recording, registry, spec.window_us, stride_us=spec.stride_us)
    found = []
    for window in islice((w for w in source if len(w.events)), count):
        mapping = InputMapping(window.events.size, spec.sensor_size)
        found.append(detector.represent(mapping.events(window)))
    if not found:
        raise EventDataError(f"{path}: holds no events")
    return found
