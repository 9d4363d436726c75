#!/usr/bin/env python3
"""Time and memory of a training window, beside plain loops of the same model, and how both grow.

    python tools/bench_training.py [--repeats N] [--long N] [--json] [-o docs/benchmarks/training.md]

All loops run on one thread of one process, each repeat one update of each in turn, from the same weights and on the
same windows, membranes carried. Memory over long recordings is that of a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from snn_perception.fusing import plain_operations  # noqa: E402
from snn_perception.whole_file import whole_file  # noqa: E402
from tools.bench_support import Row, Run, machine, measure  # noqa: E402
from tools.training_loops import ENGINES, FUSED, PLAIN, Loop, active_share, awake, windows  # noqa: E402

PRESETS = ("st_vgg_ssd_16", "st_vgg_ssd_32")
SIZE = (240, 304)
LEAST_RATE = 0.005


@dataclass(frozen=True)
class Job:
    """A loop to run: `kept` windows make one update."""

    preset: str
    batch: int
    engine: str = FUSED
    kept: int = 1
    windows: int = 100

    @property
    def name(self) -> str:
        """What a table calls it."""
        return f"{self.preset}, batch {self.batch}"


@dataclass(frozen=True)
class Step:
    """What a window of a job took: milliseconds (best and median of the repeats), and megabytes kept for an update."""

    job: Job
    cpu_ms: float
    cpu_median_ms: float
    wall_ms: float
    kept_mb: float


@dataclass(frozen=True)
class Length:
    """A long run in a process of its own: milliseconds a window, and peak memory early on and at its end (MiB)."""

    job: Job
    cpu_ms: float
    early_mib: float
    peak_mib: float


@dataclass(frozen=True)
class Report:
    """All that was measured."""

    active: float
    firing: dict[str, dict[str, float]]
    parts: list[Row]
    steps: list[Step]
    growth: list[Step]
    lengths: list[Length]


def bench(presets: tuple[str, ...], batches: tuple[int, ...], kept: tuple[int, ...], repeats: int, long: int) -> Report:
    """Return the figures; `long` windows is the longer of the two recordings, 0 for none.

    Raises:
        AssertionError: if a layer does not fire.
    """
    torch.set_num_threads(1)
    firing, steps, growth = {}, [], []
    for preset in presets:
        for batch in batches:
            job = Job(preset, batch)
            loops = _loops([replace(job, engine=engine) for engine in ENGINES])
            firing[job.name] = _rates(next(iter(loops.values())))
            steps += _measured(loops, repeats)
    for batch in batches[:2]:
        jobs = [Job(presets[0], batch, engine, count) for count in kept for engine in (FUSED, PLAIN)]
        growth += _measured(_loops(jobs), max(1, repeats // 2))
    lengths = [_in_child(Job(presets[0], 1, FUSED, 1, count)) for count in (100, long) if long]
    return Report(active_share(windows(4, *SIZE)), firing, measure(_parts(), 3 * repeats), steps, growth, lengths)


def _loops(jobs: list[Job]) -> dict[Job, Loop]:
    inputs = windows(jobs[0].batch, *SIZE)
    weights = awake(jobs[0].preset, inputs)
    return {job: Loop(job.engine, weights, inputs, kept=job.kept) for job in jobs}


def _rates(loop: Loop) -> dict[str, float]:
    rates = loop.firing()
    assert min(rates.values()) > LEAST_RATE, f"a layer is silent, which proves nothing: {rates}"
    return rates


def _measured(loops: dict[Job, Loop], repeats: int) -> list[Step]:
    kept = [loop.kept_bytes() for loop in loops.values()]
    rows = measure([Run(str(job), job.kept, loop.run) for job, loop in loops.items()], repeats)
    return [
        Step(
            job,
            cpu_ms=row.ns / 1e6,
            cpu_median_ms=sorted(row.cpu_s)[len(row.cpu_s) // 2] / job.kept * 1e3,
            wall_ms=min(row.wall_s) / job.kept * 1e3,
            kept_mb=size / 1e6,
        )
        for job, row, size in zip(loops, rows, kept, strict=True)
    ]


def _parts() -> list[Run]:
    """Return forward and backward of one neuron layer and of one norm and convolution, fused and plain."""
    from snn_perception import load_registry
    from snn_perception.fold import NormConv

    shape = (4, 64, 60, 76)
    x = (torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.2).float().requires_grad_()
    current = (x.detach() * 3)[None].requires_grad_()
    neuron, layer = load_registry().build("neuron", "plif").train(), NormConv(64, 64, 3, padding=1).train()
    v, elements = torch.zeros(shape), x.numel()
    g_spikes, g_current = torch.randn(1, *shape), torch.randn(shape)

    def neuron_step() -> None:
        spikes, _ = neuron(current, v)
        assert spikes.any()
        torch.autograd.grad(spikes, [current, *neuron.parameters()], g_spikes)

    def layer_step() -> None:
        torch.autograd.grad(layer(x), [x, *layer.parameters()], g_current)

    def plain(run: Any) -> Any:
        def inner() -> None:
            with plain_operations():
                run()

        return inner

    return [
        Run("PLIF, fused", elements, neuron_step),
        Run("PLIF, plain", elements, plain(neuron_step)),
        Run("norm and 3x3 convolution, joined", elements, layer_step),
        Run("norm and 3x3 convolution, plain", elements, plain(layer_step)),
    ]


def _in_child(job: Job) -> Length:
    command = [sys.executable, __file__, "--child", json.dumps(asdict(job))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return Length(job, **json.loads(child.stdout.splitlines()[-1]))


def _child(job: Job) -> dict[str, float]:
    """Train in this process; 'early' is the peak after 50 windows."""
    torch.set_num_threads(1)
    (loop,) = _loops([job]).values()
    for _ in range(50):
        loop.run()
    early, begun = _peak_mib(), time.process_time()
    for _ in range(50, job.windows):
        loop.run()
    spent = time.process_time() - begun
    return {"cpu_ms": spent / (job.windows - 50) * 1e3, "early_mib": early, "peak_mib": _peak_mib()}


def _peak_mib() -> float:
    """Return the peak of this process alone; what `resource` tells includes that of the process it was forked from."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def page(report: Report) -> str:
    """Return the figures as a page for people."""
    lines = [
        "# Training, measured",
        "",
        "Made by `make bench-training`. A step is one window of every row: forward, loss, backward, clipping, AdamW,",
        "membranes carried and detached. 'fused' is the model as it trains; 'plain' is the same model by plain tensor",
        "operations with autograd; 'spikingjelly' is plain with the library's ParametricLIFNode. All loops of a table",
        "run in turn in one process, on one thread, from the same weights and on the same windows",
        f"({report.active:.1%} active pixels, in clusters). CPU time, best of the repeats (median in brackets); 'x' is",
        "the time beside that of 'fused'. 'Kept' is the distinct memory that the graph of one update holds for the",
        "gradient, weights left out.",
        "",
        "| machine | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in machine().items()),
        "",
        "## A window",
        "",
        "| model | loop | CPU ms/window | wall ms | CPU x | wall x | ms/row | kept MB | kept x |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    fused: dict[str, Step] = {step.job.name: step for step in report.steps if step.job.engine == FUSED}
    for step in report.steps:
        base, job = fused[step.job.name], step.job
        lines.append(
            f"| {job.name} | {job.engine} | {step.cpu_ms:.1f} ({step.cpu_median_ms:.1f}) | {step.wall_ms:.1f} "
            f"| {step.cpu_ms / base.cpu_ms:.2f} | {step.wall_ms / base.wall_ms:.2f} "
            f"| {step.cpu_ms / job.batch:.1f} | {step.kept_mb:.1f} | {step.kept_mb / base.kept_mb:.2f} |"
        )
    lines += [*_parts_table(report.parts), *_growth_table(report.growth), *_length_table(report.lengths)]
    lines += [
        "",
        "## Firing",
        "",
        "Share of outputs that fire while training ('fused'), lowest, mean and highest layer.",
        "",
    ]
    lines += ["| model | lowest | mean | highest |", "|---|---:|---:|---:|"]
    for name, rates in report.firing.items():
        mean = sum(rates.values()) / len(rates)
        lines.append(f"| {name} | {min(rates.values()):.1%} | {mean:.1%} | {max(rates.values()):.1%} |")
    return "\n".join(lines) + "\n"


def _parts_table(rows: list[Row]) -> list[str]:
    lines = ["", "## One layer of 64 channels, 60x76, batch 4: forward and backward", ""]
    lines += ["| | ms | ns/element |", "|---|---:|---:|"]
    return lines + [f"| {row.name} | {min(row.cpu_s) * 1e3:.2f} | {row.ns:.2f} |" for row in rows]


def _growth_table(steps: list[Step]) -> list[str]:
    lines = ["", "## Windows that one gradient goes back through", "", "The loss is that of the last window.", ""]
    lines += ["| model | windows | loop | CPU ms/window | kept MB | kept MB/window |", "|---|---:|---|---:|---:|---:|"]
    return lines + [
        f"| {step.job.name} | {step.job.kept} | {step.job.engine} | {step.cpu_ms:.1f} | {step.kept_mb:.1f} "
        f"| {step.kept_mb / step.job.kept:.1f} |"
        for step in steps
    ]


def _length_table(lengths: list[Length]) -> list[str]:
    if not lengths:
        return []
    lines = [
        "",
        "## Length of a recording",
        "",
        "Peak memory of the whole process, after 50 windows and at the end.",
        "",
    ]
    lines += ["| model | windows | CPU ms/window | after 50 MiB | at the end MiB |", "|---|---:|---:|---:|---:|"]
    return lines + [
        f"| {one.job.name} | {one.job.windows} | {one.cpu_ms:.1f} | {one.early_mib:.0f} | {one.peak_mib:.0f} |"
        for one in lengths
    ]


def main() -> None:
    """Print the measurements as a page, or as one JSON object."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--repeats", type=int, default=15, help="updates of each loop (default %(default)s)")
    parser.add_argument("--long", type=int, default=2000, help="windows of the long recording (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("-o", "--output", type=Path, metavar="PAGE.md", help="write the page here")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(_child(Job(**json.loads(arguments.child)))))
        return
    report = bench(PRESETS, (1, 4, 8), (1, 5, 10), arguments.repeats, arguments.long)
    text = page(report)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(arguments.output) as partial:
            partial.write_text(text)
    if arguments.json:
        figures = {**asdict(report), "parts": [row.as_dict() for row in report.parts]}
        print(json.dumps({"machine": machine(), **figures}))
    else:
        print(text)


if __name__ == "__main__":
    main()
