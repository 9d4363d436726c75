"""The labels of an RVT-preprocessed sequence, frame by frame, and the window that each frame belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from snn_perception.data.labels import Labels, labels_from_rows
from snn_perception.data.npy import read_npy
from snn_perception.data.npz import read_npz
from snn_perception.errors import EventDataError
from snn_perception.types import I64


@dataclass(frozen=True, eq=False)
class LabelFrames:
    """Labels in frames of one time each.

    Attributes:
        labels: all of them, frame by frame.
        start: int64 [F + 1], where the labels of each frame begin, and the end of the last.
        window: int64 [F], which window each frame belongs to, not descending.
    """

    labels: Labels
    start: I64
    window: I64

    @staticmethod
    def empty() -> LabelFrames:
        """Return no frames."""
        return LabelFrames(Labels.empty(), np.zeros(1, np.int64), np.empty(0, np.int64))


def read_label_frames(
    folder: Path, mapping: Path, t_end_us: I64, window_us: int
) -> tuple[LabelFrames, tuple[str, ...]]:
    """Return the labels in a sequence's label folder, and notes for a person.

    Frames of windows beyond the last are dropped. Without the file that maps frames to windows, a frame belongs to the
    window that its labels' time lies in.

    Args:
        mapping: file with the window of each frame.
        t_end_us: end of each window, int64 [N]. window_us: their length.

    Raises:
        EventDataError: if a file is damaged, or they do not agree with one another.
    """
    path = folder / "labels.npz"
    arrays, read_notes = read_npz(path, ("labels", "objframe_idx_2_label_idx"))
    notes = list(read_notes)
    if "labels" not in arrays:
        raise EventDataError(f"{path}: expected an array 'labels', got none of that name")
    rows = arrays["labels"].reshape(-1)
    start = _starts(arrays.get("objframe_idx_2_label_idx"), rows, path, notes)
    labels, start = _in_frames(rows, start, path, notes)
    t_frame = _frame_times(folder / "timestamps_us.npy", labels, start, notes)
    if mapping.is_file():
        window = whole_numbers(read_npy(mapping)[0], mapping)
        if len(window) != len(start) - 1:
            raise EventDataError(f"{mapping}: expected {len(start) - 1} frames, as {path} has, got {len(window)}")
        if len(window) and ((window[1:] < window[:-1]).any() or window[0] < 0):
            raise EventDataError(f"{mapping}: expected windows in order, got {window[:5].tolist()} ...; copy it again")
    else:
        notes.append(f"{mapping.name} is missing: frames belong to the window that their labels' time lies in")
        window = np.searchsorted(t_end_us, t_frame).astype(np.int64)
    known = int(np.searchsorted(window, len(t_end_us)))
    if known < len(window):
        notes.append(f"{len(window) - known} labelled frame(s) after the last window: dropped")
    frames = LabelFrames(labels[: int(start[known])], start[: known + 1], window[:known])
    _check_times(frames, t_frame[:known], t_end_us, window_us, notes)
    return frames, tuple(notes)


def whole_numbers(array: npt.NDArray[Any], path: Path) -> I64:
    """Return int64 [N]; raise EventDataError for other than whole numbers in one axis."""
    if array.ndim != 1 or array.dtype.kind not in "iu" or (array.dtype.kind == "u" and (array > (1 << 62)).any()):
        raise EventDataError(f"{path}: expected whole numbers [N], got {array.dtype!s:.80} {list(array.shape)}")
    return array.astype(np.int64)


def _starts(found: npt.NDArray[Any] | None, rows: npt.NDArray[Any], path: Path, notes: list[str]) -> I64:
    """Return where each frame's rows begin and the last ones end, int64 [F + 1]."""
    if found is None:
        notes.append("objframe_idx_2_label_idx is missing: a frame is a run of labels of one time")
        name = next((name for name in ("t", "ts") if name in (rows.dtype.names or ())), None)
        if name is None or not len(rows):
            return np.zeros(1, np.int64) if not len(rows) else np.array([0, len(rows)], np.int64)
        return np.concatenate([[0], 1 + np.flatnonzero(rows[name][1:] != rows[name][:-1]), [len(rows)]]).astype(
            np.int64
        )
    start = np.concatenate([whole_numbers(found, path), [len(rows)]])
    if (start[1:] < start[:-1]).any() or start[0] != 0:  # differences could overflow
        raise EventDataError(
            f"{path}: expected objframe_idx_2_label_idx to run from 0 up to at most {len(rows)} labels, got "
            f"{start[:5].tolist()} ... {start[-2:].tolist()}; copy it again"
        )
    return start


def _in_frames(rows: npt.NDArray[Any], start: I64, path: Path, notes: list[str]) -> tuple[Labels, I64]:
    """Return the labels frame by frame and where each frame's begin, whatever rows are dropped or out of order."""
    labels, found = labels_from_rows(rows, path)
    notes += found
    in_order = not any("time order" in note for note in found)
    if in_order and len(labels) == len(rows):
        return labels, start
    parts = [labels_from_rows(rows[a:b], path)[0] for a, b in pairwise(start)]
    return Labels.concatenate(parts), np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)


def _frame_times(path: Path, labels: Labels, start: I64, notes: list[str]) -> I64:
    """Return the time of each frame, int64 [F], from the file beside the labels or from the labels."""
    frames = len(start) - 1
    if path.is_file():
        t = whole_numbers(read_npy(path)[0], path)
        if len(t) == frames:
            return t
        notes.append(f"{path.name} has {len(t)} times for {frames} labelled frames: not used")
    t = np.full(frames, -1, np.int64)
    filled = np.flatnonzero(np.diff(start))
    t[filled] = labels.t_us[start[filled]]
    return np.maximum.accumulate(t) if frames else t


def _check_times(frames: LabelFrames, t_frame: I64, t_end_us: I64, window_us: int, notes: list[str]) -> None:
    """Note frames whose time lies outside the window that they are said to belong to."""
    off = t_end_us[frames.window] - t_frame
    odd = int(((off < 0) | (off >= window_us)).sum())
    if odd:
        notes.append(f"{odd} labelled frame(s) lie outside the window that they belong to, by their times")
