"""Labels and detections of recordings, brought together image by image as a protocol says.

An image is a time at which detections are scored: a label time, or a window. All of this is columns; nothing loops over
boxes, and of detections only those near an image are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from snn_perception.data.label_filters import kept_by
from snn_perception.data.labels import NOTHING, Labels
from snn_perception.evaluation.protocol import Protocol
from snn_perception.types import F32, I64, SensorSize

if TYPE_CHECKING:
    from snn_perception.evaluation.results import RecordingResult


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes of several images, in the order of these: columns of equal length.

    Attributes:
        image: int64 [N], not decreasing. xywh: float32 [N, 4] in pixels of the labels. class_id: int64 [N].
        score: float32 [N]; of ground truth 1.
        silent: bool [N]; of ground truth that emits no events. All false where that is not known.
        area: float64 [N], square pixels, of the object where that is known.
        crowd: bool [N], ground truth that is an ignore region.
    """

    image: I64
    xywh: F32
    class_id: I64
    score: F32
    silent: npt.NDArray[np.bool_]
    area: npt.NDArray[np.float64]
    crowd: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, rows: slice | npt.NDArray[Any]) -> Boxes:
        """Return the chosen rows."""
        return Boxes(*(getattr(self, name)[rows] for name in Boxes.__dataclass_fields__))

    @staticmethod
    def of(
        image: I64,
        labels: Labels,
        *,
        score: F32 | None = None,
        silent: npt.NDArray[np.bool_] | None = None,
    ) -> Boxes:
        """Return labels as boxes of these images [N], by default with the score 1."""
        score = np.ones(len(image), np.float32) if score is None else score
        silent = np.zeros(len(image), bool) if silent is None else silent
        return Boxes(image, labels.xywh, labels.class_id, score, silent, labels.areas, labels.crowds)

    @staticmethod
    def concatenate(parts: Sequence[Boxes]) -> Boxes:
        """Return the rows of at least one part, one after the other."""
        columns = [np.concatenate([getattr(part, name) for part in parts]) for name in Boxes.__dataclass_fields__]
        return Boxes(*columns)


@dataclass(frozen=True, eq=False)
class Frames:
    """The images of a set of recordings, with what is there and what was found.

    Attributes:
        images: how many.
        truth: boxes to be found, of the evaluated classes. found: detections near them; in each image and class best
            first, and no more than the protocol's `max_detections`.
        compared: detections near an image, before that limit.
        truths_kept, detections_kept: boxes that pass the filter.
        empty: labelled times of which the filter leaves nothing. found_in_empty: detections at these.
    """

    images: int
    truth: Boxes
    found: Boxes
    compared: int
    truths_kept: int
    detections_kept: int
    empty: int
    found_in_empty: int


def group(results: Sequence[RecordingResult], classes: int, size: SensorSize, protocol: Protocol) -> Frames:
    """Return the images of all recordings, in their order.

    A label of a class outside 0..classes-1 makes its time an image like any other but is nothing to be found.
    """
    parts = [_group_one(result, classes, size, protocol) for result in results] or [_no_frames()]
    first = np.cumsum([0, *(part.images for part in parts)])
    moved = [
        (replace(part.truth, image=part.truth.image + at), replace(part.found, image=part.found.image + at))
        for part, at in zip(parts, first, strict=False)
    ]
    sums = {
        name: sum(getattr(part, name) for part in parts)
        for name in ("images", "compared", "truths_kept", "detections_kept", "empty", "found_in_empty")
    }
    truth, found = (Boxes.concatenate(columns) for columns in zip(*moved, strict=True))
    return Frames(truth=truth, found=found, **sums)


def _group_one(result: RecordingResult, classes: int, size: SensorSize, protocol: Protocol) -> Frames:
    truth, silent = _truth(result, size, protocol)
    found = _detections(result, size, protocol)
    kept = kept_by(truth, protocol.filter)
    labelled, chosen = _images(truth, kept, protocol)
    begin, end = _reach(labelled, found.t_us, protocol)
    real = kept & (truth.class_id != NOTHING)
    is_empty = ~np.isin(labelled, _keys(truth.t_us[real], protocol))
    scored = np.isin(labelled, chosen)

    key = _keys(truth.t_us, protocol)
    known = kept & (truth.class_id >= 0) & (truth.class_id < classes)
    image = np.searchsorted(chosen, key[known])
    boxes = Boxes.of(image, truth[known], silent=silent[known])
    rows, image = _spread(begin[scored], end[scored])
    near = Boxes.of(image, found[rows], score=found.confidence[rows])
    return Frames(
        images=len(chosen),
        truth=boxes,
        found=_best(near, protocol.max_detections),
        compared=len(rows),
        truths_kept=int(real.sum()),
        detections_kept=len(found),
        empty=int(is_empty.sum()),
        found_in_empty=int((end - begin)[is_empty].sum()),
    )


