"""Shipped weights, the small drive, and what a model sees on it without ROS."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from snn_perception.doctor.expected import agreement, expect, file_sha256, read_expected, write_expected
from snn_perception.doctor.finding import Bench, Finding, Skip, Subject
from snn_perception.errors import SnnPerceptionError
from snn_perception.zoo import card_path, expected_path, find_checkpoint, shipped, shipped_path

if TYPE_CHECKING:
    from snn_perception.registry import Registry

SCORE_THRESHOLD, MAX_DETECTIONS, MAX_GAP_MS = 0.05, 50, 1000
UNTRAINED_DETECTIONS = 5  # its scores mean nothing


def weights(bench: Bench) -> Finding:
    """Whether the shipped weights are whole, and those that were released."""
    from snn_perception.checkpoint import load_checkpoint

    registry = bench.need("registry")
    if not shipped():
        return Finding("warning", "this version ships none: models are untrained", facts={"shipped": []})
    facts, wrong, missing = [], [], []
    for name in shipped():
        path = shipped_path(name)
        facts.append({"name": name, "sha256": file_sha256(path), "bytes": path.stat().st_size})
        try:
            load_checkpoint(path, registry=registry)
            if not expected_path(name).is_file():
                missing.append(f"{name} has no expected results")
            elif read_expected(expected_path(name)).weights_sha256 != facts[-1]["sha256"]:
                wrong.append(f"{name} is not what its expected results were made with")
        except SnnPerceptionError as error:
            wrong.append(str(error))
        if not card_path(name).is_file():
            missing.append(f"{name} has no model card")
    if wrong:
        return Finding("failed", "; ".join(wrong), "install the package again", {"shipped": facts})
    if missing:
        return Finding("warning", "; ".join(missing), "install the package again", {"shipped": facts})
    return Finding("ok", f"{', '.join(shipped())}: whole", facts={"shipped": facts})


def drive(bench: Bench) -> Finding:
    """Whether the synthetic drive can be made here."""
    from snn_perception.runtime.labelled_drive import CHECK_DRIVE, labelled_drive

    bench.drive = labelled_drive(bench.folder / "drive", CHECK_DRIVE, bench.need("registry"))
    made = bench.drive.drive
    facts = {"generator": bench.drive.generator, "events": made.entry.events, "sha256": made.digest}
    told = f"{bench.drive.generator}: {made.entry.events:,} events in {CHECK_DRIVE.duration_us / 1e6:g} s"
    if not made.entry.events or not sum(made.entry.boxes.values()):
        return Finding("failed", f"{told}, {sum(made.entry.boxes.values())} labels", "report this", facts)
    return Finding("ok", told, facts=facts)


def offline(bench: Bench) -> Finding:
    """Whether the model runs on the drive and sees something."""
    from snn_perception.runtime.detections_file import read_detections

    name, road = bench.need("model"), bench.need("drive")
    registry = bench.need("registry")
    subject = _subject(bench, name)
    path = bench.folder / "offline.jsonl"
    milliseconds = _replay(subject, road.drive.events, registry, path)
    bench.subject, bench.detections, bench.seen = subject, path, list(read_detections(path))
    count = sum(len(window.detections) for window in bench.seen)
    facts = {"model": name, "trained": subject.is_trained, "windows": len(bench.seen), "detections": count}
    facts["window_ms_p50"] = milliseconds
    told = f"{name}: {len(bench.seen)} windows, {count} detections, {milliseconds:.1f} ms a window"
    if not count:
        return Finding("failed", told, "the model sees nothing: are the weights whole?", facts)
    return Finding("ok", told if subject.is_trained else f"{told} (untrained)", facts=facts)


def _subject(bench: Bench, name: str) -> Subject:
    """Return the model of a name; a preset is woken on the drive and saved."""
    from snn_perception.checkpoint import save_checkpoint
    from snn_perception.runtime.models import open_model
    from snn_perception.runtime.waking import wake_on_recording

    registry, found = bench.need("registry"), find_checkpoint(name)
    if found is not None:
        return Subject(found, True, SCORE_THRESHOLD, MAX_DETECTIONS)
    model = open_model(name, registry)
    wake_on_recording(model.detector, bench.need("drive").drive.events, registry)
    path = bench.folder / "untrained.safetensors"
    save_checkpoint(path, model.detector, run={"training": "none"})
    return Subject(path, False, 0.0, UNTRAINED_DETECTIONS)


def _replay(subject: Subject, events: Path, registry: Registry, path: Path) -> float:
    """Write what a model sees in a recording; return the median time of a window in ms."""
    import numpy as np
    import torch

    from snn_perception.checkpoint import load_checkpoint
    from snn_perception.events.recording import open_recording
    from snn_perception.runtime.detections_file import DetectionsWriter
    from snn_perception.runtime.pipeline import DetectionPipeline
    from snn_perception.runtime.replay import replay

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as the node has it: another number of threads rounds differently
    try:
        pipeline = DetectionPipeline(
            load_checkpoint(subject.checkpoint, registry=registry),
            max_gap_us=MAX_GAP_MS * 1000,
            score_threshold=subject.score_threshold,
            max_detections=subject.max_detections,
        )
        times = []
        with DetectionsWriter(path) as file:
            for step in replay(open_recording(events, registry), pipeline, registry=registry):
                file.write(step.window, step.detections)
                times.append(step.wall_ns / 1e6)
    finally:
        torch.set_num_threads(before)
    return round(float(np.median(times)), 2)


def released(bench: Bench) -> Finding:
    """Whether the detections are those that the shipped weights gave when they were released."""
    seen, name, road = bench.need("seen"), bench.need("model"), bench.need("drive")
    if name not in shipped() or not expected_path(name).is_file():
        raise Skip(f"there are no expected results of '{name}'")
    expected = read_expected(expected_path(name))
    if expected.generator != road.generator:
        raise Skip(f"they were made on a drive of {expected.generator}, this is {road.generator}")
    found = agreement(expected, seen)
    same_drive = expected.drive_sha256 == road.drive.digest
    facts = {
        "share": round(found.share, 4),
        "expected": found.expected,
        "seen": found.seen,
        "box_px": round(found.box_px, 3),
        "score": round(found.score, 4),
        "same_drive": same_drive,
        "made_with": dict(expected.versions),
    }
    told = (
        f"{found.share:.1%} of {found.expected} expected and {found.seen} seen agree (least: "
        f"{found.tolerance.share:.0%}), boxes within {found.box_px:.2f} px, scores within {found.score:.3f}"
    )
    if found.is_good:
        return Finding("ok", told if same_drive else f"{told}; the drive came out a little otherwise here", facts=facts)
    if not same_drive:
        remedy = "compare the versions in the report with those of the release"
        return Finding("warning", f"the drive came out otherwise here, so nothing can be said: {told}", remedy, facts)
    return Finding("failed", told, "install the package and torch again; report it if that does not help", facts)


def write_release(bench: Bench, path: Path) -> int:
    """Write what the model saw as what is expected from now on; return the number of detections.

    Raises:
        Skip: if it was not run.
        SnnPerceptionError: if the file cannot be put there.
    """
    expected = expect(bench.need("subject").checkpoint, bench.need("drive"), bench.need("seen"))
    write_expected(path, expected)
    return sum(len(found) for found in expected.windows.values())
