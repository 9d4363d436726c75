"""Engines in turn on the same windows, each with its own carried state, by wall and by CPU time.

The one loop that times engines: `auto` chooses by it, `bench` reports what it finds.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch

Input = TypeVar("Input")
Runnable = Callable[[Input, Any], tuple[Any, Any]]  # (input, state) -> (whatever, state)


@dataclass
class Times:
    """Seconds that every window took."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        """Return the wall time that `share` of the windows did not exceed."""
        return float(np.quantile(self.wall_s, share))

    @property
    def wall_median_s(self) -> float:
        """Median wall time."""
        return self.percentile(0.5)

    @property
    def cpu_median_s(self) -> float:
        """Median CPU time, of all threads. Where a GPU works it is what the launches cost."""
        return float(np.median(self.cpu_s))


@dataclass
class _Runner:
    """What is timed, and where its stream stands."""

    run: Runnable[Any]
    carries: bool
    synchronize: Callable[[], None]
    times: Times = field(default_factory=Times)
    state: Any = None

    def time(self, x: Any, *, count: bool) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        _, after = self.run(x, self.state)
        self.synchronize()
        if count:
            self.times.cpu_s.append(time.process_time() - cpu)
            self.times.wall_s.append(time.perf_counter() - wall)
        self.state = after if self.carries else None


def measure(
    engines: Sequence[Runnable[Input]],
    inputs: Sequence[Input],
    *,
    windows: int,
    warm_up: int,
    carries: bool,
    synchronize: Callable[[], None] = lambda: None,
    on_window: Callable[[int, int], None] = lambda done, total: None,
) -> list[Times]:
    """Return the times of each engine: every window goes through all of them before the next one comes.

    Args:
        engines: any calls (input, state) -> (output, state), such as an `Engine`.
        inputs: used again from the start where there are fewer than windows.
        warm_up: windows that run first and are not counted.
        carries: whether a window finds the state that the one before it left.
        synchronize: waits for the device, see `waiting_for`.
        on_window: called between windows with those done and their number, `warm_up` included.
    """
    runners = [_Runner(engine, carries, synchronize) for engine in engines]
    gc.collect()
    synchronize()
    total = warm_up + windows
    for number, x in enumerate(_endless(inputs, total)):
        for runner in _turned(runners, number):
            runner.time(x, count=number >= warm_up)
        on_window(number + 1, total)
    return [runner.times for runner in runners]


def waiting_for(device: torch.device) -> Callable[[], None]:
    """Return what waits until a device has done its work."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None


def _endless(inputs: Sequence[Input], count: int) -> Iterator[Input]:
    return (inputs[k % len(inputs)] for k in range(count))


def _turned(runners: list[_Runner], by: int) -> list[_Runner]:
    """Return the runners from another one on: whoever follows the largest engine finds the caches cold."""
    by %= max(len(runners), 1)
    return runners[by:] + runners[:by]
