"""Recordings with random boxes, and the two judges of our scores: plain loops, and stock pycocotools."""

from __future__ import annotations

import contextlib
import io

import numpy as np

from snn_perception.data.labels import Labels
from snn_perception.evaluation.coco import RecordingResult
from snn_perception.evaluation.matching import AREAS, IOUS, RECALLS
from snn_perception.types import SensorSize
from tests.dataset_support import labels_of

GEN1 = SensorSize(240, 304)
CLASSES = ("car", "pedestrian")


def recording(truth, found=(), *, name="drive", silent=None) -> RecordingResult:
    """Return a result from rows (t_us, x, y, w, h, class[, track]) of labels and (t_us, x, y, w, h, class, score)."""
    labels = labels_of([(*row, number)[:7] if len(row) < 7 else row for number, row in enumerate(truth)])
    table = np.array(list(found), np.float64).reshape(-1, 7)
    return RecordingResult(
        name,
        labels,
        table[:, 0].astype(np.int64),
        table[:, 1:5].astype(np.float32),
        table[:, 6].astype(np.float32),
        table[:, 5].astype(np.int64),
        None if silent is None else np.array(silent, bool),
    )


def random_results(
    seed: int, *, recordings: int = 3, step_us: int = 250_000, classes: int = 2
) -> list[RecordingResult]:
    """Return recordings with labels on a grid of times, and detections: jittered, doubled, confused, made up, tied."""
    rng = np.random.default_rng(seed)
    results = []
    for number in range(recordings):
        truth, found = [], []
        for t in np.arange(step_us, 8 * step_us, step_us).tolist():
            for track in range(int(rng.integers(0, 5))):
                box = np.concatenate([rng.uniform(-10, 200, 2), rng.uniform(8, 120, 2)]).round()
                class_id = int(rng.integers(classes))
                truth.append((t, *box, class_id, track))
                for _ in range(int(rng.integers(0, 3))):
                    near = box + rng.normal(0, box[2:].mean() * rng.choice([0.02, 0.1]), 4)
                    said = class_id if rng.random() < 0.8 else int(rng.integers(classes))
                    late = int(rng.choice([0, 0, 0, -20_000, 50_000, 50_001]))
                    found.append((t + late, *near[:2], *np.abs(near[2:]), said, rng.integers(1, 12) / 12))
            for _ in range(int(rng.integers(0, 4))):
                box = (*rng.uniform(0, 200, 2), *rng.uniform(5, 100, 2))
                found.append((t, *box, int(rng.integers(classes)), rng.integers(1, 12) / 12))
        order = rng.permutation(len(found))
        results.append(recording(truth, [found[i] for i in order], name=f"drive {number}"))
    return results


def pooled(results, protocol):
    """Return, by plain loops, one (labels, detections) of rows for each image of a tolerance protocol."""

    def passes(t, box):
        w, h = np.float32(box[2]), np.float32(box[3])
        big = w * w + h * h >= np.float32(protocol.min_diagonal_px) ** 2
        late = protocol.skip_us is None or t > protocol.skip_us
        return late and big and min(w, h) >= protocol.min_side_px

    images = []
    for result in results:
        truth = [
            (int(t), box.astype(float), int(c))
            for t, box, c in zip(result.truth.t_us, result.truth.xywh, result.truth.class_id, strict=True)
            if passes(t, box)
        ]
        found = [
            (int(t), box.astype(float), int(c), float(s))
            for t, box, c, s in zip(result.t_us, result.xywh, result.class_id, result.score, strict=True)
            if passes(t, box)
        ]
        found.sort(key=lambda row: row[0])
        for time in sorted({row[0] for row in truth}):
            here = [row for row in truth if row[0] == time]
            images.append((here, [row for row in found if abs(row[0] - time) <= protocol.tolerance_us]))
    return images


def overlap(a, b) -> float:
    """Return the intersection over union of two xywh boxes."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    common = max(width, 0.0) * max(height, 0.0)
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def plain_ap(results, class_id: int, protocol, min_iou: float) -> float:
    """Return the 101-point AP of one class at one IoU over all sizes, by loops over boxes."""
    ranked, positives = [], 0
    for number, (truth, found) in enumerate(pooled(results, protocol)):
        boxes = [row[1] for row in truth if row[2] == class_id]
        positives += len(boxes)
        free = set(range(len(boxes)))
        best = sorted((row for row in found if row[2] == class_id), key=lambda row: -row[3])[: protocol.max_detections]
        for place, row in enumerate(best):
            candidates = [(overlap(row[1], boxes[i]), i) for i in free if overlap(row[1], boxes[i]) >= min_iou]
            if candidates:
                free.remove(max(candidates)[1])  # of equal overlaps pycocotools takes the later box
            ranked.append((-row[3], number, place, bool(candidates)))
    if not positives:
        return -1.0
    hits = np.array([hit for *_, hit in sorted(ranked)], bool)
    if not len(hits):
        return 0.0
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    recall = np.cumsum(hits) / positives
    points = [precision[recall >= level].max() if (recall >= level).any() else 0.0 for level in RECALLS]
    return float(np.mean(points))


def stock_stats(results, protocol, classes: int) -> np.ndarray:
    """Return the twelve figures that pycocotools gives when it does everything itself."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, found = [], []
    images = pooled(results, protocol)
    for number, (boxes, detections) in enumerate(images, 1):
        for _, box, class_id in boxes:
            row = {"id": len(truth) + 1, "image_id": number, "category_id": class_id + 1, "iscrowd": 0}
            truth.append({**row, "bbox": box.tolist(), "area": box[2] * box[3]})
        for _, box, class_id, score in detections:
            found.append({"image_id": number, "category_id": class_id + 1, "bbox": box.tolist(), "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = {
            "info": {},
            "images": [{"id": number} for number in range(1, len(images) + 1)],
            "categories": [{"id": number} for number in range(1, classes + 1)],
            "annotations": truth,
        }
        reference.createIndex()
        evaluator = COCOeval(reference, reference.loadRes(found), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    assert list(map(tuple, evaluator.params.areaRng)) == [tuple(bounds) for bounds in AREAS.values()]
    assert np.array_equal(evaluator.params.iouThrs, IOUS) and np.array_equal(evaluator.params.recThrs, RECALLS)
    return np.asarray(evaluator.stats)


def without_labels(result: RecordingResult) -> RecordingResult:
    return RecordingResult(result.name, Labels.empty(), result.t_us, result.xywh, result.score, result.class_id)
