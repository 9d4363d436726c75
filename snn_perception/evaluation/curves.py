"""Precision over recall, and what was taken for what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from snn_perception.evaluation.grouping import Frames
from snn_perception.evaluation.matching import RECALLS, Accumulated, match
from snn_perception.types import I64

F64 = npt.NDArray[np.float64]
BACKGROUND = "background"


@dataclass(frozen=True, eq=False)
class Curve:
    """Precision of one class at each of the 101 recalls 0, 0.01 ... 1.

    Attributes:
        recall: float64 [101].
        precision_50: at IoU 0.5, float64 [101]; 0 at recalls that are not reached.
        precision: mean over the IoUs 0.5, 0.55 ... 0.95, float64 [101].
        score_50: lowest score that reaches the recall at IoU 0.5, float64 [101]; 0 where it is not reached.
    """

    recall: F64
    precision_50: F64
    precision: F64
    score_50: F64

    def as_dict(self) -> dict[str, list[float]]:
        """Return plain lists for JSON."""
        return {name: getattr(self, name).tolist() for name in self.__dataclass_fields__}

    @staticmethod
    def of(accumulated: Accumulated) -> Curve | None:
        """Return the curve of a class, or None where it has no ground truth."""
        if not accumulated.positives:
            return None
        precision = accumulated.precision
        return Curve(RECALLS, precision[0], precision.mean(axis=0), accumulated.score[0])


@dataclass(frozen=True, eq=False)
class Confusion:
    """How often each class was taken for each.

    Attributes:
        names: the classes, then ``background``.
        counts: int64 [K + 1, K + 1]; row: what was there, column: what was said. The last row counts detections of
            nothing, the last column what was missed.
        min_score: detections below this were left out.
        min_iou: overlap from which a detection is of a box. Each box goes to one detection, best score first, of
            whatever class.
    """

    names: tuple[str, ...]
    counts: I64
    min_score: float
    min_iou: float = 0.5

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "names": list(self.names),
            "counts": self.counts.tolist(),
            "min_score": self.min_score,
            "min_iou": self.min_iou,
        }


def confusion(frames: Frames, classes: Sequence[str], min_score: float, min_iou: float = 0.5) -> Confusion:
    """Return which class was taken for which, of detections with at least `min_score`."""
    truth = frames.truth
    found = frames.found[np.flatnonzero(frames.found.score >= np.float32(min_score))]
    found = found[np.lexsort((-found.score, found.image))]  # best first in each image, whatever the class
    owner = match(truth, found, thresholds=np.array([min_iou]))[0].truth_row[0]
    background = len(classes)
    inside = owner >= 0
    outside_crowds = ~(inside & truth.crowd[owner]) if len(truth) else ~inside
    found, owner = found[outside_crowds], owner[outside_crowds]
    said = np.where(owner >= 0, truth.class_id[owner] if len(truth) else background, background)
    missed = ~truth.crowd
    missed[owner[owner >= 0]] = False
    counts = np.zeros((background + 1, background + 1), np.int64)
    np.add.at(counts, (said, found.class_id), 1)
    counts[:, background] = np.bincount(truth.class_id[missed], minlength=background + 1)
    return Confusion((*classes, BACKGROUND), counts, float(min_score), min_iou)
