"""Where an image and its boxes go in a model's input, fixed or drawn by chance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from torch import Tensor

from snn_perception.events.letterbox import Interpolation, Letterbox
from snn_perception.types import SensorSize

F64 = npt.NDArray[np.float64]


def draw_placing(
    uniform: Callable[[], float],
    source: SensorSize,
    target: SensorSize,
    *,
    jitter: float = 0.3,
    scale: tuple[float, float] = (0.4, 1.0),
    interpolation: Interpolation = "bilinear",
) -> tuple[Letterbox, bool]:
    """Return a random placing and whether the input is flipped left to right: EAS-SNN's training augmentation.

    The image's proportions change by a / b with both within 1 +- `jitter`, its longer side is drawn from `scale` times
    the input's, and it lies anywhere. The order of the draws is part of the definition. Where an input is not square
    and the image would not fit, it becomes as large as it can be.

    Args:
        uniform: returns the next number of [0, 1).
        jitter: 0.3 for GEN1 and 1Mpx, 0.1 for N-Caltech101.
    """

    def between(low: float, high: float) -> float:
        return low + (high - low) * uniform()

    ratio = source.width / source.height * between(1 - jitter, 1 + jitter) / between(1 - jitter, 1 + jitter)
    share = between(*scale)
    if ratio < 1:
        height = int(share * target.height)
        width = int(height * ratio)
    else:
        width = int(share * target.width)
        height = int(width / ratio)
    if height > target.height:  # never in the square inputs that it was published for
        height, width = target.height, int(target.height * ratio)
    if width > target.width:
        height, width = int(target.width / ratio), target.width
    left, top = int(between(0, target.width - width)), int(between(0, target.height - height))
    flipped = uniform() < 0.5
    scaled = SensorSize(max(1, height), max(1, width))
    return Letterbox(source, target, scaled, left, top, interpolation=interpolation), flipped


def place_image(image: Tensor, placing: Letterbox, *, flipped: bool = False) -> Tensor:
    """Return floating-point images [..., H, W] placed in the input [..., H', W']."""
    placed = placing.apply(image)
    return placed.flip(-1) if flipped else placed


def place_boxes(
    xyxy: F64, placing: Letterbox, *, flipped: bool = False, exact: bool = False
) -> tuple[F64, npt.NDArray[np.bool_]]:
    """Return boxes xyxy [N, 4] of the source in pixels of the input, and which of them to keep.

    They are cut to the input, and kept if more than 1 px wide and high, as EAS-SNN does it.

    Args:
        exact: keep fractions of pixels, which EAS-SNN drops before and after boxes are enlarged.
    """
    placed = placing.boxes_to_input(xyxy) if exact else np.trunc(placing.boxes_to_input(np.trunc(xyxy)))
    if flipped:
        placed[:, [0, 2]] = placing.target.width - placed[:, [2, 0]]
    placed = placed.clip(0, np.array([placing.target.width, placing.target.height] * 2, np.float64))
    return placed, (placed[:, 2] - placed[:, 0] > 1) & (placed[:, 3] - placed[:, 1] > 1)


def centre_boxes(xywh: npt.NDArray[np.floating], size: SensorSize) -> tuple[F64, npt.NDArray[np.bool_]]:
    """Return boxes (left, top, width, height) [N, 4] as (centre x, centre y, width, height), and which to keep.

    As SpikeYOLO prepares GEN1: each of the four is cut to 0..side by itself, then the centre once more; boxes without
    width or height go. (Cutting the corner leaves the size as it was, so the far edge moves; see `window_targets` for
    boxes that are cut as such.)
    """
    limit = np.array([size.width, size.height] * 2, np.float64)
    cut = np.asarray(xywh, np.float64).clip(0, limit)
    centres = np.concatenate([(cut[:, :2] + cut[:, 2:] / 2).clip(0, limit[:2]), cut[:, 2:]], axis=1)
    return centres, (cut[:, 2] > 0) & (cut[:, 3] > 0)


def place_centre_boxes(centres: F64, placing: Letterbox) -> F64:
    """Return (centre x, centre y, width, height) [N, 4] of the source as shares of the input.

    The padding counts as half of the rest on either side, also where the image itself lies half a pixel off, as in
    SpikeYOLO's loader.
    """
    ratio = np.array([placing.scaled.width / placing.source.width, placing.scaled.height / placing.source.height] * 2)
    target = np.array([placing.target.width, placing.target.height], np.float64)
    rest = (target - [placing.scaled.width, placing.scaled.height]) / 2
    return (centres * ratio + np.concatenate([rest, np.zeros(2)])) / np.tile(target, 2)
