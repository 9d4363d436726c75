"""Runs that turn events into tensors: every representation, and the usual ways to fill a 20-channel histogram."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from snn_perception.discovery import load_registry
from snn_perception.events.filling import Filler
from snn_perception.events.geometry import InputMapping
from snn_perception.events.representations import StackedHistogram, VoxelCube
from snn_perception.types import EventArray, EventWindow, SensorSize
from tools.bench_support import Run

LENGTH_US, BINS = 50_000, 10
REGISTRY = load_registry(environment=False)
PLAIN: dict[str, dict[str, Any]] = {"micro_bins": {"network_size": None}, "ternary_image": {"network_size": None}}


def window_of(size: SensorSize, events: int) -> EventWindow:
    """Return a window of random events."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, size.width, events, np.uint16), rng.integers(0, size.height, events, np.uint16)
    t = np.sort(rng.integers(0, LENGTH_US, events))
    return EventWindow(EventArray(x, y, rng.integers(0, 2, events, np.uint8), t, size), 0, LENGTH_US)


def histogram_runs(size: SensorSize, events: int) -> list[Run]:
    """Return ways to fill a [20, H, W] histogram, index computation and clearing of the buffer included."""
    window = window_of(size, events)
    ours = StackedHistogram(size, bins=BINS, limit=255)
    cube = VoxelCube(size, tbin=BINS)

    def fill(representation: Any) -> Callable[[], object]:
        def run() -> None:
            grid = representation.grid(window)
            representation.give_back(grid)

        return run

    others = {
        "np.add.at, uint8, increment np.uint8(1)": _add_at,
        "np.add.at, int32, increment 1": _add_at_plain,
        "np.bincount": _bincount,
        "torch put_, uint8": _put,
        "torch scatter_add_, uint8": _scatter_add,
    }
    flat = {name: (lambda f=f: f(window, size)) for name, f in others.items()}
    for name, run in flat.items():
        expected = ours.grid(window).reshape(-1)
        assert np.array_equal(np.asarray(run()).reshape(-1), expected), f"{name} counts otherwise"
    runs = [Run("stacked_histogram", events, fill(ours)), Run("voxel_cube, 10 bins", events, fill(cube))]
    return runs + [Run(name, events, run) for name, run in flat.items()]


def tensor_runs(size: SensorSize, events: int) -> list[Run]:
    """Return each registered representation of events, up to the float32 tensor that a model takes."""
    window, runs = window_of(size, events), []
    for name in REGISTRY.names("representation"):
        built = REGISTRY.build("representation", name, size, **PLAIN.get(name, {}))
        if getattr(built, "takes_images", False):
            continue
        runs.append(Run(name, events, lambda built=built: built(window)))  # type: ignore[misc]
    return runs


def closing_runs(size: SensorSize, events: int) -> list[Run]:
    """Return what is left to do when a window closes: with its events added on the way, and without."""
    window, cube = window_of(size, events), VoxelCube(size)
    filler = Filler(cube, InputMapping(size, size))

    def close() -> None:
        EventWindow(window.events, 0, LENGTH_US, filled=filler.take(window.events)).filled.take()

    return [
        Run("close: filled on the way", events, close),
        Run("close: fill now", events, lambda: cube.give_back(cube.grid(window))),
    ]


def _index(window: EventWindow, size: SensorSize) -> np.ndarray:
    events = window.events
    first, last = int(events.t[0]), int(events.t[-1])
    b = np.minimum(BINS * (events.t - first) // (last - first), BINS - 1)
    plane = events.p.astype(np.int64) * BINS + b
    return (plane * size.height + events.y) * size.width + events.x


def _add_at(window: EventWindow, size: SensorSize) -> np.ndarray:
    grid = np.zeros(2 * BINS * size.height * size.width, np.uint8)
    np.add.at(grid, _index(window, size).astype(np.int32), np.uint8(1))
    return grid


def _add_at_plain(window: EventWindow, size: SensorSize) -> np.ndarray:
    grid = np.zeros(2 * BINS * size.height * size.width, np.int32)
    np.add.at(grid, _index(window, size), 1)
    return grid


def _bincount(window: EventWindow, size: SensorSize) -> np.ndarray:
    return np.bincount(_index(window, size), minlength=2 * BINS * size.height * size.width)


def _torch_index(window: EventWindow, size: SensorSize) -> torch.Tensor:
    """Return the cells as a pipeline in torch finds them: columns to int64, times normalised in floating point."""
    x, y, p, t = (torch.from_numpy(getattr(window.events, name).astype(np.int64)) for name in "xypt")
    share = (t - t[0]).double() / max(int(t[-1] - t[0]), 1)
    b = torch.clamp((share * BINS).floor(), max=BINS - 1).long()
    return ((p * BINS + b) * size.height + y) * size.width + x


def _put(window: EventWindow, size: SensorSize) -> torch.Tensor:
    grid = torch.zeros(2 * BINS * size.height * size.width, dtype=torch.uint8)
    index = _torch_index(window, size)
    return grid.put_(index, torch.ones(len(index), dtype=torch.uint8), accumulate=True)


def _scatter_add(window: EventWindow, size: SensorSize) -> torch.Tensor:
    grid = torch.zeros(2 * BINS * size.height * size.width, dtype=torch.uint8)
    index = _torch_index(window, size)
    return grid.scatter_add_(0, index, torch.ones(len(index), dtype=torch.uint8))
