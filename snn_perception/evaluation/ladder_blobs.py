"""A rung of the sanity ladder that sees events and knows nothing: dense places of the image, with a box around each.

It tells how much of an AP a data set gives away by event density alone. Where a camera stands still, what moves is what
emits; where it drives, everything does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from snn_perception.evaluation.ladder_boxes import FoundBoxes, without_doubles
from snn_perception.evaluation.ladder_components import component_boxes
from snn_perception.types import F32, I64, EventArray

F64 = npt.NDArray[np.float64]
_REFERENCE_WIDTH_PX = 304  # lengths are stated for this image width


@dataclass(frozen=True)
class BlobOptions:
    """How blobs are found. The defaults were chosen among about a hundred by their AP on synthetic training recordings.

    Attributes:
        most_of_a_pixel: events of one pixel that count, so that a lamp or a hot pixel makes no blob of its own.
        smoothing_px: standard deviations of the Gaussians that the count image is smoothed with, each tried.
        levels: thresholds, as multiples of the mean of the smoothed image, each tried on each.
        trim: share of a blob's events left out at each end of each axis, which takes the smoothing's fringe away.
        min_side_px: smallest side of a box.
        ring: width of the surroundings that a blob is compared with, as a share of its sides.
        tall: boxes higher than this many widths are pedestrians, others cars.
        max_iou: of two blobs of one class that overlap by more, the better one stays.
        most: blobs of a class in one image.
    """

    most_of_a_pixel: int = 8
    smoothing_px: Sequence[float] = (2.0, 4.0, 8.0)
    levels: Sequence[float] = (0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
    trim: float = 0.02
    min_side_px: int = 8
    ring: float = 0.5
    tall: float = 1.4
    max_iou: float = 0.5
    most: int = 50


def count_image(events: EventArray, most_of_a_pixel: int) -> F32:
    """Return how many events each pixel saw, polarities together, at most so many: float32 [H, W]."""
    size = events.size
    flat = events.y.astype(np.int64) * size.width + events.x
    counts = np.bincount(flat, minlength=size.height * size.width).reshape(size.height, size.width)
    return np.minimum(counts, most_of_a_pixel).astype(np.float32)


def find_blobs(events: EventArray, classes: Sequence[str], options: BlobOptions | None = None) -> FoundBoxes:
    """Return the dense places of one window's events as detections, best first.

    Args:
        classes: names; tall blobs are of ``pedestrian``, others of ``car``, and where a class is missing none are.
    """
    options = options or BlobOptions()
    if not len(events):
        return FoundBoxes.none()
    scale = events.size.width / _REFERENCE_WIDTH_PX
    counts = count_image(events, options.most_of_a_pixel)
    boxes = np.concatenate([_boxes_at(counts, sigma * scale, options, scale) for sigma in options.smoothing_px])
    score = contrast(counts, boxes, options.ring)
    found = FoundBoxes(_xywh(boxes), score, _classes_of(boxes, classes, options.tall))
    found = found[(found.class_id >= 0) & (found.score > 0)]
    return without_doubles(found, options.max_iou, options.most)


def _boxes_at(counts: F32, sigma: float, options: BlobOptions, scale: float) -> I64:
    """Return left, top, right, bottom [K, 4] of all blobs of one smoothing, at every level."""
    smooth = smoothed(counts, sigma)
    mean = float(smooth.mean())
    least = options.min_side_px * scale
    boxes = [np.empty((0, 4), np.int64)]
    for level in options.levels:
        blobs = component_boxes(smooth > level * mean)[:, :4]
        blobs = blobs[((blobs[:, 2:] - blobs[:, :2]) >= least).all(axis=1)]
        boxes.append(_trimmed(counts, blobs, options.trim))
    every = np.unique(np.concatenate(boxes), axis=0)
    return every[((every[:, 2:] - every[:, :2]) >= least).all(axis=1)]


def smoothed(image: F32, sigma: float) -> F32:
    """Return an image [H, W] after a Gaussian of this standard deviation in pixels; beyond the border it is empty."""
    reach = max(1, round(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    for _ in range(2):  # rows, then columns
        length = image.shape[0]
        padded = np.pad(image, ((reach, reach), (0, 0)))
        total = np.zeros_like(image)
        for start, weight in enumerate(weights.astype(np.float32)):
            total += weight * padded[start : start + length]
        image = total.T.copy()
    return image


def _trimmed(counts: F32, boxes: I64, share: float) -> I64:
    """Return boxes [K, 4] cut to where all but a share of their events lie, at each end of each axis."""
    if share <= 0:
        return boxes
    tight = []
    for left, top, right, bottom in boxes.tolist():
        inside = counts[top:bottom, left:right]
        x1, x2 = _middle(inside.sum(axis=0), share)
        y1, y2 = _middle(inside.sum(axis=1), share)
        tight.append((left + x1, top + y1, left + x2, top + y2))
    return np.array(tight, np.int64).reshape(-1, 4)


def _middle(profile: F32, share: float) -> tuple[int, int]:
    """Return first and last place (half-open) of a profile without a share of its sum at each end."""
    total = np.cumsum(profile, dtype=np.float64)
    if not total[-1]:
        return 0, len(profile)
    first, last = np.searchsorted(total, [share * total[-1], (1 - share) * total[-1]])
    return int(first), int(min(last + 1, len(profile)))


def contrast(counts: F32, boxes: I64, ring: float) -> F32:
    """Return how much denser boxes [K, 4] are than the ring around them: float32 [K], in -1 to 1.

    The difference of the two densities over their sum and the mean density of the image, which keeps a few events in
    the middle of nothing from being a certain find.
    """
    height, width = counts.shape
    total = np.zeros((height + 1, width + 1))
    total[1:, 1:] = counts.cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
    sides = boxes[:, 2:] - boxes[:, :2]
    margin = np.maximum(np.rint(ring * sides), 2).astype(np.int64)
    low = np.maximum(boxes[:, :2] - margin, 0)
    high = np.minimum(boxes[:, 2:] + margin, [width, height])
    inside, pixels = _sum_in(total, boxes), sides.prod(axis=1)
    around = _sum_in(total, np.concatenate([low, high], axis=1)) - inside
    ring_pixels = (high - low).prod(axis=1) - pixels
    density, beside = inside / pixels, around / np.maximum(ring_pixels, 1)
    return ((density - beside) / (density + beside + counts.mean(dtype=np.float64))).astype(np.float32)


def _sum_in(total: F64, boxes: I64) -> F64:
    left, top, right, bottom = boxes.T
    return total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left]


def _xywh(boxes: I64) -> F32:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(np.float32)


def _classes_of(boxes: I64, classes: Sequence[str], tall: float) -> I64:
    numbers = {name: number for number, name in enumerate(classes)}
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    is_tall = height > tall * width
    return np.where(is_tall, numbers.get("pedestrian", -1), numbers.get("car", -1)).astype(np.int64)
