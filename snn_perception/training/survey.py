"""What there is to train on: which windows of which recordings hold labels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from snn_perception.data.dataset import Dataset, LabelledRecording
from snn_perception.data.label_windows import label_times
from snn_perception.data.labels import Labels
from snn_perception.data.targets import time_targets, window_targets
from snn_perception.data.window_rule import GRID, WindowRule
from snn_perception.errors import EventDataError
from snn_perception.types import I64, SensorSize, Targets


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Recordings with labels, and the windows that these fall into.

    Attributes:
        recordings: those with labels. labelled: for each, its labelled windows, increasing: their numbers on the grid,
            window k being ``k * window_us <= t < (k + 1) * window_us``, or else the label times (`is_timed`).
        rule: how windows are cut.
        without_labels: names of those left out.
    """

    recordings: tuple[LabelledRecording, ...]
    labelled: tuple[I64, ...]
    window_us: int
    rule: WindowRule = field(default_factory=WindowRule)
    without_labels: tuple[str, ...] = ()

    def is_timed(self, recording: int) -> bool:
        """Return whether windows belong to label times, as those of sequences always do, and not to the grid."""
        return not self.rule.is_grid or self.recordings[recording].is_sequence

    @property
    def lengths(self) -> list[int]:
        """Windows of each recording that are of use in training: up to the last labelled one."""
        return [int(windows[-1]) + 1 for windows in self.labelled]

    @property
    def samples(self) -> list[tuple[int, int]]:
        """Every (recording, labelled window)."""
        return [(i, int(k)) for i, windows in enumerate(self.labelled) for k in windows]


def survey(dataset: Dataset, window_us: int, rule: WindowRule = GRID) -> TrainingSet:
    """Return what a data set offers; reads every label file, and no events.

    Raises:
        EventDataError: if it holds no labels at all, or several times of them where a recording is one window.
    """
    recordings, labelled, without = [], [], []
    for recording in dataset:
        windows = label_times(recording.labels())
        rule.check_times(windows, recording.name)
        if rule.is_grid and not recording.is_sequence:
            windows = np.unique(windows // window_us)
        if len(windows):
            recordings.append(recording)
            labelled.append(windows)
        else:
            without.append(recording.name)
    if not recordings:
        raise EventDataError(
            f"{dataset.name}: none of the {len(dataset)} recordings of split '{dataset.split}' has labels that count; "
            "look at 'inspect' and the data set's filter"
        )
    return TrainingSet(tuple(recordings), tuple(labelled), window_us, rule, tuple(without))


class WindowLabels:
    """The targets of each window of one recording, in pixels of an image of `size`."""

    def __init__(self, labels: Labels, window_us: int, source: SensorSize, size: SensorSize) -> None:
        self._labels, self._window_us, self._source = labels, window_us, source
        self._scale = np.array([size.width / source.width, size.height / source.height] * 2, np.float32)
        self._edges = labels.t_us // window_us

    def at(self, window: int) -> Targets | None:
        """Return the targets of a window, None where it has no label."""
        first, last = np.searchsorted(self._edges, [window, window + 1]).tolist()
        if first == last:
            return None
        rows = self._labels[first:last]
        begin_us = window * self._window_us
        targets = window_targets(
            rows.t_us, rows.xywh, rows.class_id, rows.track_id, self._source, window_t_us=begin_us + self._window_us
        )
        return self._scaled(targets)

    def at_time(self, t_us: int, *, cut: bool = True) -> Targets | None:
        """Return the targets of a label time, all of its boxes; None where there is no label.

        Args:
            cut: boxes are cut to the image, and those of which nothing is left go.
        """
        first, last = np.searchsorted(self._labels.t_us, [t_us, t_us + 1]).tolist()
        if first == last:
            return None
        rows = self._labels[first:last]
        return self._scaled(time_targets(rows.xywh, rows.class_id, self._source if cut else None, t_us=t_us))

    def _scaled(self, targets: Targets) -> Targets:
        return targets if (self._scale == 1).all() else replace(targets, xyxy=targets.xyxy * self._scale)
