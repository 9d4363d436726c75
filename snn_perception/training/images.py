"""Training on labelled images: batches in random order, changed by chance."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import count

import numpy as np

from snn_perception.data.dataset import Dataset, LabelledRecording
from snn_perception.data.image_augment import compose, draw_layout, place_patch_boxes
from snn_perception.data.image_changes import ImageChanges
from snn_perception.data.image_inputs import ImageInputs
from snn_perception.detector import Detector
from snn_perception.registry import Registry
from snn_perception.training.feed import Batch, Sample, stack
from snn_perception.training.plan import SamplePlan
from snn_perception.types import SensorSize, Targets
from snn_perception.work.in_order import in_order

_TILES = 4


class ImageFeed:
    """Makes samples of a set of images for a detector; what is drawn depends on seed, pass and image alone.

    Attributes:
        head_size: size of the network's input, which targets are given in.

    Raises:
        SpecError: if the model does not see images.
    """

    def __init__(
        self,
        data: Dataset,
        detector: Detector,
        registry: Registry,
        changes: ImageChanges,
        *,
        epochs: int,
        seed: int,
    ) -> None:
        self.data, self._changes, self._seed = data, changes, seed
        self._inputs = ImageInputs(detector.representation, detector.spec, registry)
        self._last_mosaic = epochs - changes.mosaic_off_epochs
        self.head_size: SensorSize = self._inputs.size

    def pick(self, number: int, epoch: int) -> Sample:
        """Return an image of the set, changed as it is in that pass."""
        if self._changes.is_off:
            return self._plain(self.data[number])
        generator = np.random.Generator(np.random.PCG64([self._seed, epoch, number]))
        images = [self.data[number]]
        if generator.random() < self._changes.mosaic and epoch < self._last_mosaic:
            images += [self.data[int(other)] for other in generator.integers(len(self.data), size=_TILES - 1)]
        return self._changed(images, generator)

    def _plain(self, image: LabelledRecording) -> Sample:
        pixels = image.image()
        targets = boxes_to_find(image)
        placed = self._inputs.letterbox(SensorSize(*pixels.shape[:2])).boxes_to_input(targets.xyxy)
        return Sample(self._inputs.tensor(pixels), Targets(placed.astype(np.float32), targets.class_id), is_start=True)

    def _changed(self, images: list[LabelledRecording], generator: np.random.Generator) -> Sample:
        pixels, size = [one.image() for one in images], self.head_size
        layout = draw_layout(generator.random, self._changes, [SensorSize(*one.shape[:2]) for one in pixels], size)
        xyxy, class_id = [], []
        for one, patch in zip(images, layout.patches, strict=True):
            targets = boxes_to_find(one)
            placed, kept = place_patch_boxes(targets.xyxy.astype(np.float64), patch, layout, size, self._changes)
            xyxy.append(placed[kept].astype(np.float32))
            class_id.append(targets.class_id[kept])
        return Sample(
            self._inputs.tensor(compose(pixels, layout, size)),
            Targets(np.concatenate(xyxy), np.concatenate(class_id)),
            is_start=True,
        )


class RandomImages:
    """Images in random order, pass after pass.

    Args:
        rows: of a batch, over all processes. own: those that this process feeds.
        threads: that read and change images, at most the rows of one batch ahead; the batches do not depend on it.
    """

    def __init__(self, feed: ImageFeed, *, rows: int, own: range, seed: int, threads: int = 1) -> None:
        self._feed, self._rows, self._own, self._seed, self._threads = feed, rows, own, seed, threads
        self.steps_per_epoch = self._plan().steps_per_epoch

    def batches(self, first: int) -> Iterator[Batch]:
        """Yield batches; every row is labelled, with boxes or as empty."""
        plan = self._plan()
        wanted = (plan.at(row, step) for step in count(first) for row in self._own)
        with closing(
            in_order(lambda one: self._feed.pick(*one), wanted, threads=self._threads, ahead=len(self._own))
        ) as samples:
            for step in count(first):
                yield stack([next(samples) for _ in self._own], step)

    def labelled(self, first: int) -> Iterator[bool]:
        """Yield True for ever."""
        while True:
            yield True

    def _plan(self) -> SamplePlan:
        return SamplePlan(len(self._feed.data), self._rows, self._seed)


def boxes_to_find(image: LabelledRecording) -> Targets:
    """Return the boxes of an image xyxy in its pixels, cut to it, without crowds and what has no inside."""
    labels = image.labels()
    labels = labels[~labels.crowds]
    xyxy = np.concatenate([labels.xywh[:, :2], labels.xywh[:, :2] + labels.xywh[:, 2:]], axis=1)
    if image.size is not None:
        xyxy = xyxy.clip(0, np.array([image.size.width, image.size.height] * 2, np.float32))
    solid = (xyxy[:, 2:] > xyxy[:, :2]).all(axis=1)
    return Targets(xyxy[solid], labels.class_id[solid])
