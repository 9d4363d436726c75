"""The sanity ladder of a data set: what the blind, the simple and the all-knowing score on it.

A mean AP says something only beside these: boxes that are the same in every frame, blobs of events without any
learning, a small dense network, and an oracle that only the annotator's hand keeps from 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from snn_perception.data.dataset import Dataset, LabelledRecording
from snn_perception.data.labels import Labels
from snn_perception.detector import Detector
from snn_perception.errors import EventDataError
from snn_perception.evaluation.card import make_card
from snn_perception.evaluation.coco import Scores, coco_scores
from snn_perception.evaluation.ladder_blobs import find_blobs
from snn_perception.evaluation.ladder_boxes import FoundBoxes
from snn_perception.evaluation.ladder_oracle import redraw
from snn_perception.evaluation.ladder_prior import learn_prior
from snn_perception.evaluation.motion import silent_rows
from snn_perception.evaluation.package import PluginSources
from snn_perception.evaluation.protocol import PROTOCOLS, Protocol
from snn_perception.evaluation.results import RecordingResult
from snn_perception.evaluation.run import evaluate_detector
from snn_perception.events.window_source import events_between
from snn_perception.registry import Registry
from snn_perception.types import I64, SensorSize

if TYPE_CHECKING:
    from snn_perception.work import Executor

WINDOW_US = 50_000  # of events that blobs are looked for in: that of the published detectors


@dataclass(frozen=True)
class Bounds:
    """Between which APs (IoU 0.50:0.95) a rung must lie for a sane set, and in which part of that it is expected."""

    least: float | None = None
    most: float | None = None
    expected: tuple[float, float] | None = None

    def verdict(self, ap: float) -> str:
        """Return ``within``, ``below`` or ``above``; empty where there are no bounds."""
        if self.least is None and self.most is None:
            return ""
        if self.least is not None and ap < self.least:
            return "below"
        if self.most is not None and ap > self.most:
            return "above"
        if self.expected is not None and not self.expected[0] <= ap <= self.expected[1]:
            return "within, not as expected"
        return "within"

    def __str__(self) -> str:
        if self.least is None:
            return "" if self.most is None else f"at most {self.most:g}"
        both = f"{self.least:g} to {self.most:g}" if self.most is not None else f"at least {self.least:g}"
        return both + (f", expected {self.expected[0]:g} to {self.expected[1]:g}" if self.expected else "")


BOUNDS = {
    "constant prior": Bounds(most=0.02),
    "event blobs": Bounds(most=0.05),
    "oracle": Bounds(0.75, 0.85),
    "dense CNN": Bounds(0.2, 0.7, expected=(0.2, 0.5)),
}


@dataclass(frozen=True, eq=False)
class Rung:
    """Something that detects, and its scores; its bounds are those of the ladder, none for a model beside it."""

    name: str
    scores: Scores
    bounds: Bounds = field(default_factory=Bounds)

    @property
    def verdict(self) -> str:
        return self.bounds.verdict(self.scores["AP"])


@dataclass(frozen=True, eq=False)
class Ladder:
    """What was measured on one split of a data set.

    Attributes:
        rungs: from the lowest; models beside the ladder last.
        protocol: of all. hash: figures of other hashes are not comparable with these.
        recordings, prior_recordings: how many were scored, and how many the constant prior learned from.
        images: label times that were scored. boxes: to be found; silent: of them those that emit no events.
    """

    rungs: tuple[Rung, ...]
    protocol: Protocol
    hash: str
    classes: tuple[str, ...]
    recordings: int
    prior_recordings: int
    images: int
    boxes: int
    silent: int


OnProgress = Callable[[float, int], None]


def measure_ladder(
    dataset: Dataset,
    train: Dataset,
    registry: Registry,
    *,
    provenance: str | None = None,
    dense: Detector | None = None,
    models: Sequence[tuple[str, Detector]] = (),
    protocol: Protocol = PROTOCOLS["gen1"],
    executor: Executor | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> Ladder:
    """Return what each rung reaches on a split.

    Args:
        dataset: the split to score on. train: the split whose labels the constant prior learns from.
        provenance: generator of the set, for the hash (`data.provenance.synthetic_version`).
        dense: a trained network without spikes, for the rung of that name.
        models: (name, detector) to put beside.
        executor: runs one recording as one unit; None runs in this process.
        on_progress: called with what is done, in recordings, and how much there is.

    Raises:
        EventDataError: if a recording cannot be read, or there are no labels.
    """
    detectors = [*([("dense CNN", dense)] if dense is not None else []), *models]
    count, total = len(dataset), len(dataset) * (1 + len(detectors))
    prior = learn_prior([recording.labels() for recording in train], len(dataset.classes), protocol.filter)
    work = partial(_look, PluginSources.of(registry), dataset.classes)
    units = dataset.recordings
    seen = []
    for one in map(work, units) if executor is None else executor.map(work, units):
        seen.append(one)
        on_progress(len(seen), total)
    rungs = _without_model(seen, prior, dataset.classes, protocol)
    for number, (name, detector) in enumerate(detectors, start=1):
        evaluation = evaluate_detector(
            detector,
            dataset,
            registry,
            protocol,
            executor=executor,
            on_progress=lambda done, _, before=number * count: on_progress(before + done, total),  # type: ignore[misc]
        )
        is_dense = dense is not None and number == 1
        rungs.append(Rung(name, evaluation.scores, BOUNDS[name] if is_dense else Bounds()))
    card = make_card(
        [one.result(FoundBoxes.none(), np.empty(0, np.int64)) for one in seen],
        dataset.classes,
        seen[0].size,
        protocol,
        dataset=dataset.name,
        split=dataset.split,
        provenance=provenance,
    )
    scores = rungs[0].scores
    silent = scores.silent.ground_truths if scores.silent is not None else 0
    return Ladder(
        *(tuple(rungs), protocol, card.hash, dataset.classes, count, len(train)),
        *(scores.images, scores.ground_truths, silent),
    )


@dataclass(frozen=True, eq=False)
class _Seen:
    """One recording as far as the rungs without a model need it; blobs at their label times."""

    name: str
    size: SensorSize
    truth: Labels
    silent: npt.NDArray[np.bool_]
    blobs: FoundBoxes
    blobs_t_us: I64

    def result(self, found: FoundBoxes, t_us: I64) -> RecordingResult:
        """Return the labels beside detections made at label times."""
        return RecordingResult(self.name, self.truth, t_us, found.xywh, found.score, found.class_id, self.silent)


def _look(plugins: PluginSources, classes: tuple[str, ...], labelled: LabelledRecording) -> _Seen:
    """Return the labels of a recording, which of them are silent, and its blobs; may run in a worker."""
    registry = plugins.load()
    recording, truth = labelled.open(registry), labelled.labels()
    between = partial(events_between, recording, registry)
    silent = silent_rows(truth, between)
    times = np.unique(truth.t_us)
    # A detector answers a label from the window that holds it; so do blobs.
    begins = times // WINDOW_US * WINDOW_US
    found = [find_blobs(between(begin, begin + WINDOW_US), classes) for begin in begins.tolist()]
    t_us = np.repeat(times, [len(one) for one in found]).astype(np.int64)
    return _Seen(labelled.name, recording.size, truth, silent, FoundBoxes.concatenate(found), t_us)


def _without_model(seen: Sequence[_Seen], prior: FoundBoxes, classes: Sequence[str], protocol: Protocol) -> list[Rung]:
    """Return the rungs that need no network."""
    if not any(len(one.truth) for one in seen):
        raise EventDataError(f"no labels in {len(seen)} recording(s): there is nothing to measure a ladder on")
    results = {
        "constant prior": [one.result(*_repeated(prior, np.unique(one.truth.t_us))) for one in seen],
        "event blobs": [one.result(one.blobs, one.blobs_t_us) for one in seen],
        "oracle": [_oracle(one) for one in seen],
    }
    size = seen[0].size
    return [Rung(name, coco_scores(each, classes, size, protocol), BOUNDS[name]) for name, each in results.items()]


def _repeated(prior: FoundBoxes, times: I64) -> tuple[FoundBoxes, I64]:
    return prior[np.tile(np.arange(len(prior)), len(times))], np.repeat(times, len(prior))


def _oracle(one: _Seen) -> RecordingResult:
    t_us, found = redraw(one.truth, one.size, one.name)
    return one.result(found, t_us)
