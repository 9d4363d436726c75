"""The published networks as model descriptions: four scales on COCO images, one on GEN1's events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from snn_perception.api import ComponentRef, ModelSpec, SensorSize, StatePolicy

from .neuron import COCO_LEAK, GEN1_LEAK, MAX_SPIKES

# Channels at strides 4 to 32 and repeats of their blocks at width and depth 1.
CHANNELS, REPEATS = (128, 256, 512, 1024), (3, 6, 9, 3)
GEN1_REPEATS = (3, 6, 9, 1)
# Depth, width and last ratio of the scales. The authors' table has 1 as the ratio of m and l; their weights have 2.
SCALES: dict[str, dict[str, Any]] = {
    "n": {"depth_factor": 0.33, "width_factor": 0.375, "last_ratio": 1},
    "s": {"depth_factor": 0.33, "width_factor": 0.5, "last_ratio": 1},
    "m": {"depth_factor": 0.5, "width_factor": 0.625, "last_ratio": 2},
    "l": {"depth_factor": 0.5, "width_factor": 0.75, "last_ratio": 2},
}
GEN1_CLASSES = ("car", "pedestrian")
# The 80 classes in the order of the annotation files' categories, whose own ids run to 90 and have gaps.
COCO_CLASSES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *("elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee"),
    *("skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard"),
    *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
    *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
    *("microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear"),
    *("hair drier", "toothbrush"),
)
IMAGE_SIDE, GEN1_SIDE = 640, 320
GEN1_HEIGHT, GEN1_WIDTH = 240, 304
FRAME_US, GEN1_WINDOW_US = 33_333, 250_000


def coco_preset(
    *,
    classes: Sequence[str] = COCO_CLASSES,
    height: int = IMAGE_SIDE,
    width: int = IMAGE_SIDE,
    network_size: Sequence[int] = (IMAGE_SIDE, IMAGE_SIDE),
    steps: int = 1,
    max_spikes: int = MAX_SPIKES,
    width_factor: float = 0.5,
    depth_factor: float = 0.33,
    last_ratio: int = 1,
    window_us: int = FRAME_US,
    state_policy: StatePolicy = "per_window",
) -> ModelSpec:
    """Return SpikeYOLO on images, as trained on COCO: one image to a window, repeated at every time step.

    Args:
        classes: class names, in the order of the ids.
        height, width: of the images, in pixels. network_size: [height, width] that they are letterboxed into.
        steps: time steps of one window, the paper's T (1 in all published COCO models).
        max_spikes: of one neuron in one step, the paper's D.
        width_factor, depth_factor: of the channels, and of the repeated blocks.
        last_ratio: widening within the block before the coarsest map.
        window_us: of sensor time that one image stands for.
    """
    representation = ComponentRef("image", {"steps": steps, "network_size": list(network_size)})
    backbone = scaled_backbone(REPEATS, width_factor, depth_factor, last_ratio)
    size = SensorSize(height, width)
    leak = {**COCO_LEAK, "max_spikes": max_spikes}
    return spec_of(representation, leak, backbone, classes, window_us, size, state_policy)


def gen1_preset(
    *,
    classes: Sequence[str] = GEN1_CLASSES,
    height: int = GEN1_HEIGHT,
    width: int = GEN1_WIDTH,
    network_size: Sequence[int] = (GEN1_SIDE, GEN1_SIDE),
    steps: int = 2,
    newest_first: bool | None = None,
    max_spikes: int = MAX_SPIKES,
    width_factor: float = 0.5,
    depth_factor: float = 0.33,
    last_ratio: int = 1,
    window_us: int = GEN1_WINDOW_US,
    stride_us: int = 0,
    state_policy: StatePolicy = "per_window",
) -> ModelSpec:
    """Return SpikeYOLO on events, as trained on GEN1: 250 ms before each label as images of each pixel's last polarity.

    Args:
        classes: class names, in the order of the ids.
        height, width: of the sensor, in pixels. network_size: [height, width] that its images are letterboxed into.
        steps: equal slices of the window, one for each time step, the paper's T.
        newest_first: whether time runs backwards along the steps, as in the published training and validation. None:
            as published, but in the order of time where state is carried from window to window.
        max_spikes: of one neuron in one step, the paper's D.
        width_factor, depth_factor: of the channels, and of the repeated blocks.
        last_ratio: widening within the block before the coarsest map.
        window_us: length of a window. stride_us: between their ends; 0: as long as a window.
    """
    backwards = state_policy != "carry" if newest_first is None else newest_first
    options = {"steps": steps, "network_size": list(network_size), "newest_first": backwards}
    return spec_of(
        ComponentRef("ternary_image", options),
        {**GEN1_LEAK, "max_spikes": max_spikes},
        scaled_backbone(GEN1_REPEATS, width_factor, depth_factor, last_ratio),
        classes,
        window_us,
        SensorSize(height, width),
        state_policy,
        stride_us,
    )


def scaled_backbone(repeats: Sequence[int], width: float, depth: float, last_ratio: int) -> ComponentRef:
    """Return the backbone with channels and repeats multiplied as in the authors' table.

    Raises:
        ValueError: for multiples that leave no channels.
    """
    if not width > 0 or not depth > 0:
        raise ValueError(f"width_factor and depth_factor must be positive, got {width} and {depth}")
    channels = [int(count * width) for count in CHANNELS]
    deep = [max(1, round(count * depth)) for count in repeats]  # halves to even, as the authors round
    return ComponentRef("spikeyolo", {"channels": channels, "repeats": deep, "last_ratio": last_ratio})


def spec_of(
    representation: ComponentRef,
    neuron: Mapping[str, Any],
    backbone: ComponentRef,
    classes: Sequence[str],
    window_us: int,
    size: SensorSize,
    state_policy: StatePolicy = "per_window",
    stride_us: int = 0,
) -> ModelSpec:
    """Return a detector of these parts with the family's neuron and head."""
    return ModelSpec(
        representation=representation,
        neuron=ComponentRef("ilif", dict(neuron)),
        backbone=backbone,
        head=ComponentRef("spikeyolo"),
        classes=tuple(classes),
        window_us=window_us,
        sensor_size=size,
        state_policy=state_policy,
        stride_us=stride_us,
    )
