"""One window in, detections out: the step that the live node and every offline command share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import torch

from snn_perception.anytime import infer_until, require_anytime
from snn_perception.detector import Detector
from snn_perception.engine.engines import DetectorEngine, Engine, advance
from snn_perception.errors import SpecError
from snn_perception.events.filling import Filler
from snn_perception.events.geometry import GeometryMode
from snn_perception.events.letterbox import Letterbox
from snn_perception.events.window_source import DEFAULT_MAX_GAP_US
from snn_perception.registry import Registry
from snn_perception.runtime.deadline import Deadline, StepCosts
from snn_perception.runtime.inputs import Inputs
from snn_perception.runtime.leaking import Leak
from snn_perception.runtime.rows import run_rows
from snn_perception.runtime.stream import Continuity, StreamState, continuity
from snn_perception.runtime.wanted import AS_MODEL, Suppression, class_ids
from snn_perception.state import State
from snn_perception.types import Detections, EventArray, EventWindow, SensorSize, Window

GapPolicy = Literal["hold", "leak", "reset"]
GAP_POLICIES = get_args(GapPolicy)


class DetectionPipeline:
    """A detector ready for streams. It holds weights and settings; what belongs to a camera is in its `StreamState`.

    Args:
        detector: the model; it is moved to `device` and put in evaluation mode.
        device: where to run.
        geometry: what to do with a sensor of another size than the model's: ``scale``, ``crop`` or ``strict``.
        max_gap_us: a longer interruption of the stream puts the membranes to rest.
        score_threshold: detections below it are left out. max_detections: at most so many, the best.
        deadline_ms: a detector that may stop early runs as many network steps as fit before it; 0 runs them all.
        gap_policy: what missing windows, at most `max_gap_us` of them, do to membranes: ``hold`` leaves them as they
            are, ``leak`` lets them leak for as long, ``reset`` puts them to rest.
        nms_threshold: of the head's suppression of boxes, in its attribute of that name; -1: as the model says.
        classes: by name, or by number as text; what is seen of others is left out, after the suppression, which is the
            head's, and before the best `max_detections` are taken. Empty: all.
        engine: runs the network; by default the detector as it is. It may be changed between two windows.
        registry: makes the inputs of images of any size, for a model that sees images; by default every installed
            plugin.

    Raises:
        SpecError: for a deadline if the detector cannot stop early; for ``leak`` if a neuron does not say how it leaks;
            for an `nms_threshold` if the head has none; for a class that the model does not know.
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
        deadline_ms: float = 0.0,
        gap_policy: GapPolicy = "hold",
        nms_threshold: float = AS_MODEL,
        classes: Sequence[str] = (),
        registry: Registry | None = None,
        engine: Engine | None = None,
    ) -> None:
        if torch.device(device).type == "cuda":
            # TF32 keeps 10 bits of what goes into a convolution: float32 models would spike differently than on a CPU.
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        self.detector = detector.to(device).eval()
        self.spec = detector.spec
        self.geometry, self.max_gap_us = geometry, max_gap_us
        self.score_threshold, self.max_detections = score_threshold, max_detections
        self._inputs = Inputs(self.detector, registry)
        self._costs = StepCosts()
        self._engine: Engine = engine or DetectorEngine(self.detector)
        self.deadline_ms = deadline_ms
        self._leak: Leak | None = None
        self.gap_policy = gap_policy
        self._suppression = Suppression(self.detector.head, self.spec.head.name)
        self.nms_threshold, self.classes = nms_threshold, classes

    @property
    def nms_threshold(self) -> float:
        """Of the head's suppression of boxes; -1: as the model says."""
        return self._nms_threshold

    @nms_threshold.setter
    def nms_threshold(self, value: float) -> None:
        self._suppression.use(value)
        self._nms_threshold = value

    def require_nms(self, threshold: float) -> None:
        """Raise SpecError unless the model's head can do with a value of `nms_threshold`."""
        self._suppression.require(threshold)

    @property
    def classes(self) -> Sequence[str]:
        """Those that are told of, by name or number; empty: all."""
        return self._classes

    @classes.setter
    def classes(self, value: Sequence[str]) -> None:
        self._class_ids = class_ids(value, self.spec.classes)
        self._classes = list(value)

    @property
    def engine(self) -> Engine:
        """What runs the network."""
        return self._engine

    @engine.setter
    def engine(self, value: Engine) -> None:
        if self._deadline_ms:
            _require_stoppable(value)
        self._engine = value

    @property
    def deadline_ms(self) -> float:
        """How long after a window's end in time its detections are to be there; 0: when they are there."""
        return self._deadline_ms

    @deadline_ms.setter
    def deadline_ms(self, value: float) -> None:
        if value:
            require_anytime(self.detector, "deadline_ms")
            _require_stoppable(self._engine)
        self._deadline_ms = value

    @property
    def gap_policy(self) -> GapPolicy:
        """What missing windows do to membranes."""
        return self._gap_policy

    @gap_policy.setter
    def gap_policy(self, value: GapPolicy) -> None:
        if value not in GAP_POLICIES:
            raise ValueError(f"gap_policy must be one of {', '.join(GAP_POLICIES)}, got {value!r}")
        if value == "leak":
            self.require_leak()
        self._gap_policy = value

    def require_leak(self) -> None:
        """Raise SpecError unless the model's neurons say how they leak."""
        if self._leak is None and self.spec.state_policy == "carry":
            self._leak = Leak(self.detector, self._zeros())

    def step(
        self, window: Window, stream: StreamState, *, since_ns: int | None = None, steps: int | None = None
    ) -> tuple[Detections, StreamState]:
        """Return what the detector sees in `window`, and the stream's state after it. `stream` is left as it was.

        Boxes are xyxy in pixels of the window's sensor or image, scores not increasing, `t_us` the window's end. An
        image may have any size: it is letterboxed into the network's input, whatever `geometry` is.

        Args:
            since_ns: when the deadline's time began, on the monotonic clock; now by default.
            steps: run exactly so many network steps, as an earlier run under a deadline did.

        Raises:
            EventDataError: if the sensor's size does not fit and `geometry` is ``strict``.
            SpecError: for an image where the model is for events, or the other way round.
        """
        since_ns = time.monotonic_ns() if since_ns is None else since_ns  # before the representation, which takes time
        follows, before = self._before(window, stream)
        given = self._inputs.of(window, self.geometry)
        (found,), after = self._infer(given.x, before, since_ns, steps, given.letterbox)
        detections = replace(given.to_sensor(self._best(found)), t_us=window.t_end_us)
        return detections, self._after(window, stream, follows, after)

    def step_batch(
        self, windows: Sequence[Window], streams: Sequence[StreamState]
    ) -> list[tuple[Detections, StreamState]]:
        """Return what `step` does for the next window of each of several streams, all of them run as one batch.

        The numbers are those of single steps up to rounding, which may depend on the number of rows; one window alone
        is a `step`. Sensors and images may differ in size.

        Raises:
            EventDataError, SpecError: as `step`, if any of the windows does not fit; for several under a deadline.
            ValueError: if there are more windows than streams, or fewer.
        """
        if len(windows) != len(streams):
            raise ValueError(f"expected a stream for each window, got {len(windows)} windows, {len(streams)} streams")
        if len(windows) == 1:
            return [self.step(windows[0], streams[0])]
        if not windows:
            return []
        if self._deadline_ms:
            raise SpecError(
                "deadline_ms: each window stops after steps of its own; run them one by one, or set it to 0"
            )
        begun = [self._before(window, stream) for window, stream in zip(windows, streams, strict=True)]
        inputs = [self._inputs.of(window, self.geometry) for window in windows]
        ran = run_rows(self._engine, self.detector, inputs, [before for _, before in begun])
        return [
            (
                replace(given.to_sensor(self._best(found)), t_us=window.t_end_us),
                self._after(window, stream, follows, after),
            )
            for window, stream, (follows, _), given, (found, after) in zip(
                windows, streams, begun, inputs, ran, strict=True
            )
        ]

    @torch.no_grad()
    def advance(self, window: Window, stream: StreamState) -> StreamState:
        """Return the stream's state after `window`, as `step` does, without asking what is in it.

        It costs less: a head without membranes is not run, nor is anything where windows start from rest.

        Raises:
            As `step`.
        """
        follows, before = self._before(window, stream)
        if self.spec.state_policy != "carry":
            return self._after(window, stream, follows, None)
        x = self._inputs.of(window, self.geometry).x
        return self._after(window, stream, follows, advance(self._engine, x, before))

    def _before(self, window: Window, stream: StreamState) -> tuple[Continuity, State]:
        """Return how a window follows on, and the membranes that it finds."""
        follows = continuity(window, stream, stride_us=self.spec.stride_us, max_gap_us=self.max_gap_us)
        if follows is Continuity.HELD:
            if self._gap_policy == "reset":
                return Continuity.RESET, None
            if self._leak is not None and self._gap_policy == "leak" and stream.t_end_us is not None:
                missing = (window.t_end_us - stream.t_end_us) // self.spec.stride_us - 1
                return follows, self._leak(stream.model, missing)
        return follows, None if follows is Continuity.RESET else stream.model

    def _zeros(self) -> torch.Tensor:
        """Return the input of a window in which nothing happens."""
        return self.detector.represent(EventWindow(EventArray.empty(self.spec.sensor_size), 0, self.spec.window_us))

    @property
    def takes_images(self) -> bool:
        """Whether the model sees images (`ImageWindow`) in place of events."""
        return self._inputs.takes_images

    def make_filler(self, sensor: SensorSize) -> Filler | None:
        """Return what fills this model's grids while events of a sensor arrive.

        None where all events must be in first, or where the sensor does not fit, which each step will say.
        """
        return self._inputs.filler(sensor, self.geometry)

    def _after(self, window: Window, stream: StreamState, follows: Continuity, after: State) -> StreamState:
        return StreamState(
            model=after if self.spec.state_policy == "carry" else None,
            t_end_us=window.t_end_us,
            windows=stream.windows + 1,
            gaps=stream.gaps + (follows in (Continuity.HELD, Continuity.RESET)),
            resets=stream.resets + (follows is Continuity.RESET),
            size=window.size,
        )

    @torch.no_grad()
    def _infer(
        self, x: torch.Tensor, before: State, since_ns: int, steps: int | None, letterbox: Letterbox | None
    ) -> tuple[list[Detections], State]:
        if steps is not None:
            return infer_until(self.detector, x, before, lambda done: done >= steps, letterbox)
        if not self._deadline_ms:
            raw, after = self._engine(x, before)
            return self.detector.decode(raw, letterbox, least_score=self.score_threshold), after
        deadline = Deadline(self._costs, round(self._deadline_ms * 1e6), since_ns, self._now_ns)
        deadline.begin()
        found, after = infer_until(self.detector, x, before, deadline.enough, letterbox)
        deadline.end()
        return found, after

    def _now_ns(self) -> int:
        if self.detector.device.type == "cuda":  # what was asked of it must be done
            torch.cuda.synchronize(self.detector.device)
        return time.monotonic_ns()

    def _best(self, found: Detections) -> Detections:
        found = _first(found, int(np.count_nonzero(found.score >= self.score_threshold)))  # scores do not increase
        if self._class_ids:
            found = found[np.isin(found.class_id, self._class_ids)]
        return found if self.max_detections is None else _first(found, self.max_detections)


def _first(found: Detections, most: int) -> Detections:
    """Return the best, so many at most; the same object where that is all."""
    return found if len(found) <= most else found[:most]


def _require_stoppable(engine: Engine) -> None:
    if type(engine) is not DetectorEngine:
        raise SpecError(f"deadline_ms: engine '{engine.name}' runs all steps of a window; use the engine 'detector'")
