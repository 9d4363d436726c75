"""Training of classifiers: one update for each batch of whole samples (see `evaluation.classification`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from snn_perception.data.dataset import Dataset
from snn_perception.detector import Detector
from snn_perception.evaluation.activity import Activity
from snn_perception.evaluation.classification import ClassScores, SampleBatch, SampleReader, classify, summed_logits
from snn_perception.ranks import sum_over_ranks
from snn_perception.registry import Registry
from snn_perception.state import State
from snn_perception.training.augment import draw
from snn_perception.training.config import AugmentConfig
from snn_perception.training.distributed import Ranks, gather, most_over_ranks
from snn_perception.training.engine import Engine
from snn_perception.training.plan import SamplePlan
from snn_perception.training.steps import Taken


class Samples:
    """Batches of samples in random order, pass after pass; augmentation is drawn once for a sample.

    Args:
        rows: of a batch, over all processes. own: those of this process.
    """

    def __init__(
        self,
        data: Dataset,
        detector: Detector,
        registry: Registry,
        augment: AugmentConfig,
        *,
        rows: int,
        own: range,
        seed: int,
    ) -> None:
        self._reader = SampleReader(data, detector, registry)
        self._size, self._augment = detector.spec.sensor_size, augment
        self._rows, self._own, self._seed = rows, own, seed
        self.steps_per_epoch = self._plan().steps_per_epoch

    def batches(self, first: int) -> Iterator[SampleBatch]:
        """Yield the batches from step `first` on, of the rows of this process."""
        plan, step = self._plan(), first
        while True:
            samples = [plan.at(row, step) for row in self._own]
            changes = [self._change(number, epoch) for number, epoch in samples]
            yield self._reader.batch([number for number, _ in samples], step=step, changes=changes)
            step += 1

    def labelled(self, first: int) -> Iterator[bool]:
        """Yield True for ever."""
        while True:
            yield True

    def _change(self, number: int, epoch: int) -> Any:
        generator = np.random.Generator(np.random.PCG64([self._seed, epoch, number]))
        return draw(self._augment, generator, self._size).window

    def _plan(self) -> SamplePlan:
        return SamplePlan(len(self._reader.data), self._rows, self._seed)


class SampleSteps:
    """One update for each batch of samples."""

    def __init__(self, detector: Detector, engine: Engine) -> None:
        self._detector, self._engine = detector, engine
        self.state: State = None
        self.is_cut = True

    def take(self, batch: SampleBatch, next_label: int | None, *, ends_chunk: bool, epochs_done: float) -> Taken:
        """Run whole samples and update the weights."""
        batch = batch.lengthened(most_over_ranks(len(batch.windows), self._engine.device))  # norms wait for each other
        with self._engine.precision():
            logits = summed_logits(self._detector, batch.windows, batch.counts)
        terms = self._detector.head.loss(logits, batch.targets, self._detector.spec.sensor_size)
        shown = sum_over_ranks(torch.stack([term.detach() for term in terms.values()]))
        norm = self._engine.update(torch.stack(list(terms.values())).sum(), epochs_done)
        return Taken(dict(zip(terms, shown.tolist(), strict=True)), norm)


def accuracy(detector: Detector, reader: SampleReader, ranks: Ranks) -> dict[str, Any]:
    """Return how a model in evaluation mode tells samples, of which each process looks at its share."""
    own = classify(detector, reader, numbers=range(ranks.rank, len(reader.data), ranks.world))
    confusion = np.sum(gather(own.confusion), axis=0)
    return ClassScores(own.classes, confusion, Activity()).as_dict()
