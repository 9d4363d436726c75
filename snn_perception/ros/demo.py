"""The demo: a drive goes through the real node over DDS; a table, the detections and a video come out.

``python -m snn_perception.ros.demo --model MODEL [--recording PATH] [-o demo/]``, which is what ``make demo`` runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from snn_perception.checkpoint import load_checkpoint, save_checkpoint
from snn_perception.cli.common import make_parser, positive_int, print_json, registry_of, run
from snn_perception.errors import SnnPerceptionError
from snn_perception.events.recording import open_recording
from snn_perception.registry import Registry
from snn_perception.ros.domain import local_domain
from snn_perception.ros.live import LiveResult, LiveRun
from snn_perception.ros.messages import from_detection2d_array, same_messages
from snn_perception.runtime.demo_video import Look, Seen, pictures, write_video
from snn_perception.runtime.detections_file import DetectionsWriter
from snn_perception.runtime.labelled_drive import DEMO_DRIVE, LabelledDrive, labelled_drive
from snn_perception.runtime.models import OpenedModel, open_model
from snn_perception.runtime.pipeline import DetectionPipeline
from snn_perception.runtime.replay import WindowSource, replay
from snn_perception.runtime.waking import wake_on_recording
from snn_perception.types import Detections, EventWindow
from snn_perception.zoo import find_checkpoint, told

MAX_GAP_MS = 1000
MIN_FRAMES = 50
UNTRAINED = "untrained weights: the boxes mean nothing yet"
SYNTHETIC = "the drive is synthetic: figures on it say nothing about recorded data"


@dataclass(frozen=True)
class Subject:
    """What is run.

    Attributes:
        checkpoint: the model's file. note: what a person must know of it; empty for trained weights. caption: the same
            in the video.
        score_threshold, max_boxes: what the node publishes of each window. drawn_from: score from which it is drawn.
    """

    checkpoint: Path
    note: str
    caption: str
    score_threshold: float
    max_boxes: int
    drawn_from: float


def main(argv: list[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    parser = make_parser("demo", "Play a recording through the detector node over DDS and show what comes out.")
    parser.prog = "python -m snn_perception.ros.demo"
    parser.add_argument(
        "--recording", type=Path, help="file or bag to play (default: a synthetic drive that no training has seen)"
    )
    parser.add_argument(
        "--model", required=True, help="a checkpoint, shipped weights, or a preset, which has untrained weights"
    )
    parser.add_argument("--fallback", metavar="PRESET", help="run this where MODEL names weights that are not shipped")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("demo"), help="folder for what is made (default: demo)"
    )
    parser.add_argument("--rate", type=float, default=1.0, help="pace of the player; 1 is real time")
    parser.add_argument("--max-boxes", type=positive_int, help="boxes published per window (default: 100; untrained 5)")
    parser.add_argument(
        "--draw-from", type=float, default=0.3, metavar="S", help="draw trained detections from score S (default: 0.3)"
    )
    return run(_demo, parser, argv)


def _demo(arguments: argparse.Namespace) -> None:
    local_domain()
    console = Console(stderr=arguments.json, highlight=False)
    registry, output = registry_of(arguments), arguments.output
    torch.set_num_threads(1)  # as the node has it: another number of threads rounds differently
    output.mkdir(parents=True, exist_ok=True)
    model, why = _model(arguments, registry)  # what is refused is refused before the drive is made
    drive = None if arguments.recording else _drive(output / "drive", registry, console)
    recording = drive.drive.events if drive else arguments.recording
    subject = _subject(model, why, recording, arguments, registry)
    with console.status("the same without ROS, to compare with"):
        expected = _offline(subject, recording, registry)
    result = _live(subject, recording, arguments, console, len(expected))
    if not result.messages:
        raise SnnPerceptionError(f"no detection crossed DDS; see {output / 'demo.log'}")
    messages = result.decoded()
    received = {d.t_us: d for d in map(from_detection2d_array, messages)}
    detector = load_checkpoint(subject.checkpoint, registry=registry)
    classes = detector.spec.classes
    with DetectionsWriter(output / "detections.jsonl") as file:
        for seen in expected:
            file.write(seen.window, received.get(seen.window.t_end_us, Detections.empty()))
    look = Look(classes, subject.drawn_from, subject.caption, drive)
    with console.status("drawing the video"):
        distinct = write_video(output / "demo.mp4", pictures(expected, received, look), look)
    summary = {
        "recording": str(recording),
        "model": str(subject.checkpoint),
        **_figures(result),
        "windows": len(expected),
        "window_ms": detector.spec.window_us / 1000,
        "messages_received": len(messages),
        "detections": sum(len(msg.detections) for msg in messages),
        "detections_drawn": sum(int((found.score >= look.drawn_from).sum()) for found in received.values()),
        "live_equals_offline": same_messages([seen.detections for seen in expected], messages, classes),
        "distinct_frames": distinct,
        **(_scores(drive, output / "detections.jsonl", classes, registry) if drive else {}),
    }
    _print(console, summary, [subject.note, SYNTHETIC if drive else ""], output)
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


def _drive(folder: Path, registry: Registry, console: Console) -> LabelledDrive:
    """Return the synthetic drive, made unless it is there from an earlier run."""
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("making a synthetic drive (once)", total=DEMO_DRIVE.duration_us, visible=False)
        return labelled_drive(
            folder, DEMO_DRIVE, registry, lambda done_us: progress.update(task, completed=done_us, visible=True)
        )


def _model(arguments: argparse.Namespace, registry: Registry) -> tuple[OpenedModel, str]:
    """Return the model, and why it is another than asked for; empty if it is that."""
    name = arguments.model
    if not arguments.fallback or find_checkpoint(name) or name in registry.names("preset"):
        return open_model(name, registry), ""
    model = open_model(arguments.fallback, registry)
    return model, f"no weights '{name}' come with this version ({told()}): '{model.name}' runs in their place, with "


def _subject(
    model: OpenedModel, why: str, recording: Path, arguments: argparse.Namespace, registry: Registry
) -> Subject:
    """Return the checkpoint to run; of a preset an untrained one is made, which fires."""
    path = find_checkpoint(model.name)
    if path is not None:
        return Subject(path, why, "", 0.01, arguments.max_boxes or 100, arguments.draw_from)
    wake_on_recording(model.detector, recording, registry)
    path = arguments.output / f"{model.name}_untrained.safetensors"
    save_checkpoint(path, model.detector, run={"training": "none"})
    return Subject(path, why + UNTRAINED, UNTRAINED, 0.0, arguments.max_boxes or 5, 0.0)


def _offline(subject: Subject, recording: Path, registry: Registry) -> list[Seen]:
    """Return the same job done without ROS."""
    pipeline = DetectionPipeline(
        load_checkpoint(subject.checkpoint, registry=registry),
        max_gap_us=MAX_GAP_MS * 1000,
        score_threshold=subject.score_threshold,
        max_detections=subject.max_boxes,
    )
    source = WindowSource(
        open_recording(recording, registry), registry, pipeline.spec.window_us, max_gap_us=pipeline.max_gap_us
    )
    steps = replay(source, pipeline)
    return [Seen(step.window, step.detections) for step in steps if isinstance(step.window, EventWindow)]


def _live(
    subject: Subject, recording: Path, arguments: argparse.Namespace, console: Console, windows: int
) -> LiveResult:
    log = arguments.output / "demo.log"
    log.unlink(missing_ok=True)
    parameters = {
        "checkpoint": str(subject.checkpoint),
        "score_threshold": subject.score_threshold,
        "max_detections": subject.max_boxes,
        "max_gap_ms": MAX_GAP_MS,
    }
    with Progress(console=console, transient=True) as progress, LiveRun(parameters, log) as live:
        task = progress.add_task("windows through the node", total=windows)
        live.activate()
        return live.play(recording, on_wait=lambda done: progress.update(task, completed=done), rate=arguments.rate)


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


def _scores(drive: LabelledDrive, detections: Path, classes: tuple[str, ...], registry: Registry) -> dict[str, object]:
    """Return what the drive is, and what the published detections score on its labels."""
    evaluation = drive.score(detections, classes, registry)
    plan, stats = drive.drive.plan, evaluation.scores.stats
    return {
        "data": f"{drive.generator} (synthetic), {plan.split} drive {plan.drive}, in no training set",
        "labelled_boxes": evaluation.scores.ground_truths,
        "protocol": evaluation.protocol.name,
        "AP50": round(float(stats["AP50"]), 3),
        "AP": round(float(stats["AP"]), 3),
    }


def _print(console: Console, summary: dict[str, Any], notes: list[str], output: Path) -> None:
    """Print the table, and write it beside the video."""
    table = Table(title="Events through the detector node, over DDS", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in summary.items():
        text = ("yes" if value else "no") if isinstance(value, bool) else str(value)
        table.add_row(name.replace("_", " "), Text(text))
    with (output / "table.txt").open("w", encoding="utf-8") as file:
        Console(file=file, width=100).print(table)
    console.print(table)
    for note in filter(None, notes):
        console.print(note, style="yellow", markup=False)
    window_ms = summary["window_ms"]
    console.print(f"one window is {window_ms:g} ms; the node waits for its input here, so that nothing is dropped")
    console.print(f"written to {output}/: demo.mp4 (watch it), detections.jsonl, table.txt, demo.log")


if __name__ == "__main__":
    sys.exit(main())
