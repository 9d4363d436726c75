"""A detector over a labelled data set, to scores under a protocol: also what training does after each epoch.

Every recording is walked whole, from rest, in the model's windows, so that membranes are what they would be on the
road; of each label time the detections of the window that contains it are compared. Recordings are independent units:
they may run one after the other, as rows of one batch, or in worker processes, with the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from snn_perception.data.dataset import Dataset, LabelledRecording
from snn_perception.data.labels import NOTHING
from snn_perception.data.window_rule import GRID, WindowRule
from snn_perception.detector import Detector
from snn_perception.engine.engines import Engine
from snn_perception.errors import EventDataError
from snn_perception.evaluation.activity import Activity, merged
from snn_perception.evaluation.coco import Scores, coco_scores
from snn_perception.evaluation.engine_use import DETECTOR, check_engine, label_of
from snn_perception.evaluation.job import Job, OnProgress, Progress
from snn_perception.evaluation.known import known_outcomes
from snn_perception.evaluation.operating_point import OperatingPoint, best_operating_point
from snn_perception.evaluation.outcome import RecordingOutcome
from snn_perception.evaluation.protocol import Protocol
from snn_perception.evaluation.walk import WalkOptions
from snn_perception.registry import Registry
from snn_perception.types import SensorSize

if TYPE_CHECKING:
    from snn_perception.work import Executor, Ledger


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a detector is worth on a data set.

    Attributes:
        scores: under `protocol`.
        protocol: as it was applied: exact times where labels are closer than its tolerance.
        operating_point: the score threshold with the best F1, which the confusion matrix is made at.
        outcomes: one for each recording, in the order of the data set; they hold under any protocol.
        classes: that were evaluated: those that the data set and the model share.
        size: of the images the boxes are in.
        activity: of the network over all windows; without windows where nobody measured.
        engine: that ran the network, with its precision where that is not fp32.
        reused: recordings whose outcome was there from an earlier run.
        notes: what a person should know.
    """

    scores: Scores
    protocol: Protocol
    operating_point: OperatingPoint
    outcomes: tuple[RecordingOutcome, ...]
    classes: tuple[str, ...]
    size: SensorSize
    activity: Activity
    engine: str = DETECTOR
    reused: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Share:
    """One of several processes that evaluate together, each its own recordings.

    Attributes:
        rank, world: which of how many. exchange: returns what every process gives.
    """

    rank: int
    world: int
    exchange: Callable[[dict[int, RecordingOutcome]], list[dict[int, RecordingOutcome]]]


def evaluate_detector(
    detector: Detector,
    dataset: Dataset,
    registry: Registry,
    protocol: Protocol,
    *,
    device: str | None = None,
    limit: int | None = None,
    executor: Executor | None = None,
    rows: int = 1,
    score_threshold: float = 0.0,
    max_windows: int | None = None,
    measure: bool = False,
    silent: bool = True,
    all_windows: bool = False,
    ledger: Ledger | None = None,
    on_progress: OnProgress | None = None,
    share: Share | None = None,
    rule: WindowRule = GRID,
    engine: Engine | None = None,
) -> Evaluation:
    """Return the scores of a detector over a data set; the detector and its modes are left as they were.

    Args:
        dataset: recordings with labelled boxes; its own rules say which labels there are.
        registry: of the detector and of the readers.
        device: where to run; by default where the detector is.
        limit: the first so many recordings.
        executor: runs one recording as one unit in its workers; None runs in this process.
        rows: recordings that run side by side in one batch, without an executor. It pays on a GPU.
        score_threshold: detections below it are left out.
        max_windows: of each recording the first so many windows, and the labels in them.
        measure: count spikes and operations of every window.
        silent: tell objects that emit no events from the others.
        all_windows: run models that start each window from rest in windows without labels too (for `measure`).
        ledger: keeps the outcome of each recording, and gives it back to a later run with the same inputs.
        on_progress: called with the recordings done, parts of one included, and their number.
        share: this process's part of the work; every process gets the scores of all recordings.
        rule: how windows are cut; anything but the grid needs a model that starts every window from rest.
        engine: of this detector, runs the network; an executor's workers build their own by its name. None: the
            detector does itself.

    Raises:
        SpecError: for a rule that does not fit the model; for `rows` or `measure` that the engine does not take.
        EventDataError: if the set is of samples without boxes, a recording cannot be read, there are no labels, or the
            data set and the model have no class in common.
    """
    rule.check_policy(detector.spec.state_policy)
    check_engine(engine, rows, measure)
    recordings = _recordings_of(dataset, limit)
    classes, options = _options(detector, dataset, max_windows, all_windows, silent, rule)
    job = Job(detector, registry, options, score_threshold, rows, measure, engine)
    known, keys = known_outcomes(ledger, recordings, job, (device or str(detector.device)).partition(":")[0])
    reused = len(known)
    todo = [number for number in range(len(recordings)) if number not in known]
    todo = todo if share is None else todo[share.rank :: share.world]
    progress = Progress(on_progress, len(recordings), done=len(known))
    units = [recordings[number] for number in todo]
    made: Iterable[tuple[int, RecordingOutcome]]
    with _evaluating(detector, device):
        made = job.run(units, progress) if executor is None else job.spread(units, executor, progress, device)
        for at, outcome in made:
            known[todo[at]] = outcome
            if ledger is not None:
                ledger.put(keys[todo[at]], outcome.as_dict())
    for others in share.exchange(known) if share is not None else ():
        known |= others
    outcomes = tuple(known[number] for number in range(len(recordings)))
    return score_outcomes(
        outcomes,
        classes,
        _image_size(dataset, recordings, registry),
        protocol,
        engine=label_of(engine),
        reused=reused,
        notes=_class_notes(detector, dataset, classes),
    )


