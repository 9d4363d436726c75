"""What the model-free rungs of the sanity ladder share: scored boxes of one moment or recording, and their overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from snn_perception.types import F32, I64


@dataclass(frozen=True, eq=False)
class FoundBoxes:
    """Detections: xywh float32 [N, 4] in pixels of the sensor, score float32 [N], class_id int64 [N]."""

    xywh: F32
    score: F32
    class_id: I64

    def __len__(self) -> int:
        return len(self.score)

    def __getitem__(self, rows: slice | npt.NDArray[np.generic]) -> FoundBoxes:
        """Return the chosen rows."""
        return FoundBoxes(self.xywh[rows], self.score[rows], self.class_id[rows])

    @staticmethod
    def none() -> FoundBoxes:
        """Return no detections."""
        return FoundBoxes(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64))

    @staticmethod
    def concatenate(parts: Sequence[FoundBoxes]) -> FoundBoxes:
        """Return the rows of `parts`, one after the other."""
        if not parts:
            return FoundBoxes.none()
        return FoundBoxes(
            np.concatenate([part.xywh for part in parts]),
            np.concatenate([part.score for part in parts]),
            np.concatenate([part.class_id for part in parts]),
        )


def overlaps(a: F32, b: F32) -> npt.NDArray[np.float64]:
    """Return the intersection over union [N, M] of boxes xywh [N, 4] with boxes xywh [M, 4]."""
    if not len(a) or not len(b):
        return np.zeros((len(a), len(b)))
    from pycocotools.mask import iou

    matrix: npt.NDArray[np.float64] = iou(a.astype(np.float64), b.astype(np.float64), np.zeros(len(b), np.uint8))
    return matrix


def without_doubles(found: FoundBoxes, max_iou: float, most: int) -> FoundBoxes:
    """Return the best `most` boxes of each class, best first, none of which overlaps a better one by over `max_iou`."""
    kept: list[FoundBoxes] = []
    for number in np.unique(found.class_id).tolist():
        own = found[found.class_id == number]
        own = own[np.argsort(-own.score, kind="stable")]
        kept.append(own[_apart(own.xywh, max_iou, most)])
    every = FoundBoxes.concatenate(kept)
    return every[np.argsort(-every.score, kind="stable")]


def _apart(xywh: F32, max_iou: float, most: int) -> I64:
    """Return the rows that stay of boxes in order of preference."""
    near = overlaps(xywh, xywh) > max_iou
    dropped = np.zeros(len(xywh), bool)
    kept: list[int] = []
    for row in range(len(xywh)):
        if dropped[row]:
            continue
        kept.append(row)
        if len(kept) == most:
            break
        dropped |= near[row]
    return np.array(kept, np.int64)
