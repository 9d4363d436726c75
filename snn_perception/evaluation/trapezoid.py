"""Average precision as the YOLO family's own validators compute it: for comparison with figures that come from those.

It is not that of pycocotools: the area under the interpolated curve is a trapezoid sum, no number of detections per
image is fixed, and pairs are chosen by overlap first. Expect a few tenths of a point of difference.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from snn_perception.evaluation.grouping import Boxes
from snn_perception.evaluation.matching import IOUS, RECALLS

F64 = npt.NDArray[np.float64]


def trapezoid_scores(truth: Boxes, found: Boxes, classes: int) -> dict[str, float]:
    """Return ``AP`` over IoU 0.50:0.05:0.95 and ``AP50``: means over the classes with ground truth, -1 without any.

    Args:
        truth: boxes in the order of their images; crowds are left out. found: the same, of each image in any order.
    """
    truth = truth[~truth.crowd]
    each = [_of_class(truth[truth.class_id == k], found[found.class_id == k]) for k in range(classes)]
    scored = [precision for precision in each if precision is not None]
    if not scored:
        return {"AP": -1.0, "AP50": -1.0}
    mean = np.mean(scored, axis=0)
    return {"AP": float(mean.mean()), "AP50": float(mean[0])}


def average_precision(recall: F64, precision: F64) -> float:
    """Return the area under a curve [N] of growing recall: the precision's envelope at 101 recalls, as trapezoids.

    The curve starts at recall 0 with precision 1 and ends at recall 1 with precision 0.
    """
    reached = np.concatenate([[0.0], recall, [1.0]])
    best = np.maximum.accumulate(np.concatenate([[1.0], precision, [0.0]])[::-1])[::-1]
    heights = np.interp(RECALLS, reached, best)
    return float(((heights[1:] + heights[:-1]) / 2 * np.diff(RECALLS)).sum())


def paired(overlap: F64, thresholds: Sequence[float] | F64 = IOUS) -> npt.NDArray[np.bool_]:
    """Return bool [T, N], which detections of an image and class count as correct at each IoU.

    Every detection keeps the label that it overlaps most; of the detections with the same label the first counts.

    Args:
        overlap: [M, N] of labels and detections, these best score first.
    """
    correct = np.zeros((len(thresholds), overlap.shape[1]), bool)
    if not overlap.size:
        return correct
    label, most = overlap.argmax(axis=0), overlap.max(axis=0)
    for row, threshold in zip(correct, thresholds, strict=True):
        near = np.flatnonzero(most >= threshold)
        row[near[np.unique(label[near], return_index=True)[1]]] = True
    return correct


def _of_class(truth: Boxes, found: Boxes) -> F64 | None:
    """Return the average precision at each IoU, None without ground truth."""
    if not len(truth):
        return None
    if not len(found):
        return np.zeros(len(IOUS))  # their curve of nothing would have an area of a half
    found = found[np.lexsort((-found.score, found.image))]
    correct = np.zeros((len(IOUS), len(found)), bool)
    for image in np.intersect1d(truth.image, found.image):
        there, here = (slice(*np.searchsorted(boxes.image, [image, image + 1])) for boxes in (truth, found))
        correct[:, here] = paired(_overlap(truth.xywh[there], found.xywh[here]))
    hits = correct[:, np.argsort(-found.score, kind="stable")].cumsum(axis=1)
    tried = np.arange(1, len(found) + 1)
    return np.array([average_precision(row / len(truth), row / tried) for row in hits.astype(np.float64)])


def _overlap(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> F64:
    """Return the IoU [M, N] of boxes xywh [M, 4] and [N, 4]."""
    a, b = a.astype(np.float64)[:, None], b.astype(np.float64)[None]
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    shared = (high - low).clip(min=0).prod(axis=-1)
    iou: F64 = shared / np.maximum(a[..., 2:].prod(axis=-1) + b[..., 2:].prod(axis=-1) - shared, 1e-12)
    return iou
