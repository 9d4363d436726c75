"""Recordings through a detector: in this process, several as rows of one batch, or in an executor's workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from snn_perception.data.dataset import LabelledRecording
from snn_perception.detector import Detector
from snn_perception.engine.choose import build_engine, engine_label
from snn_perception.engine.engines import Engine
from snn_perception.evaluation.activity import ActivityMeter
from snn_perception.evaluation.images import ImageLooker
from snn_perception.evaluation.outcome import RecordingOutcome
from snn_perception.evaluation.stepping import RowStepper
from snn_perception.evaluation.walk import RecordingWalk, WalkOptions
from snn_perception.registry import Registry
from snn_perception.work.in_order import in_order, reading_threads

if TYPE_CHECKING:
    from snn_perception.evaluation.package import PackedModel
    from snn_perception.work import Executor

OnProgress = Callable[[float, int], None]


@dataclass(frozen=True, eq=False)
class Job:
    """What is done with every recording.

    Attributes:
        detector: in evaluation mode, where it shall run. registry: of its parts and of the readers.
        score_threshold: detections below it are left out.
        rows: recordings side by side in one batch.
        measure: count spikes and operations.
        engine: runs the network; None: the detector does itself.
    """

    detector: Detector
    registry: Registry
    options: WalkOptions
    score_threshold: float
    rows: int
    measure: bool
    engine: Engine | None = None

    def run(self, units: Sequence[LabelledRecording], progress: Progress) -> Iterator[tuple[int, RecordingOutcome]]:
        """Yield the number and outcome of each recording as it is done, several side by side in one batch."""
        if units and units[0].is_image:
            yield from self._run_images(units, progress)
            return
        waiting = iter(enumerate(units))
        active: list[tuple[int, RecordingWalk]] = []
        with ExitStack() as stack:
            meter = stack.enter_context(ActivityMeter(self.detector)) if self.measure else None
            stepper = RowStepper(self.detector, score_threshold=self.score_threshold, meter=meter, engine=self.engine)
            while True:
                while len(active) < self.rows and (unit := next(waiting, None)) is not None:
                    active.append((unit[0], self._walk(unit[1])))
                if not active:
                    return
                windows = [walk.next() for _, walk in active]
                done = [pair for pair, window in zip(active, windows, strict=True) if window is None]
                active = [pair for pair, window in zip(active, windows, strict=True) if window is not None]
                for number, walk in done:
                    outcome = walk.outcome()
                    progress.finish()
                    yield number, outcome
                _advance(stepper, [walk for _, walk in active], [window for window in windows if window is not None])
                progress.within(sum(walk.progress() for _, walk in active))

    def spread(
        self, units: Sequence[LabelledRecording], executor: Executor, progress: Progress, device: str | None
    ) -> Iterator[tuple[int, RecordingOutcome]]:
        """Yield the number and outcome of each recording, worked out by an executor."""
        from snn_perception.evaluation.package import PackedModel

        model = PackedModel.of(self.detector, self.registry)
        where = device or str(self.detector.device)
        engine = None if self.engine is None else engine_label(self.engine)
        work = partial(_evaluate_unit, _Order(model, self.options, self.score_threshold, self.measure, where, engine))
        for number, outcome in enumerate(executor.map(work, units)):
            progress.finish()
            yield number, outcome

    def _run_images(
        self, units: Sequence[LabelledRecording], progress: Progress
    ) -> Iterator[tuple[int, RecordingOutcome]]:
        with ExitStack() as stack:
            meter = stack.enter_context(ActivityMeter(self.detector)) if self.measure else None
            looker = ImageLooker(
                self.detector, self.registry, self.options, self.score_threshold, meter, engine=self.engine
            )
            threads = reading_threads(len(units))
            inputs = stack.enter_context(closing(in_order(looker.read, units, threads=threads, ahead=self.rows)))
            for first in range(0, len(units), self.rows):
                images = units[first : first + self.rows]
                for number, outcome in enumerate(looker.look(images, list(islice(inputs, len(images)))), first):
                    progress.finish()
                    yield number, outcome

    def _walk(self, recording: LabelledRecording) -> RecordingWalk:
        return RecordingWalk(recording, self.registry, self.detector, self.options)


def _advance(stepper: RowStepper, walks: Sequence[RecordingWalk], windows: Sequence[Any]) -> None:
    if not walks:
        return
    wanted = [walk.wants(window) for walk, window in zip(walks, windows, strict=True)]
    found, streams, activities = stepper.step(windows, [walk.stream for walk in walks], wanted)
    for walk, window, one, stream, activity in zip(walks, windows, found, streams, activities, strict=True):
        walk.add(window, one, stream, activity)


@dataclass(frozen=True, eq=False)
class _Order:
    """What a worker does with every recording that it gets."""

    model: PackedModel
    options: WalkOptions
    score_threshold: float
    measure: bool
    device: str
    engine: str | None


def _evaluate_unit(order: _Order, recording: LabelledRecording) -> RecordingOutcome:
    """Return the outcome of one recording; runs in a worker, which keeps the model from one unit to the next."""
    detector, registry = order.model.open(order.device)
    engine = None if order.engine is None else _engine(order.model, order.device, order.engine)
    job = Job(detector, registry, order.options, order.score_threshold, 1, order.measure, engine)
    ((_, outcome),) = job.run([recording], Progress(None, 1))
    return outcome


@lru_cache(maxsize=1)
def _engine(model: PackedModel, device: str, name: str) -> Engine:
    """Return the engine of a worker, of one thread; what was exported or compiled for it lies in the cache."""
    detector, _ = model.open(device)
    return build_engine(name, detector)


class Progress:
    """Tells how far it is."""

    def __init__(self, tell: OnProgress | None, total: int, *, done: int = 0) -> None:
        self._tell, self._total, self._done = tell, total, done
        self.within(0.0)

    def finish(self) -> None:
        self._done += 1
        self.within(0.0)

    def within(self, parts: float) -> None:
        if self._tell is not None:
            self._tell(self._done + parts, self._total)
