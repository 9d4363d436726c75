"""``soak``: hours of sensor time through a model, watched for what grows."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snn_perception.cli.common import (
    EXIT_DONE,
    EXIT_ERROR,
    make_parser,
    positive_int,
    print_json,
    print_rows,
    progress_bar,
    registry_of,
    run,
    sensor_size,
)
from snn_perception.cli.engine_option import add_engine_option, engine_of
from snn_perception.errors import SnnPerceptionError

if TYPE_CHECKING:
    from snn_perception.detector import Detector
    from snn_perception.registry import Registry
    from snn_perception.runtime.soak import Look, SoakReport

_WAKE_WINDOWS = 8
_STREAMS = 4


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run(_soak, _parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "soak",
        "Send hours of sensor time of several cameras through a model as fast as it goes, and watch memory, threads, "
        "open files and CPU time per window. Or, with --overload, let windows come faster than the model takes them, "
        "and account for every one. Exit code 1 where something grew, or went wrong.",
    )
    parser.set_defaults(threads=1)
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="checkpoint, shipped weights, or a preset, whose norms see some windows first so that all of it fires",
    )
    parser.add_argument(
        "--size", type=sensor_size, metavar="WxH", help="sensor of a preset: a small one is quick (default: its own)"
    )
    parser.add_argument(
        "--window-ms",
        type=positive_int,
        metavar="MS",
        help="window of a preset: long ones are fewer, so that a day fits into an hour (default: its own)",
    )
    parser.add_argument(
        "--packet-ms", type=positive_int, default=10, metavar="MS", help="sensor time of a packet (default: 10)"
    )
    parser.add_argument("--hours", type=_hours, default=0.1, metavar="H", help="of each camera (default: 0.1)")
    parser.add_argument("--streams", type=positive_int, metavar="N", help="cameras (default: 4; 1 with --overload)")
    parser.add_argument(
        "--overload",
        type=_times,
        metavar="X",
        help="for --hours of stream time, let windows of a camera come X times as fast as the model takes them by a "
        "made-up clock, through the node's queue (8 windows, catch_up, a gap is a reset); then at half its rate",
    )
    parser.add_argument("--looks", type=positive_int, default=40, metavar="N", help="how often to look (default: 40)")
    parser.add_argument("--device", default="cpu", help="where the model runs: cpu (default), cuda, ...")
    add_engine_option(parser)
    parser.add_argument("-o", "--output", type=Path, metavar="F.json", help="write every look here")
    return parser


def _hours(text: str) -> float:
    value = float(text)
    if not 0 < value <= 10_000:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


_hours.__name__ = "number of hours"


def _times(text: str) -> float:
    value = float(text)
    if not 1 < value <= 1000:
        raise argparse.ArgumentTypeError(f"must be above 1, got {text}")
    return value


_times.__name__ = "number of times"


def _soak(arguments: argparse.Namespace) -> int:
    from snn_perception.runtime.pipeline import DetectionPipeline
    from snn_perception.runtime.soak import soak
    from snn_perception.runtime.warmup import warm_up

    registry = registry_of(arguments)
    if arguments.overload:
        return _overload(arguments, registry)
    pipeline = DetectionPipeline(_model(arguments, registry), device=arguments.device, registry=registry)
    pipeline.engine = engine_of(arguments, pipeline.detector)
    warm_up(pipeline)
    with progress_bar("soak", enabled=not arguments.json) as advance:
        report = soak(
            pipeline,
            registry,
            streams=arguments.streams or _STREAMS,
            duration_s=arguments.hours * 3600,
            looks=arguments.looks,
            packet_us=arguments.packet_ms * 1000,
            on_progress=advance,
        )
    summary = {**_summary(report), "window_ms": pipeline.spec.window_us / 1000}
    return _tell(arguments, summary, report.faults(), report.looks, _rows)


def _overload(arguments: argparse.Namespace, registry: Registry) -> int:
    """Let windows come too fast, for so long, and tell what became of them."""
    from snn_perception.ros.overload import overload
    from snn_perception.runtime.pipeline import DetectionPipeline
    from snn_perception.runtime.warmup import warm_up

    if (arguments.streams or 1) > 1:
        raise SnnPerceptionError("--overload is of one camera; leave --streams out")
    model = _model(arguments, registry)
    pipeline = DetectionPipeline(model, device=arguments.device, gap_policy="reset", registry=registry)
    pipeline.engine = engine_of(arguments, pipeline.detector)
    warm_up(pipeline)
    with progress_bar("overload", enabled=not arguments.json) as advance:
        report = overload(
            pipeline,
            registry,
            times=arguments.overload,
            duration_s=arguments.hours * 3600,
            looks=arguments.looks,
            on_progress=advance,
        )
    return _tell(arguments, report.summary(), report.faults(), report.looks, _overload_rows)


def _tell(
    arguments: argparse.Namespace,
    summary: dict[str, Any],
    faults: list[str],
    looks: tuple[Look, ...],
    rows: Callable[[dict[str, Any]], Iterator[tuple[str, str]]],
) -> int:
    """Print and write what was found; returns the exit code."""
    from snn_perception.whole_file import whole_file

    result = {**summary, "model": arguments.model, "engine": arguments.engine, "faults": faults}
    if arguments.output:
        with whole_file(arguments.output) as temporary:
            temporary.write_text(json.dumps({**result, "looks": [asdict(look) for look in looks]}, indent=1))
    if arguments.json:
        print_json(result)
    else:
        print_rows([*rows(result), *(("fault", fault) for fault in faults)])
    return EXIT_ERROR if faults else EXIT_DONE


def _model(arguments: argparse.Namespace, registry: Registry) -> Detector:
    """Return the model that is asked for, awake; detections at any score, since it is not about those."""
    from snn_perception.detector import build_preset
    from snn_perception.runtime.models import open_model
    from snn_perception.runtime.soak import awake

    model = open_model(arguments.model, registry)
    if not model.is_preset:
        if arguments.size or arguments.window_ms:
            raise SnnPerceptionError("--size and --window-ms are for presets; a checkpoint has its own")
        return model.detector
    options = {}
    if arguments.size is not None:
        options["height"], options["width"] = arguments.size
    if arguments.window_ms is not None:
        options["window_us"] = arguments.window_ms * 1000
    return awake(build_preset(arguments.model, registry=registry, **options), registry, _WAKE_WINDOWS)


def _summary(report: SoakReport) -> dict[str, Any]:
    last, warm = report.looks[-1], report.warm
    return {
        "streams": report.streams,
        "sensor_hours": round(last.sensor_s / 3600, 4),
        "windows": last.windows,
        "detections": last.detections,
        "silent_windows": report.silent_windows,
        "losses": report.losses,
        "resident_mib": [round(warm[0].resident_mib, 1), round(last.resident_mib, 1)],
        "growth_mib": round(report.growth_mib, 2),
        "threads": [warm[0].threads, last.threads],
        "files": [warm[0].files, last.files],
        "cpu_ms_per_window": round((last.cpu_s - warm[0].cpu_s) / max(1, last.windows - warm[0].windows) * 1e3, 3),
        "cpu_drift": round(report.drift, 4),
        "cpu_drift_by_the_clock": round(report.clock_drift, 4),
        "wall_s": round(last.wall_s, 1),
    }


def _rows(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "model", result["model"]
    yield "sensor time", f"{result['sensor_hours']:g} h of {result['streams']} cameras in {result['wall_s']:,.0f} s"
    silent = f"{result['silent_windows']:,} without detections"
    yield "windows", f"{result['windows']:,} of {result['window_ms']:g} ms, {silent}"
    yield (
        "resident memory",
        "{} to {} MiB after warm-up".format(*result["resident_mib"]) + (f", growth {result['growth_mib']:+.2f} MiB"),
    )
    yield "threads, files", "{} to {}, ".format(*result["threads"]) + "{} to {}".format(*result["files"])
    drifts = f"drift {result['cpu_drift']:+.1%} beside other work, {result['cpu_drift_by_the_clock']:+.1%} by the clock"
    yield "CPU per window", f"{result['cpu_ms_per_window']:.2f} ms, {drifts}"
    yield "losses", str(result["losses"])
    if not result["faults"]:
        yield "verdict", "nothing grew"


def _overload_rows(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "model", result["model"]
    yield "overload", f"{result['times']:g} times, {result['overload_s']:g} s of stream time"
    yield (
        "windows",
        "{windows:,} came: {published:,} published, {caught_up:,} caught up with, {dropped:,} dropped, "
        "{failed:,} failed, {waiting:,} waiting".format(**result),
    )
    yield "in the overload", f"{result['published_in_overload']:,} published, at most {result['most_waiting']} waiting"
    yield "resident memory", "{} to {} MiB".format(*result["resident_mib"])
    yield "recovery", "never" if result["recovery_s"] is None else f"{result['recovery_s']:g} s of stream time"
    yield "behind it", f"{result['compared']:,} windows compared with a new stream, {result['differing']:,} differ"
    if not result["faults"]:
        yield "verdict", "every window is accounted for"


if __name__ == "__main__":
    sys.exit(main())
