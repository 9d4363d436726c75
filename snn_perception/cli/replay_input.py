"""What `replay` reads: a recording of events, or images for a model that sees images."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snn_perception.cli.opening import open_asked

if TYPE_CHECKING:
    from snn_perception.errors import EventDataError
    from snn_perception.events.recording import Recording
    from snn_perception.events.window_source import WindowSource
    from snn_perception.images.recording import ImageRecording, ImageSource
    from snn_perception.registry import Registry
    from snn_perception.runtime.pipeline import DetectionPipeline

_FOR_EVENTS = ("reader", "encoding", "size", "drop_duplicates")


def fps(text: str) -> float:
    """Return a number of images per second as argparse wants it."""
    value = float(text)
    if not (math.isfinite(value) and 0 < value <= 1e6):
        raise argparse.ArgumentTypeError(f"must lie above 0 and up to a million, got {text}")
    return value


def open_input(arguments: argparse.Namespace, registry: Registry) -> Recording | ImageRecording:
    """Return the recording, of images where it holds nothing else; which of both a model sees is not known yet."""
    from snn_perception.images.recording import holds_images

    path: Path = arguments.recording
    if arguments.reader is None and path.exists() and holds_images(path, arguments.topic):
        return _images(arguments)
    return open_asked(
        path,
        registry,
        reader=arguments.reader,
        topic=arguments.topic,
        size=arguments.size,
        encoding=arguments.encoding,
    )


def fitting_input(
    recording: Recording | ImageRecording, arguments: argparse.Namespace, takes_images: bool
) -> Recording | ImageRecording:
    """Return the recording, or the images beside its events where the model sees images.

    Raises:
        SnnPerceptionError: if there is nothing for the model in it.
    """
    from snn_perception.errors import SnnPerceptionError
    from snn_perception.images.recording import ImageRecording

    is_images = isinstance(recording, ImageRecording)
    if takes_images and not is_images:
        return _images(arguments)
    if is_images and not takes_images:
        raise SnnPerceptionError(
            f"{recording.path}: holds images, and model '{arguments.model}' sees events; choose a model for images"
        )
    return recording


def _images(arguments: argparse.Namespace) -> ImageRecording:
    from snn_perception.errors import SnnPerceptionError
    from snn_perception.images.recording import open_images

    recording = open_images(arguments.recording, topic=arguments.topic, fps=arguments.fps)
    for name in _FOR_EVENTS:
        if getattr(arguments, name):
            option = name.replace("_", "-")
            raise SnnPerceptionError(f"{arguments.recording}: --{option} is for recordings of events; leave it out")
    return recording


def source_of(
    recording: Recording | ImageRecording,
    registry: Registry,
    pipeline: DetectionPipeline,
    arguments: argparse.Namespace,
) -> WindowSource | ImageSource:
    """Return the windows that were asked for."""
    from snn_perception.events.window_source import WindowSource
    from snn_perception.images.recording import ImageRecording, ImageSource

    spec = pipeline.spec
    if isinstance(recording, ImageRecording):
        return ImageSource(recording, spec.window_us, start_us=arguments.from_s, stop_us=arguments.to_s)
    return WindowSource(
        recording,
        registry,
        spec.window_us,
        stride_us=spec.stride_us,
        max_gap_us=pipeline.max_gap_us,
        start_us=arguments.from_s,
        stop_us=arguments.to_s,
        drop_duplicates=arguments.drop_duplicates,
        make_filler=pipeline.make_filler,
    )


def described(recording: Recording | ImageRecording) -> dict[str, Any]:
    """Return what it is, for the report; the size of images is that of the first."""
    from snn_perception.images.recording import ImageRecording

    told: dict[str, Any] = {"path": str(recording.path), "format": recording.format}
    if isinstance(recording, ImageRecording):
        first = recording.first
        return {**told, "encoding": first.encoding, "width": first.width, "height": first.height}
    size = recording.size
    return {**told, "encoding": recording.encoding, "width": size.width, "height": size.height}


def nothing_in(
    recording: Recording | ImageRecording, registry: Registry, arguments: argparse.Namespace
) -> EventDataError:
    """Return the error for a span of time in which the recording has nothing."""
    from snn_perception.errors import EventDataError
    from snn_perception.events.span import nothing_between
    from snn_perception.images.recording import ImageRecording

    if not isinstance(recording, ImageRecording):
        return nothing_between(recording, registry, arguments.from_s, arguments.to_s)
    first_s = recording.first.stamp_ns / 1e9
    return EventDataError(
        f"{recording.path}: no image lies in the span asked for; the first has the stamp {first_s:.6f} s"
    )
