#!/usr/bin/env python3
"""Time of the native convolutions and neuron steps beside torch's dense convolution, spikingjelly and numba.

    python tools/bench_native.py [--repeats N] [--only NAME ...] [--json] [-o docs/benchmarks/native.md]

All rows of a table run in turn in one process, on one thread, on the same spikes and weights. The floor of a dense
convolution is its multiply-accumulates at the speed of the best matrix product of the same process.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from snn_perception.fusing import plain_operations  # noqa: E402
from snn_perception.native.calls import require  # noqa: E402
from snn_perception.native.convolution import SpikeConv2d  # noqa: E402
from snn_perception.native.library import Method  # noqa: E402
from snn_perception.native.neuron import NeuronStep, fire  # noqa: E402
from snn_perception.native.packing import pack  # noqa: E402
from snn_perception.neuron_steps import StepRule, fused_steps  # noqa: E402
from snn_perception.whole_file import whole_file  # noqa: E402
from tools.bench_support import Row, Run, machine, measure  # noqa: E402

DENSITIES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4)
CALLS = 4  # of each row in one repeat, so that the clock's own cost does not count
PRODUCT = 768  # side of the matrices whose product is the floor's speed
RULE = StepRule("times", True, 1.0, True, True, "sigmoid", 4.0)  # PLIF as published for ST-VGG
LEAK = 0.5
NEURONS = (1, 64, 60, 76)  # of the table of neuron steps
COLUMNS = ("dense", "dense, channels_last", "rows", "tables", "packed", "floats", "fused")


@dataclass(frozen=True)
class Shape:
    """A convolution to time, with the layer that it stands for."""

    name: str
    in_channels: int
    out_channels: int
    height: int
    width: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1

    def conv(self) -> nn.Conv2d:
        """Return it with random weights."""
        return nn.Conv2d(self.in_channels, self.out_channels, self.kernel, self.stride, self.padding)

    @property
    def told(self) -> str:
        """What a table calls it."""
        size = f"{self.height}x{self.width}"
        stride = f", stride {self.stride}" if self.stride > 1 else ""
        return f"{self.name}: {self.in_channels} to {self.out_channels}, {self.kernel}x{self.kernel}{stride}, {size}"


SHAPES = (
    Shape("st_vgg_ssd_32, stem", 2, 32, 240, 304, kernel=4, stride=4, padding=0),
    Shape("st_vgg_ssd_32, second layer", 32, 64, 60, 76),
    Shape("reference layer", 64, 64, 60, 76),
    Shape("st_vgg_ssd_32, going down", 64, 128, 30, 38, stride=2),
    Shape("st_vgg_ssd_32, deep", 128, 128, 15, 19),
    Shape("SSD head, classes", 128, 12, 15, 19),
    Shape("pointwise", 64, 64, 60, 76, kernel=1, padding=0),
    Shape("wide", 256, 128, 15, 19),
)


@dataclass(frozen=True)
class Timed:
    """CPU and wall milliseconds of one call, median and best, by the way it was computed."""

    shape: str
    density: float
    floor_ms: float
    cpu_ms: dict[str, float]
    best_ms: dict[str, float]
    wall_ms: dict[str, float]

    @property
    def gain(self) -> float:
        """How many times faster packed spikes are than the faster of the two dense ways, by CPU time."""
        return min(self.cpu_ms[name] for name in COLUMNS[:2]) / self.cpu_ms["packed"]


@torch.no_grad()
def bench(shapes: tuple[Shape, ...], densities: tuple[float, ...], repeats: int) -> list[Timed]:
    """Return the figures of each shape at each share of spikes."""
    torch.set_num_threads(1)
    speed = product_speed(max(repeats // 2, 3))
    found = []
    for shape in shapes:
        torch.manual_seed(0)
        conv = shape.conv()
        for density in densities:
            size = (1, shape.in_channels, shape.height, shape.width)
            rows = measure(list(_convolutions(conv, (torch.rand(size) < density).float())), repeats)
            out = conv(torch.zeros(size))
            floor_ms = 2e3 * out.numel() * conv.weight[0].numel() / speed
            found.append(_timed(shape.told, density, floor_ms, rows))
    return found


def product_speed(repeats: int) -> float:
    """Return the best floating-point operations per second of CPU time of a matrix product."""
    a, b = torch.randn(PRODUCT, PRODUCT), torch.randn(PRODUCT, PRODUCT)
    times = []
    for _ in range(repeats + 1):
        begun = time.process_time()
        torch.mm(a, b)
        times.append(time.process_time() - begun)
    return 2 * PRODUCT**3 / max(min(times), 1e-9)


def _convolutions(conv: nn.Conv2d, x: Tensor) -> Iterator[Run]:
    ours, step = SpikeConv2d.from_conv(conv), NeuronStep.of_rule(RULE, LEAK)
    last = torch.channels_last
    dense, x_last = copy.deepcopy(conv).to(memory_format=last), x.contiguous(memory_format=last)
    spikes, v = pack(x), torch.zeros_like(conv(x)).contiguous(memory_format=last)
    yield _run(COLUMNS[0], lambda: conv(x))
    yield _run(COLUMNS[1], lambda: dense(x_last))
    yield _run(COLUMNS[2], lambda: ours(spikes, method=Method.ROWS))
    yield _run(COLUMNS[3], lambda: ours(spikes, method=Method.TABLES))
    yield _run(COLUMNS[4], lambda: ours(spikes))
    yield _run(COLUMNS[5], lambda: ours(x_last))
    yield _run(COLUMNS[6], lambda: ours.fire(spikes, v, step, forms=("packed",), v_after=v))


def _run(name: str, call: Callable[[], object]) -> Run:
    def several() -> None:
        for _ in range(CALLS):
            call()

    return Run(name, CALLS, several)


def _timed(shape: str, density: float, floor_ms: float, rows: list[Row]) -> Timed:
    cpu = {row.name: statistics.median(row.cpu_s) / CALLS * 1e3 for row in rows}
    best = {row.name: min(row.cpu_s) / CALLS * 1e3 for row in rows}
    wall = {row.name: statistics.median(row.wall_s) / CALLS * 1e3 for row in rows}
    return Timed(shape, density, floor_ms, cpu, best, wall)


# ------------------------------------------------------------------------------------------------------ other tables


@torch.no_grad()
def bench_whole_numbers(repeats: int, shape: Shape = SHAPES[2]) -> list[Timed]:
    """Return the figures of inputs that are whole numbers of spikes, 0 to 4."""
    torch.set_num_threads(1)
    conv, found = shape.conv(), []
    dense, ours = copy.deepcopy(conv).to(memory_format=torch.channels_last), SpikeConv2d.from_conv(conv, binary=False)
    for density in DENSITIES:
        size = (1, shape.in_channels, shape.height, shape.width)
        x = (torch.rand(size) < density) * torch.randint(1, 5, size).float()
        x = x.contiguous(memory_format=torch.channels_last)
        small = x.to(torch.uint8)
        runs = [
            _run("dense", lambda x=x: dense(x)),
            _run("floats", lambda x=x: ours(x)),
            _run("bytes", lambda x=small: ours(x)),
        ]
        found.append(_timed(shape.told, density, 0.0, measure(runs, repeats)))
    return found


@torch.no_grad()
def bench_neurons(repeats: int, size: tuple[int, ...] = NEURONS) -> Timed:
    """Return the figures of one PLIF step by every way there is."""
    from spikingjelly.activation_based.neuron import ParametricLIFNode

    torch.set_num_threads(1)
    x = torch.randn(size) + 0.5
    current = x.contiguous(memory_format=torch.channels_last)
    v, step = torch.zeros_like(current), NeuronStep.of_rule(RULE, LEAK)
    node, factor = ParametricLIFNode(init_tau=2.0).eval(), torch.tensor(LEAK)
    node(x)

    def plain() -> None:
        with plain_operations():
            h = RULE.charge(v, current, factor)
            s = (h >= RULE.v_threshold).to(h.dtype)
            _ = h - s * h

    rows = [
        _run("spikingjelly", lambda: node(x)),
        _run("plain operations", plain),
        _run("numba", lambda: fused_steps(current.unsqueeze(0), v, RULE, factor)),
        _run("native", lambda: fire(current, v, step)),
        _run("native, in place", lambda: fire(current, v, step, v_after=v)),
        _run("native, in place, packed", lambda: fire(current, v, step, forms=("packed",), v_after=v)),
    ]
    return _timed("x".join(map(str, size)), 0.0, 0.0, measure(rows, repeats))


@torch.no_grad()
def bench_packing(repeats: int) -> Timed:
    """Return the figures of packing spikes by themselves."""
    x = (torch.rand(NEURONS) < 0.2).float().contiguous(memory_format=torch.channels_last)
    small = x.to(torch.uint8)
    rows = [_run("float32", lambda: pack(x)), _run("uint8", lambda: pack(small)), _run("count", pack(x).count)]
    return _timed("x".join(map(str, NEURONS)), 0.2, 0.0, measure(rows, repeats))


# -------------------------------------------------------------------------------------------------------------- page


def page(found: list[Timed], whole: list[Timed], neurons: Timed, packing: Timed) -> str:
    """Return the figures as a page for people."""
    lines = [
        "# Native kernels, measured",
        "",
        "Made by `make bench-native`: CPU milliseconds of one call, median; batch 1, float32, one thread; all columns",
        "of a row in turn in one process. *Floor* is the dense arithmetic at the speed of the best matrix product of",
        "the same process. *Rows* adds the weights of each spike, *tables* one sum for every four channels of which",
        "some fired; *packed* chooses between them by how much fires, on packed spikes; *floats* packs a float32 input",
        "first; *fused* is *packed* with a PLIF neuron on the sums, from packed spikes to packed spikes and a membrane",
        "updated in place. *Gain* is the faster dense way beside *packed*; *wall gain* the same by wall time.",
        "",
        "| machine | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in machine().items()),
        f"| instruction sets | {', '.join(require().isas)} (the first is used) |",
    ]
    for shape in dict.fromkeys(timed.shape for timed in found):
        lines += ["", f"## {shape}", "", "| spikes | floor | " + " | ".join(COLUMNS) + " | gain | wall gain |"]
        lines.append("|---:" * (len(COLUMNS) + 4) + "|")
        lines += [_line(timed) for timed in found if timed.shape == shape]
    lines += ["", f"## Whole numbers of spikes, 0 to 4: {whole[0].shape}", ""]
    lines += ["| not zero | dense, channels_last | floats | bytes | gain |", "|---:|---:|---:|---:|---:|"]
    for timed in whole:
        dense, floats, small = (timed.cpu_ms[name] for name in ("dense", "floats", "bytes"))
        lines.append(f"| {timed.density:.0%} | {dense:.2f} | {floats:.2f} | {small:.2f} | {dense / floats:.1f}x |")
    lines += ["", f"## One PLIF step on {neurons.shape}", "", "| way | CPU ms, median (best) | x spikingjelly |"]
    lines.append("|---|---:|---:|")
    first = neurons.cpu_ms["spikingjelly"]
    for name, median in neurons.cpu_ms.items():
        lines.append(f"| {name} | {median:.3f} ({neurons.best_ms[name]:.3f}) | {first / median:.1f}x |")
    told = ", ".join(f"{name} {median:.3f} ms" for name, median in packing.cpu_ms.items())
    lines += ["", f"Packing spikes of {packing.shape}, and counting packed ones: {told}."]
    return "\n".join(lines) + "\n"


def _line(timed: Timed) -> str:
    wall = min(timed.wall_ms[name] for name in COLUMNS[:2]) / timed.wall_ms["packed"]
    cells = " | ".join(f"{timed.cpu_ms[name]:.3f}" for name in COLUMNS)
    return f"| {timed.density:.0%} | {timed.floor_ms:.3f} | {cells} | {timed.gain:.1f}x | {wall:.1f}x |"


def main() -> None:
    """Print the measurements as a page, or as one JSON object."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--repeats", type=int, default=25, help="of each row (default %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="shapes whose name holds one of these words")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("-o", "--output", type=Path, metavar="PAGE.md", help="write the page here")
    arguments = parser.parse_args()
    chosen = tuple(one for one in SHAPES if not arguments.only or any(word in one.name for word in arguments.only))
    found = bench(chosen, DENSITIES, arguments.repeats)
    whole, neurons = bench_whole_numbers(arguments.repeats), bench_neurons(arguments.repeats)
    packing = bench_packing(arguments.repeats)
    told = page(found, whole, neurons, packing)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(arguments.output) as partial:
            partial.write_text(told)
    content = {
        "machine": machine(),
        "convolutions": [asdict(timed) for timed in found],
        "whole_numbers": [asdict(timed) for timed in whole],
        "neurons": asdict(neurons),
        "packing": asdict(packing),
    }
    print(json.dumps(content) if arguments.json else told)


if __name__ == "__main__":
    main()
