"""The average precision of the YOLO family's own validators, against plain loops."""

from dataclasses import replace

import numpy as np
import pytest

from snn_perception.evaluation.coco import coco_scores
from snn_perception.evaluation.protocol import PROTOCOLS
from snn_perception.evaluation.trapezoid import average_precision, paired
from tests.evaluation_support import CLASSES, GEN1, random_results

YOLO = PROTOCOLS["yolo"]


def test_the_area_under_a_curve_by_hand():
    assert average_precision(np.array([0.5]), np.array([1.0])) == pytest.approx(0.5 + 0.25, abs=1e-9)
    assert average_precision(np.array([1.0]), np.array([1.0])) == pytest.approx(1.0, abs=0.006)
    rising = average_precision(np.array([0.25, 0.5]), np.array([0.3, 0.6]))
    assert rising == pytest.approx(average_precision(np.array([0.5]), np.array([0.6])), abs=0.11)


def test_pairs_are_chosen_by_overlap_and_then_by_score():
    overlap = np.array([[0.6, 0.9, 0.0], [0.55, 0.0, 0.7]])  # labels, detections best first
    correct = paired(overlap, [0.5, 0.65, 0.95])
    # The second detection overlaps its label more, but the first has the higher score, and both chose that label.
    assert correct.tolist() == [[True, False, True], [False, True, True], [False, False, False]]
    assert paired(np.zeros((0, 3))).shape == (10, 3) and not paired(np.zeros((2, 0))).size


def plain(results, threshold: float) -> float:
    """Return the mean over classes by loops over images, labels and detections."""
    each = []
    for k in range(len(CLASSES)):
        rows, labels = [], 0
        for result in results:
            for t in np.unique(result.truth.t_us):
                truth = result.truth.xywh[(result.truth.t_us == t) & (result.truth.class_id == k)].astype(float)
                here = np.flatnonzero((result.t_us == t) & (result.class_id == k))
                here = here[np.argsort(-result.score[here], kind="stable")]
                labels += len(truth)
                used = set()
                for d in here:
                    overlaps = [iou(result.xywh[d].astype(float), box) for box in truth]
                    best = int(np.argmax(overlaps)) if overlaps else -1
                    hit = best >= 0 and overlaps[best] >= threshold and best not in used
                    used |= {best} if hit else set()
                    rows.append((float(result.score[d]), hit))
        if labels:
            rows.sort(key=lambda row: -row[0])
            hits = np.cumsum([hit for _, hit in rows])
            each.append(average_precision(hits / labels, hits / np.arange(1, len(rows) + 1)))
    return float(np.mean(each))


def iou(a, b) -> float:
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(w, 0) * max(h, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


@pytest.mark.parametrize("seed", range(3))
def test_equals_plain_loops(seed):
    results = random_results(seed)
    scores = coco_scores(results, CLASSES, GEN1, YOLO)
    expected = [plain(results, threshold) for threshold in np.linspace(0.5, 0.95, 10)]
    assert 0.05 < np.mean(expected) < 0.95
    assert scores.trapezoid["AP"] == pytest.approx(np.mean(expected), abs=1e-9)
    assert scores.trapezoid["AP50"] == pytest.approx(expected[0], abs=1e-9)
    assert scores.as_dict()["trapezoid"] == scores.trapezoid


def test_finding_nothing_is_worth_nothing():
    (result,) = random_results(0)[:1]
    rows = result.class_id == 0
    without = replace(
        result, t_us=result.t_us[rows], xywh=result.xywh[rows], score=result.score[rows], class_id=result.class_id[rows]
    )
    own = coco_scores([without], CLASSES, GEN1, YOLO).trapezoid
    assert 0 < own["AP50"] < 1 / len(CLASSES) and rows.any()
    nothing = replace(without, **{name: getattr(without, name)[:0] for name in ("t_us", "xywh", "score", "class_id")})
    assert coco_scores([nothing], CLASSES, GEN1, YOLO).trapezoid == {"AP": 0, "AP50": 0}


def test_only_a_protocol_that_asks_gets_it_and_others_keep_their_hash():
    assert coco_scores(random_results(0), CLASSES, GEN1, PROTOCOLS["none"]).trapezoid is None
    assert "trapezoid" not in PROTOCOLS["gen1"].figures and YOLO.figures["trapezoid"]
