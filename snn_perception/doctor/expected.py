"""What weights gave on the small drive when they were released, and how far another machine may be from it.

Spiking networks are thresholds all the way through: where another processor rounds a sum otherwise, a spike may come or
not, and boxes and scores move a little. So each detection may differ by a tolerance, and a small share by more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from snn_perception.errors import SnnPerceptionError
from snn_perception.evaluation.card import software_versions
from snn_perception.runtime.detections_file import WindowDetections
from snn_perception.runtime.labelled_drive import LabelledDrive
from snn_perception.types import F32, Detections
from snn_perception.whole_file import cannot_write, whole_file

EXPECTED_FORMAT = 1


@dataclass(frozen=True)
class Tolerance:
    """How far detections may be from those expected.

    Attributes:
        min_score: detections below it are not compared. box_px: of each side; score: of the score.
        share: of the detections, on both sides together, that must have their counterpart within these.
    """

    min_score: float = 0.1
    box_px: float = 4.0
    score: float = 0.1
    share: float = 0.9


@dataclass(frozen=True, eq=False)
class Expected:
    """Results at the time of release.

    Attributes:
        weights_sha256: of the checkpoint file. drive_sha256: of the drive's events.
        generator: of the drive. windows: end of each window in us -> its detections.
        versions: of the software that gave them.
    """

    weights_sha256: str
    drive_sha256: str
    generator: str
    windows: Mapping[int, Detections]
    tolerance: Tolerance
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Agreement:
    """How detections compare with those expected.

    Attributes:
        expected, seen: how many were compared. paired: how many, of both, have their counterpart.
        box_px, score: largest differences among these. tolerance: what is allowed.
    """

    expected: int
    seen: int
    paired: int
    box_px: float
    score: float
    tolerance: Tolerance

    @property
    def share(self) -> float:
        """Share of the detections of both sides that have their counterpart."""
        return self.paired / max(self.expected + self.seen, 1)

    @property
    def is_good(self) -> bool:
        """Whether enough have, and there were any."""
        return self.expected > 0 and self.share >= self.tolerance.share


def expect(
    checkpoint: Path, drive: LabelledDrive, seen: Sequence[WindowDetections], tolerance: Tolerance | None = None
) -> Expected:
    """Return what a run gave as what is expected of later ones."""
    windows = {one.t_end_us: one.detections for one in seen}
    tolerance = tolerance or Tolerance()
    return Expected(
        file_sha256(checkpoint), drive.drive.digest, drive.generator, windows, tolerance, software_versions()
    )


def agreement(expected: Expected, seen: Sequence[WindowDetections]) -> Agreement:
    """Return how the windows of a run compare with those expected."""
    rule, found = expected.tolerance, {one.t_end_us: one.detections for one in seen}
    counts, box_px, score = [0, 0, 0], 0.0, 0.0
    for end_us in expected.windows.keys() | found.keys():
        theirs, ours = (side.get(end_us, Detections.empty()) for side in (expected.windows, found))
        for number, (some, others) in enumerate(((theirs, ours), (ours, theirs))):
            for row in np.flatnonzero(some.score >= rule.min_score).tolist():
                counts[number] += 1
                difference = _nearest(some, row, others, rule)
                if difference is not None:
                    counts[2] += 1
                    box_px, score = max(box_px, difference[0]), max(score, difference[1])
    return Agreement(counts[0], counts[1], counts[2], box_px, score, rule)


def _nearest(some: Detections, row: int, others: Detections, rule: Tolerance) -> tuple[float, float] | None:
    """Return the difference in box and score to the nearest counterpart of a detection; None if there is none."""
    boxes: F32 = np.abs(others.xyxy - some.xyxy[row]).max(axis=1, initial=0)
    scores: F32 = np.abs(others.score - some.score[row])
    fits = (others.class_id == some.class_id[row]) & (boxes <= rule.box_px) & (scores <= rule.score)
    if not fits.any():
        return None
    best = int(np.argmin(np.where(fits, boxes / rule.box_px + scores / rule.score, np.inf)))
    return float(boxes[best]), float(scores[best])


def write_expected(path: Path, expected: Expected) -> None:
    """Write expected results to a file.

    Raises:
        SnnPerceptionError: if it cannot be put there.
    """
    content = {
        "format": EXPECTED_FORMAT,
        "weights_sha256": expected.weights_sha256,
        "drive_sha256": expected.drive_sha256,
        "generator": expected.generator,
        "tolerance": asdict(expected.tolerance),
        "versions": dict(expected.versions),
        "windows": [_plain(end_us, found) for end_us, found in sorted(expected.windows.items())],
    }
    try:
        with whole_file(path) as partial:
            partial.write_text(json.dumps(content) + "\n", "utf-8")
    except OSError as error:
        raise cannot_write(path, error) from error


def read_expected(path: Path) -> Expected:
    """Return the expected results in a file.

    Raises:
        SnnPerceptionError: if it cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SnnPerceptionError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise SnnPerceptionError(f"{path}: expected results as JSON, got {error}; install the package again") from error
    try:
        if content["format"] != EXPECTED_FORMAT:
            raise ValueError(f"format {content['format']!r}, this version reads {EXPECTED_FORMAT}")
        return Expected(
            content["weights_sha256"],
            content["drive_sha256"],
            content["generator"],
            dict(map(_window, content["windows"])),
            Tolerance(**content["tolerance"]),
            content["versions"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SnnPerceptionError(
            f"{path}: expected the results of shipped weights, got something else ({type(error).__name__}: {error}); "
            "install the package again"
        ) from error


def file_sha256(path: Path) -> str:
    """Return the digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _plain(end_us: int, found: Detections) -> dict[str, Any]:
    return {
        "t_end_us": end_us,
        "xyxy": [[round(float(side), 3) for side in box] for box in found.xyxy],
        "score": [round(float(score), 5) for score in found.score],
        "class_id": found.class_id.tolist(),
    }


def _window(content: Mapping[str, Any]) -> tuple[int, Detections]:
    count, end_us = len(content["score"]), int(content["t_end_us"])
    return end_us, Detections(
        np.array(content["xyxy"], np.float32).reshape(count, 4),
        np.array(content["score"], np.float32),
        np.array(content["class_id"], np.int64),
        end_us,
    )
