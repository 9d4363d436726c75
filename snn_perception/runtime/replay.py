"""A recording through a pipeline, window by window: what the node would have published, offline."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns, process_time_ns

from snn_perception.discovery import load_registry
from snn_perception.events.recording import Recording, open_recording
from snn_perception.events.window_source import WindowSource
from snn_perception.images.recording import ImageRecording, ImageSource, open_images
from snn_perception.registry import Registry
from snn_perception.runtime.pipeline import DetectionPipeline
from snn_perception.runtime.stream import StreamState
from snn_perception.types import Detections, Window

__all__ = ["ImageSource", "Replayed", "WindowSource", "replay"]


@dataclass(frozen=True)
class Replayed:
    """One window of a replay: its events or image, what was seen in it, and the stream's state after it.

    `wall_ns` and `cpu_ns` are what the step from window to detections took, the latter over all threads.
    """

    window: Window
    detections: Detections
    stream: StreamState
    wall_ns: int = 0
    cpu_ns: int = 0


def replay(
    windows: str | Path | Recording | ImageRecording | Iterable[Window],
    pipeline: DetectionPipeline,
    stream: StreamState | None = None,
    *,
    registry: Registry | None = None,
) -> Iterator[Replayed]:
    """Yield each window with its detections, carrying the state from one to the next.

    Args:
        windows: a recording or its path, of images for a model that sees images, or windows from anywhere.
        stream: where to start; at rest by default.
        registry: for the readers and decoders of a recording; by default every installed plugin.

    Raises:
        EventDataError: if the recording cannot be read.
    """
    stream = stream or StreamState()
    if isinstance(windows, (str, Path)) and pipeline.takes_images:
        windows = open_images(windows)
    if isinstance(windows, ImageRecording):
        windows = ImageSource(windows, pipeline.spec.window_us)
    elif isinstance(windows, (str, Path, Recording)):
        registry = registry or load_registry()
        recording = windows if isinstance(windows, Recording) else open_recording(windows, registry)
        windows = WindowSource(
            recording,
            registry,
            pipeline.spec.window_us,
            stride_us=pipeline.spec.stride_us,
            max_gap_us=pipeline.max_gap_us,
            make_filler=pipeline.make_filler,
        )
    for window in windows:
        wall_ns, cpu_ns = perf_counter_ns(), process_time_ns()
        detections, stream = pipeline.step(window, stream)
        wall_ns, cpu_ns = perf_counter_ns() - wall_ns, process_time_ns() - cpu_ns
        yield Replayed(window, detections, stream, wall_ns, cpu_ns)
