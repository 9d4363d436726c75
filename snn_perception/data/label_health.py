"""What is odd about a recording's labels, counted; nothing is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from snn_perception.data.label_filters import FILTERS, clip_labels, kept_by
from snn_perception.data.labels import Labels
from snn_perception.types import SensorSize


@dataclass(frozen=True)
class LabelHealth:
    """Counts over the labels of one recording.

    Attributes:
        boxes, frames, tracks: rows, distinct times, distinct track ids.
        per_class: class name -> boxes, in the order of the classes.
        unknown_class: boxes of a class that is not in the list.
        outside: boxes that lie wholly outside the image; partly_outside: that reach beyond it and are not `outside`.
        non_positive: boxes with a width or height of 0 or less; too_large: wider or higher than the image.
        duplicated: boxes after the first with the same time and track.
        before_start, after_end: labels before time 0, and later than the recording's end (0 where that is not known).
        rate_hz: frames per second, from the median distance between them; None below two frames.
        kept: filter name -> boxes that it keeps (`snn_perception.data.label_filters`).
    """

    boxes: int
    frames: int
    tracks: int
    per_class: Mapping[str, int]
    unknown_class: int
    outside: int
    partly_outside: int
    non_positive: int
    too_large: int
    duplicated: int
    before_start: int
    after_end: int
    rate_hz: float | None
    kept: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @property
    def faults(self) -> dict[str, int]:
        """Counts of what is wrong, without those that are 0; boxes partly outside are usual and not among them."""
        names = (
            "unknown_class",
            "outside",
            "non_positive",
            "too_large",
            "duplicated",
            "before_start",
            "after_end",
        )
        return {name: getattr(self, name) for name in names if getattr(self, name)}


def check_labels(
    labels: Labels, size: SensorSize, classes: Sequence[str], duration_us: int | None = None
) -> LabelHealth:
    """Return what the labels hold and what is odd about them.

    Args:
        size: of the image.
        classes: names; a label's class is an index into them.
        duration_us: sensor time at the end of the recording; None if it is not known.
    """
    xywh = labels.xywh.astype(np.float64)
    low, sides = xywh[:, :2], xywh[:, 2:]
    high = low + sides
    limit = np.array([size.width, size.height], np.float64)
    outside = ((high <= 0) | (low >= limit)).any(axis=1)
    times = np.unique(labels.t_us)
    pairs = np.unique(np.stack([labels.t_us, labels.track_id], axis=1), axis=0)
    known = (labels.class_id >= 0) & (labels.class_id < len(classes))
    counts = np.bincount(labels.class_id[known], minlength=len(classes))
    late = labels.t_us > duration_us if duration_us is not None else np.zeros(len(labels), bool)
    clipped = clip_labels(labels, size)
    return LabelHealth(
        boxes=len(labels),
        frames=len(times),
        tracks=len(np.unique(labels.track_id)),
        per_class={name: int(count) for name, count in zip(classes, counts, strict=True)},
        unknown_class=int((~known).sum()),
        outside=int(outside.sum()),
        partly_outside=int((((low < 0) | (high > limit)).any(axis=1) & ~outside).sum()),
        non_positive=int((sides <= 0).any(axis=1).sum()),
        too_large=int((sides > limit).any(axis=1).sum()),
        duplicated=len(labels) - len(pairs),
        before_start=int((labels.t_us < 0).sum()),
        after_end=int(late.sum()),
        rate_hz=float(1e6 / np.median(np.diff(times))) if len(times) > 1 else None,
        kept={
            name: int(kept_by(clipped if rule.is_clipped else labels, rule, size).sum())
            for name, rule in FILTERS.items()
        },
    )
