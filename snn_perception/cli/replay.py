"""``replay MODEL RECORDING``: a detector over a recording, window by window, to a table, a file and a video."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snn_perception.cli.common import print_json, print_rows, progress_bar, registry_of, run
from snn_perception.cli.engine_option import engine_of
from snn_perception.cli.replay_input import described, fitting_input, nothing_in, open_input, source_of
from snn_perception.cli.replay_journal import repeat_journal, rows_of_journal
from snn_perception.cli.replay_options import parser_of_options

if TYPE_CHECKING:
    from snn_perception.events.recording import Recording
    from snn_perception.images.recording import ImageRecording
    from snn_perception.registry import Registry
    from snn_perception.runtime.models import OpenedModel
    from snn_perception.runtime.pipeline import DetectionPipeline
    from snn_perception.runtime.replay_bag import ReplayBag
    from snn_perception.testing import FiringMeter

log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run(_replay, parser_of_options(), argv)


def _replay(arguments: argparse.Namespace) -> None:
    _check_outputs(arguments)
    _check_range(arguments)
    from snn_perception.runtime.models import open_model
    from snn_perception.runtime.pipeline import DetectionPipeline
    from snn_perception.runtime.wanted import AS_MODEL

    registry = registry_of(arguments)
    if arguments.journal:
        result = repeat_journal(arguments, registry, open_model(arguments.model, registry, device=arguments.device))
        print_json(result) if arguments.json else print_rows(rows_of_journal(result))
        return
    recording = open_input(arguments, registry)
    model = open_model(arguments.model, registry, device=arguments.device)
    recording = fitting_input(recording, arguments, model.takes_images)
    if model.note:
        log.warning("%s", model.note)
    if arguments.wake:
        _wake(model, recording, registry, arguments.wake)
    pipeline = DetectionPipeline(
        model.detector,
        device=arguments.device,
        geometry=arguments.geometry,
        max_gap_us=arguments.max_gap_ms * 1000,
        score_threshold=arguments.score_threshold,
        max_detections=arguments.max_detections,
        deadline_ms=arguments.deadline_ms,
        nms_threshold=AS_MODEL if arguments.nms_threshold is None else arguments.nms_threshold,
        classes=arguments.classes,
        registry=registry,
    )
    pipeline.engine = engine_of(arguments, pipeline.detector)
    result = _run(arguments, registry, recording, pipeline, model)
    if arguments.json:
        print_json(result)
    else:
        print_rows(_rows(result))


def _check_outputs(arguments: argparse.Namespace) -> None:
    """Refuse what cannot be written before any long work."""
    from snn_perception.errors import SnnPerceptionError
    from snn_perception.runtime.video import check_video
    from snn_perception.whole_file import check_writable

    outputs = [path for path in (arguments.detections, arguments.video, arguments.output) if path]
    for path in outputs:
        if path.resolve() == arguments.recording.resolve() or path.resolve() == Path(arguments.model).resolve():
            raise SnnPerceptionError(f"{path}: is an input of this command; name another file for its output")
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise SnnPerceptionError(f"{outputs[-1]}: named for both of two outputs; name a file for each")
    if arguments.detections:
        check_writable(arguments.detections)
    if arguments.video:
        check_video(arguments.video)
    if arguments.output:
        from snn_perception.runtime.replay_bag import check_replay_bag

        check_replay_bag(arguments.output, arguments.events_topic, arguments.detections_topic)
        if arguments.recording.resolve() in arguments.output.resolve().parents:
            raise SnnPerceptionError(f"{arguments.output}: lies within the recording; choose another place")


def _check_range(arguments: argparse.Namespace) -> None:
    from snn_perception.errors import EventDataError

    begin, end = arguments.from_s, arguments.to_s
    if begin is not None and end is not None and begin >= end:
        raise EventDataError(f"nothing lies from {begin / 1e6} s to {end / 1e6} s; give a later end")


def _wake(model: OpenedModel, recording: Recording | ImageRecording, registry: Registry, windows: int) -> None:
    from snn_perception.errors import SnnPerceptionError
    from snn_perception.images.recording import ImageRecording
    from snn_perception.runtime.waking import wake_on_images, wake_on_recording

    if not model.is_preset:
        raise SnnPerceptionError(f"{model.name}: --wake is for presets; it would change the weights of a checkpoint")
    try:
        if isinstance(recording, ImageRecording):
            wake_on_images(model.detector, recording, registry, windows=windows)
        else:
            wake_on_recording(model.detector, recording, registry, windows=windows)
    except AssertionError as error:
        raise SnnPerceptionError(f"{recording.path}: the model does not wake on it: {error}") from error


def _run(
    arguments: argparse.Namespace,
    registry: Registry,
    recording: Recording | ImageRecording,
    pipeline: DetectionPipeline,
    model: OpenedModel,
) -> dict[str, Any]:
    """Replay, write the files, and return what is to be told."""
    from snn_perception.runtime.detections_file import DetectionsWriter
    from snn_perception.runtime.render import draw_window
    from snn_perception.runtime.replay import replay
    from snn_perception.runtime.report import ReplayReport, losses_of
    from snn_perception.runtime.video import VideoWriter
    from snn_perception.runtime.warmup import warm_up

    warm_up(pipeline)  # so that the first window's time is not that of compilation
    spec = pipeline.spec
    source = source_of(recording, registry, pipeline, arguments)
    report = ReplayReport(spec.classes)
    with ExitStack() as stack:
        lines = stack.enter_context(DetectionsWriter(arguments.detections)) if arguments.detections else None
        video = stack.enter_context(VideoWriter(arguments.video, 1e6 / spec.stride_us)) if arguments.video else None
        bag = stack.enter_context(_bag(arguments, recording, pipeline)) if arguments.output else None
        meter = stack.enter_context(_meter(pipeline)) if arguments.firing_rates else None
        advance = stack.enter_context(progress_bar(str(recording.path.name), enabled=not arguments.json))
        for number, step in enumerate(islice(replay(source, pipeline), arguments.max_windows)):
            report.add(step)
            if lines:
                lines.write(step.window, step.detections)
            if bag:
                bag.write(step)
            if video:
                shown = step.detections[: arguments.video_boxes]
                video.write(draw_window(step.window, shown, spec.classes, number=number, note=model.note))
            advance(*recording.progress())
        if not report.windows and (arguments.from_s is not None or arguments.to_s is not None):
            raise nothing_in(recording, registry, arguments)
        rates = {"overall": meter.overall(), "layers": meter.rates()} if meter else None
    if video and not video.frames:
        log.warning("%s: the recording has no windows, so there is no video", arguments.video)
    return {
        "model": {
            "name": model.name,
            "trained": not model.is_preset,
            "note": model.note,
            "spec_hash": spec.hash(),
            "window_us": spec.window_us,
            "state_policy": spec.state_policy,
        },
        "recording": described(recording),
        **report.as_dict(),
        "losses": losses_of(source),
        "duplicate_events": getattr(source, "duplicate_events", 0),
        "firing_rates": rates,
        "threads": arguments.threads,
        "device": arguments.device,
        "files": {
            "detections": str(arguments.detections) if lines else None,
            "video": str(arguments.video) if video and video.frames else None,
            "bag": str(arguments.output) if bag else None,
        },
        "bag_messages": {"input": bag.input_messages, "detections": bag.detection_messages} if bag else None,
    }


def _bag(
    arguments: argparse.Namespace, recording: Recording | ImageRecording, pipeline: DetectionPipeline
) -> ReplayBag:
    from snn_perception.runtime.replay_bag import ReplayBag

    return ReplayBag(
        arguments.output,
        recording,
        pipeline.spec.stride_us,
        events_topic=arguments.events_topic,
        detections_topic=arguments.detections_topic,
        storage=arguments.storage,
    )


def _meter(pipeline: DetectionPipeline) -> FiringMeter:
    from snn_perception.testing import FiringMeter, spiking_layers
    from snn_perception.types import EventArray, EventWindow

    detector, spec = pipeline.detector, pipeline.spec
    silence = EventWindow(EventArray.empty(spec.sensor_size), 0, spec.window_us)
    x = detector.represent(silence).to(detector.device, detector.dtype)
    return FiringMeter(spiking_layers(detector, x))


def _rows(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    recording, latency, files = result["recording"], result["latency_ms"], result["files"]
    yield "recording", f"{recording['path']} ({recording['format']}, {recording['encoding']})"
    yield "sensor", f"{recording['width']}x{recording['height']}"
    yield "model", result["model"]["name"] + ("" if result["model"]["trained"] else " (untrained)")
    yield (
        "windows",
        f"{result['windows']:,} of {result['model']['window_us'] / 1000:g} ms, {result['empty_windows']:,} empty",
    )
    if "bad_images" not in result["losses"]:
        yield "events", f"{result['events']:,}"
    yield "time covered", f"{result['covered_s']:.3f} s"
    yield "gaps, resets", f"{result['gaps']:,}, {result['resets']:,}"
    losses = [f"{name.replace('_', ' ')} {count:,}" for name, count in result["losses"].items() if count]
    yield "losses", ", ".join([*losses, f"{result['lossy_windows']:,} windows touched"] if losses else ["none"])
    if result["duplicate_events"]:
        yield "duplicates removed", f"{result['duplicate_events']:,}"
    total = sum(result["detections"].values())
    shown = {name: count for name, count in result["detections"].items() if count or len(result["detections"]) <= 10}
    per_class = ", ".join(f"{name} {count:,}" for name, count in shown.items()) or "of no class"
    yield "detections", f"{total:,} ({per_class})"
    if result["firing_rates"] is not None:
        yield "firing rate", f"{result['firing_rates']['overall']:.2%} of the neurons' outputs"
    if latency:
        yield "window to boxes", f"p50 {latency['wall_p50']:.2f} ms, p95 {latency['wall_p95']:.2f} ms"
        yield "processor time", f"p50 {latency['cpu_p50']:.2f} ms, p95 {latency['cpu_p95']:.2f} ms"
    if result["network_steps"]:
        taken = ", ".join(f"{steps} in {windows:,}" for steps, windows in result["network_steps"].items())
        yield "network steps", f"{taken} windows"
    yield "device", f"{result['device']}, {result['threads']} thread{'' if result['threads'] == 1 else 's'}"
    for kind, path in files.items():
        if path:
            yield f"{kind} in", path


if __name__ == "__main__":
    sys.exit(main())
