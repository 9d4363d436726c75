"""Pays one-off costs before the first event: compiled kernels, allocator, convolution plans."""

from __future__ import annotations

import numpy as np

from snn_perception.events.duplicates import DuplicateFilter
from snn_perception.events.evt3 import warm_up as warm_up_decoders
from snn_perception.events.windower import moved_up
from snn_perception.runtime.pipeline import DetectionPipeline
from snn_perception.runtime.stream import StreamState
from snn_perception.types import DecodedEvents, EventArray, EventWindow


def warm_up(pipeline: DetectionPipeline) -> None:
    """Compile the kernels between packet and window and run a few windows through the pipeline; nothing is kept."""
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
