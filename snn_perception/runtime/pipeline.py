"""One window in, detections out: the step that the live node and every offline command share."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import torch

from snn_perception.detector import Detector
from snn_perception.events.filling import Filler
from snn_perception.events.geometry import GeometryMode, InputMapping
from snn_perception.events.grid import Filled, GridRepresentation
from snn_perception.events.window_source import DEFAULT_MAX_GAP_US
from snn_perception.runtime.stream import Continuity, StreamState, continuity
from snn_perception.types import Detections, EventWindow, SensorSize

log = logging.getLogger(__name__)


class DetectionPipeline:
    """A detector ready for streams. It holds weights and settings; what belongs to a camera is in its `StreamState`.

    Args:
        detector: the model; it is moved to `device` and put in evaluation mode.
        device: where to run.
        geometry: what to do with a sensor of another size than the model's: ``scale``, ``crop`` or ``strict``.
        max_gap_us: a longer interruption of the stream puts the membranes to rest.
        score_threshold: detections below it are left out. max_detections: at most so many, the best.
    """

    def __init__(
        self,
        detector: Detector,
        *,
        device: str | torch.device = "cpu",
        geometry: GeometryMode = "scale",
        max_gap_us: int = DEFAULT_MAX_GAP_US,
        score_threshold: float = 0.0,
        max_detections: int | None = None,
    ) -> None:
        if torch.device(device).type == "cuda":
            # TF32 keeps 10 bits of what goes into a convolution: float32 models would spike differently than on a CPU.
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        self.detector = detector.to(device).eval()
        self.spec = detector.spec
        self.geometry, self.max_gap_us = geometry, max_gap_us
        self.score_threshold, self.max_detections = score_threshold, max_detections
        self._mappings: dict[SensorSize, InputMapping] = {}

    def step(self, window: EventWindow, stream: StreamState) -> tuple[Detections, StreamState]:
        """Return what the detector sees in `window`, and the stream's state after it. `stream` is left as it was.

        Boxes are xyxy in pixels of the window's sensor, scores not increasing, `t_us` the window's end.

        Raises:
            EventDataError: if the sensor's size does not fit and `geometry` is ``strict``.
        """
        follows = continuity(window, stream, stride_us=self.spec.stride_us, max_gap_us=self.max_gap_us)
        before = stream.model if follows in (Continuity.FOLLOWS, Continuity.HELD) else None
        mapping = self._mapping(window.events.size)
        x = self.detector.represent(window if self._is_filled(window, mapping) else mapping.events(window))
        (found,), after = self.detector.infer(x, before)
        detections = replace(mapping.boxes(self._best(found)), t_us=window.t_end_us)
        return detections, StreamState(
            model=after if self.spec.state_policy == "carry" else None,
            t_end_us=window.t_end_us,
            windows=stream.windows + 1,
            gaps=stream.gaps + (follows in (Continuity.HELD, Continuity.RESET)),
            resets=stream.resets + (follows is Continuity.RESET),
            size=window.events.size,
        )

    def make_filler(self, sensor: SensorSize) -> Filler | None:
        """Return what fills this model's grids while events of a sensor arrive.

        None where all events must be in first, or where the sensor does not fit, which each step will say.
        """
        representation = self.detector.representation
        if not isinstance(representation, GridRepresentation) or not representation.is_incremental:
            return None
        if self.spec.stride_us != self.spec.window_us:  # an event belongs to several windows
            return None
        if self.geometry == "strict" and sensor != self.spec.sensor_size:
            return None
        return Filler(representation, self._mapping(sensor))

    def _is_filled(self, window: EventWindow, mapping: InputMapping) -> bool:
        """Return whether this pipeline's own filler has seen the window's events, so that none need to be mapped."""
        filled = window.filled
        if not isinstance(filled, Filled) or filled.maker is not self.detector.representation:
            return False
        return filled.mapping is mapping and filled.belongs_to(window)

    def _best(self, found: Detections) -> Detections:
        keep = int(np.count_nonzero(found.score >= self.score_threshold))  # scores do not increase
        return found[: keep if self.max_detections is None else min(keep, self.max_detections)]

    def _mapping(self, sensor: SensorSize) -> InputMapping:
        if sensor not in self._mappings:
            self._mappings[sensor] = InputMapping(sensor, self.spec.sensor_size, self.geometry)
            if sensor != self.spec.sensor_size:
                log.warning("sensor is %s, the model was made for %s: %s", sensor, self.spec.sensor_size, self.geometry)
        return self._mappings[sensor]
