"""The page that `inspect --png` draws: which moments it shows, and what it says about them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from snn_perception.cli.inspect_labels import JudgedLabels
from snn_perception.cli.inspect_table import facts_of
from snn_perception.data.labels import Labels
from snn_perception.runtime.rate_plot import Rate
from snn_perception.runtime.sheet import Boxes, Sheet, Tile
from snn_perception.runtime.snapshots import Snapshot, Span, before_labels, spread_evenly
from snn_perception.types import SensorSize


def chosen_spans(report: dict[str, Any], labels: JudgedLabels | None, *, frames: int, window_us: int) -> list[Span]:
    """Return the moments to show: before labels where there are some inside the recording, else evenly over it."""
    begin, end = report["t_first_us"], report["t_last_us"]
    spans = before_labels(labels.labels.t_us, begin, end, window_us, frames) if labels else []
    return spans or spread_evenly(begin, end, window_us, frames)


def tiles_of(moments: Sequence[Snapshot], judged: JudgedLabels | None) -> list[Tile]:
    """Return the moments of a recording, each with the boxes of the latest labelled time in it."""
    return [Tile(moment, None if judged is None else _boxes(judged.labels, moment)) for moment in moments]


def sheet_of(report: dict[str, Any], size: SensorSize, tiles: Sequence[Tile], classes: Sequence[str] = ()) -> Sheet:
    """Return the page of these tiles; `size` is that of the sensor, in whose pixels their boxes are."""
    rate = report["rate"]
    return Sheet(
        title=Path(report["path"]).name,
        facts=facts_of(report),
        size=size,
        t_first_us=report["t_first_us"],
        rate=Rate(rate["bin_us"], rate["t_start_us"], np.array(rate["events"]), np.array(rate["on"])),
        tiles=tiles,
        classes=classes,
    )


def boxes_of(labels: Labels) -> Boxes:
    """Return labels as boxes xyxy."""
    xyxy = labels.xywh.copy()
    xyxy[:, 2:] += xyxy[:, :2]
    return Boxes(xyxy, labels.class_id)


def _boxes(labels: Labels, moment: Snapshot) -> Boxes:
    inside = (labels.t_us >= moment.t_start_us) & (labels.t_us < moment.t_end_us)
    return boxes_of(labels[labels.t_us == labels.t_us[inside].max()]) if inside.any() else Boxes()
