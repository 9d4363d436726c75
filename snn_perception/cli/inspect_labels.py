"""The labels that lie beside a recording: found by name, read, and judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from snn_perception.errors import EventDataError

if TYPE_CHECKING:
    from snn_perception.data.label_health import LabelHealth
    from snn_perception.data.labels import Labels
    from snn_perception.types import SensorSize

_SUFFIXES = (".dat.h5", ".h5", ".hdf5", ".dat", ".raw")
_AFTER_END_US = 50_000  # a label just after the last event still has events before it
_MOST_CLASSES = 64
# The driving data sets' names, by the width and height of their sensors.
CLASSES = {
    (304, 240): ("car", "pedestrian"),
    (1280, 720): ("pedestrian", "two-wheeler", "car", "truck", "bus", "traffic sign", "traffic light"),
}


@dataclass(frozen=True, eq=False)
class JudgedLabels:
    """The labels of a recording.

    Attributes:
        labels: their class is an index into `classes`.
        classes: names, or numbers as text where nobody knows the names.
        health: what is odd about them. notes: what was dropped or assumed while reading.
    """

    path: Path
    labels: Labels
    classes: tuple[str, ...]
    health: LabelHealth
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        labels = self.labels
        return {
            "path": str(self.path),
            "classes": list(self.classes),
            "t_first_us": int(labels.t_us.min()) if len(labels) else None,
            "t_last_us": int(labels.t_us.max()) if len(labels) else None,
            **self.health.as_dict(),
            "faults": self.health.faults,
            "notes": list(self.notes),
        }


def labels_beside(path: Path) -> Path | None:
    """Return the label file of a recording, as the driving data sets name it: ``a_bbox.npy`` for ``a_td.dat``."""
    suffix = next((suffix for suffix in _SUFFIXES if path.name.lower().endswith(suffix)), None)
    if suffix is None:
        return None
    stem = path.name[: -len(suffix)]
    beside = path.with_name(f"{stem.removesuffix('_td')}_bbox.npy")
    return beside if beside.is_file() else None


def judged_labels(path: Path, recording: Path, size: SensorSize, t_last_us: int | None) -> JudgedLabels:
    """Return the labels in a file, judged by the sensor's size and the last event's time (None: not known).

    Raises:
        EventDataError: if the file cannot be read as labels.
    """
    from snn_perception.data.labels import read_labels

    if not path.exists():
        raise EventDataError(f"{path}: no such file; --labels names an .npy file of boxes")
    labels, notes = read_labels(path)
    return judge(path, labels, notes, size, t_last_us, known_classes(recording, path, size))


def judge(
    path: Path,
    labels: Labels,
    notes: Sequence[str],
    size: SensorSize,
    t_last_us: int | None,
    classes: Sequence[str] | None,
) -> JudgedLabels:
    """Return labels with what is odd about them; without names of classes, each class goes by its number."""
    from snn_perception.data.label_health import check_labels

    if classes is None:
        ids, index = np.unique(labels.class_id, return_inverse=True)
        labels = replace(labels, class_id=index.reshape(-1).astype(np.int64))
        classes = [str(number) for number in ids[:_MOST_CLASSES].tolist()]
    end_us = None if t_last_us is None else t_last_us + _AFTER_END_US
    return JudgedLabels(path, labels, tuple(classes), check_labels(labels, size, classes, end_us), tuple(notes))


def known_classes(recording: Path, labels: Path, size: SensorSize) -> Sequence[str] | None:
    """Return the names of the classes of a pair of files named and sized as the driving data sets'; None otherwise."""
    stem = labels.name.removesuffix("_bbox.npy")
    is_pair = stem != labels.name and recording.name.startswith(f"{stem}_td.")
    return CLASSES.get((size.width, size.height)) if is_pair else None
