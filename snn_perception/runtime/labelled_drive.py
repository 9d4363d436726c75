"""A synthetic drive with its labels, for the demo and `doctor`: what is there at a time, and what detections score.

The drives come from the far end of the test split, beyond those of every size of set: nothing is trained, chosen or
measured on them elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from snn_perception.data.dataset import Dataset, LabelledRecording, open_dataset
from snn_perception.data.labels import Labels
from snn_perception.evaluation.detection_files import read_outcome
from snn_perception.evaluation.protocol import named_protocol
from snn_perception.evaluation.run import Evaluation, score_outcomes, shared_classes
from snn_perception.registry import Registry
from snn_perception.synth.one_drive import OneDrive, one_drive
from snn_perception.synth.sizes import FORMATS, RecordingPlan
from snn_perception.types import F32, Detections

# Chosen by what is on the road, before any model ran on it: of the drives from 900 on the first by day with at least 20
# labels of cars, and some of pedestrians, in its first 10 s.
DEMO_DRIVE = RecordingPlan("test", 903, 0, 10_000_000)
CHECK_DRIVE = RecordingPlan("test", 903, 0, 2_500_000)


@dataclass(frozen=True, eq=False)
class LabelledDrive:
    """A drive that is there, the data set that it makes up, and its recording there."""

    drive: OneDrive
    dataset: Dataset
    labelled: LabelledRecording

    @property
    def generator(self) -> str:
        """Name and version of what made it."""
        return FORMATS[self.drive.plan.format].generator

    def score(self, detections: Path, classes: Sequence[str], registry: Registry) -> Evaluation:
        """Return the scores of detections in a file (`detections_file`) under the protocol of the data set.

        Args:
            classes: names of the file's class ids.

        Raises:
            EventDataError: if the file cannot be read, or the data set has none of the classes.
        """
        names, truth_classes, found_classes = shared_classes(classes, self.dataset)
        found_classes = dict.fromkeys(range(len(classes)), -1) | found_classes
        outcome = read_outcome(detections, self.labelled, registry, truth_classes, found_classes, silent=False)
        form = FORMATS[self.drive.plan.format]
        return score_outcomes([outcome], names, form.sensor, named_protocol(form.size_filter))

    def labels_at(self, t_us: int, classes: Sequence[str]) -> Detections:
        """Return the labels at a time, those between two label times of an object on the straight line from one to the
        other, as detections with score 1; class ids are those of `classes`."""
        names = self.dataset.classes
        there = _between(self.labels, t_us, longest_us=1_500_000 // self.drive.entry.label_hz)
        known = [(list(classes).index(names[class_id]), box) for class_id, box in there if names[class_id] in classes]
        xywh = np.array([box for _, box in known], np.float32).reshape(-1, 4)
        return Detections(
            np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
            np.ones(len(known), np.float32),
            np.array([class_id for class_id, _ in known], np.int64),
            t_us,
        )

    @cached_property
    def labels(self) -> Labels:
        """All labels of the drive."""
        return self.labelled.labels()


def labelled_drive(
    folder: str | Path, plan: RecordingPlan, registry: Registry, on_time: Callable[[int], None] = lambda us: None
) -> LabelledDrive:
    """Return a drive in a folder of its own, made unless it is there.

    Raises:
        SnnPerceptionError: if it cannot be written, or the plugin with the data set is missing.
    """
    drive = one_drive(folder, plan, on_time)
    dataset = open_dataset(f"{plan.format}:{drive.folder}", plan.split, registry)
    (labelled,) = (recording for recording in dataset if recording.path == drive.events)
    return LabelledDrive(drive, dataset, labelled)


def _between(labels: Labels, t_us: int, longest_us: int) -> list[tuple[int, F32]]:
    """Return (class, xywh) of each object labelled at a time, or both before and after it within `longest_us`."""
    found = []
    for track in np.unique(labels.track_id).tolist():
        rows = np.flatnonzero(labels.track_id == track)
        times = labels.t_us[rows]
        after = int(np.searchsorted(times, t_us))
        if after == len(rows) or (after == 0 and times[0] != t_us):
            continue
        before = after if times[after] == t_us else after - 1
        length_us = int(times[after] - times[before])
        if length_us <= longest_us:
            share = np.float32((t_us - times[before]) / length_us) if length_us else np.float32(0)
            box = labels.xywh[rows[before]] * (1 - share) + labels.xywh[rows[after]] * share
            found.append((int(labels.class_id[rows[after]]), box))
    return found
