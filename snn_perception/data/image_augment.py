"""Augmentation of images: where each comes to lie in the input, its colours, and its boxes there.

As the YOLO family trains (Bochkovskiy et al., arXiv 2004.10934, "Mosaic"; settings of YOLOv8): four images around a
common corner on a field of twice the input's side, of which a random part, enlarged or not, becomes the input. Here
each image is brought to its final place at once, sampled once; pixels differ from those of a detour over the field.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from snn_perception.data.image_changes import ImageChanges
from snn_perception.types import U8, SensorSize

F64 = npt.NDArray[np.float64]
GREY = 114  # around images
_MOST_ASPECT = 100.0


@dataclass(frozen=True)
class Patch:
    """Where one image lies in the input: output = source * factor + (left, top), inside the clip (x1, y1, x2, y2)."""

    factor: float
    left: float
    top: float
    clip: tuple[float, float, float, float]


@dataclass(frozen=True)
class Layout:
    """One way to make an input: a patch for each image, gains of hue, saturation and value, whether it is flipped."""

    patches: tuple[Patch, ...]
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)
    flipped: bool = False


def draw_layout(
    uniform: Callable[[], float], changes: ImageChanges, sizes: Sequence[SensorSize], target: SensorSize
) -> Layout:
    """Return a random layout of one image, or of a mosaic of four.

    Every image first fits the input with its longer side. The order of the draws is part of the definition.

    Args:
        uniform: returns the next number of [0, 1).
        sizes: of the images; four make a mosaic.
    """

    def between(low: float, high: float) -> float:
        return low + (high - low) * uniform()

    sides = np.array([target.width, target.height], np.float64)
    parts = 2 if len(sizes) > 1 else 1
    corner = sides * [between(0.5, 1.5), between(0.5, 1.5)] if parts == 2 else sides / 2
    zoom = between(1 - changes.scale, 1 + changes.scale)
    middle = sides * [between(0.5 - changes.translate, 0.5 + changes.translate) for _ in range(2)]
    gains = tuple(1 + between(-1, 1) * most for most in (changes.hue, changes.saturation, changes.value))
    flipped = uniform() < changes.flip
    field = sides * parts
    origin = middle - zoom * field / 2  # of the field, in the input
    patches = []
    for number, size in enumerate(sizes):
        fit = min(target.width / size.width, target.height / size.height)
        extent = np.array([size.width, size.height]) * fit
        if parts == 1:
            low, clip = (sides - extent) / 2, (np.zeros(2), sides)
        else:
            before = np.array([number % 2 == 0, number < 2])  # left of the corner, above it
            low = corner - extent * before
            clip = (np.where(before, 0, corner), np.where(before, corner, field))
        x1, y1, x2, y2 = np.concatenate([origin + zoom * clip[0], origin + zoom * clip[1]]).tolist()
        left, top = (origin + zoom * low).tolist()
        patches.append(Patch(fit * zoom, left, top, (x1, y1, x2, y2)))
    return Layout(tuple(patches), (gains[0], gains[1], gains[2]), flipped)


def compose(images: Sequence[U8], layout: Layout, target: SensorSize) -> U8:
    """Return the input uint8 [H, W, 3] that a layout makes of images uint8 [H_i, W_i, 3]."""
    canvas = np.full((target.height, target.width, 3), GREY, np.uint8)
    for image, patch in zip(images, layout.patches, strict=True):
        columns = _span(patch.left, image.shape[1] * patch.factor, patch.clip[0::2], target.width)
        rows = _span(patch.top, image.shape[0] * patch.factor, patch.clip[1::2], target.height)
        if columns.stop > columns.start and rows.stop > rows.start:
            canvas[rows, columns] = _sampled(image, patch, rows, columns)
    if layout.gains != (1.0, 1.0, 1.0):
        canvas = change_colours(canvas, layout.gains)
    return canvas[:, ::-1].copy() if layout.flipped else canvas


def place_patch_boxes(
    xyxy: F64, patch: Patch, layout: Layout, target: SensorSize, changes: ImageChanges
) -> tuple[F64, npt.NDArray[np.bool_]]:
    """Return boxes xyxy [N, 4] of an image in pixels of the input, cut to it, and which of them to keep.

    Kept are those that more than `min_side_px` is left of on both sides, and more than `min_share` of the area that the
    image's own part of the field shows.
    """
    placed = xyxy * patch.factor + np.array([patch.left, patch.top] * 2)
    low, high = patch.clip[:2] * 2, patch.clip[2:] * 2
    shown = placed.clip(np.array(low), np.array(high))
    cut = shown.clip(0, np.array([target.width, target.height] * 2, np.float64))
    sides, before = cut[:, 2:] - cut[:, :2], (shown[:, 2:] - shown[:, :2]).prod(axis=1)
    aspect = np.maximum(sides[:, 0] / (sides[:, 1] + 1e-16), sides[:, 1] / (sides[:, 0] + 1e-16))
    kept = (sides > changes.min_side_px).all(axis=1) & (sides.prod(axis=1) > changes.min_share * before)
    if layout.flipped:
        cut[:, [0, 2]] = target.width - cut[:, [2, 0]]
    return cut, kept & (aspect < _MOST_ASPECT)


def change_colours(image: U8, gains: tuple[float, float, float]) -> U8:
    """Return an image uint8 [H, W, 3] with hue, saturation and value multiplied; hue goes round, the others are cut."""
    from snn_perception.data.image_kernels import multiply_colours  # compiles: late

    return multiply_colours(image, gains)


def _span(start: float, length: float, clip: tuple[float, ...], side: int) -> slice:
    """Return the output pixels whose middles lie in an image, in its clip and in the input."""
    low, high = max(start, clip[0], 0.0), min(start + length, clip[1], float(side))
    return slice(int(np.ceil(low - 0.5)), max(0, int(np.ceil(high - 0.5))))


def _sampled(image: U8, patch: Patch, rows: slice, columns: slice) -> U8:
    """Return those pixels of the input, sampled from the image with bilinear interpolation."""
    upper, lower, down = _taps(rows, patch.top, patch.factor, image.shape[0])
    first, second, across = _taps(columns, patch.left, patch.factor, image.shape[1])
    lines = image[upper] * (1 - down)[:, None, None] + image[lower] * down[:, None, None]
    mixed = lines[:, first] * (1 - across)[:, None] + lines[:, second] * across[:, None]
    return np.rint(mixed).astype(np.uint8)


def _taps(
    pixels: slice, start: float, factor: float, side: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return for output pixels the two source pixels of each and the second's weight."""
    at = ((np.arange(pixels.start, pixels.stop) + 0.5 - start) / factor - 0.5).clip(0, side - 1)
    low = np.floor(at).astype(np.int64)
    return low, np.minimum(low + 1, side - 1), (at - low).astype(np.float32)
