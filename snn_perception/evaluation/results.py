"""What was found in a recording beside what is there, and the scores that come of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from snn_perception.data.labels import Labels
from snn_perception.evaluation.curves import Confusion, Curve
from snn_perception.types import F32, I64

# Order and names of the field's twelve figures. AR_100 is the recall at the protocol's `max_detections`.
STATS = (
    "AP",
    "AP50",
    "AP75",
    "AP_small",
    "AP_medium",
    "AP_large",
    "AR_1",
    "AR_10",
    "AR_100",
    "AR_small",
    "AR_medium",
    "AR_large",
)


@dataclass(frozen=True, eq=False)
class RecordingResult:
    """The labels of one recording and the detections made in it.

    Attributes:
        name: of the recording.
        truth: every label that was evaluated, before the protocol's filter; boxes in pixels of the sensor.
        t_us: sensor time of each detection, int64 [N]: that of the label it answers, or any time inside its window.
            (The end of a half-open window lies in the next one, so it would not do for window matching.)
        xywh: float32 [N, 4], left, top, width and height in the pixels of the labels.
        score: float32 [N]; equal scores rank in this order.
        class_id: int64 [N], index into the classes of the evaluation.
        silent: bool [M], which labels are of objects that emit no events (`motion.silent_rows`); None if not known.

    Raises:
        ValueError: for a wrong dtype, shape or differing lengths, or a box or score that is not finite.
    """

    name: str
    truth: Labels
    t_us: I64
    xywh: F32
    score: F32
    class_id: I64
    silent: npt.NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        n = len(self.t_us)
        wanted: dict[str, tuple[Any, tuple[int, ...]]] = {
            "t_us": (np.int64, (n,)),
            "xywh": (np.float32, (n, 4)),
            "score": (np.float32, (n,)),
            "class_id": (np.int64, (n,)),
        }
        if self.silent is not None:
            wanted["silent"] = (np.bool_, (len(self.truth),))
        for name, (dtype, shape) in wanted.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.shape != shape:
                raise ValueError(
                    f"{self.name}: {name}: expected {np.dtype(dtype).name}{list(shape)}, "
                    f"got {array.dtype}{list(array.shape)}"
                )
        for name in ("xywh", "score"):
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"{self.name}: {name} of the detections must be finite")


@dataclass(frozen=True)
class SubsetScores:
    """Scores over a part of the ground truth; detections on the rest of it count neither way.

    Attributes:
        ground_truths: boxes in this part.
        stats: AP, AP50 and AR_100; -1 where there is nothing to find.
        per_class: class name -> the same.
    """

    ground_truths: int
    stats: Mapping[str, float]
    per_class: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Scores:
    """Scores of a set of recordings under one protocol.

    Attributes:
        stats: the twelve COCO figures by name (`STATS`): means over the classes that have ground truth, -1 where no
            class has any. A class with ground truth and no detections has AP 0.
        per_class: class name -> AP, AP50, AP75 and AR_100; -1 for a class without ground truth.
        images: scored times (or windows) of all recordings.
        ground_truths: boxes to be found. detections: boxes that were compared; one counts for each image it is near.
        truths_kept, detections_kept: boxes that pass the protocol's filter.
        empty_frames: labelled times of which the filter leaves no box.
        detections_per_empty_frame: detections at such times, mean; None if there are none. Where frames are chosen
            after the filter these are false positives that cost nothing.
        moving, silent: scores over objects that emit events and that do not; None unless all results tell.
        curves: class name -> precision over recall.
        confusion: which class was taken for which.
        trapezoid: AP and AP50 as the YOLO family's own validators have them; None where the protocol does not ask.
    """

    stats: Mapping[str, float]
    per_class: Mapping[str, Mapping[str, float]]
    images: int
    ground_truths: int
    detections: int
    truths_kept: int
    detections_kept: int
    empty_frames: int
    detections_per_empty_frame: float | None
    moving: SubsetScores | None
    silent: SubsetScores | None
    curves: Mapping[str, Curve]
    confusion: Confusion
    trapezoid: Mapping[str, float] | None = None

    def __getitem__(self, stat: str) -> float:
        """Return one of the twelve figures."""
        return self.stats[stat]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        for name in ("moving", "silent"):
            part = plain[name]
            plain[name] = (
                None
                if part is None
                else {
                    "ground_truths": part.ground_truths,
                    **part.stats,
                    "per_class": {key: dict(value) for key, value in part.per_class.items()},
                }
            )
        plain["stats"] = dict(self.stats)
        plain["per_class"] = {name: dict(values) for name, values in self.per_class.items()}
        plain["curves"] = {name: curve.as_dict() for name, curve in self.curves.items()}
        plain["confusion"] = self.confusion.as_dict()
        plain["trapezoid"] = None if self.trapezoid is None else dict(self.trapezoid)
        return plain
