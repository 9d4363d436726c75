"""Sequences as RVT preprocesses them (Gehrig and Scaramuzza, CVPR 2023): stacked histograms and labels in a folder.

::

    event_representations_v2/stacked_histogram_dt=50_nbins=10/event_representations.h5         GEN1
                                                              event_representations_ds2_nearest.h5  1Mpx, half size
                                                              timestamps_us.npy
                                                              objframe_idx_2_repr_idx.npy
    labels_v2/labels.npz  labels_v2/timestamps_us.npy

Labels are kept in pixels of the sensor, also where the histograms are of half size.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from snn_perception.data.label_filters import downsample_labels
from snn_perception.data.labels import Labels
from snn_perception.data.npy import read_npy
from snn_perception.data.rvt_labels import LabelFrames, read_label_frames, whole_numbers
from snn_perception.errors import EventDataError
from snn_perception.events.hdf5_chunks import ChunkTable
from snn_perception.events.hdf5_storage import Hdf5File, Rows, opened_hdf5
from snn_perception.types import I64, MAX_SIDE_PX, U8, SensorSize

log = logging.getLogger(__name__)

REPRESENTATIONS, LABELS = "event_representations_v2", "labels_v2"
_FILES = ("event_representations.h5", "event_representations_ds2_nearest.h5")
_NAME = re.compile(r"stacked_histogram_dt=(\d{1,6})_nbins=(\d{1,3})")


class RvtSequence:
    """One preprocessed sequence, opened for any number of readers; histograms stay on disk until asked for.

    Args:
        path: its folder.

    Attributes:
        path, file: the folder, and the file with the histograms.
        size: of the histograms. bins: time bins per polarity. window_us: sensor time that each histogram spans.
        is_halved: the histograms are every second pixel of every second row of the sensor's.
        t_end_us: int64 [N], end of each window in sensor time, ascending.
        frame_window: int64 [F], for each labelled frame the window that it belongs to, ascending (RVT's
            ``objframe_idx_2_repr_idx``).
        frame_start: int64 [F + 1], where each frame's labels begin among `labels()` (RVT's
            ``objframe_idx_2_label_idx``), and where the last ones end.
        notes: what is missing, did not agree or was dropped.

    Raises:
        EventDataError: if the histograms or their times cannot be read, or the labels are damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.notes: list[str] = []
        self.file, dt_ms, bins = _find_histograms(self.path)
        self.is_halved = self.file.name == _FILES[1]
        self._tables: dict[str, ChunkTable] = {}
        with opened_hdf5(self.file) as file:
            shape = self._rows(file).shape
        self.size, self.bins = SensorSize(shape[2], shape[3]), shape[1] // 2
        if shape[1] != 2 * bins:
            raise EventDataError(
                f"{self.file}: expected {2 * bins} channels, as its folder's name says (2 x nbins), got {shape[1]}"
            )
        self.window_us = dt_ms * 1000
        self.t_end_us = self._window_ends(shape[0])
        frames = self._frames()
        self._labels, self.frame_start, self.frame_window = frames.labels, frames.start, frames.window

    @staticmethod
    def claims(path: str | Path) -> bool:
        """Return whether a folder holds histograms as RVT writes them, from the names in it."""
        try:
            _find_histograms(Path(path))
        except EventDataError:
            return False
        return True

    @property
    def sensor_size(self) -> SensorSize:
        """Size that the labels are in pixels of: `size`, or twice that."""
        factor = 2 if self.is_halved else 1
        return SensorSize(self.size.height * factor, self.size.width * factor)

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.t_end_us)

    def histogram(self, window: int) -> U8:
        """Return the histogram of one window, uint8 [2 * bins, H, W], all OFF bins first.

        Raises:
            IndexError: if there is no such window.
            EventDataError: if the file is damaged there.
        """
        if not -len(self) <= window < len(self):
            raise IndexError(f"{self.path}: window {window} of {len(self)}")
        window %= len(self)
        return next(self.histograms(window, window + 1))

    def histograms(self, start: int = 0, stop: int | None = None) -> Iterator[U8]:
        """Yield the histograms of the windows from `start` up to `stop` (all), uint8 [2 * bins, H, W] each.

        The file is read a chunk at a time, and closed at the end or when the iterator is.

        Raises:
            EventDataError: at the first that is damaged or missing.
        """
        start, stop, _ = slice(start, stop).indices(len(self))
        if start >= stop:
            return
        with opened_hdf5(self.file) as file:
            rows = self._rows(file)
            for window in range(start, stop):
                yield rows.read(window, window + 1)[0].astype(np.uint8, copy=True)

    def labels(self) -> Labels:
        """Return all labels in pixels of the sensor (`sensor_size`), frame by frame; none where the folder has none."""
        return self._labels

    def labels_of_window(self, window: int) -> Labels:
        """Return the labels at the end of one window, in pixels of the sensor; none for one without labelled frames."""
        if not 0 <= window < len(self):
            raise IndexError(f"{self.path}: window {window} of {len(self)}")
        first, last = np.searchsorted(self.frame_window, [window, window + 1])
        return self._labels[slice(int(self.frame_start[first]), int(self.frame_start[last]))]

    def labelled_windows(self) -> I64:
        """Return the windows that have labelled frames, int64 [K], ascending."""
        return np.unique(self.frame_window)

    def _rows(self, file: Hdf5File) -> Rows:
        """Return the data set of an opened file, after a look at its shape and type."""
        rows = file.rows("data", self._tables)
        if len(rows.shape) != 4 or rows.dtype != np.uint8 or not all(rows.shape[1:]):
            raise EventDataError(
                f"{self.file}: expected uint8 [N, 2 x nbins, H, W] in 'data', got {rows.dtype} {list(rows.shape)}"
            )
        if max(rows.shape[2:]) * (2 if self.is_halved else 1) > MAX_SIDE_PX:
            raise EventDataError(
                f"{self.file}: expected a sensor of at most {MAX_SIDE_PX} px a side, got histograms of "
                f"{rows.shape[3]}x{rows.shape[2]}; the file is damaged"
            )
        return rows

    def _window_ends(self, windows: int) -> I64:
        """Return the end of each window; where times and histograms differ in number, those that have both count."""
        path = self.file.with_name("timestamps_us.npy")
        t_end_us = whole_numbers(read_npy(path)[0], path)
        if len(t_end_us) != windows:
            self._note(f"{windows} histograms and {len(t_end_us)} times: the rest of either is left out")
            t_end_us = t_end_us[:windows]
        if (t_end_us[1:] <= t_end_us[:-1]).any():
            raise EventDataError(f"{path}: expected ascending times, got {t_end_us[:5].tolist()} ...; copy it again")
        return t_end_us

    def _frames(self) -> LabelFrames:
        folder = self.path / LABELS
        if not (folder / "labels.npz").is_file():
            self._note(f"no labels: {folder / 'labels.npz'} is missing")
            return LabelFrames.empty()
        mapping = self.file.with_name("objframe_idx_2_repr_idx.npy")
        frames, notes = read_label_frames(folder, mapping, self.t_end_us, self.window_us)
        for note in notes:
            self._note(note)
        return frames

    def _note(self, text: str) -> None:
        self.notes.append(text)
        log.warning("%s: %s", self.path, text)


def halve(labels: Labels, size: SensorSize) -> Labels:
    """Return labels for histograms of half size: boxes scaled by 0.5, cut to 0..W-1 and 0..H-1, empty ones dropped.

    Args:
        size: of the sensor, that is before.
    """
    return downsample_labels(labels, 2, size)


def _find_histograms(path: Path) -> tuple[Path, int, int]:
    """Return the file with the histograms, and milliseconds and bins as its folder is named."""
    folder = path / REPRESENTATIONS
    found = []
    try:
        names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise EventDataError(f"{folder}: cannot be listed: {error.strerror or error}") from error
    for name in names:
        match = _NAME.fullmatch(name)
        for file in _FILES:
            if match and int(match[1]) and int(match[2]) and (folder / name / file).is_file():
                found.append((folder / name / file, int(match[1]), int(match[2])))
    if len(found) != 1:
        got = ", ".join(str(file.relative_to(path)) for file, *_ in found) or ", ".join(names[:5]) or "nothing there"
        raise EventDataError(
            f"{path}: expected one sequence as RVT preprocesses it ({REPRESENTATIONS}/stacked_histogram_dt=50_nbins=10/"
            f"{_FILES[0]}, or {_FILES[1]}), got {got:.300}"
        )
    return found[0]
