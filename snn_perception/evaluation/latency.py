"""How long a window takes, stage by stage, measured by itself: one stream, nothing else counted meanwhile."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter_ns, process_time_ns
from typing import Any, TypeVar

import numpy as np
import torch

from snn_perception.detector import Detector
from snn_perception.engine.engines import DetectorEngine, Engine
from snn_perception.events.geometry import InputMapping
from snn_perception.events.recording import Recording
from snn_perception.events.window_source import WindowSource
from snn_perception.registry import Registry
from snn_perception.state import State

PERCENTILES = (50, 90, 95, 99)
STAGES = ("represent", "network", "decode")
WINDOWS = 300
_WARM_UP = 5

Result = TypeVar("Result")


@dataclass(frozen=True)
class Latency:
    """Percentiles of the time that a window takes.

    Attributes:
        windows: how many were timed.
        wall_ms, cpu_ms: stage, and ``total`` for their sum -> ``p50 p90 p95 p99``; the processor's time is over all
            threads and says little where a GPU works.
        machine, device, threads: where.
    """

    windows: int
    wall_ms: dict[str, dict[str, float]]
    cpu_ms: dict[str, dict[str, float]]
    machine: str
    device: str
    threads: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


@torch.no_grad()
def measure_latency(
    detector: Detector,
    recording: Recording,
    registry: Registry,
    *,
    windows: int = WINDOWS,
    engine: Engine | None = None,
) -> Latency | None:
    """Return how long windows of a recording take where the detector is, after some to warm up; None if it has none.

    ``represent`` turns events into the input tensor (mapping to the model's size included), ``network`` is backbone and
    head, ``decode`` raw output to boxes, suppression included.

    Args:
        engine: runs the network; by default the detector does itself.
    """
    spec, engine = detector.spec, engine or DetectorEngine(detector)
    mapping = InputMapping(recording.size, spec.sensor_size)
    source = WindowSource(recording, registry, spec.window_us, stride_us=spec.stride_us, t_start_us=0)
    clock = _Clock(detector.device)
    state: State = None
    for number, window in enumerate(islice(source, _WARM_UP + windows)):
        clock.is_running = number >= _WARM_UP
        before = state if spec.state_policy == "carry" else None
        x = clock.time("represent", lambda w=window: detector.represent(mapping.events(w)))  # type: ignore[misc]
        raw, state = clock.time("network", lambda x=x, before=before: engine(x, before))  # type: ignore[misc]
        clock.time("decode", lambda raw=raw: detector.decode(raw))  # type: ignore[misc]
    wall, cpu = clock.stages()
    count = len(wall["total"])
    if not count:
        return None
    return Latency(
        count,
        {stage: _percentiles(times) for stage, times in wall.items()},
        {stage: _percentiles(times) for stage, times in cpu.items()},
        machine_name(),
        _device_name(detector.device),
        torch.get_num_threads(),
    )


class _Clock:
    """Wall and processor time of each stage in each window."""

    def __init__(self, device: torch.device) -> None:
        self._wait: Callable[[], None] = (
            (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else lambda: None
        )
        self._times: dict[str, list[tuple[int, int]]] = {stage: [] for stage in STAGES}
        self.is_running = True

    def time(self, stage: str, work: Callable[[], Result]) -> Result:
        wall, cpu = perf_counter_ns(), process_time_ns()
        result = work()
        self._wait()
        if self.is_running:
            self._times[stage].append((perf_counter_ns() - wall, process_time_ns() - cpu))
        return result

    def stages(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return wall and processor times in ns by stage, and their sums under ``total``."""
        tables = [np.array(times, np.int64).reshape(-1, 2) for times in self._times.values()]
        named = dict(zip((*STAGES, "total"), (*tables, np.sum(tables, axis=0)), strict=True))
        return {name: table[:, 0] for name, table in named.items()}, {
            name: table[:, 1] for name, table in named.items()
        }


def _percentiles(times_ns: Any) -> dict[str, float]:
    return {f"p{p}": round(float(np.percentile(times_ns, p)) / 1e6, 4) for p in PERCENTILES}


def machine_name() -> str:
    """Return the processor's name and the number of cores at hand."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} core{'' if cores == 1 else 's'}"


def _device_name(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
