"""Which labelled boxes count: the named filters of the field's protocols, and the choice of classes.

The protocols differ in small ways that move a mean AP by tenths, so a result names its filter. Sizes are compared in
float32 as ``w*w + h*h >= d*d`` and ``side >= s``, on boxes as labelled, unclipped unless the filter says otherwise.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from snn_perception.data.labels import Labels
from snn_perception.errors import EventDataError
from snn_perception.types import SensorSize


@dataclass(frozen=True)
class LabelFilter:
    """One rule for which boxes stay.

    Attributes:
        name: as options and reports give it.
        source: who filters like this.
        after_us: only labels later than this (strictly); None keeps all.
        min_diagonal_px, min_side_px: smallest box that stays; 0 for any.
        max_width: largest width that stays, as a share of the image's; None for any.
        is_clipped: boxes are cut to 0..W-1 and 0..H-1 first, and stay cut.
    """

    name: str
    source: str
    after_us: int | None = None
    min_diagonal_px: float = 0.0
    min_side_px: float = 0.0
    max_width: float | None = None
    is_clipped: bool = False

    @property
    def needs_size(self) -> bool:
        """Whether the filter depends on the size of the image."""
        return self.is_clipped or self.max_width is not None


_RVT_TRAINING = "RVT's preprocessing, training split"
FILTERS: dict[str, LabelFilter] = {
    preset.name: preset
    for preset in (
        LabelFilter("none", "every label"),
        LabelFilter(
            "gen1",
            "RVT (Gehrig and Scaramuzza, CVPR 2023) on GEN1",
            after_us=500_000,
            min_diagonal_px=30,
            min_side_px=10,
        ),
        LabelFilter("one_mpx", "RVT on 1Mpx, full size", after_us=500_000, min_diagonal_px=60, min_side_px=20),
        LabelFilter("one_mpx_half", "RVT on 1Mpx, half size", after_us=500_000, min_diagonal_px=30, min_side_px=10),
        LabelFilter("stvgg", "Cordone, PhD thesis, 2022, ch. 5, on GEN1", min_diagonal_px=30, min_side_px=20),
        LabelFilter(
            "toolbox",
            "Prophesee's toolbox from its command line, GEN1 (its minimum sides are swapped between the cameras)",
            after_us=100_000,
            min_diagonal_px=30,
            min_side_px=20,
        ),
        LabelFilter(
            "toolbox_one_mpx",
            "Prophesee's toolbox from its command line, 1Mpx (its minimum sides are swapped between the cameras)",
            after_us=100_000,
            min_diagonal_px=60,
            min_side_px=10,
        ),
        LabelFilter(
            "rvt_train_gen1",
            f"{_RVT_TRAINING} of GEN1",
            min_diagonal_px=30,
            min_side_px=10,
            max_width=0.9,
            is_clipped=True,
        ),
        LabelFilter("rvt_train_one_mpx", f"{_RVT_TRAINING} of 1Mpx", min_side_px=5, max_width=0.9, is_clipped=True),
        LabelFilter(
            "rvt_eval_gen1",
            "RVT's preprocessing, validation and test split of GEN1",
            min_diagonal_px=30,
            min_side_px=10,
            is_clipped=True,
        ),
        LabelFilter(
            "rvt_eval_one_mpx",
            "RVT's preprocessing, validation and test split of 1Mpx",
            min_side_px=5,
            is_clipped=True,
        ),
    )
}


def named_filter(name: str | LabelFilter) -> LabelFilter:
    """Return the filter of this name.

    Raises:
        EventDataError: if there is none, with those there are.
    """
    if isinstance(name, LabelFilter):
        return name
    if name not in FILTERS:
        close = difflib.get_close_matches(str(name), FILTERS, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise EventDataError(f"unknown label filter {name!r}; filters: {', '.join(FILTERS)}{hint}")
    return FILTERS[name]


def filter_labels(labels: Labels, rule: str | LabelFilter, size: SensorSize | None = None) -> Labels:
    """Return the labels that a filter keeps, in their order.

    Args:
        size: of the image; needed by filters that clip or limit the width.

    Raises:
        EventDataError: for an unknown filter, or one that needs the size where none is given.
    """
    rule = named_filter(rule)
    if rule.needs_size and size is None:
        raise EventDataError(f"label filter '{rule.name}' needs the size of the image; give it")
    if rule.is_clipped and size is not None:
        labels = clip_labels(labels, size)
    return labels[kept_by(labels, rule, size)]


def kept_by(labels: Labels, rule: LabelFilter, size: SensorSize | None = None) -> npt.NDArray[np.bool_]:
    """Return which labels a filter keeps, bool [M], of boxes already clipped where it asks for that."""
    w, h = labels.xywh[:, 2], labels.xywh[:, 3]
    least, diagonal = np.float32(rule.min_side_px), np.float32(rule.min_diagonal_px)
    kept = np.ones(len(labels), bool)
    if least > 0:
        kept &= (w >= least) & (h >= least)
    if diagonal > 0:
        with np.errstate(over="ignore"):
            kept &= w * w + h * h >= diagonal * diagonal
    if rule.after_us is not None:
        kept &= labels.t_us > rule.after_us
    if rule.max_width is not None and size is not None:
        kept &= w <= np.float32(rule.max_width * size.width)
    return kept


def clip_labels(labels: Labels, size: SensorSize) -> Labels:
    """Return the labels with boxes cut to 0..W-1 and 0..H-1 (as RVT does), without those of which nothing is left."""
    limit = np.array([size.width - 1, size.height - 1], np.float32)
    low = np.clip(labels.xywh[:, :2], 0, limit)
    with np.errstate(over="ignore"):
        high = np.clip(labels.xywh[:, :2] + labels.xywh[:, 2:], 0, limit)
    sides = high - low
    boxes = replace(labels, xywh=np.concatenate([low, sides], axis=1, dtype=np.float32))
    return boxes[(sides > 0).all(axis=1)]


def select_classes(labels: Labels, classes: Mapping[int, int]) -> Labels:
    """Return the labels of the classes in `classes` (number in the file -> our number); others are dropped."""
    known = np.array(sorted(classes), np.int64)
    if not len(known):
        return Labels.empty()
    ours = np.array([classes[int(number)] for number in known], np.int64)
    place = np.searchsorted(known, labels.class_id).clip(max=len(known) - 1)
    kept = known[place] == labels.class_id
    return replace(labels, class_id=ours[place])[kept]


def thin_labels(labels: Labels, every_us: int) -> Labels:
    """Return the labels of the first label time in each interval ``[k, k + 1) * every_us`` of sensor time.

    1Mpx is labelled at 30 or 60 Hz; an interval of 100 ms leaves 10 Hz, as RVT trains on.

    Raises:
        EventDataError: if `every_us` is not positive.
    """
    if every_us < 1:
        raise EventDataError(f"labels can be thinned to one time in a positive interval, got {every_us} us")
    times, frame = np.unique(labels.t_us, return_inverse=True)
    interval = times // every_us
    first = np.ones(len(times), bool)
    first[1:] = interval[1:] != interval[:-1]
    return labels[first[frame.reshape(-1)]]


def downsample_labels(labels: Labels, factor: int, size: SensorSize) -> Labels:
    """Return the labels on an image `factor` times smaller, cut to it as `clip_labels` does.

    Args:
        size: of the image before.
    """
    smaller = replace(labels, xywh=labels.xywh * np.float32(1 / factor))
    return clip_labels(smaller, SensorSize(size.height // factor, size.width // factor))
