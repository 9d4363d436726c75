"""A whole measurement: engines, floors, parity and scaling of one model, as one value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from snn_perception.benchmark.floors import Floors, folded_flops
from snn_perception.benchmark.rates import RateFigures, sweep_rates
from snn_perception.benchmark.work import work_of
from snn_perception.detector import Detector
from snn_perception.engine.choose import build_engine, engine_label
from snn_perception.engine.engines import Engine, Settings
from snn_perception.engine.parity import Parity, compare
from snn_perception.engine.timing import Times, measure, waiting_for
from snn_perception.errors import SnnPerceptionError
from snn_perception.evaluation.energy import EnergyReport
from snn_perception.work.peak import peak_resident_mib

ORACLE = "eager"
PARITY_WINDOWS = 10
_WAY_TO_SECONDS = 3  # windows timed to find how many fit
_FLOOR_EVERY = 5  # windows
_LEAST_WINDOWS, _MOST_WINDOWS = 10, 200


@dataclass(frozen=True)
class EngineFigures:
    """What was measured of one engine.

    Attributes:
        median_ms, p95_ms, p99_ms: wall time of a window. cpu_median_ms: CPU time of all threads.
        floor_ms: the least wall time of one thread for the dense operations.
        speedup: CPU time of `eager` beside its own. over_floor: its CPU time beside the floor.
        parity: teacher-forced against `eager`; None for `eager` itself.
    """

    name: str
    precision: str
    median_ms: float
    p95_ms: float
    p99_ms: float
    cpu_median_ms: float
    floor_ms: float
    speedup: float
    over_floor: float
    parity: Parity | None


@dataclass(frozen=True)
class StreamFigures:
    """CPU milliseconds per stream and window where so many streams run as one batch."""

    engine: str
    streams: int
    cpu_ms_per_stream: float


@dataclass(frozen=True)
class BenchReport:
    """All of it.

    Attributes:
        windows: timed of every engine. firing_rate: of all spiking layers over them, mean spikes per neuron and step.
        rates: whole windows at several event rates.
        energy: estimate for neuromorphic hardware of the average window, by the ways of `evaluation.energy`.
        flops: of a window, norms folded, as if nothing were zero. left_out: engines that could not be built, and why.
    """

    target: str
    threads: int
    windows: int
    firing_rate: float
    energy: EnergyReport
    flops: int
    sgemm_gflops: float
    copy_gb_s: float
    peak_memory_mib: float
    engines: tuple[EngineFigures, ...]
    streams: tuple[StreamFigures, ...]
    left_out: dict[str, str]
    rates: tuple[RateFigures, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self) | {"energy": self.energy.as_dict()}


@dataclass(frozen=True)
class BenchPlan:
    """What to measure.

    Attributes:
        windows: timed; None: as many as fit into `seconds`, 10 to 200.
        streams: batch sizes for the table of streams; empty: none.
        rates: events per second for the table of rates; empty: none.
    """

    windows: int | None = None
    warm_up: int = 5
    seconds: float = 60.0
    streams: Sequence[int] = ()
    rates: Sequence[float] = ()


def bench(
    target: str,
    detector: Detector,
    engines: Sequence[Engine],
    inputs: Sequence[Tensor],
    plan: BenchPlan,
    *,
    left_out: dict[str, str] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> BenchReport:
    """Return the figures of a detector's engines on inputs [T, 1, C, H, W] that follow one another.

    Args:
        left_out: engines that could not be built, and why; for the report.

    Raises:
        SnnPerceptionError: if no layer fires, since the time of a silent network says little.
    """
    carries = detector.spec.state_policy == "carry"
    work = work_of(detector, inputs[:PARITY_WINDOWS], carries=carries)
    floors, flops = Floors(), folded_flops(detector, inputs[0])
    common = {"carries": carries, "synchronize": waiting_for(detector.device)}
    count = plan.windows or _fitting(engines, inputs, plan, common)

    def on_window(done: int, total: int) -> None:
        if done % _FLOOR_EVERY == 1:
            floors.measure()
        on_progress(done, total)

    times = measure(engines, inputs, windows=count, warm_up=plan.warm_up, on_window=on_window, **common)  # type: ignore[arg-type]
    oracle = next((engine for engine in engines if engine.name == ORACLE), None)
    streams = [figures for size in plan.streams for figures in _streams(engines, inputs, size, common)]
    floor_s = floors.floor_s(flops)
    base = next((t.cpu_median_s for e, t in zip(engines, times, strict=True) if e.name == ORACLE), None)
    parities = [None if oracle in (None, e) else compare(e, oracle, inputs[:PARITY_WINDOWS]) for e in engines]  # type: ignore[arg-type]
    return BenchReport(
        target=target,
        threads=torch.get_num_threads(),
        windows=count,
        firing_rate=work.firing_rate,
        energy=work.energy,
        flops=flops,
        sgemm_gflops=floors.sgemm_flops / 1e9,
        copy_gb_s=floors.copy_bytes / 1e9,
        peak_memory_mib=peak_resident_mib(),
        engines=tuple(
            _figures(engine, one, floor_s, base, parity)
            for engine, one, parity in zip(engines, times, parities, strict=True)
        ),
        streams=tuple(streams),
        left_out=left_out or {},
        rates=sweep_rates(detector, engines, plan.rates) if plan.rates else (),
    )


def build_engines(names: Sequence[str], detector: Detector, settings: Settings) -> tuple[list[Engine], dict[str, str]]:
    """Return the engines of these names, and why those that are missing cannot be built.

    Raises:
        SnnPerceptionError: if none can.
    """
    engines, left_out = [], {}
    for name in names:
        try:
            engines.append(build_engine(name, detector, settings))
        except SnnPerceptionError as error:
            left_out[name] = str(error)
    if not engines:
        raise SnnPerceptionError(f"no engine can be built: {'; '.join(left_out.values())}")
    return engines, left_out


def _fitting(engines: Sequence[Engine], inputs: Sequence[Tensor], plan: BenchPlan, common: dict[str, Any]) -> int:
    """Return how many windows fit into the plan's seconds."""
    times = measure(engines, inputs, windows=_WAY_TO_SECONDS, warm_up=2, **common)
    of_all = sum(min(one.wall_s) for one in times)
    return int(min(_MOST_WINDOWS, max(_LEAST_WINDOWS, plan.seconds / of_all)))


def _streams(
    engines: Sequence[Engine], inputs: Sequence[Tensor], size: int, common: dict[str, Any]
) -> list[StreamFigures]:
    batches = [torch.cat([inputs[(k + row) % len(inputs)] for row in range(size)], dim=1) for k in range(len(inputs))]
    times = measure(engines, batches, windows=_LEAST_WINDOWS, warm_up=2, **common)
    return [
        StreamFigures(engine_label(engine), size, one.cpu_median_s * 1e3 / size)
        for engine, one in zip(engines, times, strict=True)
    ]


def _figures(engine: Engine, times: Times, floor_s: float, base: float | None, parity: Parity | None) -> EngineFigures:
    cpu = times.cpu_median_s
    return EngineFigures(
        name=engine.name,
        precision=engine.precision,
        median_ms=times.percentile(0.5) * 1e3,
        p95_ms=times.percentile(0.95) * 1e3,
        p99_ms=times.percentile(0.99) * 1e3,
        cpu_median_ms=cpu * 1e3,
        floor_ms=floor_s * 1e3,
        speedup=base / cpu if base else 0.0,
        over_floor=cpu / floor_s,
        parity=parity,
    )
