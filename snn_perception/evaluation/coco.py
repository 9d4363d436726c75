"""COCO scores of a set of recordings under an evaluation protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from snn_perception.errors import SnnPerceptionError
from snn_perception.evaluation.curves import Curve, confusion
from snn_perception.evaluation.grouping import Frames, group
from snn_perception.evaluation.matching import AREAS, Accumulated, Mask, accumulate, match
from snn_perception.evaluation.protocol import Protocol
from snn_perception.evaluation.results import STATS, RecordingResult, Scores, SubsetScores
from snn_perception.evaluation.trapezoid import trapezoid_scores
from snn_perception.types import SensorSize

__all__ = ["STATS", "RecordingResult", "Scores", "SubsetScores", "coco_scores"]

CONFUSION_SCORE = 0.3
_AP50, _AP75 = 0, 5  # places in IOUS
_Key = tuple[str, int]  # area range, detections per image


def coco_scores(
    results: Sequence[RecordingResult],
    classes: Sequence[str],
    size: SensorSize,
    protocol: Protocol,
    *,
    confusion_score: float = CONFUSION_SCORE,
) -> Scores:
    """Return the scores of all recordings together.

    COCO's box evaluation (Lin et al., ECCV 2014): IoU 0.50:0.05:0.95, 101 recalls, areas split at 32^2 and 96^2 px,
    means over the classes that have ground truth. The match itself is made by pycocotools.

    Args:
        results: one for each recording; their order settles ties of equal scores.
        classes: names; a label's or detection's class is an index into them. Labels of other classes make their time an
            image like any other but are nothing to be found.
        size: of the images the boxes are in.
        confusion_score: detections below this are left out of the confusion matrix.

    Raises:
        SnnPerceptionError: for a detection of a class that is not in the list.
    """
    for result in results:
        _check_classes(result, classes)
    frames = group(results, len(classes), size, protocol)
    limits = tuple(min(limit, protocol.max_detections) for limit in (1, 10, protocol.max_detections))
    by_class = [_score_class(frames, number, limits) for number in range(len(classes))]
    full = limits[-1]
    curves = {name: Curve.of(scored["all", full]) for name, scored in zip(classes, by_class, strict=True)}
    moving, silent = _by_motion(results, frames, classes, full)
    return Scores(
        stats=_stats(by_class, limits),
        per_class={name: _of_class(scored["all", full]) for name, scored in zip(classes, by_class, strict=True)},
        images=frames.images,
        ground_truths=int((~frames.truth.crowd).sum()),
        detections=frames.compared,
        truths_kept=frames.truths_kept,
        detections_kept=frames.detections_kept,
        empty_frames=frames.empty,
        detections_per_empty_frame=frames.found_in_empty / frames.empty if frames.empty else None,
        moving=moving,
        silent=silent,
        curves={name: curve for name, curve in curves.items() if curve is not None},
        confusion=confusion(frames, classes, confusion_score),
        trapezoid=trapezoid_scores(frames.truth, frames.found, len(classes)) if protocol.trapezoid else None,
    )


def _check_classes(result: RecordingResult, classes: Sequence[str]) -> None:
    foreign = (result.class_id < 0) | (result.class_id >= len(classes))
    if foreign.any():
        raise SnnPerceptionError(
            f"{result.name}: expected detections of the classes 0..{len(classes) - 1} ({', '.join(classes)}), "
            f"got {int(result.class_id[np.argmax(foreign)])}; map the model's classes to these by name"
        )


def _score_class(frames: Frames, number: int, limits: Sequence[int]) -> dict[_Key, Accumulated]:
    """Return what one class reached in each area range, and in all of them at each limit."""
    truth = frames.truth[frames.truth.class_id == number]
    found = frames.found[frames.found.class_id == number]
    matches = dict(zip(AREAS, match(truth, found, tuple(AREAS.values())), strict=True))
    scored = {(area, limits[-1]): accumulate(each, found, limits[-1]) for area, each in matches.items()}
    return scored | {("all", limit): accumulate(matches["all"], found, limit) for limit in limits[:-1]}


def _stats(by_class: Sequence[Mapping[_Key, Accumulated]], limits: Sequence[int]) -> dict[str, float]:
    """Return the twelve figures, as pycocotools summarises them."""
    full = limits[-1]

    def precision(area: str = "all", at: slice = slice(None)) -> float:
        return _mean(np.stack([scored[area, full].precision[at] for scored in by_class], axis=-1))

    def recall(area: str = "all", limit: int = full) -> float:
        return _mean(np.stack([scored[area, limit].recall for scored in by_class], axis=-1))

    if not by_class:
        return dict.fromkeys(STATS, -1.0)
    values = [
        precision(),
        precision(at=slice(_AP50, _AP50 + 1)),
        precision(at=slice(_AP75, _AP75 + 1)),
        *(precision(area) for area in ("small", "medium", "large")),
        *(recall(limit=limit) for limit in limits),
        *(recall(area) for area in ("small", "medium", "large")),
    ]
    return dict(zip(STATS, values, strict=True))


def _mean(values: Any) -> float:
    """Return the mean of what is not -1; -1 where nothing is left."""
    values = values[values > -1]
    return float(values.mean()) if values.size else -1.0


def _of_class(scored: Accumulated) -> dict[str, float]:
    return {
        "AP": _mean(scored.precision),
        "AP50": _mean(scored.precision[_AP50]),
        "AP75": _mean(scored.precision[_AP75]),
        "AR_100": _mean(scored.recall),
    }


def _by_motion(
    results: Sequence[RecordingResult], frames: Frames, classes: Sequence[str], limit: int
) -> tuple[SubsetScores | None, SubsetScores | None]:
    """Return the scores over moving and over silent ground truth, or None twice if a recording does not tell."""
    if not len(frames.truth) or any(result.silent is None and len(result.truth) for result in results):
        return None, None
    silent = frames.truth.silent
    return _subset(frames, classes, ~silent, limit), _subset(frames, classes, silent, limit)


def _subset(frames: Frames, classes: Sequence[str], chosen: Mask, limit: int) -> SubsetScores:
    """Return the scores over the chosen ground truth; the rest of it becomes COCO ignore regions."""
    per_class = {}
    accumulated = []
    for number, name in enumerate(classes):
        rows, found = frames.truth.class_id == number, frames.found[frames.found.class_id == number]
        matches = match(frames.truth[rows], found, ignored=~chosen[rows])[0]
        accumulated.append(accumulate(matches, found, limit))
        figures = _of_class(accumulated[-1])
        per_class[name] = {stat: figures[stat] for stat in ("AP", "AP50", "AR_100")}
    precision = np.stack([each.precision for each in accumulated], axis=-1)
    recall = np.stack([each.recall for each in accumulated], axis=-1)
    stats = {"AP": _mean(precision), "AP50": _mean(precision[_AP50]), "AR_100": _mean(recall)}
    return SubsetScores(int(chosen.sum()), stats, per_class)
