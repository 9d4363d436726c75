"""Tiny data set trees on disk, with real files, one builder for each registered data set.

Each builder fills an empty folder with at least three good recordings in split ``train`` (`FOUND` says how many are
usable) and what a download in the wild may lack or break.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import h5py
import numpy as np

from snn_perception.data.labels import Labels, write_labels
from snn_perception.events.dat_writer import write_dat
from snn_perception.types import EventArray, SensorSize
from tests.coco_support import write_set

GEN1 = SensorSize(240, 304)
ONE_MPX = SensorSize(720, 1280)


def some_events(size: SensorSize, *, count: int = 400, length_us: int = 1_000_000, seed: int = 0) -> EventArray:
    """Return events all over a sensor and a stretch of time."""
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, size.width, count), rng.integers(0, size.height, count)
    t = np.sort(rng.integers(0, length_us, count))
    return EventArray(x.astype(np.uint16), y.astype(np.uint16), (x & 1).astype(np.uint8), t, size)


def labels_of(rows: Iterable[tuple]) -> Labels:
    """Return labels from (t_us, left, top, width, height, class, track)."""
    table = list(rows)
    columns = np.array(table, np.float64).reshape(-1, 7).T
    t, x, y, w, h, class_id, track = columns
    return Labels(
        t.astype(np.int64),
        np.stack([x, y, w, h], axis=1).astype(np.float32),
        class_id.astype(np.int64),
        track.astype(np.int64),
        np.ones(len(table), np.float32),
    )


SOME_LABELS = labels_of(
    [
        (50_000, 10, 20, 60, 40, 0, 1),  # earlier than the window of a classification sample
        (600_000, -5, 20, 65, 40, 0, 1),
        (600_000, 200, 100, 12, 9, 1, 2),  # too small for every protocol
        (850_000, 30.5, 20.25, 60, 40, 0, 1),
        (850_000, 100, 100, 20, 40, 1, 2),
    ]
)


def paired(folder: Path, name: str, *, size: SensorSize = GEN1, layout: str = "gen1", labels: Labels = SOME_LABELS):
    """Write one recording with its labels."""
    folder.mkdir(parents=True, exist_ok=True)
    write_dat(folder / f"{name}_td.dat", [some_events(size)], size, event_type=0)
    write_labels(folder / f"{name}_bbox.npy", labels, layout)


def gen1_tree(root: Path) -> None:
    """Four recordings in train, of which one is known to lose its labels, and halves and damage; one in test."""
    for name in ("17-03-30_0_60", "17-04-04_0_60", "17-04-13_0_60", "17-04-13_19-17-27_976500000_1036500000"):
        paired(root / "train", name)
    paired(root / "test", "17-05-01_0_60")
    train = root / "train"
    (train / "lonely_td.dat").write_bytes((train / "17-03-30_0_60_td.dat").read_bytes())
    (train / "orphan_bbox.npy").write_bytes((train / "17-03-30_0_60_bbox.npy").read_bytes())
    (train / "zeros_td.dat").write_bytes(bytes(800))
    (train / "zeros_bbox.npy").write_bytes((train / "17-03-30_0_60_bbox.npy").read_bytes())
    paired(train, "cut_labels")
    (train / "cut_labels_bbox.npy").write_bytes((train / "cut_labels_bbox.npy").read_bytes()[:-7])


def one_mpx_tree(root: Path) -> None:
    """Three recordings with labels of seven classes at 60 Hz."""
    times = 200_000 + np.arange(40) * 16_667
    rows = [(t, 100 + 20 * k, 50, 81, 61, k, k) for t in times for k in range(7)]
    for i in range(3):
        paired(root / "train", f"moorea_{i}", size=ONE_MPX, layout="one_mpx", labels=labels_of(rows))


def ncars_tree(root: Path) -> None:
    """Three files of each class in train, one of each in test, without geometry as the real ones."""
    for split, count in (("train", 3), ("test", 1)):
        for folder in ("cars", "background"):
            place = root / f"n-cars_{split}" / folder
            place.mkdir(parents=True)
            for i in range(count):
                ncars_file(place / f"obj_{i:06d}_td.dat", seed=i)


def ncars_file(path: Path, seed: int = 0) -> None:
    """Write a sample with the header of N-CARS, which names no size."""
    write_dat(path, [some_events(SensorSize(90, 110), count=60, length_us=100_000, seed=seed)], SensorSize(90, 110), 0)
    events = path.read_bytes().partition(b"% end\n")[2]
    header = b"% Data file containing N9Chronocam7Event2dE events.\n% Version 2\n% Date 2017-1-1 0:0:0\n"
    path.write_bytes(header + events)


def ncaltech_tree(root: Path) -> None:
    """Ten images of two classes, the folder without boxes and a class nobody knows."""
    for name in ("ant", "lotus", "BACKGROUND_Google", "unicorn"):
        for i in range(1, 11):
            atis_file(root / "Caltech101" / name / f"image_{i:04d}.bin", seed=i)
            if name != "BACKGROUND_Google":
                annotation_file(root / "Caltech101_annotations" / name / f"annotation_{i:04d}.bin")


def atis_file(path: Path, seed: int = 0) -> None:
    """Write 200 events of 5 bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    events = some_events(SensorSize(180, 240), count=200, length_us=300_000, seed=seed)
    words = np.zeros((len(events), 5), np.uint8)
    words[:, 0], words[:, 1] = events.x, events.y
    words[:, 2] = events.p << 7 | (events.t >> 16 & 0x7F).astype(np.uint8)
    words[:, 3], words[:, 4] = events.t >> 8 & 0xFF, events.t & 0xFF
    path.write_bytes(words.tobytes())


