"""Recordings to inputs and targets: windows one after the other for a lane, or one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from snn_perception.detector import Detector
from snn_perception.events.geometry import InputMapping
from snn_perception.events.letterbox import Letterbox
from snn_perception.events.window_source import WindowSource, events_between
from snn_perception.registry import Registry
from snn_perception.training.augment import Transform, draw
from snn_perception.training.config import AugmentConfig
from snn_perception.training.survey import TrainingSet, WindowLabels
from snn_perception.types import EventArray, EventWindow, SensorSize, Targets


@dataclass(frozen=True, eq=False)
class Sample:
    """One window as the network gets it: x float32 [T, C, H, W], targets in pixels of the head's input."""

    x: Tensor
    targets: Targets | None
    is_start: bool = False


class Feed:
    """Makes samples of a training set for a detector.

    What is drawn at random depends on the seed, the pass over the set and the recording or window alone.

    Attributes:
        head_size: size of the image that targets are given in.
    """

    def __init__(
        self, data: TrainingSet, detector: Detector, registry: Registry, *, augment: AugmentConfig, seed: int
    ) -> None:
        self.data, self.registry = data, registry
        self._augment, self._seed = augment, seed
        self._represent = detector.representation
        self._size = detector.spec.sensor_size
        self._letterbox: Letterbox | None = getattr(detector.representation, "letterbox", None)
        self.head_size = self._letterbox.target if self._letterbox is not None else self._size
        self._mappings: dict[SensorSize, InputMapping] = {}

    def follow(self, recording: int, epoch: int, first: int = 0) -> Iterator[Sample]:
        """Yield the windows of a recording from number `first` on; those after its last event are empty."""
        source = self.data.recordings[recording]
        window_us, length = self.data.window_us, self.data.lengths[recording]
        opened = source.open(self.registry)
        labels = WindowLabels(source.labels(), window_us, opened.size, self._size)
        transform = self._transform(epoch, recording, 0)
        windows = WindowSource(
            opened, self.registry, window_us, t_start_us=0, start_us=first * window_us, stop_us=length * window_us
        )
        expected = first
        for window in windows:
            number = window.t_start_us // window_us
            while expected < min(number, length):  # a jump of time: nothing was recorded in between
                yield self._sample(self._empty(expected), labels, expected, transform)
                expected += 1
            if number == expected < length:
                yield self._sample(window, labels, expected, transform)
                expected += 1
        for number in range(expected, length):
            yield self._sample(self._empty(number), labels, number, transform)

    def pick(self, recording: int, number: int, epoch: int) -> Sample:
        """Return one window of a recording, which starts from rest."""
        source = self.data.recordings[recording]
        window_us = self.data.window_us
        opened = source.open(self.registry)
        labels = WindowLabels(source.labels(), window_us, opened.size, self._size)
        begin_us = number * window_us
        events = events_between(opened, self.registry, begin_us, begin_us + window_us)
        window = EventWindow(events, begin_us, begin_us + window_us)
        sample = self._sample(window, labels, number, self._transform(epoch, recording, number + 1))
        return replace(sample, is_start=True)

    def _sample(self, window: EventWindow, labels: WindowLabels, number: int, transform: Transform) -> Sample:
        targets = labels.at(number)
        window = transform.window(self._mapping(window.events.size).events(window))
        if targets is not None and not transform.is_identity:
            targets = transform.targets(targets)
        if targets is not None and self._letterbox is not None:
            targets = replace(targets, xyxy=self._letterbox.boxes_to_input(targets.xyxy).astype(np.float32))
        return Sample(self._represent(window), targets, is_start=number == 0)

    def _empty(self, number: int) -> EventWindow:
        window_us = self.data.window_us
        return EventWindow(EventArray.empty(self._size), number * window_us, (number + 1) * window_us)

    def _transform(self, epoch: int, recording: int, place: int) -> Transform:
        generator = np.random.Generator(np.random.PCG64([self._seed, epoch, recording, place]))
        return draw(self._augment, generator, self._size)

    def _mapping(self, sensor: SensorSize) -> InputMapping:
        if sensor not in self._mappings:
            self._mappings[sensor] = InputMapping(sensor, self._size)
        return self._mappings[sensor]


def stack(samples: list[Sample], step: int) -> Batch:
    """Return the samples as the rows of one batch."""
    x = torch.stack([sample.x for sample in samples], dim=1)
    targets = tuple(s.targets if s.targets is not None and len(s.targets) else None for s in samples)
    return Batch(step, x, targets, torch.tensor([sample.is_start for sample in samples]))


@dataclass(frozen=True, eq=False)
class Batch:
    """One window of every row.

    Attributes:
        step: its number. x: [T, B, C, H, W] on the CPU.
        targets: of each row, None where it has none. is_start: bool [B], rows that begin at rest.
    """

    step: int
    x: Tensor
    targets: tuple[Targets | None, ...]
    is_start: Tensor
