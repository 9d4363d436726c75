"""Pays one-off costs before the first event: compiled kernels, allocator, convolution plans."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from snn_perception.errors import SpecError
from snn_perception.events.duplicates import DuplicateFilter
from snn_perception.events.evt3 import warm_up as warm_up_decoders
from snn_perception.events.windower import moved_up
from snn_perception.images.stream import ImageStream
from snn_perception.runtime.pipeline import DetectionPipeline
from snn_perception.runtime.stream import StreamState
from snn_perception.types import DecodedEvents, EventArray, EventWindow, RawImage


def warm_up(pipeline: DetectionPipeline, rows: int = 1) -> None:
    """Compile the kernels between packet and window and run a few windows through the pipeline; nothing is kept.

    A model for images gets a few images, one of them of another shape than its input's, so that it is letterboxed.

    Args:
        rows: windows of the largest batch that is to come.
    """
    if pipeline.takes_images:
        _warm_up_images(pipeline, rows)
        return
    warm_up_decoders()
    spec, stream = pipeline.spec, StreamState()
    events = EventArray(
        np.zeros(1, np.uint16), np.zeros(1, np.uint16), np.ones(1, np.uint8), np.zeros(1, np.int64), spec.sensor_size
    )
    DuplicateFilter().filter(DecodedEvents(events.x, events.y, events.p, events.t, events.size))
    moved_up(events, 0)
    for k in range(2):
        window = EventWindow(events, k * spec.window_us, (k + 1) * spec.window_us)
        _, stream = pipeline.step(window, stream)
    if rows > 1 and not pipeline.deadline_ms:
        pipeline.step_batch([window] * rows, [stream] * rows)


def _warm_up_images(pipeline: DetectionPipeline, rows: int) -> None:
    spec, state = pipeline.spec, StreamState()
    height, width = spec.sensor_size.height, spec.sensor_size.width
    images = ImageStream(spec.window_us)
    for k, side in enumerate((max(1, height // 2), height, height)):
        raw = RawImage(
            np.zeros(side * width * 3, np.uint8), "bgr8", side, width, 3 * width, (k + 1) * spec.window_us * 1000
        )
        with suppress(SpecError):  # a model that leaves images as they are takes one size only
            window = images.push(raw)
            _, state = pipeline.step(window, state)
    if rows > 1 and not pipeline.deadline_ms:
        pipeline.step_batch([window] * rows, [state] * rows)
