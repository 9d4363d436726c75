"""Makes an untrained network fire on a recording, for demonstrations and tests: it learns nothing by it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from snn_perception.data.image_inputs import ImageInputs
from snn_perception.detector import Detector
from snn_perception.errors import EventDataError
from snn_perception.events.geometry import InputMapping
from snn_perception.events.recording import Recording, open_recording
from snn_perception.images.recording import ImageRecording, ImageSource
from snn_perception.registry import Registry
from snn_perception.runtime.replay import WindowSource
from snn_perception.testing import spiking_layers, wake


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
    return _wake(detector, inputs)


def wake_on_images(
    detector: Detector, recording: ImageRecording, registry: Registry, *, windows: int = 8
) -> dict[str, float]:
    """Fit the norms of an untrained detector of images to the first images, as `wake_on_recording` does.

    Raises:
        EventDataError: if no image can be read.
        SpecError: if the model does not see images.
    """
    inputs = ImageInputs(detector.representation, detector.spec, registry)
    source = ImageSource(recording, detector.spec.window_us)
    return _wake(detector, [inputs.tensor(window.image).unsqueeze(1) for window in islice(source, windows)])


def _wake(detector: Detector, inputs: list[Tensor]) -> dict[str, float]:
    inputs = [x.to(detector.device, detector.dtype) for x in inputs]
    rates = wake(detector.backbone, inputs)
    maps = _maps(detector, inputs)
    if spiking_layers(detector.head, maps[0]):
        rates |= {f"head.{name}": rate for name, rate in wake(detector.head, maps).items()}
    return rates


@torch.no_grad()
def _maps(detector: Detector, inputs: list[Tensor]) -> list[list[Tensor]]:
    """Return the backbone's maps of windows that follow each other."""
    maps, state = [], None
    for x in inputs:
        found, state = detector.backbone(x, state)
        maps.append(list(found))
    return maps
