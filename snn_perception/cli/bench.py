"""``bench``: how long a window of a model takes, by every engine, beside what the processor can do at best."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from snn_perception.cli.common import (
    EXIT_DONE,
    make_parser,
    positive_int,
    print_json,
    print_rows,
    print_table,
    progress_bar,
    registry_of,
    run,
    sensor_size,
)
from snn_perception.cli.stages import told_stages
from snn_perception.errors import SnnPerceptionError

if TYPE_CHECKING:
    from torch import Tensor

    from snn_perception.detector import Detector
    from snn_perception.registry import Registry

_WAKE_WINDOWS = 6
_INPUTS = 20  # different windows; they are used again
_STREAMS = (1, 2, 4, 8)
_MOST_EVENTS = 5e7  # per second: what the fastest cameras give is below


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run(_bench, _parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "bench",
        "Time one window of a model by every engine, in turn in one process on the same windows, and compare the "
        "numbers. Ratios count: other work on the machine meets all engines alike.",
    )
    parser.set_defaults(threads=1)
    parser.add_argument(
        "target",
        metavar="TARGET",
        help="checkpoint, shipped weights, or a preset, whose untrained weights are scaled so that all of it fires",
    )
    parser.add_argument(
        "--engines", metavar="A,B", help="engines to time (default: all that this machine and installation have)"
    )
    parser.add_argument("--windows", type=positive_int, metavar="N", help="to time (default: what a minute allows)")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="without --windows (default: 60)")
    parser.add_argument("--recording", type=Path, metavar="PATH", help="take its windows in place of synthetic ones")
    parser.add_argument("--size", type=sensor_size, metavar="WxH", help="sensor of a preset (default: its own)")
    parser.add_argument("--streams", action="store_true", help="also 1, 2, 4 and 8 cameras as one batch")
    parser.add_argument(
        "--rates",
        type=_rates,
        default=(),
        metavar="A,B,...",
        help="also whole windows of scenes with so many million events per second, such as 0.1,0.5,1,2,5",
    )
    parser.add_argument("--device", default="cpu", help="where the model runs: cpu (default), cuda, ...")
    parser.add_argument("--no-pin", dest="pin", action="store_false", help="let the system move a single thread about")
    parser.add_argument("-o", "--output", type=Path, metavar="PAGE.md", help="write a page, and a picture beside it")
    parser.add_argument(
        "--against", type=Path, metavar="OLD.json", help="a result of --json of another version: tell what changed"
    )
    return parser


def _rates(text: str) -> tuple[float, ...]:
    rates = tuple(float(one) * 1e6 for one in text.split(","))
    if not all(0 < rate <= _MOST_EVENTS for rate in rates):
        raise argparse.ArgumentTypeError(f"must be above 0 and up to {_MOST_EVENTS / 1e6:g}, got {text}")
    return rates


_rates.__name__ = "million events per second"


def _bench(arguments: argparse.Namespace) -> int:
    import torch

    from snn_perception.benchmark.machine import machine
    from snn_perception.benchmark.page import rows, table, write_page
    from snn_perception.benchmark.rates_page import rates_table
    from snn_perception.benchmark.run import BenchPlan, bench, build_engines
    from snn_perception.engine.choose import available
    from snn_perception.engine.engines import Settings

    if arguments.output:
        from snn_perception.whole_file import check_writable

        check_writable(arguments.output)
    old = _old(arguments.against) if arguments.against else None
    torch.set_num_threads(arguments.threads)
    if arguments.pin and arguments.threads == 1 and arguments.device == "cpu":
        _pin()
    registry = registry_of(arguments)
    detector, inputs = _prepared(arguments, registry)
    names = arguments.engines.split(",") if arguments.engines else available(detector)
    streams = _STREAMS if arguments.streams else ()
    plan = BenchPlan(arguments.windows, seconds=arguments.seconds, streams=streams, rates=arguments.rates)
    with told_stages(enabled=not arguments.json) as on_stage:
        on_stage("building engines")
        engines, left_out = build_engines(names, detector, Settings(threads=arguments.threads, on_stage=on_stage))
    with progress_bar("windows", enabled=not arguments.json) as advance:
        report = bench(arguments.target, detector, engines, inputs, plan, left_out=left_out, on_progress=advance)
    values = {"machine": machine(), **report.as_dict()}
    if arguments.output:
        write_page(arguments.output, values, old)
    if arguments.json:
        print_json(values)
        return EXIT_DONE
    print_rows(rows(values))
    print_table(*table(values, old))
    if values["rates"]:
        print_table(*rates_table(values["rates"]))
    return EXIT_DONE


def _prepared(arguments: argparse.Namespace, registry: Registry) -> tuple[Detector, list[Tensor]]:
    """Return the model, awake if it is a preset, and its windows."""
    from snn_perception.benchmark.inputs import recorded_inputs
    from snn_perception.detector import build_preset
    from snn_perception.engine.probe import synthetic_inputs
    from snn_perception.runtime.models import open_model
    from snn_perception.testing import wake

    model = open_model(arguments.target, registry, device=arguments.device)
    detector = model.detector
    if arguments.size:
        if not model.is_preset:
            raise SnnPerceptionError("--size is for presets; a checkpoint has its size")
        height, width = arguments.size
        detector = build_preset(arguments.target, registry=registry, height=height, width=width).to(arguments.device)
    detector = detector.eval()
    if arguments.recording:
        inputs = recorded_inputs(detector, arguments.recording, _INPUTS, registry)
    else:
        inputs = synthetic_inputs(detector, _INPUTS)
    if model.is_preset:
        wake(detector, inputs[:_WAKE_WINDOWS])
    return detector, inputs


def _pin() -> None:
    """Keep this process on one of the processors it may use: a thread that moves loses its caches."""
    import os

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def _old(path: Path) -> dict[str, object]:
    import json

    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SnnPerceptionError(f"{path}: expected what `bench --json` printed: {error}") from None
    if not isinstance(values, dict) or not isinstance(values.get("engines"), list):
        raise SnnPerceptionError(f"{path}: expected what `bench --json` printed, got no engines")
    return values


if __name__ == "__main__":
    sys.exit(main())
