"""What `inspect` tells of a preprocessed sequence, which holds event counts of windows and no single events."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np

from snn_perception.cli.inspect_labels import CLASSES, JudgedLabels, judge
from snn_perception.cli.inspect_report import pixels_of, share_of
from snn_perception.cli.inspect_sheet import boxes_of
from snn_perception.data.rvt import LABELS, RvtSequence
from snn_perception.events.rate import MAX_BINS
from snn_perception.events.statistics import Advance
from snn_perception.runtime.sheet import Tile, tile_shape
from snn_perception.runtime.snapshots import Snapshot, shrink
from snn_perception.types import I64, U8

# Told of recordings, and not known of counts: single events, their exact times, and how they were transported.
_UNKNOWN = (
    *("messages", "burst", "t_min", "t_max", "sum_t", "sum_x", "sum_y", "max_x", "max_y"),
    *("time_goes_backwards", "time_leaps", "gaps", "first_events_txyp", "last_events_txyp", "triggers"),
    *("trigger_edges", "trigger_ids", "trigger_sum_t", "first_triggers_t_edge_id", "losses", "losses_by_kind"),
    *("sequence_gaps", "late_packets", "duplicates", "restarts", "duplicate_events", "duplicate_share", "sha256"),
)
_CUTOFF = 10  # the published preprocessing stops counting here; other settings at the largest number there is
_LARGEST = 255


def report_of_sequence(
    sequence: RvtSequence, *, limit_us: int | None = None, advance: Advance | None = None
) -> dict[str, Any]:
    """Return what is told of a sequence: the keys of a recording's report, null where windows of counts do not tell.

    Raises:
        EventDataError: if a window cannot be read.
    """
    ends = _looked_at(sequence, limit_us)
    counts = np.zeros((sequence.size.height, sequence.size.width), np.int64)
    per_window = np.zeros((2, len(ends)), np.int64)  # all, ON
    highest, at_cutoff, at_end = 0, 0, 0
    for i, histogram in enumerate(islice(sequence.histograms(), len(ends))):
        off, on = off_on(histogram, sequence.bins)
        counts += off + on
        per_window[:, i] = int(off.sum()) + int(on.sum()), int(on.sum())
        highest = max(highest, int(histogram.max()))
        at_cutoff += int(np.count_nonzero(histogram >= _CUTOFF))
        at_end += int(np.count_nonzero(histogram == _LARGEST))
        if advance is not None:
            advance(i + 1, len(ends))
    events, on_events = (int(row.sum()) for row in per_window)
    begin_us = int(ends[0]) - sequence.window_us if len(ends) else 0
    end_us = int(ends[-1]) if len(ends) else 0
    duration_us = end_us - begin_us
    return {
        **dict.fromkeys(_UNKNOWN),
        "path": str(sequence.path),
        "format": "rvt",
        "encoding": f"stacked histogram, {sequence.bins} bins",
        "width": sequence.size.width,
        "height": sequence.size.height,
        "size_inferred": False,
        "limit_s": limit_us / 1e6 if limit_us else None,
        "events": events,
        "on": on_events,
        "off": events - on_events,
        "on_share": share_of(on_events, events),
        "t_first_us": begin_us,
        "t_last_us": end_us,
        "duration_us": duration_us,
        "rate_mean_hz": events * 1e6 / duration_us if duration_us else 0.0,
        "rate_peak_hz": float(per_window[0].max()) * 1e6 / sequence.window_us if len(ends) else 0.0,
        "rate": _rate(ends, per_window, sequence.window_us),
        "time_unit": "us",
        "pixels": pixels_of(counts, duration_us),
        "labels": None,
        "notes": list(sequence.notes),
        "windows": len(ends),
        "window_us": sequence.window_us,
        "saturated_cells": at_cutoff if highest <= _CUTOFF else at_end,
    }


def add_labels(report: dict[str, Any], sequence: RvtSequence) -> JudgedLabels:
    """Return the sequence's labels and put what is told of them into its report."""
    end_us = None if report["limit_s"] else report["t_last_us"]
    size = sequence.sensor_size
    labels = judge(sequence.path / LABELS, sequence.labels(), (), size, end_us, CLASSES.get((size.width, size.height)))
    report["labels"] = labels.as_dict()
    return labels


def tiles_of_sequence(sequence: RvtSequence, labels: JudgedLabels | None, *, windows: int, frames: int) -> list[Tile]:
    """Return at most `frames` of the first `windows` windows, evenly chosen: labelled ones, where there are some.

    Raises:
        EventDataError: if a window cannot be read.
    """
    labelled = sequence.labelled_windows() if labels else np.empty(0, np.int64)
    labelled = labelled[labelled < windows]
    choice = labelled if len(labelled) else np.arange(windows)
    places = np.linspace(0, max(len(choice) - 1, 0), min(frames, len(choice))).round().astype(int)
    return [_tile(sequence, labels, window) for window in choice[np.unique(places)].tolist()]


def _tile(sequence: RvtSequence, judged: JudgedLabels | None, window: int) -> Tile:
    halves = off_on(sequence.histogram(window), sequence.bins)
    counts = shrink(np.minimum(np.stack(halves), _LARGEST).astype(np.uint8), tile_shape(sequence.size))
    end_us = int(sequence.t_end_us[window])
    snapshot = Snapshot(end_us - sequence.window_us, end_us, counts, sum(int(half.sum()) for half in halves))
    if judged is None:
        return Tile(snapshot)
    first, last = sequence.frame_start[np.searchsorted(sequence.frame_window, [window, window + 1])].tolist()
    return Tile(snapshot, boxes_of(judged.labels[first:last]))


def off_on(histogram: U8, bins: int) -> tuple[I64, I64]:
    """Return OFF and ON events per pixel, int64 [H, W], of a histogram [2 * bins, H, W], OFF bins first."""
    return histogram[:bins].sum(axis=0, dtype=np.int64), histogram[bins:].sum(axis=0, dtype=np.int64)


def _looked_at(sequence: RvtSequence, limit_us: int | None) -> I64:
    """Return the ends of the windows within the limit."""
    ends = sequence.t_end_us
    return ends if limit_us is None or not len(ends) else ends[ends - ends[0] + sequence.window_us <= limit_us]


def _rate(ends: I64, per_window: I64, window_us: int) -> dict[str, Any]:
    """Return the events over time, as many windows to a bin as keep the bins few."""
    if not len(ends):
        return {"bin_us": 0, "t_start_us": 0, "events": [], "on": []}
    begin, bin_us = int(ends[0]) - window_us, window_us
    while (int(ends[-1]) - begin) > MAX_BINS * bin_us:
        bin_us *= 2
    place = (ends - window_us - begin) // bin_us
    sums = [np.bincount(place, weights=row).astype(np.int64) for row in per_window]
    return {"bin_us": bin_us, "t_start_us": begin, "events": sums[0].tolist(), "on": sums[1].tolist()}
