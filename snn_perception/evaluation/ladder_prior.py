"""A rung of the sanity ladder that looks at nothing: the same boxes in every frame, where training labels often are.

It tells how much of an AP a data set gives away by its layout alone: cars always in the same place, for instance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from snn_perception.data.label_filters import LabelFilter, kept_by
from snn_perception.data.labels import Labels
from snn_perception.errors import EventDataError
from snn_perception.evaluation.ladder_boxes import FoundBoxes, overlaps
from snn_perception.types import F32, I64

MIN_IOU = 0.5  # a box stands for the labels that it would find at AP50
MOST_BOXES = 100  # of a class: no more count in an image
_MOST_LABELS = 4_000  # of a class; more are thinned evenly


def learn_prior(labels: Sequence[Labels], classes: int, rule: LabelFilter) -> FoundBoxes:
    """Return the boxes that a detector would give which knows the training labels and is blind.

    Of each class, the label that overlaps most others becomes the first box, the one that overlaps most of those left
    the second, and so on. The score is the mean number of labels in a frame that the box newly stands for.

    Args:
        labels: one for each training recording.
        rule: which of them count.

    Raises:
        EventDataError: if no label counts.
    """
    kept = [each[kept_by(each, rule)] for each in labels]
    frames = sum(len(np.unique(each.t_us)) for each in kept)
    if not frames:
        raise EventDataError(
            f"none of {sum(map(len, labels))} training labels passes the filter '{rule.name}': "
            "a constant prior needs some; give a set with more recordings in its training split"
        )
    every = Labels.concatenate(kept)
    return FoundBoxes.concatenate([_modes(every.xywh[every.class_id == k], k, frames) for k in range(classes)])


def _modes(xywh: F32, class_id: int, frames: int) -> FoundBoxes:
    if not len(xywh):
        return FoundBoxes.none()
    chosen = np.unique(np.linspace(0, len(xywh) - 1, _MOST_LABELS).astype(np.int64))
    weight = len(xywh) / len(chosen) / frames
    rows, counts = _cover(xywh[chosen])
    return FoundBoxes(xywh[chosen][rows], (counts * weight).astype(np.float32), np.full(len(rows), class_id, np.int64))


def _cover(xywh: F32) -> tuple[I64, I64]:
    """Return rows of boxes that together overlap as many as a greedy choice can, and how many each adds."""
    near = overlaps(xywh, xywh) >= MIN_IOU
    count = near.sum(axis=1)
    rows: list[int] = []
    added: list[int] = []
    while len(rows) < MOST_BOXES and count.max(initial=0) > 0:
        best = int(np.argmax(count))
        rows.append(best)
        added.append(int(count[best]))
        taken = np.flatnonzero(near[best])
        count = count - near[:, taken].sum(axis=1)
        near[:, taken] = False
    return np.array(rows, np.int64), np.array(added, np.int64)
