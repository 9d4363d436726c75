#!/usr/bin/env python3
"""What the node adds to its network: its stages, the transport of rclpy, and one camera beside another.

    python tools/bench_node.py [--only stages transport cameras] [--windows N] [--json] [-o docs/benchmarks/node.md]

Stages are those of the node's own code in this process, on one core, fed with serialized packets, one window at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from snn_perception import build_preset  # noqa: E402
from snn_perception.whole_file import whole_file  # noqa: E402
from tools.bench_support import machine  # noqa: E402
from tools.node_cameras import CameraLatency, measure_camera  # noqa: E402
from tools.node_stages import STAGES, Stages, measure_stages  # noqa: E402
from tools.node_support import checkpoint  # noqa: E402
from tools.node_transport import WAYS, Transport, measure_transport  # noqa: E402

PRESET, CAMERA_PRESET = "st_vgg_ssd_32", "st_vgg_ssd_16"
RATE_HZ = 1_000_000
FEW = 10  # detections of a window; a road scene has fewer
CAMERA_SIZES_PX = ({"height": 96, "width": 128}, {"height": 240, "width": 304})
CAMERA_RATE_HZ = 100_000  # of each camera in real time
COLUMNS = ((10_000, FEW, True), (1_000, FEW, True), (10_000, FEW, False), (10_000, None, False))
PER_SECOND = (100, 1_000)
BESIDE = (0.0, 10.0)
ENGINES = ("detector", "native")
PARTS = ("stages", "transport", "cameras")
MOST, MOST_TIMES = 0.3, 1.5


def bench(parts: list[str], windows: int, seconds: float) -> dict[str, list[Any]]:
    """Return the rows of each part."""
    torch.set_num_threads(1)
    domain, found = 1 + os.getpid() % 100, {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        if "stages" in parts:
            found["stages"] = [_stages_of(path, column, windows, domain) for column in COLUMNS]
        if "transport" in parts:
            size = build_preset(PRESET).spec.sensor_size
            found["transport"] = [
                measure_transport(way, size, RATE_HZ, each, seconds, domain) for each in PER_SECOND for way in WAYS
            ]
        if "cameras" in parts:
            found["cameras"] = [
                row for size_px in CAMERA_SIZES_PX for row in _cameras_of(path, size_px, seconds, domain)
            ]
    return found


def _stages_of(path: Path, column: tuple[int, int | None, bool], windows: int, domain: int) -> Stages:
    interval_us, detections, selective = column
    size = checkpoint(PRESET, path, RATE_HZ, detections, selective=selective)
    return measure_stages(path, size, RATE_HZ, interval_us, windows, domain)


def _cameras_of(path: Path, size_px: dict[str, int], seconds: float, domain: int) -> Iterator[CameraLatency]:
    size = checkpoint(CAMERA_PRESET, path, CAMERA_RATE_HZ, FEW, selective=True, **size_px)
    for engine, beside in 2 * [(engine, beside) for engine in ENGINES for beside in BESIDE]:  # other load meets all
        yield measure_camera(path, size, CAMERA_RATE_HZ, engine, beside, 2 * seconds, domain)


def page(found: dict[str, list[Any]]) -> str:
    """Return the figures as a page for people."""
    lines = [
        "# The node beside its network, measured",
        "",
        "Made by `make bench-node`.",
        "",
        "| machine | |",
        "|---|---|",
    ]
    lines += [f"| {name} | {value} |" for name, value in machine().items()]
    for part, rows in found.items():
        lines += ["", *{"stages": _stages, "transport": _transport, "cameras": _cameras}[part](rows)]
    return "\n".join(lines) + "\n"


def _stages(rows: list[Stages]) -> Iterator[str]:
    yield "## From a packet to the message"
    yield ""
    yield f"`{PRESET}`, untrained, every layer firing, {RATE_HZ / 1e6:g} million events per second as EVT3 (noise"
    yield "over the whole sensor, the most work for a decoder, and moving shapes), the node's default parameters, all"
    yield "of it on one core. In the first two columns the head takes candidates above the node's threshold alone,"
    yield "in the others all above its own, 0.01. Milliseconds of a window of 50 ms, medians: CPU time (wall)."
    yield ""
    yield "| stage | " + " | ".join(map(_column, rows)) + " |"
    yield "|---|" + "---:|" * len(rows)
    for stage in STAGES:
        yield f"| {stage} | " + " | ".join(f"{r.cpu_ms[stage]:.2f} ({r.wall_ms[stage]:.2f})" for r in rows) + " |"
    yield (
        "| these but the network, as a share of it | "
        + " | ".join(f"{row.ratio(row.cpu_ms):.2f} ({row.ratio(row.wall_ms):.2f})" for row in rows)
        + " |"
    )
    yield (
        "| **all but the network, as a share of it** | "
        + " | ".join(f"**{row.share:.2f}** ({row.wall_share:.2f})" for row in rows)
        + " |"
    )
    yield (
        "| from the closing packet to the message out, wall | "
        + " | ".join(f"{row.whole_ms:.1f}" for row in rows)
        + " |"
    )
    yield (
        "| events, packets, detections of a window | "
        + " | ".join(f"{row.events:,.0f}, {row.packets:.0f}, {row.detections:.0f}" for row in rows)
        + " |"
    )
    yield ""
    yield "Stages are of every other window. In those between, nothing but the whole and the network is timed; the last"
    yield "of the shares is of these. The one before it has in it what a stopwatch does to the code around it."
    yield ""
    kept = ["kept" if row.share <= MOST else "not kept" for row in rows]
    yield f"The aim is at most {MOST:g} of the network's CPU time: {', '.join(kept)}, in the order of the columns."


def _column(row: Stages) -> str:
    return f"packets of {row.interval_us / 1000:g} ms, {row.detections:.0f} detections"


def _transport(rows: list[Transport]) -> Iterator[str]:
    yield "## rclpy's own transport"
    yield ""
    yield "Two processes, Fast DDS, best effort, depth 1000; no work on the messages but what is said."
    yield ""
    yield "| receiver | packets/s | bytes | received | CPU us per packet, receiver | sender | median latency, ms |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for row in rows:
        latency = "-" if row.latency_ms is None else f"{row.latency_ms:.2f}"
        yield (
            f"| {row.name} | {row.per_second:,} | {row.packet_bytes:,.0f} | {row.received:,} of {row.sent:,} "
            f"| {row.receive_cpu_us:.0f} | {row.send_cpu_us:.0f} | {latency} |"
        )


def _cameras(rows: list[CameraLatency]) -> Iterator[str]:
    yield "## One camera beside another"
    yield ""
    yield f"`{CAMERA_PRESET}`, two cameras of {CAMERA_RATE_HZ / 1e6:g} million events per second in one node with its"
    yield "default parameters but for the engine, senders in processes of their own. The left one sends in real time,"
    yield "the right one not at all or ten times as fast. Latency of the left one, from a window's close to its message"
    yield "out; of both the windows that were dropped; cores that the node kept busy."
    yield ""
    yield "| size | engine | the right one | windows | p50 ms | p99 ms | dropped | the right one's, dropped | cores |"
    yield "|---|---|---|---:|---:|---:|---:|---:|---:|"
    for row in rows:
        beside = f"{row.beside:g} times" if row.beside else "silent"
        yield (
            f"| {row.size} | {row.engine} | {beside} | {row.windows:,} | {row.p50_ms:.1f} | {row.p99_ms:.1f} "
            f"| {row.dropped:,} | {row.other_windows:,}, {row.other_dropped:,} | {row.cpu_s / row.wall_s:.2f} |"
        )
    yield ""
    yield f"The better p99 of each, times that alone (at most {MOST_TIMES:g} is the aim):"
    yield ""
    for size, engine in dict.fromkeys((row.size, row.engine) for row in rows):
        each = [row for row in rows if (row.size, row.engine) == (size, engine)]
        alone, busy = (min(row.p99_ms for row in each if bool(row.beside) is is_busy) for is_busy in (False, True))
        kept = "kept" if busy <= MOST_TIMES * alone else "not kept"
        yield f"* {size}, `{engine}`: {busy / alone:.2f}, {kept}"


def main() -> None:
    """Print the measurements as a page, or as one JSON object."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run (default: all)")
    parser.add_argument("--windows", type=int, default=150, help="of each row of stages (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each row of transport (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("-o", "--output", type=Path, metavar="PAGE.md", help="write the page here")
    arguments = parser.parse_args()
    found = bench(arguments.only, arguments.windows, arguments.seconds)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(arguments.output) as partial:
            partial.write_text(page(found))
    if arguments.json:
        print(json.dumps({"machine": machine(), **{part: list(map(asdict, rows)) for part, rows in found.items()}}))
    else:
        print(page(found))


if __name__ == "__main__":
    main()
