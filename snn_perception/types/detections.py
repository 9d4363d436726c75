"""What a detector is to find, what it found, and what its parts tell of one another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from snn_perception.types.arrays import F32, I64, require, require_same_length


@dataclass(frozen=True, eq=False)
class Targets:
    """Ground truth of one window: xyxy float32 [M, 4] in pixels of the model input, class_id int64 [M]."""

    xyxy: F32
    class_id: I64
    t_us: int = 0

    def __post_init__(self) -> None:
        require(self.xyxy, "xyxy", np.float32, (None, 4))
        require(self.class_id, "class_id", np.int64, (None,))
        require_same_length(xyxy=self.xyxy, class_id=self.class_id)

    def __len__(self) -> int:
        return len(self.class_id)


@dataclass(frozen=True)
class Detections:
    """What a detector saw in one window, best first.

    Attributes:
        xyxy: float32 [N, 4], half-open boxes in pixels of the sensor (of the model input, as a head returns them).
        score: float32 [N], not increasing, in [0, 1].
        class_id: int64 [N], index into the model's class names.
        t_us: sensor time at the end of the window.
        steps: network steps that it took, of a detector that may stop early; otherwise None.
    """

    xyxy: F32
    score: F32
    class_id: I64
    t_us: int = 0
    steps: int | None = None

    def __post_init__(self) -> None:
        require(self.xyxy, "xyxy", np.float32, (None, 4))
        require(self.score, "score", np.float32, (None,))
        require(self.class_id, "class_id", np.int64, (None,))
        require_same_length(xyxy=self.xyxy, score=self.score, class_id=self.class_id)

    def __len__(self) -> int:
        return len(self.score)

    def __getitem__(self, rows: slice | npt.NDArray[Any]) -> Detections:
        """Return the chosen rows."""
        return Detections(self.xyxy[rows], self.score[rows], self.class_id[rows], self.t_us, self.steps)

    def __eq__(self, other: object) -> bool:
        """Return whether time and every box, score and class are the same, bit for bit."""
        if not isinstance(other, Detections):
            return NotImplemented
        same = self.t_us == other.t_us and len(self) == len(other)
        return same and all(
            getattr(self, name).tobytes() == getattr(other, name).tobytes() for name in ("xyxy", "score", "class_id")
        )

    __hash__ = None  # type: ignore[assignment]

    @staticmethod
    def empty(t_us: int = 0) -> Detections:
        """Return no detections."""
        return Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64), t_us)


@dataclass(frozen=True)
class FeatureInfo:
    """What a head may rely on: channels and stride (input px per cell, nominal) of each feature map, fine to coarse."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.channels) != len(self.strides) or not self.channels:
            raise ValueError(f"one stride per map, got channels {self.channels} and strides {self.strides}")