def ignored_boxes(
    results: Sequence[RecordingResult], classes: int, size: SensorSize, protocol: Protocol
) -> dict[str, int]:
    """Return why labels are not to be found -> how many, each under the first reason that holds; none are left out."""
    rule = protocol.filter
    tests = {
        "not later than the skipped start": replace(rule, min_side_px=0, min_diagonal_px=0),
        "a side too short": replace(rule, after_us=None, min_diagonal_px=0),
        "diagonal too short": replace(rule, after_us=None, min_side_px=0),
    }
    counts = dict.fromkeys(
        ("replaced by a later label of its track in the window", "outside the image", *tests, "class not evaluated"), 0
    )
    for result in results:
        latest, replaced = result.truth, "replaced by a later label of its track in the window"
        if protocol.matching == "window":
            rows = np.argsort(latest.t_us, kind="stable")
            latest = latest[rows][_last_of_each_track(latest[rows], protocol)]
        left = _truth(result, size, protocol)[0]
        counts[replaced] += len(result.truth) - len(latest)
        counts["outside the image"] += len(latest) - len(left)
        for reason, test in tests.items():
            kept = kept_by(left, test)
            counts[reason] += int((~kept).sum())
            left = left[kept]
        foreign = (left.class_id < 0) | (left.class_id >= classes)
        counts["class not evaluated"] += int((foreign & (left.class_id != NOTHING)).sum())
        crowds = int((left.crowds & ~foreign).sum())
        if crowds:
            counts["around many objects"] = counts.get("around many objects", 0) + crowds
    return counts


def _no_frames() -> Frames:
    none = Boxes.of(np.empty(0, np.int64), Labels.empty())
    return Frames(0, none, none, 0, 0, 0, 0, 0)


def _truth(result: RecordingResult, size: SensorSize, protocol: Protocol) -> tuple[Labels, npt.NDArray[np.bool_]]:
    """Return the labels that may count, in time order, and which of them are silent."""
    truth = result.truth
    silent = np.zeros(len(truth), bool) if result.silent is None else result.silent
    rows = np.argsort(truth.t_us, kind="stable")
    if protocol.matching == "window":
        rows = rows[_last_of_each_track(truth[rows], protocol)]
    truth, silent = truth[rows], silent[rows]
    if protocol.clips_boxes:
        truth, solid = _clipped(truth, size)
        silent = silent[solid]
    return truth, silent


def _last_of_each_track(truth: Labels, protocol: Protocol) -> I64:
    """Return, in order, the rows that no later row of the same track and window replaces."""
    key = _keys(truth.t_us, protocol)
    order = np.lexsort((truth.track_id, key))  # stable: rows of one track stay in time order
    key, track = key[order], truth.track_id[order]
    last = np.ones(len(order), bool)
    last[:-1] = (key[1:] != key[:-1]) | (track[1:] != track[:-1])
    rows: I64 = np.sort(order[last])
    return rows


def _detections(result: RecordingResult, size: SensorSize, protocol: Protocol) -> Labels:
    """Return the detections that count as labels are kept, in time order; the score is their confidence."""
    found = Labels(result.t_us, result.xywh, result.class_id, np.zeros(len(result.t_us), np.int64), result.score)
    if protocol.clips_boxes:
        found = _clipped(found, size)[0]
    found = found[kept_by(found, protocol.filter)]
    return found[np.argsort(found.t_us, kind="stable")]


def _clipped(labels: Labels, size: SensorSize) -> tuple[Labels, npt.NDArray[np.bool_]]:
    """Return the boxes cut to the image 0..W and 0..H, without those of which nothing is left, and which stay.

    As `data.targets.window_targets` cuts what a detector is trained on.
    """
    limit = np.array([size.width, size.height], np.float32)
    low = labels.xywh[:, :2].clip(0, limit)
    sides = (labels.xywh[:, :2] + labels.xywh[:, 2:]).clip(0, limit) - low
    solid: npt.NDArray[np.bool_] = (sides > 0).all(axis=1)
    return replace(labels, xywh=np.concatenate([low, sides], axis=1))[solid], solid


def _keys(t_us: I64, protocol: Protocol) -> I64:
    """Return what tells images apart: the time, or the number of the window."""
    return t_us // protocol.window_us if protocol.matching == "window" else t_us


def _images(truth: Labels, kept: npt.NDArray[np.bool_], protocol: Protocol) -> tuple[I64, I64]:
    """Return the keys of all labelled times that are not skipped, and of those that are scored, both ascending."""
    late = np.ones(len(truth), bool) if protocol.skip_us is None else truth.t_us > protocol.skip_us
    labelled = np.unique(_keys(truth.t_us[late], protocol))
    chosen = labelled if protocol.frames == "before_filter" else np.unique(_keys(truth.t_us[kept], protocol))
    return labelled, chosen


def _reach(keys: I64, t_us: I64, protocol: Protocol) -> tuple[I64, I64]:
    """Return where the detections of each image begin and end among all, which are in time order."""
    if protocol.matching == "window":
        low, high = keys * protocol.window_us, (keys + 1) * protocol.window_us - 1
    else:
        low, high = keys - protocol.tolerance_us, keys + protocol.tolerance_us
    return np.searchsorted(t_us, low, "left"), np.searchsorted(t_us, high, "right")


def _spread(begin: I64, end: I64) -> tuple[I64, I64]:
    """Return the rows begin..end-1 of each image, one image after the other, and the image of each."""
    counts = end - begin
    image = np.repeat(np.arange(len(counts)), counts)
    rows = np.arange(counts.sum()) + np.repeat(begin - (np.cumsum(counts) - counts), counts)
    return rows, image


def _best(boxes: Boxes, limit: int) -> Boxes:
    """Return the best `limit` boxes of each image and class, best first; equal scores keep their order."""
    boxes = boxes[np.lexsort((-boxes.score, boxes.class_id, boxes.image))]
    return boxes[rank_in_groups(boxes.image, boxes.class_id) < limit]


def rank_in_groups(*columns: I64) -> I64:
    """Return how many rows of its group come before each row; rows of a group stand together."""
    n = len(columns[0])
    starts = np.ones(n, bool)
    starts[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    row = np.arange(n)
    first: I64 = np.maximum.accumulate(np.where(starts, row, 0))
    return row - first
