#!/usr/bin/env python3
"""Time of one window of every family, beside the same network by plain operations and the authors' code.

    python tools/bench_families.py [--repeats N] [--only NAME ...] [--json] [-o docs/benchmarks/families.md]

All rows of a network run in turn in one process, on one thread, batch 1, on the same inputs and weights. What the
authors' code took is from another run on a machine of the same kind, so only CPU time is set beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from snn_perception import build_preset  # noqa: E402
from snn_perception.anytime import infer_until, possible_steps  # noqa: E402
from snn_perception.detector import Detector  # noqa: E402
from snn_perception.fold import fuse_layers  # noqa: E402
from snn_perception.fusing import plain_operations  # noqa: E402
from snn_perception.testing import FiringMeter, sparse_input, spiking_layers, wake  # noqa: E402
from snn_perception.whole_file import whole_file  # noqa: E402
from tools.bench_support import Row, Run, machine, measure  # noqa: E402

ACTIVE = 0.05  # share of input cells that are not zero
WAYS = 3  # to run all steps of a window
FULL, SMALL = [640, 640], [256, 320]


@dataclass(frozen=True)
class Network:
    """A network to time, and the CPU milliseconds of the authors' code for one window (None: not measured)."""

    preset: str
    options: dict[str, Any] = field(default_factory=dict)
    authors_ms: float | None = None

    @property
    def name(self) -> str:
        """What a table calls it."""
        size = self.options.get("network_size")
        return self.preset + (f", {size[0]}x{size[1]}" if size else "")


def _eas(size: str, mode: str, full_ms: float, small_ms: float) -> tuple[Network, Network]:
    preset = f"eas_snn_{size}_{mode}"
    return (
        Network(preset, {"network_size": FULL}, full_ms),
        Network(preset, {"network_size": SMALL}, small_ms),
    )


NETWORKS = (
    Network("st_vgg_ssd_16", authors_ms=9.2),
    Network("st_vgg_ssd_32", authors_ms=17.1),
    Network("rescat_ssd_16", authors_ms=13.5),
    Network("rescat_ssd_32", authors_ms=21.5),
    *_eas("s", "use_spike", 1043, 220),
    *_eas("s", "full_spike_v2", 1516, 285),
    *_eas("m", "use_spike", 2235, 402),
    *_eas("m", "full_spike_v2", 3031, 496),
    Network("spikeyolo_s_gen1", authors_ms=670),
    Network("spikeyolo_n_coco", {"network_size": [320, 320]}, 206),
)


@dataclass(frozen=True)
class Timed:
    """What one window of a network takes, by each way to run it, and how it fires."""

    network: Network
    parameters: int
    firing: float
    rows: list[Row]


def bench(networks: tuple[Network, ...], repeats: int) -> list[Timed]:
    """Return the figures of each network.

    Raises:
        AssertionError: if a layer does not fire.
    """
    torch.set_num_threads(1)
    return [_timed(network, repeats) for network in networks]


def _timed(network: Network, repeats: int) -> Timed:
    detector = build_preset(network.preset, **network.options)
    inputs = [_input(detector, seed) for seed in range(2)]
    wake(detector, inputs)
    with torch.no_grad(), FiringMeter(spiking_layers(detector, inputs[0])) as meter:
        detector(inputs[0])
    assert min(meter.rates().values()) > 0, "a silent network proves nothing"
    rows = measure(list(_runs(detector, inputs)), repeats)
    return Timed(network, sum(p.numel() for p in detector.parameters()), meter.overall(), rows)


def _input(detector: Detector, seed: int) -> Tensor:
    representation = detector.representation
    size = getattr(representation, "output_size", detector.spec.sensor_size)
    shape = representation.steps, 1, representation.channels, size.height, size.width
    return sparse_input(*shape, density=ACTIVE, seed=seed, dtype=detector.dtype)


