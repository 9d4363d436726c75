"""Measuring on shared machines: every repeat runs every row once, so that other load meets all of them alike."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """Something to measure: its name, how many events it handles, and how it is run."""

    name: str
    events: int
    run: Callable[[], object]


@dataclass(frozen=True)
class Row:
    """What was measured: seconds of each repeat."""

    name: str
    events: int
    wall_s: tuple[float, ...]
    cpu_s: tuple[float, ...]

    @property
    def mev_s(self) -> float:
        """Million events per second of CPU time, best repeat."""
        return self.events / max(min(self.cpu_s), 1e-9) / 1e6

    @property
    def ns(self) -> float:
        """Nanoseconds of CPU time per event, best repeat."""
        return min(self.cpu_s) / self.events * 1e9

    def as_dict(self) -> dict[str, object]:
        """Return the figures for JSON: best and median, by wall and by CPU time."""
        return {
            "name": self.name,
            "events": self.events,
            "wall_best_mev_s": round(self.events / min(self.wall_s) / 1e6, 2),
            "wall_median_mev_s": round(self.events / statistics.median(self.wall_s) / 1e6, 2),
            "cpu_best_mev_s": round(self.mev_s, 2),
            "cpu_median_mev_s": round(self.events / max(statistics.median(self.cpu_s), 1e-9) / 1e6, 2),
            "cpu_best_ns": round(self.ns, 2),
        }


def measure(runs: list[Run], repeats: int) -> list[Row]:
    """Return a row for each run, after one that compiles and fills caches."""
    for run in runs:
        run.run()
    wall: list[list[float]] = [[] for _ in runs]
    cpu: list[list[float]] = [[] for _ in runs]
    gc.collect()
    for _ in range(repeats):
        for k, run in enumerate(runs):
            begun, begun_cpu = time.perf_counter(), time.process_time()
            run.run()
            cpu[k].append(time.process_time() - begun_cpu)
            wall[k].append(time.perf_counter() - begun)
    return [Row(run.name, run.events, tuple(wall[k]), tuple(cpu[k])) for k, run in enumerate(runs)]


def machine() -> dict[str, str]:
    """Return what the figures were measured on."""
    packages = ("numpy", "numba", "torch", "h5py", "expelliarmus", "faery")
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "load": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {version}" for name in packages if (version := _version(name))),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
