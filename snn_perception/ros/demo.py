"""The demo: a recording goes through the real node over DDS; a table, the detections and a video come out.

``python -m snn_perception.ros.demo --model MODEL [--recording PATH] [-o demo/]``, which is what ``make demo`` runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray

from snn_perception.checkpoint import load_checkpoint, save_checkpoint
from snn_perception.cli.common import make_parser, print_json, registry_of, run
from snn_perception.data.shapes import moving_shapes
from snn_perception.detector import Detector
from snn_perception.errors import SnnPerceptionError
from snn_perception.events.dat_writer import write_dat
from snn_perception.events.recording import open_recording
from snn_perception.registry import Registry
from snn_perception.ros.live import LiveResult, LiveRun, local_domain
from snn_perception.ros.messages import from_detection2d_array, ns_to_stamp, to_detection2d_array
from snn_perception.runtime.detections_file import DetectionsWriter
from snn_perception.runtime.models import open_model
from snn_perception.runtime.pipeline import DetectionPipeline
from snn_perception.runtime.render import draw_events, draw_window
from snn_perception.runtime.replay import WindowSource, replay
from snn_perception.runtime.video import VideoWriter, count_distinct_frames
from snn_perception.runtime.waking import wake_on_recording
from snn_perception.types import Detections, EventWindow, SensorSize

SHAPES_US = 5_000_000
MAX_GAP_MS = 1000
MIN_FRAMES = 50
WANTED_FRAMES = 80
FRAMES_PER_SECOND = 20
UNTRAINED = "untrained weights: the boxes mean nothing yet"


@dataclass(frozen=True)
class Seen:
    """A window and what is seen in it offline; the states in between are not kept, they are large."""

    window: EventWindow
    detections: Detections


@dataclass(frozen=True)
class Shown:
    """One picture of the video: a part of a window, and the detections of the whole."""

    part: EventWindow
    number: int
    detections: Detections


def main(argv: list[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    parser = make_parser("demo", "Play a recording through the detector node over DDS and show what comes out.")
    parser.prog = "python -m snn_perception.ros.demo"
    parser.add_argument("--recording", type=Path, help="file or bag to play (default: moving shapes, made on the spot)")
    parser.add_argument("--model", required=True, help="checkpoint, or a preset, which has untrained weights")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("demo"), help="folder for what is made (default: demo)"
    )
    parser.add_argument("--rate", type=float, default=1.0, help="pace of the player; 1 is real time")
    parser.add_argument("--max-boxes", type=int, default=5, help="boxes published per window")
    return run(_demo, parser, argv)


def _demo(arguments: argparse.Namespace) -> None:
    local_domain()
    console = Console(stderr=arguments.json)
    registry, output = registry_of(arguments), arguments.output
    torch.set_num_threads(1)  # as the node has it: another number of threads rounds differently
    output.mkdir(parents=True, exist_ok=True)
    recording = arguments.recording or _make_shapes(output / "shapes.dat")
    model, note = _model(arguments.model, recording, registry, output)
    expected = _offline(model, recording, registry, arguments.max_boxes)
    result = _live(model, recording, arguments, console, len(expected))
    if not result.messages:
        raise SnnPerceptionError(f"no detection crossed DDS; see {output / 'demo.log'}")
    messages = result.decoded()
    received = {d.t_us: d for d in map(from_detection2d_array, messages)}
    detector = load_checkpoint(model, registry=registry)
    with DetectionsWriter(output / "detections.jsonl") as file:
        for seen in expected:
            file.write(seen.window, received.get(seen.window.t_end_us, Detections.empty()))
    distinct = _draw(output / "demo.mp4", _pictures(expected, received), detector, note)
    summary = {
        "recording": str(recording),
        "model": str(model),
        **_figures(result),
        "windows": len(expected),
        "window_ms": detector.spec.window_us / 1000,
        "messages_received": len(messages),
        "detections": sum(len(msg.detections) for msg in messages),
        "live_equals_offline": _same(expected, messages, detector),
        "distinct_frames": distinct,
    }
    _print(console, summary, note, output)
    if arguments.json:
        print_json(summary)
    require_success(summary)


def require_success(summary: Mapping[str, Any]) -> None:
    """Raise SnnPerceptionError unless nothing was lost, live equals offline, and the video shows something."""
    if summary["packets_received"] != summary["packets_published"]:
        raise SnnPerceptionError(
            f"{summary['packets_published']} packets were published, {summary['packets_received']} received"
        )
    for name in ("packets_lost", "windows_dropped", "windows_failed"):
        if summary[name]:
            raise SnnPerceptionError(f"{name.replace('_', ' ')}: {summary[name]}, expected 0; see demo.log")
    if not summary["live_equals_offline"]:
        raise SnnPerceptionError("the node published something else than an offline replay computes; see demo.log")
    if summary["distinct_frames"] < MIN_FRAMES:
        raise SnnPerceptionError(
            f"demo.mp4: {summary['distinct_frames']} distinct frames, expected {MIN_FRAMES}; "
            "is the recording a second long?"
        )


def _make_shapes(path: Path) -> Path:
    size = SensorSize(height=240, width=304)
    write_dat(path, moving_shapes(size, SHAPES_US, seed=1), size)
    return path


def _model(name: str, recording: Path, registry: Registry, output: Path) -> tuple[Path, str]:
    """Return the checkpoint to run, and what to say of it."""
    model = open_model(name, registry)
    if not model.is_preset:
        return Path(name), ""
    wake_on_recording(model.detector, recording, registry)
    path = output / f"{name}_untrained.safetensors"
    save_checkpoint(path, model.detector, run={"training": "none"})
    return path, UNTRAINED


def _offline(model: Path, recording: Path, registry: Registry, max_boxes: int) -> list[Seen]:
    """Return the same job done without ROS."""
    pipeline = DetectionPipeline(
        load_checkpoint(model, registry=registry), max_gap_us=MAX_GAP_MS * 1000, max_detections=max_boxes
    )
    source = WindowSource(
        open_recording(recording, registry), registry, pipeline.spec.window_us, max_gap_us=pipeline.max_gap_us
    )
    return [Seen(step.window, step.detections) for step in replay(source, pipeline)]


def _live(model: Path, recording: Path, arguments: argparse.Namespace, console: Console, windows: int) -> LiveResult:
    log = arguments.output / "demo.log"
    log.unlink(missing_ok=True)
    parameters = {
        "checkpoint": str(model),
        "score_threshold": 0.0,
        "max_detections": arguments.max_boxes,
        "max_gap_ms": MAX_GAP_MS,
    }
    with Progress(console=console, transient=True) as progress, LiveRun(parameters, log) as live:
        task = progress.add_task("windows through the node", total=windows)
        live.activate()
        return live.play(recording, on_wait=lambda done: progress.update(task, completed=done), rate=arguments.rate)


def _pictures(expected: list[Seen], received: Mapping[int, Detections]) -> Iterator[Shown]:
    """Yield each window in parts, so that a short recording also makes a video, with the boxes that came over DDS."""
    parts = max(2, -(-WANTED_FRAMES // max(1, len(expected))))
    for number, seen in enumerate(expected):
        window = seen.window
        edges = np.linspace(window.t_start_us, window.t_end_us, parts + 1).astype(np.int64).tolist()
        cuts = np.searchsorted(window.events.t, edges).tolist()
        for k in range(parts):
            part = EventWindow(window.events[cuts[k] : cuts[k + 1]], edges[k], edges[k + 1], lossy=window.lossy)
            if number == 0 and not cuts[k + 1]:
                continue  # before the first event
            yield Shown(part, number, received.get(window.t_end_us, Detections.empty()))


def _draw(path: Path, pictures: Iterable[Shown], detector: Detector, note: str) -> int:
    """Write the video; return how many of its frames differ, by their events and in the file."""
    by_events = set()
    with VideoWriter(path, fps=FRAMES_PER_SECOND) as video:
        for shown in pictures:
            by_events.add(draw_events(shown.part.events).tobytes())
            video.write(
                draw_window(shown.part, shown.detections, detector.spec.classes, number=shown.number, note=note)
            )
    return min(len(by_events), count_distinct_frames(path))


def _same(expected: list[Seen], messages: list[Detection2DArray], detector: Detector) -> bool:
    """Return whether the node published, number for number, what was computed offline."""
    if len(messages) != len(expected):
        return False
    for seen, msg in zip(expected, messages, strict=True):
        header = Header(stamp=ns_to_stamp(seen.window.t_end_us * 1000), frame_id=msg.header.frame_id)
        if to_detection2d_array(seen.detections, header, detector.spec.classes) != msg:
            return False
    return True


def _figures(result: LiveResult) -> dict[str, object]:
    """Return the node's own figures of the run."""
    figures = result.diagnostics
    counts = {
        "packets_received": "packets",
        "packets_lost": "lost packets",
        "events": "events",
        "windows_dropped": "dropped windows",
        "windows_failed": "failed windows",
    }
    times = {"processing_ms_p50": "processing time p50 ms", "processing_ms_p95": "processing time p95 ms"}
    return {
        "packets_published": result.published,
        **{name: int(figures.get(key, 0)) for name, key in counts.items()},
        **{name: float(figures[key]) for name, key in times.items() if key in figures},
    }


def _print(console: Console, summary: dict[str, Any], note: str, output: Path) -> None:
    """Print the table, and write it beside the video."""
    table = Table(title="Events through the detector node, over DDS", show_header=False)
    for name, value in summary.items():
        text = ("yes" if value else "no") if isinstance(value, bool) else str(value)
        table.add_row(name.replace("_", " "), text)
    with (output / "table.txt").open("w", encoding="utf-8") as file:
        Console(file=file, width=100).print(table)
    console.print(table)
    if note:
        console.print(f"[yellow]{note}[/yellow]")
    window_ms = summary["window_ms"]
    console.print(f"one window is {window_ms:g} ms; the node waits for its input here, so that nothing is dropped")
    console.print(f"written to {output}/: demo.mp4 (watch it), detections.jsonl, table.txt, demo.log")


if __name__ == "__main__":
    sys.exit(main())