def score_outcomes(
    outcomes: Sequence[RecordingOutcome],
    classes: Sequence[str],
    size: SensorSize,
    protocol: Protocol,
    *,
    engine: str = DETECTOR,
    reused: int = 0,
    notes: Sequence[str] = (),
) -> Evaluation:
    """Return the scores of stored outcomes under a protocol.

    Raises:
        EventDataError: if there are no labels in any.
    """
    if not any((outcome.truth.class_id != NOTHING).any() for outcome in outcomes):
        raise EventDataError(
            f"no labels of {', '.join(classes)} in {len(outcomes)} recording(s) ({_some(outcomes)}): there is nothing "
            "to compare detections with; see 'inspect RECORDING' for what its label file holds"
        )
    applied, why = _exact_where_close(protocol, outcomes)
    results = [outcome.result(applied) for outcome in outcomes]
    point = best_operating_point(results, len(classes), size, applied)
    return Evaluation(
        scores=coco_scores(results, classes, size, applied, confusion_score=point.score),
        protocol=applied,
        operating_point=point,
        outcomes=tuple(outcomes),
        classes=tuple(classes),
        size=size,
        activity=merged([outcome.activity for outcome in outcomes]),
        engine=engine,
        reused=reused,
        notes=(*notes, *why, *(f"{outcome.name}: {note}" for outcome in outcomes for note in outcome.notes)),
    )


def _exact_where_close(protocol: Protocol, outcomes: Sequence[RecordingOutcome]) -> tuple[Protocol, tuple[str, ...]]:
    """Return the protocol without tolerance if label times lie within it: each would see its neighbours' detections."""
    if protocol.matching != "tolerance" or not protocol.tolerance_us:
        return protocol, ()
    gaps = [np.diff(np.unique(outcome.truth.t_us)) for outcome in outcomes]
    closest = min((int(gap.min()) for gap in gaps if len(gap)), default=None)
    if closest is None or closest > protocol.tolerance_us:
        return protocol, ()
    note = (
        f"labels are {closest / 1000:g} ms apart, within the tolerance of {protocol.tolerance_us / 1000:g} ms: "
        "matched at exact times, so that no detection counts for two of them"
    )
    return replace(protocol, name=f"{protocol.name}, exact times", tolerance_us=0), (note,)


def _some(outcomes: Sequence[RecordingOutcome]) -> str:
    return ", ".join(outcome.name for outcome in outcomes[:3]) + (", ..." if len(outcomes) > 3 else "")


def _recordings_of(dataset: Dataset, limit: int | None) -> list[LabelledRecording]:
    if dataset.is_classification:
        raise EventDataError(f"data set '{dataset.name}' holds samples without boxes; give one with labelled boxes")
    if limit is not None and limit < 1:
        raise EventDataError(f"expected a limit of at least 1 recording, got {limit}")
    return list(dataset.recordings[:limit])


def _options(
    detector: Detector, dataset: Dataset, max_windows: int | None, all_windows: bool, silent: bool, rule: WindowRule
) -> tuple[tuple[str, ...], WalkOptions]:
    """Return the classes that are evaluated, by name, and how recordings are walked."""
    classes, truth_classes, found_classes = shared_classes(detector.spec.classes, dataset)
    return classes, WalkOptions(truth_classes, found_classes, max_windows, all_windows, silent, rule)


def shared_classes(theirs: Sequence[str], dataset: Dataset) -> tuple[tuple[str, ...], dict[int, int], dict[int, int]]:
    """Return the classes that a detector and a data set share by name, and their numbers in both.

    Returns:
        Names in the order of the data set; number in the data set -> place among the names; the same for the detector.

    Raises:
        EventDataError: if there are none.
    """
    classes = tuple(name for name in dataset.classes if name in theirs)
    if not classes:
        raise EventDataError(
            f"the detector's classes ({', '.join(theirs)}) and those of data set '{dataset.name}' "
            f"({', '.join(dataset.classes)}) have no name in common; evaluate on a set that has the detector's classes"
        )
    numbers = {name: number for number, name in enumerate(classes)}
    known, found = (
        {number: numbers[name] for number, name in enumerate(names) if name in numbers}
        for names in (dataset.classes, theirs)
    )
    return classes, known, found


def _class_notes(detector: Detector, dataset: Dataset, classes: Sequence[str]) -> tuple[str, ...]:
    notes = []
    unknown = [name for name in dataset.classes if name not in classes]
    foreign = [name for name in detector.spec.classes if name not in classes]
    if unknown:
        notes.append(f"the model does not know {', '.join(unknown)}: labels of these are left out")
    if foreign:
        notes.append(f"the data set does not label {', '.join(foreign)}: detections of these are left out")
    return tuple(notes)


def _image_size(dataset: Dataset, recordings: Sequence[LabelledRecording], registry: Registry) -> SensorSize:
    size = dataset.size or recordings[0].size
    return size if size is not None else recordings[0].open(registry).size


@contextmanager
def _evaluating(detector: Detector, device: str | None) -> Iterator[None]:
    """Put the detector into evaluation mode on a device, and back into the modes and the place that it had."""
    import torch

    modes = [(module, module.training) for module in detector.modules()]
    before = detector.device
    tf32 = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    # TF32 keeps 10 bits of what goes into a convolution: float32 models would spike differently than on a CPU.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    detector.to(device or before).eval()
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = tf32
        for module, was_training in modes:
            module.training = was_training
        detector.to(before)
