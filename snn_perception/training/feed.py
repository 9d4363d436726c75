"""Recordings to inputs and targets: windows one after the other for a lane, or one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from snn_perception.data.label_windows import LabelWindows
from snn_perception.data.stored import StoredWindows, represented
from snn_perception.detector import Detector
from snn_perception.events.geometry import InputMapping
from snn_perception.events.letterbox import Letterbox
from snn_perception.events.recording import Recording
from snn_perception.events.window_source import WindowSource, events_between
from snn_perception.registry import Registry
from snn_perception.training.augment import Transform, draw
from snn_perception.training.config import AugmentConfig
from snn_perception.training.placement import Placement, draw_placement
from snn_perception.training.survey import TrainingSet, WindowLabels
from snn_perception.types import EventArray, EventWindow, SensorSize, Targets

_PLACEMENT = 1  # tells its draws from the others of a window
_Changes = tuple[Transform, Placement | None]


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
        self._represent, self._spec = detector.representation, detector.spec
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
        changes = self._changes(epoch, recording, 0)
        windows = WindowSource(
            opened, self.registry, window_us, t_start_us=0, start_us=first * window_us, stop_us=length * window_us
        )
        expected = first
        for window in windows:
            number = window.t_start_us // window_us
            while expected < min(number, length):  # a jump of time: nothing was recorded in between
                yield self._sample(self._empty(expected), labels.at(expected), changes, is_start=expected == 0)
                expected += 1
            if number == expected < length:
                yield self._sample(window, labels.at(expected), changes, is_start=expected == 0)
                expected += 1
        for number in range(expected, length):
            yield self._sample(self._empty(number), labels.at(number), changes, is_start=number == 0)

    def pick(self, recording: int, place: int, epoch: int) -> Sample:
        """Return one window of a recording, which starts from rest.

        Args:
            place: its number on the grid, or the label time that it belongs to, as `TrainingSet.labelled` has it.
        """
        source = self.data.recordings[recording]
        changes = self._changes(epoch, recording, place + 1)
        if source.is_sequence:
            sequence = source.sequence()
            window: EventWindow = StoredWindows(sequence, self._represent, self._spec).at(place)
            sensor = sequence.size
        else:
            opened = source.open(self.registry)
            window, sensor = self._window(opened, place), opened.size
        labels = WindowLabels(source.labels(), self.data.window_us, sensor, self._size)
        timed = self.data.is_timed(recording)
        targets = labels.at_time(place, cut=self._cuts_boxes) if timed else labels.at(place)
        return self._sample(window, targets, changes, is_start=True)

    def _window(self, opened: Recording, place: int) -> EventWindow:
        window_us, rule = self.data.window_us, self.data.rule
        if not rule.is_grid:
            return LabelWindows(opened, self.registry, window_us, rule).at(place)
        begin_us = place * window_us
        events = events_between(opened, self.registry, begin_us, begin_us + window_us)
        return EventWindow(events, begin_us, begin_us + window_us)

    @property
    def _cuts_boxes(self) -> bool:
        return self._augment.placing != "whole_pixels"

    def _sample(self, window: EventWindow, targets: Targets | None, changes: _Changes, *, is_start: bool) -> Sample:
        transform, placement = changes
        window = transform.window(self._mapping(window.events.size).events(window))
        if targets is not None and not transform.is_identity:
            targets = transform.targets(targets)
        if placement is not None:
            x = placement.image(self._represent, window)
            return Sample(x, placement.targets(targets) if targets is not None else None, is_start)
        if targets is not None and self._letterbox is not None:
            targets = replace(targets, xyxy=self._letterbox.boxes_to_input(targets.xyxy).astype(np.float32))
        return Sample(represented(self._represent, window), targets, is_start)

    def _empty(self, number: int) -> EventWindow:
        window_us = self.data.window_us
        return EventWindow(EventArray.empty(self._size), number * window_us, (number + 1) * window_us)

    def _changes(self, epoch: int, recording: int, place: int) -> _Changes:
        key = [self._seed, epoch, recording, place]
        transform = draw(self._augment, np.random.Generator(np.random.PCG64(key)), self._size)
        apart = np.random.Generator(np.random.PCG64([*key, _PLACEMENT]))  # a placing changes no other draw
        return transform, draw_placement(self._augment, apart, self._represent)

    def _mapping(self, sensor: SensorSize) -> InputMapping:
        if sensor not in self._mappings:
            self._mappings[sensor] = InputMapping(sensor, self._size)
        return self._mappings[sensor]


def stack(samples: list[Sample], step: int) -> Batch:
    """Return the samples as the rows of one batch."""
    x = torch.stack([sample.x for sample in samples], dim=1)
    return Batch(
        step, x, tuple(sample.targets for sample in samples), torch.tensor([sample.is_start for sample in samples])
    )


@dataclass(frozen=True, eq=False)
class Batch:
    """One window of every row.

    Attributes:
        step: its number. x: [T, B, C, H, W] on the CPU.
        targets: of each row: None where it is not labelled, without boxes where it is and there is nothing to find.
        is_start: bool [B], rows that begin at rest.
    """

    step: int
    x: Tensor
    targets: tuple[Targets | None, ...]
    is_start: Tensor
