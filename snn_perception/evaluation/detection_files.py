"""Detections on disk, as ``replay --detections`` writes them: read in place of running a model, and written for others.

A file from here holds the windows that labels fall into, one line each; one from ``replay`` holds every window.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from snn_perception.data.dataset import LabelledRecording
from snn_perception.data.label_filters import select_classes
from snn_perception.errors import EventDataError
from snn_perception.evaluation.motion import silent_rows
from snn_perception.evaluation.outcome import RecordingOutcome
from snn_perception.events.window_source import events_between
from snn_perception.registry import Registry
from snn_perception.runtime.detections_file import WindowDetections, read_detections
from snn_perception.types import Detections
from snn_perception.whole_file import whole_file


def write_outcome(path: Path, outcome: RecordingOutcome) -> None:
    """Write one line for each window that was looked at; class ids are those of the evaluation.

    Raises:
        SnnPerceptionError: if the file cannot be put there.
    """
    bounds = np.searchsorted(outcome.end_us, [outcome.set_end_us, outcome.set_end_us + 1])
    xyxy = np.concatenate([outcome.xywh[:, :2], outcome.xywh[:, :2] + outcome.xywh[:, 2:]], axis=1)
    with whole_file(path) as partial_path, partial_path.open("w", encoding="utf-8", newline="\n") as file:
        rows = zip(outcome.set_end_us.tolist(), outcome.set_events.tolist(), *bounds.tolist(), strict=True)
        for number, (end_us, events, begin, end) in enumerate(rows):
            line = {
                "window": number if outcome.at_labels else end_us // outcome.stride_us - 1,
                "t_start_us": end_us - outcome.window_us,
                "t_end_us": end_us,
                "events": events,
                "lossy": False,
                "after_gap": False,
                "xyxy": xyxy[begin:end].tolist(),
                "score": outcome.score[begin:end].tolist(),
                "class_id": outcome.class_id[begin:end].tolist(),
            }
            file.write(json.dumps(line, allow_nan=False) + "\n")


def read_outcome(
    path: Path,
    labelled: LabelledRecording,
    registry: Registry,
    truth_classes: Mapping[int, int],
    found_classes: Mapping[int, int],
    *,
    silent: bool = True,
) -> RecordingOutcome:
    """Return the detections in a file beside the labels of the recording that they were made in.

    Args:
        truth_classes: number of a class in the data set -> in the evaluation; labels of others are left out.
        found_classes: the same for the file's class ids; detections of -1 are left out.

    Raises:
        EventDataError: if the file cannot be read, holds no windows, or a class id that nobody named.
    """
    windows = list(read_detections(path))
    if not windows:
        raise EventDataError(f"{path}: holds no windows; write it with 'replay MODEL {labelled.path} --detections F'")
    for window in windows:
        foreign = set(window.detections.class_id.tolist()) - found_classes.keys()
        if foreign:
            raise EventDataError(
                f"{path}: window {window.window}: expected the class ids {_some(found_classes)}, got {min(foreign)}; "
                "name the file's classes in the order of their ids with --classes"
            )
    lengths = {window.t_end_us - window.t_start_us for window in windows}
    if len(lengths) != 1 or min(lengths) <= 0:
        raise EventDataError(f"{path}: expected windows of one length, got {sorted(lengths)[:5]} us")
    labels, notes = labelled.labels_and_notes()
    truth = select_classes(labels, truth_classes)
    length_us = lengths.pop()
    stride_us = math.gcd(length_us, *(window.t_end_us for window in windows))  # windows end on a grid from 0
    needed = np.unique((truth.t_us // stride_us + 1) * stride_us)
    sets = _first_of_each_end(windows, set(needed.tolist()))
    missing = len(needed) - len(sets)
    if missing:
        notes = (*notes, f"{missing} of {len(needed)} labelled windows are not in {path.name}: nothing found there")
    found = [_known(one.detections, found_classes) for one in sets]
    xyxy = np.concatenate([np.empty((0, 4), np.float32), *(one.xyxy for one in found)])
    ends = np.array([one.t_end_us for one in sets], np.int64)
    return RecordingOutcome(
        name=labelled.name,
        truth=truth,
        silent=silent_rows(truth, partial(events_between, labelled.open(registry), registry)) if silent else None,
        stride_us=stride_us,
        window_us=length_us,
        set_end_us=ends,
        set_events=np.array([one.events for one in sets], np.int64),
        end_us=np.repeat(ends, [len(one) for one in found]),
        xywh=np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1),
        score=np.concatenate([np.empty(0, np.float32), *(one.score for one in found)]),
        class_id=np.concatenate([np.empty(0, np.int64), *(one.class_id for one in found)]),
        windows=len(windows),
        labelled_windows=len(sets),
        events=sum(one.events for one in windows),
        duration_us=max(one.t_end_us for one in windows),
        notes=tuple(notes),
    )


def _known(found: Detections, numbers: Mapping[int, int]) -> Detections:
    """Return the detections of classes that are evaluated, so numbered."""
    ours = np.array([numbers[number] for number in found.class_id.tolist()], np.int64)
    return replace(found, class_id=ours)[ours >= 0]


def _first_of_each_end(windows: list[WindowDetections], needed: set[int]) -> list[WindowDetections]:
    """Return the needed windows by their ends; where time jumped back, the first of equal ends."""
    by_end: dict[int, WindowDetections] = {}
    for window in windows:
        if window.t_end_us in needed:
            by_end.setdefault(window.t_end_us, window)
    return [by_end[end] for end in sorted(by_end)]


def _some(numbers: Mapping[int, int]) -> str:
    return ", ".join(map(str, sorted(numbers)))