def _runs(detector: Detector, inputs: list[Tensor]) -> Iterator[Run]:
    fused = fuse_layers(detector)
    yield Run("ours", 1, _whole(detector, inputs))
    yield Run("ours, norms folded", 1, _whole(fused, inputs))
    yield Run("plain operations", 1, _plainly(_whole(detector, inputs)))
    for steps in range(1, possible_steps(detector) + 1):
        yield Run(f"ours, stopped after step {steps}", 1, _part(detector, inputs, steps))


def _whole(detector: Detector, inputs: list[Tensor]) -> Callable[[], object]:
    turns = cycle(inputs)
    return lambda: detector.infer(next(turns))


def _part(detector: Detector, inputs: list[Tensor], steps: int) -> Callable[[], object]:
    turns = cycle(inputs)
    return lambda: infer_until(detector, next(turns), None, lambda done: done >= steps)


def _plainly(run: Callable[[], object]) -> Callable[[], object]:
    def inner() -> object:
        with plain_operations():
            return run()

    return inner


def page(found: list[Timed]) -> str:
    """Return the figures as a page for people."""
    lines = [
        "# One window of every family, measured",
        "",
        "Made by `make bench-families`. From the input tensor to decoded detections: batch 1, float32, one",
        f"thread, membranes at rest, random input with {ACTIVE:.0%} of its cells active, fresh weights scaled so that",
        "every layer fires. All rows of a network run in turn in one process. 'Plain' is the same network as plain",
        "tensor operations, one after the other; 'plain x' is its CPU time beside ours. The authors' code was measured",
        "in another run, on a machine of the same kind that was also busy: its ratio is a hint. 'Norms folded' has",
        "re-parameterised convolutions as one too, which for SpikeYOLO is more work, not less.",
        "",
        "| machine | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in machine().items()),
        "",
        "| network | parameters | firing | CPU ms, best (median) | wall ms, best | norms folded: CPU ms "
        "| plain: CPU ms | plain x | authors: CPU ms | authors x |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        *map(_line, found),
    ]
    stopped = [line for timed in found for line in _stopped(timed)]
    if stopped:
        lines += [
            "",
            "## Stopped early",
            "",
            "Network steps run one at a time, to the detections after so many of them, beside all of them in one go.",
            "",
            "| network | steps | CPU ms | share of the whole |",
            "|---|---:|---:|---:|",
            *stopped,
        ]
    return "\n".join(lines) + "\n"


def _stopped(timed: Timed) -> Iterator[str]:
    whole, rows = min(timed.rows[0].cpu_s), timed.rows[WAYS:]
    for steps, row in enumerate(rows, start=1):
        yield f"| {timed.network.name} | {steps} of {len(rows)} | {row.ns / 1e6:.1f} | {min(row.cpu_s) / whole:.2f} |"


def _line(timed: Timed) -> str:
    ours, folded, plain = timed.rows[:WAYS]
    best, theirs = min(ours.cpu_s), timed.network.authors_ms
    authors = f"{theirs:g} | {theirs / best / 1e3:.2f}" if theirs else "- | -"
    return (
        f"| {timed.network.name} | {timed.parameters:,} | {timed.firing:.0%} "
        f"| {best * 1e3:.1f} ({statistics.median(ours.cpu_s) * 1e3:.1f}) | {min(ours.wall_s) * 1e3:.1f} "
        f"| {min(folded.cpu_s) * 1e3:.1f} | {min(plain.cpu_s) * 1e3:.1f} | {min(plain.cpu_s) / best:.2f} | {authors} |"
    )


def main() -> None:
    """Print the measurements as a page, or as one JSON object."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--repeats", type=int, default=5, help="windows of each row (default %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="presets to run (default: one or two of each family)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("-o", "--output", type=Path, metavar="PAGE.md", help="write the page here")
    arguments = parser.parse_args()
    chosen = tuple(one for one in NETWORKS if not arguments.only or one.preset in arguments.only)
    found = bench(chosen, arguments.repeats)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(arguments.output) as partial:
            partial.write_text(page(found))
    print(
        json.dumps({"machine": machine(), "networks": [asdict(timed) for timed in found]})
        if arguments.json
        else page(found)
    )


if __name__ == "__main__":
    main()
