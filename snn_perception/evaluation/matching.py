"""Which detection finds which box, matched by pycocotools, and the precision and recall that follow.

The greedy match is that of pycocotools' ``evaluateImg``, fed image by image. Detections that overlap nothing cannot
match and are left out of its loops, which changes no figure and saves most of the time. What it accumulates in Python
lists is done here on columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from snn_perception.evaluation.grouping import Boxes, rank_in_groups
from snn_perception.types import I64

F64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

IOUS: F64 = np.linspace(0.5, 0.95, 10)
RECALLS: F64 = np.linspace(0.0, 1.0, 101)
_ALL = (0.0, 1e10)
# Names and bounds of COCO's area ranges in square pixels, both ends included.
AREAS = {"all": _ALL, "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}


@dataclass(frozen=True, eq=False)
class Matches:
    """What became of each detection in one area range.

    Attributes:
        truth_row: int32 [T, N], the box that a detection found at each IoU; -1 for none.
        ignored: bool [T, N], detections that count neither way.
        positives: boxes that are to be found.
    """

    truth_row: npt.NDArray[np.int32]
    ignored: Mask
    positives: int


@dataclass(frozen=True, eq=False)
class Accumulated:
    """Precision [T, R] and lowest score [T, R] at each recall, and highest recall [T]; -1 without ground truth."""

    precision: F64
    score: F64
    recall: F64
    positives: int


def match(
    truth: Boxes,
    found: Boxes,
    areas: Sequence[tuple[float, float]] = (_ALL,),
    ignored: Mask | None = None,
    thresholds: F64 = IOUS,
) -> list[Matches]:
    """Return the matches in each area range, of boxes taken as one class.

    Args:
        truth: boxes in the order of their images. found: the same, in each image best first.
        ignored: bool [M], boxes that are COCO ignore regions besides crowds: what lies mostly inside one counts neither
            way.
    """
    ignored = truth.crowd if ignored is None else ignored | truth.crowd
    truth_area, found_area = truth.area, found.area
    matches = []
    for low, high in areas:
        row = np.full((len(thresholds), len(found)), -1, np.int32)
        outside = np.tile((found_area < low) | (found_area > high), (len(thresholds), 1))
        counts = ~ignored & (truth_area >= low) & (truth_area <= high)
        matches.append(Matches(row, outside, int(counts.sum())))
    matcher = _ImageMatcher(thresholds)
    for there, here in _shared_images(truth.image, found.image):
        matcher.match(
            (there, truth.xywh[there], truth_area[there], ignored[there]),
            (here, found.xywh[here], found_area[here], found.score[here]),
            areas,
            matches,
        )
    return matches


def _shared_images(truth: I64, found: I64) -> list[tuple[slice, slice]]:
    """Return the rows of each image that has boxes of both kinds."""
    images = np.intersect1d(truth, found)
    bounds = [np.searchsorted(column, images, side) for column in (truth, found) for side in ("left", "right")]
    return [(slice(a, b), slice(c, d)) for a, b, c, d in zip(*(map(int, bound) for bound in bounds), strict=True)]


class _ImageMatcher:
    """pycocotools' evaluator, given one image at a time."""

    def __init__(self, thresholds: F64) -> None:
        from pycocotools.cocoeval import COCOeval
        from pycocotools.mask import iou

        self._iou = iou
        self._evaluator = COCOeval(iouType="bbox")
        self._evaluator.params.iouThrs = thresholds
        self._least = thresholds[0]

    def match(
        self,
        truth: tuple[slice, Any, Any, Any],
        found: tuple[slice, Any, Any, Any],
        areas: Sequence[tuple[float, float]],
        matches: Sequence[Matches],
    ) -> None:
        """Enter what becomes of the detections of one image into `matches`, of which there is one for each range."""
        there, truth_xywh, truth_area, ignored = truth
        here, found_xywh, found_area, score = found
        overlap = self._iou(found_xywh.astype(np.float64), truth_xywh.astype(np.float64), ignored.astype(np.uint8))
        near = np.flatnonzero(overlap.max(axis=1) >= self._least)
        if not len(near):
            return
        # Ids start at 1: pycocotools reads a match with id 0 as none, which loses a box (or a detection).
        boxes = [
            {"id": number, "area": area, "iscrowd": int(crowd), "ignore": int(crowd)}
            for number, (area, crowd) in enumerate(zip(truth_area.tolist(), ignored.tolist(), strict=True), 1)
        ]
        detections = [
            {"id": number, "area": area, "score": value}
            for number, (area, value) in enumerate(zip(found_area[near].tolist(), score[near].tolist(), strict=True), 1)
        ]
        evaluator, image = self._evaluator, (0, 0)
        evaluator._gts, evaluator._dts = {image: boxes}, {image: detections}
        evaluator.ious = {image: overlap[near]}
        columns = near + here.start
        for area, into in zip(areas, matches, strict=True):
            seen = evaluator.evaluateImg(*image, list(area), len(near))
            number = seen["dtMatches"].astype(np.int32)
            into.truth_row[:, columns] = np.where(number > 0, number - 1 + there.start, -1)
            into.ignored[:, columns] = seen["dtIgnore"]


def accumulate(matches: Matches, found: Boxes, limit: int) -> Accumulated:
    """Return precision and recall when of each image the best `limit` detections count.

    Precision at a recall is the highest at that recall or above; 0 where it is not reached (101-point interpolation).
    """
    thresholds, points = len(matches.ignored), len(RECALLS)
    if not matches.positives:
        absent = -np.ones((thresholds, points))
        return Accumulated(absent, absent, -np.ones(thresholds), 0)
    rows = np.flatnonzero(rank_in_groups(found.image) < limit)
    rows = rows[np.argsort(-found.score[rows], kind="stable")]  # equal scores: in the order of the images
    score = found.score[rows].astype(np.float64)
    precision, at_score = np.zeros((thresholds, points)), np.zeros((thresholds, points))
    recall = np.zeros(thresholds)
    for i in range(thresholds if len(rows) else 0):
        hit, counts = matches.truth_row[i, rows] >= 0, ~matches.ignored[i, rows]
        true, false = np.cumsum(hit & counts, dtype=float), np.cumsum(~hit & counts, dtype=float)
        reached = true / matches.positives
        exact = true / (false + true + np.spacing(1))
        best = np.maximum.accumulate(exact[::-1])[::-1]
        place = np.searchsorted(reached, RECALLS, side="left")
        inside = place < len(rows)
        precision[i, inside], at_score[i, inside] = best[place[inside]], score[place[inside]]
        recall[i] = reached[-1]
    return Accumulated(precision, at_score, recall, matches.positives)
