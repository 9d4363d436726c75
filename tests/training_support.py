"""What the tests of training share: a small labelled set of moving boxes in GEN1's format, and a small network."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from snn_perception.data.labels import Labels, write_labels
from snn_perception.events.dat_writer import write_dat
from snn_perception.training.config import DataConfig, EvalConfig, ModelConfig, RunConfig, TrainConfig
from snn_perception.types import EventArray, SensorSize

GEN1 = SensorSize(240, 304)
LABEL_US = 250_000
STEP_US = 5_000


def moving_boxes(root: Path, split: str, *, recordings: int, length_us: int | list[int], seed: int = 0) -> Path:
    """Write recordings in each of which a wide and a tall box move over the image and edges give events."""
    folder = root / split
    folder.mkdir(parents=True, exist_ok=True)
    lengths = [length_us] * recordings if isinstance(length_us, int) else length_us
    for i, length in enumerate(lengths):
        events, labels = _recording(length, np.random.default_rng([seed, i]))
        name = f"17-0{1 + seed % 9}-{10 + i:02}_0_60"
        write_dat(folder / f"{name}_td.dat", [events], GEN1, event_type=0)
        write_labels(folder / f"{name}_bbox.npy", labels, "gen1")
    return root


def _recording(length_us: int, rng: np.random.Generator) -> tuple[EventArray, Labels]:
    sizes = np.array([[90, 56], [30, 84]], np.float32)
    start = rng.uniform(0, 1, (2, 2)) * (np.array([304, 240]) - sizes)
    velocity = rng.uniform(20, 80, (2, 2)) * rng.choice([-1, 1], (2, 2))
    parts, rows = [], []
    for t_us in range(0, length_us, STEP_US):
        boxes = np.concatenate([_bounced(start + velocity * t_us / 1e6, sizes), sizes], axis=1)
        parts.append(_edges(boxes, t_us, rng))
        if t_us % LABEL_US == LABEL_US - STEP_US:
            rows += [(t_us, *box, k, k) for k, box in enumerate(boxes.tolist())]
    table = np.array(rows, np.float64).reshape(-1, 7)
    labels = Labels(
        table[:, 0].astype(np.int64),
        table[:, 1:5].astype(np.float32),
        table[:, 5].astype(np.int64),
        table[:, 6].astype(np.int64),
        np.ones(len(table), np.float32),
    )
    return EventArray.concatenate(parts, GEN1), labels


def _bounced(at: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    room = np.array([304, 240]) - sizes
    return np.abs((at + room) % (2 * room) - room)


def _edges(boxes: np.ndarray, t_us: int, rng: np.random.Generator) -> EventArray:
    xs, ys = [], []
    for x, y, w, h in boxes:
        along = rng.uniform(0, 1, 60)
        side = rng.integers(0, 4, 60)
        xs.append(np.where(side < 2, x + along * w, np.where(side == 2, x, x + w - 1)))
        ys.append(np.where(side >= 2, y + along * h, np.where(side == 0, y, y + h - 1)))
    xs.append(rng.uniform(0, 304, 5))
    ys.append(rng.uniform(0, 240, 5))
    x, y = np.concatenate(xs).clip(0, 303), np.concatenate(ys).clip(0, 239)
    t = np.sort(rng.integers(t_us, t_us + STEP_US, len(x)))
    return EventArray(x.astype(np.uint16), y.astype(np.uint16), rng.integers(0, 2, len(x)).astype(np.uint8), t, GEN1)


def small_run(root: Path, **train: object) -> RunConfig:
    """Return a run of a narrow ST-VGG at a quarter of the size on the set at `root`; two lanes, two epochs."""
    options = {
        "mode": "lanes",
        "lanes": 2,
        "epochs": 2,
        "lr": 2e-3,
        "save_every_steps": 7,
        **train,
    }
    policy = "carry" if options["mode"] == "lanes" else "per_window"
    return RunConfig(
        model=ModelConfig(
            preset="st_vgg_ssd_16",
            options={"height": 60, "width": 76},
            overrides={"backbone": {"width": 4, "extras": [16, 16, 16]}, "state_policy": policy},
        ),
        data=DataConfig(train=f"gen1:{root}"),
        train=TrainConfig(**options),
        eval=EvalConfig(protocol="none", every_epochs=1),
    )
