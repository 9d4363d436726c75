"""From the boxes and scores of every anchor to detections, in plain NumPy: what runs behind an exported network.

The same choice as the heads make on tensors (`boxes.class_wise_nms`), for programs that never load torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from snn_perception.types import Detections, SensorSize

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Selection:
    """How a head chooses among its anchors.

    Attributes:
        score_threshold: the least score; `strict`: detections lie above it, else at or above.
        nms_threshold: a box is suppressed by a better one of its class at an IoU above it.
        max_detections: kept over all classes.
        per_class: candidates of each class that enter the suppression; None: all.
        candidates: of all classes together; None: all.
        best_class_only: an anchor gives one box, of its best class.
        cut_first: boxes are cut to the input before the suppression, else after it.
    """

    score_threshold: float
    strict: bool
    nms_threshold: float
    max_detections: int
    per_class: int | None = None
    candidates: int | None = None
    best_class_only: bool = False
    cut_first: bool = False


def select(boxes: Array, scores: Array, rule: Selection, size: SensorSize) -> Detections:
    """Return the detections of one image, best first, boxes cut to `size`.

    Args:
        boxes: xyxy [A, 4] in pixels of the network's input. scores: [A, K].
    """
    from snn_perception.suppression import suppress  # brings numba, which reading a rule does not need

    anchor, class_id = _candidates(scores, rule)
    score = scores[anchor, class_id]
    xyxy = boxes[anchor]
    xyxy = _cut(xyxy, size) if rule.cut_first else xyxy
    kept = suppress(xyxy, score, class_id, rule.nms_threshold, rule.max_detections)
    xyxy = xyxy[kept] if rule.cut_first else _cut(xyxy[kept], size)
    return Detections(
        np.ascontiguousarray(xyxy, np.float32), score[kept].astype(np.float32), class_id[kept].astype(np.int64)
    )


def _candidates(scores: Array, rule: Selection) -> tuple[Array, Array]:
    """Return (anchor, class_id) [N] of what is above the threshold, within the limits."""
    if rule.best_class_only:
        class_id = scores.argmax(1)
        (anchor,) = np.nonzero(_above(scores.max(1), rule))
        class_id = class_id[anchor]
    elif rule.per_class is not None:
        return _of_each_class(scores, rule, rule.per_class)
    else:
        anchor, class_id = np.nonzero(_above(scores, rule))
    order = np.argsort(-scores[anchor, class_id], kind="stable")[: rule.candidates]
    return anchor[order], class_id[order]


def _of_each_class(scores: Array, rule: Selection, limit: int) -> tuple[Array, Array]:
    anchors = []
    for of_class in scores.T:
        (above,) = np.nonzero(_above(of_class, rule))
        anchors.append(above[np.argsort(-of_class[above], kind="stable")[:limit]])
    class_id = np.repeat(np.arange(len(anchors)), [len(rows) for rows in anchors])
    return np.concatenate(anchors), class_id


def _above(scores: Array, rule: Selection) -> Array:
    return scores > rule.score_threshold if rule.strict else scores >= rule.score_threshold


def _cut(boxes: Array, size: SensorSize) -> Array:
    limits = np.array([size.width, size.height] * 2, boxes.dtype)
    return np.clip(boxes, np.zeros((), boxes.dtype), limits)
