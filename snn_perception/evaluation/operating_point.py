"""The score threshold at which a detector balances misses and false alarms best: what a node would be set to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from snn_perception.evaluation.grouping import group
from snn_perception.evaluation.matching import match
from snn_perception.evaluation.protocol import Protocol
from snn_perception.evaluation.results import RecordingResult
from snn_perception.types import SensorSize

FALLBACK_SCORE = 0.3  # the node's, where no detection is right
MIN_IOU = 0.5


@dataclass(frozen=True)
class OperatingPoint:
    """Precision, recall and their harmonic mean over all classes when detections from `score` on count, IoU 0.5."""

    score: float
    precision: float
    recall: float
    f1: float

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def best_operating_point(
    results: Sequence[RecordingResult], classes: int, size: SensorSize, protocol: Protocol
) -> OperatingPoint:
    """Return the threshold with the highest F1; of equal ones the highest."""
    frames = group(results, classes, size, protocol)
    scores, hits, positives = [], [], int((~frames.truth.crowd).sum())
    for number in range(classes):
        truth = frames.truth[frames.truth.class_id == number]
        found = frames.found[frames.found.class_id == number]
        seen = match(truth, found, thresholds=np.array([MIN_IOU]))[0]
        counts = ~seen.ignored[0]
        scores.append(found.score[counts])
        hits.append(seen.truth_row[0, counts] >= 0)
    score, hit = np.concatenate(scores), np.concatenate(hits)
    if not hit.any():
        return OperatingPoint(FALLBACK_SCORE, 0.0, 0.0, 0.0)
    order = np.argsort(-score, kind="stable")
    score, right = score[order], np.cumsum(hit[order])
    f1 = 2 * right / (np.arange(1, len(score) + 1) + positives)
    last_of_its_score = np.append(score[1:] != score[:-1], True)
    at = int(np.argmax(np.where(last_of_its_score, f1, -1.0)))
    return OperatingPoint(float(score[at]), float(right[at] / (at + 1)), float(right[at] / positives), float(f1[at]))
