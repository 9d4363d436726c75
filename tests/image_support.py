"""Made-up camera images as messages and bags, and a small model of images that fires and detects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from snn_perception.data.image_inputs import ImageInputs
from snn_perception.detector import Detector
from snn_perception.images.messages import IMAGE, serialize_image
from snn_perception.registry import Registry
from snn_perception.testing import spiking_layers, wake
from snn_perception.types import RawImage
from tests.bag_support import sqlite_file

TOPIC = "/camera/image_raw"
PERIOD_NS = 33_333_337  # of no whole number of microseconds: stamps must come through as they are
SMALL = {"classes": ["red", "blue"], "width_factor": 0.125, "depth_factor": 0.1, "network_size": [96, 128]}
_ORDERS = {"rgb8": (0, 1, 2), "bgr8": (2, 1, 0), "rgba8": (0, 1, 2, 3), "bgra8": (2, 1, 0, 3), "8UC3": (2, 1, 0)}


def scene(height: int, width: int, number: int) -> np.ndarray:
    """Return uint8 RGB [H, W, 3]: a red and a blue box that move over noise."""
    rng = np.random.default_rng([height, width, number])
    pixels = rng.integers(60, 190, (height, width, 3), dtype=np.uint8)
    for kind, colour in enumerate(((230, 40, 30), (30, 50, 240))):
        y, x = (7 * number + 11 * kind) % (height // 2), (5 * number + kind * width // 2) % (width * 2 // 3)
        pixels[y : y + height // 3, x : x + width // 4] = colour
    return pixels


def raw_image(pixels: np.ndarray, encoding: str = "rgb8", *, padding: int = 0, stamp_ns: int = 0) -> RawImage:
    """Return RGB pixels [H, W, 3] (grey: [H, W]) as a message of an encoding; the padding of its rows is 255."""
    height, width = pixels.shape[:2]
    if encoding in _ORDERS:
        opaque = np.concatenate([pixels, np.full((height, width, 1), 7, np.uint8)], axis=-1)
        rows = opaque[..., list(_ORDERS[encoding])].reshape(height, -1)
    else:
        rows = pixels.reshape(height, width)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=255)
    return RawImage(np.ascontiguousarray(rows).reshape(-1), encoding, height, width, rows.shape[1], stamp_ns, "cam")


def drive(count: int, kinds: Sequence[tuple[int, int, str, int]], first: int = 1) -> list[RawImage]:
    """Return images of a period each; kinds of (height, width, encoding, padding) come `count` times one by one."""
    images = []
    for height, width, encoding, padding in kinds:
        for _ in range(count):
            number = first + len(images)
            pixels = scene(height, width, number)
            shown = pixels[..., 0] if encoding in ("mono8", "8UC1") else pixels
            images.append(raw_image(shown, encoding, padding=padding, stamp_ns=number * PERIOD_NS))
    return images


def image_bag(path: Path, images: Sequence[RawImage], topic: str = TOPIC) -> Path:
    """Write images as a bag of one file, logged one after the other whatever their stamps."""
    rows = [(topic, 10**9 + number, serialize_image(image)) for number, image in enumerate(images)]
    return sqlite_file(path, {topic: IMAGE}, rows)


def small_detector(registry: Registry, **options: object) -> Detector:
    """Return a small untrained model of images in which every layer fires, and which keeps scores of any height."""
    spec = registry.build("preset", "spikeyolo_n_coco", **{**SMALL, **options})
    head = replace(spec.head, options={**spec.head.options, "score_threshold": 0.0})  # untrained scores are near 0
    torch.manual_seed(0)
    detector = Detector(replace(spec, head=head), registry).eval()
    inputs = ImageInputs(detector.representation, detector.spec, registry)
    x = [inputs.tensor(scene(90, 160, number)).unsqueeze(1) for number in range(4)]
    assert min(wake(detector.backbone, x).values()) > 0
    maps = [list(detector.backbone(one, None)[0]) for one in x]
    if spiking_layers(detector.head, maps[0]):
        assert min(wake(detector.head, maps).values()) > 0
    return detector
