"""What there is to train on: which windows of which recordings hold labels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from snn_perception.data.dataset import Dataset, LabelledRecording
from snn_perception.data.labels import Labels
from snn_perception.data.targets import window_targets
from snn_perception.errors import EventDataError
from snn_perception.types import I64, SensorSize, Targets


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Recordings with labels, and the windows that these fall into.

    Attributes:
        recordings: those with labels. labelled: for each, the numbers of its labelled windows, increasing; window k is
            ``k * window_us <= t < (k + 1) * window_us``.
        without_labels: names of those left out.
    """

    recordings: tuple[LabelledRecording, ...]
    labelled: tuple[I64, ...]
    window_us: int
    without_labels: tuple[str, ...] = ()

    @property
    def lengths(self) -> list[int]:
        """Windows of each recording that are of use in training: up to the last labelled one."""
        return [int(windows[-1]) + 1 for windows in self.labelled]

    @property
    def samples(self) -> list[tuple[int, int]]:
        """Every (recording, labelled window)."""
        return [(i, int(k)) for i, windows in enumerate(self.labelled) for k in windows]


def survey(dataset: Dataset, window_us: int) -> TrainingSet:
    """Return what a data set offers; reads every label file, and no events.

    Raises:
        EventDataError: if it holds representations in place of events, or no labels at all.
    """
    recordings, labelled, without = [], [], []
    for recording in dataset:
        if recording.is_sequence:
            raise EventDataError(
                f"{recording.path}: holds representations; training starts from events, give raw files"
            )
        windows = np.unique(recording.labels().t_us // window_us)
        windows = windows[windows >= 0]
        if len(windows):
            recordings.append(recording)
            labelled.append(windows.astype(np.int64))
        else:
            without.append(recording.name)
    if not recordings:
        raise EventDataError(
            f"{dataset.name}: none of the {len(dataset)} recordings of split '{dataset.split}' has labels that count; "
            "look at 'inspect' and the data set's filter"
        )
    return TrainingSet(tuple(recordings), tuple(labelled), window_us, tuple(without))


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
        return targets if (self._scale == 1).all() else replace(targets, xyxy=targets.xyxy * self._scale)
