"""Makes an untrained network fire on a recording, for demonstrations and tests: it learns nothing by it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import torch

from snn_perception.detector import Detector
from snn_perception.errors import EventDataError
from snn_perception.events.geometry import InputMapping
from snn_perception.events.recording import Recording, open_recording
from snn_perception.registry import Registry
from snn_perception.runtime.replay import WindowSource
from snn_perception.testing import wake


def wake_on_recording(
    detector: Detector, recording: Recording | str | Path, registry: Registry, *, windows: int = 8
) -> dict[str, float]:
    """Fit the norms of an untrained detector to the first windows with events, so that every spiking layer fires.

    Returns the lowest firing rate of each spiking layer over those windows.

    Raises:
        EventDataError: if the recording holds no events.
    """
    if not isinstance(recording, Recording):
        recording = open_recording(recording, registry)
    source = WindowSource(recording, registry, detector.spec.window_us, stride_us=detector.spec.stride_us)
    inputs = []
    for window in islice((w for w in source if len(w.events)), windows):
        mapping = InputMapping(window.events.size, detector.spec.sensor_size)
        inputs.append(detector.represent(mapping.events(window)))
    if not inputs:
        raise EventDataError(f"{recording.path}: holds no events")
    x = torch.cat(inputs).to(detector.device, detector.dtype)
    return wake(detector.backbone, x, windows=len(inputs))
