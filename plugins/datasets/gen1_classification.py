"""GEN1's boxes as classification samples: the events inside a labelled box shortly before its label.

As in the classification experiments of Cordone et al. (IJCNN 2022): 100 ms, to be cut in five steps of 20 ms and
resized to 64x64 with nearest neighbour; those two are left to the model's representation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from snn_perception.api import (
    Dataset,
    EventDataError,
    LabelledRecording,
    LabelRules,
    Labels,
    Piece,
    SensorSize,
)

from .gen1 import CLASSES, LAYOUT, rules_of
from .paired import open_paired


def gen1_classification(
    root: str | Path,
    split: str,
    *,
    limit: int | None = None,
    filter: str = "none",
    skip_faulty: bool = True,
    window_us: int = 100_000,
    label_every_us: int | None = None,
) -> Dataset:
    """Return one sample per box of GEN1: the `window_us` before its label, cropped to the box.

    Label files are read for this, event files are not. Boxes are cut to the image and widened to whole pixels; labels
    earlier than `window_us` or with nothing inside the image give no sample.

    Args:
        root: as for ``gen1``; sequences preprocessed by RVT hold no events and give no samples.
        limit: at most so many samples.
        filter: which labels count, by the name of a preset.
        skip_faulty: leave samples out whose recordings are damaged as far as their first bytes tell; damaged labels
            give no samples in any case.
        window_us: length of a sample.
        label_every_us: at most one label time in each interval of this length: boxes of one object follow each other.
    """
    if window_us < 1 or (limit is not None and limit < 1):
        raise EventDataError(f"window_us and limit must be at least 1, got {window_us} and {limit}")
    rules = rules_of(filter, label_every_us)
    detection = open_paired(LAYOUT, root, split, rules=rules, limit=None, skip_faulty=skip_faulty)
    samples: list[LabelledRecording] = []
    faulty = list(detection.report.faulty)
    left_out = list(detection.report.left_out)
    without_sample = 0
    for i, recording in enumerate(detection):
        if recording.is_sequence:
            left_out.append(f"{recording.name}: holds representations, not events")
            continue
        if limit is not None and len(samples) >= limit:
            left_out.append(f"what {len(detection) - i} more recordings hold, beyond the limit of {limit} samples")
            break
        try:
            labels = recording.labels()
        except EventDataError as error:
            faulty += [] if str(error) in faulty else [str(error)]
            continue
        here = list(_samples(recording, labels, window_us))
        without_sample += len(labels) - len(here)
        samples += here
    if without_sample:
        left_out.append(f"{without_sample} labels before {window_us} us or outside the image")
    samples = samples[:limit]
    report = replace(detection.report, found=len(samples), faulty=tuple(faulty), left_out=tuple(left_out))
    return Dataset("gen1_classification", split, CLASSES, None, tuple(samples), report, is_classification=True)


def _samples(recording: LabelledRecording, labels: Labels, window_us: int) -> Iterator[LabelledRecording]:
    """Yield the sample of each usable label; its name ends in the label's time and row."""
    size = recording.sensor_size or LAYOUT.sensor
    corners = _corners(labels, size)
    solid = (corners[:, 2:] > corners[:, :2]).all(axis=1)
    for row in np.flatnonzero(solid & (labels.t_us >= window_us)):
        t_us = int(labels.t_us[row])
        x1, y1, x2, y2 = (int(side) for side in corners[row])
        yield replace(
            recording,
            name=f"{recording.name}/{t_us}_{row}",
            class_id=int(labels.class_id[row]),
            label_source=None,
            rules=LabelRules(),
            piece=Piece(t_start_us=t_us - window_us, t_end_us=t_us, crop_xyxy=(x1, y1, x2, y2)),
        )


def _corners(labels: Labels, size: SensorSize) -> np.ndarray:
    """Return boxes [M, 4] as x1, y1, x2, y2 in whole pixels inside the image."""
    limit = np.array([size.width, size.height], np.float64)
    xywh = labels.xywh.astype(np.float64)
    low = np.floor(np.clip(xywh[:, :2], 0, limit))
    high = np.ceil(np.clip(xywh[:, :2] + xywh[:, 2:], 0, limit))
    return np.concatenate([low, high], axis=1)
