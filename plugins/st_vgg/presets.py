"""The published ST-VGG detectors as model descriptions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from snn_perception.api import ComponentRef, ModelSpec, SensorSize

WIDTHS = (16, 32, 64)
CLASSES = ("car", "pedestrian")
WINDOW_US = 50_000
SCALES = {"min_ratio": 0.05, "max_ratio": 0.80}  # of the default boxes
HEIGHT, WIDTH = 240, 304  # GEN1's sensor

# SpikingJelly's ParametricLIFNode as the authors use it: decayed input, hard reset to 0, sigmoid surrogate.
PLIF: dict[str, Any] = {
    "tau": 2.0,
    "decay_input": True,
    "v_threshold": 1.0,
    "v_reset": 0.0,
    "detach_reset": True,
    "surrogate": "sigmoid",
    "alpha": 4.0,
}


def st_vgg_ssd(
    base: int,
    *,
    classes: Sequence[str] = CLASSES,
    window_us: int = WINDOW_US,
    height: int = HEIGHT,
    width: int = WIDTH,
    tbin: int = 1,
) -> ModelSpec:
    """Return n-ST-VGG+SSD with base width n, trained on GEN1 in 50 ms windows with membranes carried between them.

    Args:
        classes: class names, in the order of the ids. height, width: of the input, in pixels.
        tbin: micro time bins per window, as channels.
    """
    return detector_spec(
        {"width": base}, dict(SCALES), classes=classes, window_us=window_us, size=SensorSize(height, width), tbin=tbin
    )


def detector_spec(
    backbone: dict[str, Any],
    head: dict[str, Any],
    *,
    classes: Sequence[str] = CLASSES,
    window_us: int = WINDOW_US,
    size: SensorSize | None = None,
    tbin: int = 1,
    layout: str = "bin_major",
) -> ModelSpec:
    """Return an ST-VGG detector with these options of backbone and head; everything else as published."""
    return ModelSpec(
        representation=ComponentRef("voxel_cube", {"tbin": tbin, "layout": layout}),
        neuron=ComponentRef("plif", dict(PLIF)),
        backbone=ComponentRef("st_vgg", backbone),
        head=ComponentRef("ssd", head),
        classes=tuple(classes),
        window_us=window_us,
        sensor_size=size or SensorSize(HEIGHT, WIDTH),
        state_policy="carry",
    )