def annotation_file(path: Path, corners: tuple[int, int, int, int] = (20, 30, 120, 150)) -> None:
    """Write the outline of a box x1, y1, x2, y2 and one of the object in it; int16: rows, columns, by columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    x1, y1, x2, y2 = corners
    box = [(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)]
    thing = [(x1 + 5, y1 + 5), (x2 - 5, y1 + 9), (x1 + 5, y2 - 5)]
    parts = [np.array([2, len(points), *np.array(points).reshape(-1)], "<i2").tobytes() for points in (box, thing)]
    path.write_bytes(b"".join(parts))


def rvt_sequence(folder: Path, *, half: bool = False, size: SensorSize = GEN1, windows: int = 20) -> None:
    """Write a sequence as RVT preprocesses it, its labels in pixels of the whole sensor."""
    height, width = (size.height // 2, size.width // 2) if half else (size.height, size.width)
    events = folder / "event_representations_v2" / "stacked_histogram_dt=50_nbins=10"
    events.mkdir(parents=True)
    name = f"event_representations{'_ds2_nearest' if half else ''}.h5"
    with h5py.File(events / name, "w") as file:
        shape = (windows, 20, height, width)
        data = file.create_dataset("data", shape, np.uint8, chunks=(1, *shape[1:]), compression="gzip")
        data[3, 0, 5, 7] = 2
    ends = (np.arange(windows, dtype=np.int64) + 1) * 50_000
    np.save(events / "timestamps_us.npy", ends)
    times = np.unique(SOME_LABELS.t_us)
    np.save(events / "objframe_idx_2_repr_idx.npy", np.searchsorted(ends, times))
    labels = folder / "labels_v2"
    labels.mkdir()
    np.save(labels / "timestamps_us.npy", times)
    fields = ["t", "x", "y", "w", "h", "class_id", "track_id", "class_confidence"]
    rows = np.zeros(len(SOME_LABELS), list(zip(fields, ["<i8", *["<f4"] * 4, "<u4", "<u4", "<f4"], strict=True)))
    rows["t"], rows["class_id"], rows["track_id"] = SOME_LABELS.t_us, SOME_LABELS.class_id, SOME_LABELS.track_id
    for i, side in enumerate("xywh"):
        rows[side] = SOME_LABELS.xywh[:, i]
    rows["class_confidence"] = 1
    np.savez(labels / "labels.npz", labels=rows, objframe_idx_2_label_idx=np.searchsorted(SOME_LABELS.t_us, times))


def rvt_tree(root: Path) -> None:
    """Three sequences of GEN1 in train, and a recording that holds events."""
    for name in ("a", "b", "c"):
        rvt_sequence(root / "train" / name)
    paired(root / "train", "d")


def coco_tree(root: Path) -> None:
    """Five images, one of them without an object."""
    write_set(root, images=5, empty=1)


TREES: dict[str, Callable[[Path], None]] = {
    "gen1": gen1_tree,
    "gen1_classification": gen1_tree,
    "one_mpx": one_mpx_tree,
    "rvt": rvt_tree,
    "ncars": ncars_tree,
    "ncaltech101": ncaltech_tree,
    "coco": coco_tree,
}
# Usable recordings (or samples) of split train in each tree: four of each label file's five rows give a sample.
FOUND = {"gen1": 4, "gen1_classification": 16, "one_mpx": 3, "rvt": 3, "ncars": 6, "ncaltech101": 15, "coco": 5}
