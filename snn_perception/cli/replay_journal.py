"""``replay MODEL RECORDING --journal J.jsonl``: a live run once more, with the decisions that its node made."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snn_perception.cli.common import progress_bar
from snn_perception.cli.engine_option import engine_of
from snn_perception.cli.opening import open_asked
from snn_perception.errors import EventDataError, SnnPerceptionError

LEFT_OUT = (
    *("output", "video", "from_s", "to_s", "max_windows", "wake", "firing_rates"),
    *("deadline_ms", "nms_threshold", "classes"),
)
DECISIONS = ("batch", "catch_up", "set", "reset", "load", "swap", "failed")

if TYPE_CHECKING:
    from snn_perception.registry import Registry
    from snn_perception.runtime.journal import Entry
    from snn_perception.runtime.models import OpenedModel
    from snn_perception.runtime.pipeline import DetectionPipeline
    from snn_perception.runtime.rates import Part
    from snn_perception.types import ImageWindow, Window


def repeat_journal(arguments: argparse.Namespace, registry: Registry, model: OpenedModel) -> dict[str, Any]:
    """Run the journal's windows, write the detections of each camera, and return what is to be told.

    Raises:
        EventDataError: if the recording does not hold what the journal's run saw.
        SnnPerceptionError: for an option that has no place here.
    """
    for name in LEFT_OUT:
        if getattr(arguments, name):
            option = name.replace("_", "-")
            raise SnnPerceptionError(f"--{option} does not go with --journal, which tells what was run; leave it out")
    from snn_perception.runtime.detections_file import DetectionsWriter
    from snn_perception.runtime.journal import read_journal, windows_in
    from snn_perception.runtime.pipeline import DetectionPipeline
    from snn_perception.runtime.rates import camera_of
    from snn_perception.runtime.repeat import Sources, repeat
    from snn_perception.runtime.state_file import load_stream

    entries = list(read_journal(arguments.journal))
    cameras = sorted({camera_of(window.camera) for entry in entries for window in windows_in(entry)})
    if not cameras:
        raise EventDataError(f"{arguments.journal}: no window was run, there is nothing to repeat")
    pipeline = DetectionPipeline(model.detector, device=arguments.device, registry=registry)
    pipeline.engine = engine_of(arguments, pipeline.detector)
    sources = Sources(
        {name: _windows(arguments, registry, pipeline, entries[0], name, len(cameras) > 1) for name in cameras},
        lambda name: _pipeline(name, registry, arguments),
        lambda file, spec: load_stream(arguments.journal.parent / file, spec, arguments.device).stream,
    )
    counts = dict.fromkeys(cameras, 0)
    found = 0
    with ExitStack() as stack:
        writers = {name: stack.enter_context(DetectionsWriter(path)) for name, path in _outputs(arguments, cameras)}
        advance = stack.enter_context(progress_bar(arguments.journal.name, enabled=not arguments.json))
        for number, one in enumerate(repeat(entries, pipeline, sources), start=1):
            counts[one.camera] += 1
            found += len(one.detections)
            if one.camera in writers:
                writers[one.camera].write(one.window, one.detections)  # type: ignore[arg-type]
            advance(number, len(entries))
    return {
        "journal": str(arguments.journal),
        "cameras": counts,
        "detections": found,
        "decisions": {kind: sum(entry.kind == kind for entry in entries) for kind in DECISIONS},
        "files": {name: str(path) for name, path in _outputs(arguments, cameras)},
    }


def rows_of_journal(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what is told, for people."""
    yield "journal", result["journal"]
    for camera, windows in result["cameras"].items():
        yield f"windows of '{camera}'" if camera else "windows", f"{windows:,}"
    yield "decisions", ", ".join(f"{kind} {count}" for kind, count in result["decisions"].items() if count) or "none"
    yield "detections", f"{result['detections']:,}"
    for path in result["files"].values():
        yield "detections in", path


def _windows(
    arguments: argparse.Namespace,
    registry: Registry,
    pipeline: DetectionPipeline,
    head: Entry,
    camera: str,
    is_one_of_several: bool,
) -> Iterator[Window | Part]:
    """Return a camera's windows, cut as the node cut them."""
    from snn_perception.events.window_source import WindowSource
    from snn_perception.runtime.rates import FasterRate

    if head.values.get("input_type") == "image":
        return _images(arguments, pipeline.spec.window_us, f"/{camera}/image" if is_one_of_several else arguments.topic)
    topic = f"/{camera}/events" if is_one_of_several else arguments.topic
    recording = open_asked(
        arguments.recording, registry, reader=arguments.reader, topic=topic, size=arguments.size, encoding=None
    )
    times = int(head.values.get("rate_times", 1))
    rate = FasterRate(pipeline.spec.window_us, times, head.values["rate_mode"]) if times > 1 else None
    windows = WindowSource(
        recording,
        registry,
        pipeline.spec.window_us,
        stride_us=rate.stride_us if rate else pipeline.spec.stride_us,
        max_gap_us=head.values["max_gap_us"],
        drop_duplicates=bool(head.values.get("drop_duplicates")),
    )
    return map(rate.part, windows) if rate else iter(windows)


def _images(arguments: argparse.Namespace, window_us: int, topic: str | None) -> Iterator[ImageWindow]:
    from snn_perception.images.recording import ImageSource, open_images

    return iter(ImageSource(open_images(arguments.recording, topic=topic, fps=arguments.fps), window_us))


def _pipeline(name: str, registry: Registry, arguments: argparse.Namespace) -> DetectionPipeline:
    from snn_perception.runtime.models import open_model
    from snn_perception.runtime.pipeline import DetectionPipeline

    device = arguments.device
    pipeline = DetectionPipeline(open_model(name, registry, device=device).detector, device=device, registry=registry)
    pipeline.engine = engine_of(arguments, pipeline.detector)
    return pipeline


def _outputs(arguments: argparse.Namespace, cameras: list[str]) -> list[tuple[str, Path]]:
    """Return the file of each camera's detections: the one that was named, or with several one for each."""
    path: Path | None = arguments.detections
    if path is None:
        return []
    if len(cameras) == 1:
        return [(cameras[0], path)]
    return [(name, path.with_name(f"{path.stem}.{name.replace('/', '.')}{path.suffix}")) for name in cameras]
