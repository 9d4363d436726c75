"""Windows of a made-up scene for any detector: to measure on, or to see what its layers are fed with."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from snn_perception.data.shapes import MovingShapes
from snn_perception.detector import Detector
from snn_perception.engine.step import input_size
from snn_perception.types import EventArray, EventWindow, SensorSize

_SHAPES = 12
_SCENE_US = 1_000_000


def synthetic_inputs(detector: Detector, count: int) -> list[Tensor]:
    """Return the inputs [T, 1, C, H, W] of `count` windows of moving shapes that follow one another.

    After a second of sensor time the scene starts again. For a model of images they are random ones.
    """
    if getattr(detector.representation, "takes_images", False):
        return _images(detector, count)
    spec = detector.spec
    return [detector.represent(window) for window in _windows(spec.sensor_size, spec.window_us, count)]


def _windows(size: SensorSize, window_us: int, count: int) -> list[EventWindow]:
    length = max(1, min(count, -(-_SCENE_US // window_us)))
    scene = list(MovingShapes(size, length * window_us, seed=3, shapes=_SHAPES))
    x, y, p, t = (np.concatenate([getattr(events, name) for events in scene]) for name in "xypt")
    cuts = np.searchsorted(t, np.arange(length + 1) * window_us)
    windows = []
    for k in range(length):
        part = slice(cuts[k], cuts[k + 1])
        events = EventArray(x[part], y[part], p[part], t[part], size)
        windows.append(EventWindow(events, k * window_us, (k + 1) * window_us))
    return [windows[k % length] for k in range(count)]


def _images(detector: Detector, count: int) -> list[Tensor]:
    size = input_size(detector)
    generator = torch.Generator().manual_seed(0)
    shape = detector.representation.steps, 1, detector.representation.channels, size.height, size.width
    return [torch.rand(shape, generator=generator).to(detector.device, detector.dtype) for _ in range(count)]
