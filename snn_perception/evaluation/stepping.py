"""Several streams through one network call: one batch row for each, membranes carried by each stream itself.

The rules are those of `runtime.pipeline.DetectionPipeline`, one window of one stream at a time there; a row's numbers
do not depend on the others'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from snn_perception.data.stored import StoredWindow, represented
from snn_perception.detector import Detector
from snn_perception.engine.engines import DetectorEngine, Engine
from snn_perception.errors import SpecError
from snn_perception.evaluation.activity import Activity, ActivityMeter
from snn_perception.events.geometry import InputMapping
from snn_perception.events.window_source import DEFAULT_MAX_GAP_US
from snn_perception.runtime.rows import step_rows
from snn_perception.runtime.stream import Continuity, StreamState, continuity
from snn_perception.state import State
from snn_perception.types import Detections, EventWindow, SensorSize


class RowStepper:
    """Advances streams by one window each.

    Args:
        detector: in evaluation mode, where it shall run.
        score_threshold: detections below it are left out.
        meter: counts what goes on in the detector's own layers; entered by the caller.
        engine: runs the network; by default the detector does itself.
    """

    def __init__(
        self,
        detector: Detector,
        *,
        score_threshold: float = 0.0,
        meter: ActivityMeter | None = None,
        engine: Engine | None = None,
    ) -> None:
        self.detector, self.spec = detector, detector.spec
        self._engine = engine or DetectorEngine(detector)
        self._score_threshold, self._meter = score_threshold, meter
        self._mappings: dict[SensorSize, InputMapping] = {}

    @torch.no_grad()
    def step(
        self, windows: Sequence[EventWindow], streams: Sequence[StreamState], wanted: Sequence[bool]
    ) -> tuple[list[Detections | None], list[StreamState], list[Activity]]:
        """Return what is seen in each window, the streams' states after it, and the activity of each row.

        Detections are None for rows that are not `wanted`; boxes are xyxy in pixels of the window's sensor. Without a
        meter the activities are empty.

        Raises:
            SpecError: for a classifier, which finds no boxes.
        """
        follows = [self._follows(window, stream) for window, stream in zip(windows, streams, strict=True)]
        x = [self._input(window) for window in windows]
        before = [
            stream.model if how in (Continuity.FOLLOWS, Continuity.HELD) else None
            for stream, how in zip(streams, follows, strict=True)
        ]
        if self._meter is not None:
            self._meter.expect(len(windows))
        raw, carried = step_rows(self._engine, x, before, carries=self.spec.state_policy == "carry")
        if isinstance(raw, Tensor) and raw.ndim == 2:  # logits, not boxes
            raise SpecError("boxes need a detector; this model tells the class of a whole sample: give it such samples")
        activities = self._meter.take() if self._meter is not None else [Activity()] * len(windows)
        found: list[Detections | None] = [None] * len(windows)
        if any(wanted):
            rows = zip(self.detector.decode(raw), windows, wanted, strict=True)
            found = [self._seen(one, window) if is_wanted else None for one, window, is_wanted in rows]
        return found, list(map(_advanced, windows, streams, follows, carried)), activities

    def _input(self, window: EventWindow) -> Tensor:
        if isinstance(window, StoredWindow):
            tensor = represented(self.detector.representation, window, self.detector.dtype)
            return tensor.to(self.detector.device).unsqueeze(1)
        return self.detector.represent(self._mapping(window.events.size).events(window))

    def _follows(self, window: EventWindow, stream: StreamState) -> Continuity:
        return continuity(window, stream, stride_us=self.spec.stride_us, max_gap_us=DEFAULT_MAX_GAP_US)

    def _seen(self, found: Detections, window: EventWindow) -> Detections:
        kept = found[: int(np.count_nonzero(found.score >= self._score_threshold))]  # scores do not increase
        return replace(self._mapping(window.events.size).boxes(kept), t_us=window.t_end_us)

    def _mapping(self, sensor: SensorSize) -> InputMapping:
        if sensor not in self._mappings:
            self._mappings[sensor] = InputMapping(sensor, self.spec.sensor_size)
        return self._mappings[sensor]


def _advanced(window: EventWindow, stream: StreamState, how: Continuity, model: State) -> StreamState:
    return StreamState(
        model=model,
        t_end_us=window.t_end_us,
        windows=stream.windows + 1,
        gaps=stream.gaps + (how in (Continuity.HELD, Continuity.RESET)),
        resets=stream.resets + (how is Continuity.RESET),
        size=window.events.size,
    )
