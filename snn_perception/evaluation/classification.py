"""Classifiers on samples: the logits of a sample are summed over its windows, and the largest sum is its class.

As the authors judge theirs (Cordone, PhD thesis, 2022, ch. 4): summed over positions by the head, over time steps here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn_perception.data.dataset import Dataset, LabelledRecording
from snn_perception.detector import Detector
from snn_perception.errors import SpecError
from snn_perception.evaluation.activity import Activity, ActivityMeter, merged
from snn_perception.events.geometry import InputMapping
from snn_perception.registry import Registry
from snn_perception.state import State
from snn_perception.types import I64, EventWindow, SensorSize, Targets

MOST_WINDOWS = 1000
ROWS = 16
Change = Callable[[EventWindow], EventWindow]


@dataclass(frozen=True, eq=False)
class SampleBatch:
    """Samples side by side.

    Attributes:
        windows: each [T, B, C, H, W]. counts: how many of them each row has; what comes after is silence.
        targets: the class of each row.
    """

    step: int
    windows: tuple[Tensor, ...]
    counts: Tensor
    targets: tuple[Targets, ...]

    def lengthened(self, count: int) -> SampleBatch:
        """Return the same samples with silence after them, up to so many windows."""
        silence = torch.zeros_like(self.windows[0])
        return replace(self, windows=(*self.windows, *[silence] * (count - len(self.windows))))


class SampleReader:
    """Makes the windows of samples for a model; a sample of another size is scaled by nearest neighbour."""

    def __init__(self, data: Dataset, detector: Detector, registry: Registry) -> None:
        self.data, self._registry = data, registry
        self._represent, self._spec = detector.representation, detector.spec

    def windows(self, recording: LabelledRecording, change: Change | None = None) -> list[Tensor]:
        """Return the inputs [T, C, H, W] of a sample, from its start (or its first event) on.

        Args:
            change: what is done to each window before.

        Raises:
            EventDataError: if its events cannot be read.
        """
        whole = recording.events(self._registry)
        size, window_us = self._spec.sensor_size, self._spec.window_us
        begin_us = recording.piece.t_start_us
        if begin_us is None:
            begin_us = int(whole.t[0]) if len(whole) else 0
        end_us = recording.piece.t_end_us
        if end_us is None:
            end_us = int(whole.t[-1]) + 1 if len(whole) else begin_us + 1
        count = min(max(1, -(-(end_us - begin_us) // window_us)), MOST_WINDOWS)
        events = InputMapping(whole.size, size).map_events(whole)
        cuts = np.searchsorted(events.t, begin_us + window_us * np.arange(count + 1)).tolist()
        made = []
        for k in range(count):
            starts_us = begin_us + k * window_us
            window = EventWindow(events[cuts[k] : cuts[k + 1]], starts_us, starts_us + window_us)
            made.append(self._represent(change(window) if change is not None else window))
        return made

    def batch(
        self, numbers: Sequence[int], *, step: int = 0, changes: Sequence[Change | None] | None = None
    ) -> SampleBatch:
        """Return samples, by their numbers in the set, as rows of one batch; shorter ones end in silence."""
        recordings = [self.data[number] for number in numbers]
        rows = [self.windows(*pair) for pair in zip(recordings, changes or [None] * len(recordings), strict=True)]
        size = self._spec.sensor_size
        silence = torch.zeros_like(rows[0][0])
        longest = max(map(len, rows))
        windows = tuple(
            torch.stack([row[k] if k < len(row) else silence for row in rows], dim=1) for k in range(longest)
        )
        counts = torch.tensor([len(row) for row in rows])
        return SampleBatch(step, windows, counts, tuple(whole_image(recording, size) for recording in recordings))


def whole_image(recording: LabelledRecording, size: SensorSize) -> Targets:
    """Return a sample's class as a box around the whole input."""
    if recording.class_id is None:
        raise SpecError(f"{recording.name}: has no class; classification needs a set of samples, such as ncars")
    box = np.array([[0, 0, size.width, size.height]], np.float32)
    return Targets(box, np.array([recording.class_id], np.int64))


def summed_logits(detector: Detector, windows: Iterable[Tensor], counts: Tensor) -> Tensor:
    """Return the logits [B, K] of samples: the sum over their own windows, membranes carried from one to the next.

    Args:
        counts: int64 [B], how many of the windows each row has.

    Raises:
        SpecError: if the model's head gives something else than logits.
    """
    state: State = None
    total: Tensor | None = None
    for k, x in enumerate(windows):
        raw, state = detector(x.to(detector.device, detector.dtype), state)
        if not isinstance(raw, Tensor):
            raise SpecError("samples need a classifier; this model's head finds boxes")
        own = torch.where((counts > k).to(raw.device)[:, None], raw, torch.zeros_like(raw))
        total = own if total is None else total + own
    assert total is not None
    return total


@dataclass(frozen=True, eq=False)
class ClassScores:
    """How many samples of each class were taken for which.

    Attributes:
        confusion: int64 [K, K], row the class, column what it was taken for.
        activity: of the network over all windows; without windows where nobody measured.
    """

    classes: tuple[str, ...]
    confusion: I64
    activity: Activity

    @property
    def accuracy(self) -> float:
        """Share of samples whose class was told."""
        return float(self.confusion.trace() / max(self.confusion.sum(), 1))

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        each = self.confusion.diagonal() / np.maximum(self.confusion.sum(axis=1), 1)
        return {
            "accuracy": self.accuracy,
            "samples": int(self.confusion.sum()),
            "accuracy_per_class": dict(zip(self.classes, each.tolist(), strict=True)),
            "confusion": self.confusion.tolist(),
        }


@torch.no_grad()
def classify(
    detector: Detector,
    reader: SampleReader,
    *,
    numbers: Sequence[int] | None = None,
    measure: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> ClassScores:
    """Return how a model in evaluation mode tells samples.

    Args:
        numbers: which of the set; by default all.
        measure: count spikes and operations of every window.

    Raises:
        SpecError: if the model's classes are not those of the set.
        EventDataError: if a sample cannot be read.
    """
    classes = detector.spec.classes
    if reader.data.classes != classes:
        raise SpecError(
            f"data set '{reader.data.name}' has classes {list(reader.data.classes)}, the model {list(classes)}"
        )
    chosen = range(len(reader.data)) if numbers is None else numbers
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    activity = Activity()
    for first in range(0, len(chosen), ROWS):
        batch = reader.batch(chosen[first : first + ROWS])
        logits, seen = (
            _measured(detector, batch)
            if measure
            else (summed_logits(detector, batch.windows, batch.counts), Activity())
        )
        activity = merged([activity, seen]) if measure else activity
        wanted = np.array([int(target.class_id[0]) for target in batch.targets])
        np.add.at(confusion, (wanted, logits.argmax(dim=1).cpu().numpy()), 1)
        if on_progress is not None:
            on_progress(min(first + ROWS, len(chosen)), len(chosen))
    return ClassScores(classes, confusion, activity)


def _measured(detector: Detector, batch: SampleBatch) -> tuple[Tensor, Activity]:
    seen: list[Activity] = []
    with ActivityMeter(detector) as meter:

        def watched() -> Iterable[Tensor]:
            for k, x in enumerate(batch.windows):
                if k:
                    seen.extend(meter.take())
                meter.expect(x.shape[1])
                yield x

        logits = summed_logits(detector, watched(), batch.counts)
        seen.extend(meter.take())
    return logits, merged(seen)
