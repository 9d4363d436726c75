"""Sequences in the folders that RVT's preprocessing writes, made from events."""

from pathlib import Path

import h5py
import hdf5plugin
import numpy as np

from snn_perception.data.labels import LAYOUTS, Labels
from snn_perception.types import EventArray, SensorSize

WINDOW_US = 50_000
BINS = 10


def stacked_histogram(events: EventArray, bins: int = BINS) -> np.ndarray:
    """Return counts uint8 [2 * bins, H, W] up to 10, bins between the first and the last event, OFF bins first."""
    out = np.zeros((2 * bins, events.size.height, events.size.width), np.int64)
    if len(events):
        t0, span = int(events.t[0]), max(int(events.t[-1] - events.t[0]), 1)
        b = np.minimum(bins - 1, bins * (events.t - t0) // span)
        np.add.at(out, (events.p * np.int64(bins) + b, events.y, events.x), 1)
    return np.minimum(out, 10).astype(np.uint8)


def label_rows(labels: Labels, layout: str = "one_mpx") -> np.ndarray:
    """Return labels as the structured rows that a file holds."""
    rows = np.zeros(len(labels), LAYOUTS[layout])
    names = rows.dtype.names or ()
    for ours, theirs in (("t_us", ("t", "ts")), ("class_id", ("class_id",)), ("track_id", ("track_id",))):
        rows[next(name for name in theirs if name in names)] = getattr(labels, ours)
    for column, name in enumerate("xywh"):
        rows[name] = labels.xywh[:, column]
    rows["class_confidence" if "class_confidence" in names else "confidence"] = labels.confidence
    return rows


def write_sequence(
    folder: Path,
    events: EventArray,
    labels: Labels,
    *,
    windows: int,
    halved: bool = False,
    name: str = f"stacked_histogram_dt=50_nbins={BINS}",
    rows: np.ndarray | None = None,
    **h5: object,
) -> Path:
    """Write one sequence and return its folder.

    Args:
        events: all of it; windows end at 50, 100, ... ms and hold the events at both of their ends.
        labels: in pixels of the sensor, in time order; each distinct time is a labelled frame.
        halved: every second pixel of every second row, as for 1Mpx.
        rows: structured labels to store in place of those of `labels`.
        h5: for `create_dataset`, in place of chunks of one histogram and RVT's compression.
    """
    place = folder / "event_representations_v2" / name
    place.mkdir(parents=True)
    (folder / "labels_v2").mkdir()
    t_end = WINDOW_US * np.arange(1, windows + 1, dtype=np.int64)
    frames = []
    for end in t_end.tolist():
        first, last = np.searchsorted(events.t, end - WINDOW_US), np.searchsorted(events.t, end, "right")
        frames.append(stacked_histogram(events[int(first) : int(last)]))
    data = np.stack(frames)
    if halved:
        data = data[..., 1::2, 1::2]
    options = {"chunks": (1, *data.shape[1:]), **hdf5plugin.Blosc(cname="zstd", clevel=1, shuffle=1), **h5}
    file = "event_representations_ds2_nearest.h5" if halved else "event_representations.h5"
    with h5py.File(place / file, "w") as out:
        out.create_dataset("data", data=data, track_times=False, **options)
    np.save(place / "timestamps_us.npy", t_end)
    t_frame, start = np.unique(labels.t_us, return_index=True)
    np.save(place / "objframe_idx_2_repr_idx.npy", np.searchsorted(t_end, t_frame))
    rows = label_rows(labels) if rows is None else rows
    np.savez(folder / "labels_v2" / "labels.npz", labels=rows, objframe_idx_2_label_idx=start)
    np.save(folder / "labels_v2" / "timestamps_us.npy", t_frame)
    return folder


def random_events(count: int, duration_us: int, size: SensorSize, seed: int = 0) -> EventArray:
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(0, duration_us, count)).astype(np.int64)
    x = rng.integers(0, size.width, count).astype(np.uint16)
    y = rng.integers(0, size.height, count).astype(np.uint16)
    return EventArray(x, y, rng.integers(0, 2, count).astype(np.uint8), t, size)


def labels_at(times_us: list[int], per_time: int, size: SensorSize, seed: int = 0) -> Labels:
    rng = np.random.default_rng(seed)
    n = len(times_us) * per_time
    corner = rng.uniform(0, 0.6, (n, 2)) * [size.width, size.height]
    sides = rng.uniform(0.1, 0.4, (n, 2)) * [size.width, size.height]
    return Labels(
        np.repeat(np.array(times_us, np.int64), per_time),
        np.concatenate([corner, sides], axis=1).astype(np.float32),
        rng.integers(0, 3, n).astype(np.int64),
        np.arange(n, dtype=np.int64),
        np.ones(n, np.float32),
    )
