"""Evaluation vectors: labels and detections of recordings, and the scores under the filters that the recipe states."""

from __future__ import annotations

from typing import Any

import numpy as np

from snn_perception.data.labels import Labels, labels_from_rows
from snn_perception.evaluation.coco import STATS, RecordingResult, coco_scores
from snn_perception.evaluation.protocol import Protocol
from snn_perception.registry import Registry
from snn_perception.types import SensorSize
from tests.golden_support.vectors import Vector

EXACT = 1e-12
_FILTER_KEYS = {"skip_ts", "min_diag", "min_side"}
# Counts of the recipe -> ours.
_COUNTS = {
    "n_gt_after_filter": "truths_kept",
    "n_dt_after_filter": "detections_kept",
    "n_images": "images",
    "n_gt_used": "ground_truths",
    "n_dt_used": "detections",
}


def check_evaluation(vector: Vector, registry: Registry) -> None:
    assert tuple(vector.json["stat_order"]) == STATS
    assert vector.json["cases"]
    for case, recipe in vector.json["cases"].items():
        results = _results(vector, case, recipe)
        size = SensorSize(recipe["height"], recipe["width"])
        assert set(recipe["filters"]) == set(recipe["expected"])
        for name, rule in recipe["filters"].items():
            scores = coco_scores(results, recipe["classes"], size, _protocol(name, rule, recipe["time_tol_us"]))
            if (stored := f"{case}__expected__{name}") in vector.arrays:
                vector.compare(stored, np.array([scores.stats[stat] for stat in STATS]))
            _check_expected(f"{vector}: {case}/{name}", recipe["expected"][name], scores)


def _check_expected(where: str, expected: dict[str, Any], scores: Any) -> None:
    known = {*STATS, *_COUNTS, "per_class"}
    assert set(expected) <= known, f"{where}: figures that nobody compares: {sorted(set(expected) - known)}"
    for stat in set(expected) & set(STATS):
        _same(f"{where}: {stat}", scores.stats[stat], expected[stat])
    for count in set(expected) & set(_COUNTS):
        ours = getattr(scores, _COUNTS[count])
        assert ours == expected[count], f"{where}: {count}: expected {expected[count]}, got {ours}"
    for name, figures in expected.get("per_class", {}).items():
        for stat, value in figures.items():
            _same(f"{where}: {name} {stat}", scores.per_class[name][stat], value)


def _same(where: str, actual: float, expected: float) -> None:
    assert abs(actual - expected) <= EXACT, f"{where}: expected {expected}, got {actual}"


def _protocol(name: str, rule: dict[str, float] | None, tolerance_us: int) -> Protocol:
    """Return the protocol with the recipe's own numbers."""
    if rule is None:
        return Protocol(name, tolerance_us=tolerance_us)
    assert set(rule) == _FILTER_KEYS, f"{name}: filter terms {sorted(rule)}"
    return Protocol(
        name,
        skip_us=int(rule["skip_ts"]),
        min_diagonal_px=rule["min_diag"],
        min_side_px=rule["min_side"],
        tolerance_us=tolerance_us,
    )


def _results(vector: Vector, case: str, recipe: dict[str, Any]) -> list[RecordingResult]:
    results = []
    for number, (truth_rows, found_rows) in enumerate(zip(recipe["gt"], recipe["dt"], strict=True)):
        truth = _labels(vector, f"{case}__gt__{number}", truth_rows)
        found = _labels(vector, f"{case}__dt__{number}", found_rows)
        results.append(
            RecordingResult(f"{case}/{number}", truth, found.t_us, found.xywh, found.confidence, found.class_id)
        )
    return results


def _labels(vector: Vector, name: str, rows: list[list[float]]) -> Labels:
    """Return the boxes that the recipe lists, which are those of the stored array where there is one."""
    table = np.array(rows, np.float64).reshape(-1, 8)
    listed = Labels(
        table[:, 0].astype(np.int64),
        table[:, 1:5].astype(np.float32),
        table[:, 5].astype(np.int64),
        table[:, 7].astype(np.int64),
        table[:, 6].astype(np.float32),
    )
    if name in vector.arrays:
        stored = labels_from_rows(vector.input(name), f"{vector}/{name}")[0]
        for column in ("t_us", "xywh", "class_id", "confidence"):
            np.testing.assert_array_equal(getattr(stored, column), getattr(listed, column), err_msg=f"{name}/{column}")
    return listed
