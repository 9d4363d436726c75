"""The published networks as model descriptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from snn_perception.api import ComponentRef, ModelSpec, SensorSize

BACKBONES = {"st_vgg": "{}-ST-VGG", "rescat": "ResCat-SNN-{}"}  # component -> published name
WIDTHS = (16, 32, 64)
CLASSES = ("car", "pedestrian")  # GEN1, boxes and crops
NCARS_CLASSES = ("background", "car")
WINDOW_US, STEP_US = 50_000, 20_000  # of a detector; of a classifier, whose samples have five
SCALES = {"min_ratio": 0.05, "max_ratio": 0.80}  # of the default boxes
HEIGHT, WIDTH = 240, 304  # GEN1's sensor
CROP = 64

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


def detector_preset(
    backbone: str,
    base: int,
    *,
    classes: Sequence[str] = CLASSES,
    window_us: int = WINDOW_US,
    height: int = HEIGHT,
    width: int = WIDTH,
    tbin: int = 1,
    extras: Sequence[int] = (128, 128, 128),
    one_one_extras: bool = False,
    dsod: bool = False,
) -> ModelSpec:
    """Return n-ST-VGG+SSD or ResCat-SNN-n+SSD, trained on GEN1 in 50 ms windows with membranes carried between them.

    Args:
        classes: class names, in the order of the ids. height, width: of the input, in pixels.
        tbin: micro time bins per window, as channels.
        extras: channels of the extra levels. one_one_extras: whether a 1x1 stage comes before each.
        dsod: whether spiking connections lead from each level of the head to the next (see the head ``ssd``).
    """
    network = {"width": base, "extras": list(extras), "one_one_extras": one_one_extras}
    return detector_spec(
        ComponentRef(backbone, network),
        SCALES | {"dsod": dsod},
        classes=classes,
        window_us=window_us,
        size=SensorSize(height, width),
        tbin=tbin,
    )


def classifier_preset(
    backbone: str,
    base: int,
    *,
    classes: Sequence[str] = NCARS_CLASSES,
    window_us: int = STEP_US,
    height: int = CROP,
    width: int = CROP,
    tbin: int = 1,
) -> ModelSpec:
    """Return n-ST-VGG or ResCat-SNN-n as a classifier of 100 ms samples, seen as five windows of 20 ms.

    Membranes are carried over the windows of a sample, and its logits are the sum of theirs. Events are brought to
    64x64 by their coordinates, so that none is lost; the authors shrink images with nearest neighbour.

    Args:
        classes: class names, in the order of the ids; N-CARS's by default, ``["car", "pedestrian"]`` for GEN1 crops.
        window_us: of one of the steps.
        height, width: of the input, in pixels.
        tbin: micro time bins per window, as channels. The published operation counts are those of 2, which gives 4
            input channels, the parameter counts those of 1.
    """
    network = ComponentRef(backbone, {"width": base, "extras": [], "classifier_outputs": 0})
    return classifier_spec(
        network, classes=classes, window_us=window_us, size=SensorSize(height, width), tbin=tbin, layout="bin_major"
    )


def detector_spec(
    backbone: ComponentRef,
    head: Mapping[str, Any],
    *,
    classes: Sequence[str] = CLASSES,
    window_us: int = WINDOW_US,
    size: SensorSize | None = None,
    tbin: int = 1,
    layout: str = "bin_major",
) -> ModelSpec:
    """Return a detector with this backbone and these options of the head; everything else as published."""
    size = size or SensorSize(HEIGHT, WIDTH)
    return _spec(backbone, ComponentRef("ssd", dict(head)), classes, window_us, size, tbin, layout)


def classifier_spec(
    backbone: ComponentRef,
    *,
    classes: Sequence[str] = NCARS_CLASSES,
    window_us: int = STEP_US,
    size: SensorSize | None = None,
    tbin: int = 1,
    layout: str = "bin_major",
) -> ModelSpec:
    """Return a classifier with this backbone; everything else as published."""
    size = size or SensorSize(CROP, CROP)
    return _spec(backbone, ComponentRef("classifier"), classes, window_us, size, tbin, layout)


def _spec(
    backbone: ComponentRef,
    head: ComponentRef,
    classes: Sequence[str],
    window_us: int,
    size: SensorSize,
    tbin: int,
    layout: str,
) -> ModelSpec:
    return ModelSpec(
        representation=ComponentRef("voxel_cube", {"tbin": tbin, "layout": layout}),
        neuron=ComponentRef("plif", dict(PLIF)),
        backbone=backbone,
        head=head,
        classes=tuple(classes),
        window_us=window_us,
        sensor_size=size,
        state_policy="carry",
    )
