"""Training of classifiers: a sample is a few windows from rest, and its logits are their sum over the windows.

As the authors train theirs: the network's output is summed over positions and time steps, softmax cross-entropy on the
sum (Cordone, PhD thesis, 2022, ch. 4).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn_perception.data.dataset import Dataset, LabelledRecording
from snn_perception.detector import Detector
from snn_perception.errors import SpecError
from snn_perception.events.geometry import InputMapping
from snn_perception.ranks import sum_over_ranks
from snn_perception.registry import Registry
from snn_perception.state import State
from snn_perception.training.augment import draw
from snn_perception.training.config import AugmentConfig
from snn_perception.training.distributed import Ranks, gather
from snn_perception.training.engine import Engine
from snn_perception.training.plan import SamplePlan
from snn_perception.training.steps import Taken
from snn_perception.types import EventArray, EventWindow, SensorSize, Targets

MOST_WINDOWS = 1000


@dataclass(frozen=True, eq=False)
class SampleBatch:
    """Samples side by side: windows, each [T, B, C, H, W], and the class of each row as targets."""

    step: int
    windows: tuple[Tensor, ...]
    targets: tuple[Targets, ...]


class SampleFeed:
    """Makes the windows of samples; those of a sample of another size are scaled by nearest neighbour."""

    def __init__(
        self, data: Dataset, detector: Detector, registry: Registry, *, augment: AugmentConfig | None, seed: int
    ) -> None:
        self.data, self._registry, self._augment, self._seed = data, registry, augment, seed
        self._represent, self._spec = detector.representation, detector.spec

    def windows(self, recording: LabelledRecording, place: Sequence[int]) -> list[Tensor]:
        """Return the inputs [T, C, H, W] of a sample, from its first event's time on.

        Args:
            place: what its augmentation depends on, besides the seed.

        Raises:
            EventDataError: if its events cannot be read.
        """
        whole = recording.events(self._registry)
        size, window_us = self._spec.sensor_size, self._spec.window_us
        begin_us = recording.piece.t_start_us
        if begin_us is None:
            begin_us = int(whole.t[0]) if len(whole) else 0
        end_us = int(whole.t[-1]) + 1 if len(whole) else begin_us + 1
        count = min(max(1, -(-(end_us - begin_us) // window_us)), MOST_WINDOWS)
        events = InputMapping(whole.size, size).map_events(whole)
        cuts = np.searchsorted(events.t, begin_us + window_us * np.arange(count + 1)).tolist()
        made = []
        for k in range(count):
            starts_us = begin_us + k * window_us
            window = EventWindow(events[cuts[k] : cuts[k + 1]], starts_us, starts_us + window_us)
            if self._augment is not None:
                generator = np.random.Generator(np.random.PCG64([self._seed, *place]))
                window = draw(self._augment, generator, size).window(window)
            made.append(self._represent(window))
        return made

    def batch(self, step: int, samples: Sequence[tuple[int, int]]) -> SampleBatch:
        """Return samples, given as (number, pass over the set), as rows of one batch; shorter ones end in silence."""
        rows = [self.windows(self.data[number], (epoch, number)) for number, epoch in samples]
        longest = max(map(len, rows))
        size = self._spec.sensor_size
        silence = self._represent(EventWindow(EventArray.empty(size), 0, self._spec.window_us))
        windows = tuple(
            torch.stack([row[k] if k < len(row) else silence for row in rows], dim=1) for k in range(longest)
        )
        return SampleBatch(step, windows, tuple(whole_image(self.data[number], size) for number, _ in samples))


def whole_image(recording: LabelledRecording, size: SensorSize) -> Targets:
    """Return a sample's class as a box around the whole input."""
    if recording.class_id is None:
        raise SpecError(f"{recording.name}: has no class; classification needs a set of samples, such as ncars")
    box = np.array([[0, 0, size.width, size.height]], np.float32)
    return Targets(box, np.array([recording.class_id], np.int64))


class Samples:
    """Batches of samples in random order, pass after pass."""

    def __init__(self, feed: SampleFeed, *, rows: int, own: range, seed: int) -> None:
        self._feed, self._rows, self._own, self._seed = feed, rows, own, seed
        self.steps_per_epoch = self._plan().steps_per_epoch

    def batches(self, first: int) -> Iterator[SampleBatch]:
        """Yield the batches from step `first` on, of the rows of this process."""
        plan, step = self._plan(), first
        while True:
            yield self._feed.batch(step, [plan.at(row, step) for row in self._own])
            step += 1

    def labelled(self, first: int) -> Iterator[bool]:
        """Yield True for ever."""
        while True:
            yield True

    def _plan(self) -> SamplePlan:
        return SamplePlan(len(self._feed.data), self._rows, self._seed)


class SampleSteps:
    """One update for each batch of samples."""

    def __init__(self, detector: Detector, engine: Engine) -> None:
        self._detector, self._engine = detector, engine
        self.state: State = None
        self.is_cut = True

    def take(self, batch: SampleBatch, next_label: int | None, *, ends_chunk: bool, epochs_done: float) -> Taken:
        """Run whole samples and update the weights."""
        with self._engine.precision():
            logits = summed_logits(self._detector, batch.windows)
        terms = self._detector.head.loss(logits, batch.targets, self._detector.spec.sensor_size)
        shown = sum_over_ranks(torch.stack([term.detach() for term in terms.values()]))
        norm = self._engine.update(torch.stack(list(terms.values())).sum(), epochs_done)
        return Taken(dict(zip(terms, shown.tolist(), strict=True)), norm)


def summed_logits(detector: Detector, windows: Sequence[Tensor]) -> Tensor:
    """Return the logits [B, K] of samples: the sum over their windows, membranes carried from one to the next.

    Raises:
        SpecError: if the model's head gives something else than logits.
    """
    state: State = None
    total: Tensor | None = None
    for x in windows:
        raw, state = detector(x.to(detector.device, detector.dtype), state)
        if not isinstance(raw, Tensor):
            raise SpecError("train.mode: classification needs a classifier; this model's head finds boxes")
        total = raw if total is None else total + raw
    assert total is not None
    return total


@torch.no_grad()
def accuracy(detector: Detector, feed: SampleFeed, ranks: Ranks, *, rows: int = 16) -> dict[str, Any]:
    """Return the share of samples whose class a model in evaluation mode tells, over all and per class."""
    names = detector.spec.classes
    confusion = np.zeros((len(names), len(names)), np.int64)
    own = list(range(ranks.rank, len(feed.data), ranks.world))
    for first in range(0, len(own), rows):
        batch = feed.batch(0, [(number, 0) for number in own[first : first + rows]])
        found = summed_logits(detector, batch.windows).argmax(dim=1).cpu().numpy()
        wanted = np.array([int(target.class_id[0]) for target in batch.targets])
        np.add.at(confusion, (wanted, found), 1)
    total: np.ndarray = np.sum(gather(confusion), axis=0)
    each = total.diagonal() / np.maximum(total.sum(axis=1), 1)
    return {
        "accuracy": float(total.trace() / max(total.sum(), 1)),
        "samples": int(total.sum()),
        "accuracy_per_class": dict(zip(names, each.tolist(), strict=True)),
        "confusion": total.tolist(),
    }
