"""A small labelled set of moving shapes in GEN1's form, and detectors that fire on it and sometimes find them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from snn_perception import build_preset
from snn_perception.data.dataset import Dataset, open_dataset
from snn_perception.data.labels import Labels, write_labels
from snn_perception.data.shapes import MovingShapes
from snn_perception.detector import Detector
from snn_perception.evaluation.outcome import RecordingOutcome
from snn_perception.events.dat_writer import write_dat
from snn_perception.runtime.waking import wake_on_recording
from tests.dataset_support import GEN1, labels_of
from tests.runtime_support import tiny_registry

DURATION_US = 2_000_000
NAMES = ("17-05-01_0_2", "17-05-01_2_4", "17-05-02_0_2")


def shapes_of(seed: int, duration_us: int = DURATION_US) -> MovingShapes:
    """Return a scene of three shapes; nothing moves from 1.1 to 1.5 s, while its objects stay labelled."""
    return MovingShapes(GEN1, duration_us, seed=seed, shapes=3, pause=(0.55, 0.75), noise_hz=0.2)


def labels_at(scene: MovingShapes, times: list[int]) -> Labels:
    """Return the boxes of all shapes at these times: rectangles are cars, discs are pedestrians."""
    rows = []
    for t_us in times:
        for track, shape in enumerate(scene.tracks()):
            x1, y1, x2, y2 = map(float, shape.box_at(t_us))
            rows.append((t_us, x1, y1, x2 - x1, y2 - y1, shape.class_id, track))
    return labels_of(rows)


def shapes_tree(root: Path, names=NAMES, split: str = "test", every_us: int = 250_000) -> Path:
    """Write recordings of 2 s with labels at 4 Hz, just below the window's end as in GEN1; of differing lengths."""
    folder = root / split
    folder.mkdir(parents=True)
    for seed, name in enumerate(names):
        scene = shapes_of(seed, DURATION_US - 300_000 * seed)
        times = np.arange(every_us - 1, scene.duration_us, every_us).tolist()
        write_dat(folder / f"{name}_td.dat", scene, GEN1, event_type=0)
        write_labels(folder / f"{name}_bbox.npy", labels_at(scene, times), "gen1")
    return root


def shapes_set(root: Path, registry, split: str = "test") -> Dataset:
    return open_dataset(f"gen1:{root}", split, registry)


def tiny_on_gen1(registry=None, *, classes=("car", "pedestrian"), dtype=torch.float32, **options) -> Detector:
    """Return the tiny detector of the tests, with GEN1's classes; it fires wherever events are."""
    registry = registry or tiny_registry()
    spec = build_preset("tiny", registry=registry, window_us=50_000, **options).spec
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Detector(replace(spec, classes=tuple(classes)), registry).to(dtype).eval()


def woken(name: str, recording: Path, registry, **options) -> Detector:
    """Return a preset's detector whose every spiking layer fires on a recording."""
    detector = build_preset(name, registry=registry, **options)
    wake_on_recording(detector, recording, registry)
    return detector


def outcome_of(labels, sets, *, stride_us=50_000, silent=None) -> RecordingOutcome:
    """Return an outcome with sets {window end: [(x, y, w, h, class, score), ...]}, best first."""
    rows = [(end, *row) for end, some in sorted(sets.items()) for row in some]
    table = np.array(rows, np.float64).reshape(-1, 7)
    return RecordingOutcome(
        "drive",
        labels,
        silent,
        stride_us,
        stride_us,
        np.array(sorted(sets), np.int64),
        np.zeros(len(sets), np.int64),
        table[:, 0].astype(np.int64),
        table[:, 1:5].astype(np.float32),
        table[:, 6].astype(np.float32),
        table[:, 5].astype(np.int64),
    )


def drive(seed: int, *, misses=0.2, false=2) -> RecordingOutcome:
    """Return an outcome whose detections are jittered labels, some missing, and false ones with lower scores."""
    rng = np.random.default_rng(seed)
    scene = shapes_of(seed)
    times = np.arange(249_999, scene.duration_us, 250_000).tolist()
    labels = labels_at(scene, times)
    sets = {t // 50_000 * 50_000 + 50_000: [] for t in times}
    for t, xywh, class_id in zip(labels.t_us.tolist(), labels.xywh, labels.class_id, strict=True):
        if rng.random() >= misses:
            row = (*(xywh + rng.normal(0, 1.5, 4)), class_id, rng.uniform(0.5, 1.0))
            sets[t // 50_000 * 50_000 + 50_000].append(row)
    for some in sets.values():
        some += [(*rng.uniform(40, 90, 4), rng.integers(2), rng.uniform(0, 0.6)) for _ in range(false)]
        some.sort(key=lambda row: -row[-1])
    silent = (labels.t_us > 1_100_000) & (labels.t_us < 1_500_000)
    return outcome_of(labels, sets, silent=silent)
