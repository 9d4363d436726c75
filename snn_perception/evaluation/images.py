"""A detector over labelled images: each is a recording of one moment, time 0, without events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from snn_perception.data.dataset import LabelledRecording
from snn_perception.data.image_inputs import ImageInputs
from snn_perception.data.label_filters import select_classes
from snn_perception.data.labels import NOTHING, Labels
from snn_perception.detector import Detector
from snn_perception.engine.engines import DetectorEngine, Engine
from snn_perception.evaluation.activity import Activity, ActivityMeter
from snn_perception.evaluation.outcome import RecordingOutcome
from snn_perception.evaluation.walk import WalkOptions
from snn_perception.registry import Registry
from snn_perception.types import Detections

_NOWHERE = np.zeros((1, 4), np.float32)


class ImageLooker:
    """Runs a detector on images, several as rows of one batch.

    Args:
        detector: in evaluation mode, where it shall run.
        options: which classes are evaluated; the rest is about events.
        score_threshold: detections below it are left out.
        meter: counts what goes on in the detector's own layers; entered by the caller.
        engine: runs the network; by default the detector does itself.

    Raises:
        SpecError: if the model does not see images.
    """

    def __init__(
        self,
        detector: Detector,
        registry: Registry,
        options: WalkOptions,
        score_threshold: float = 0.0,
        meter: ActivityMeter | None = None,
        engine: Engine | None = None,
    ) -> None:
        self._detector, self._options = detector, options
        self._engine = engine or DetectorEngine(detector)
        self._score_threshold, self._meter = score_threshold, meter
        self._inputs = ImageInputs(detector.representation, detector.spec, registry)

    def read(self, image: LabelledRecording) -> Tensor:
        """Return an image as the network's input [T, C, H, W], on the CPU; several threads may read at a time.

        Raises:
            EventDataError: if it cannot be read.
        """
        return self._inputs.tensor(image.image())

    @torch.no_grad()
    def look(self, images: Sequence[LabelledRecording], inputs: Sequence[Tensor]) -> list[RecordingOutcome]:
        """Return what comes of each image, boxes in its own pixels; rows do not mix.

        Args:
            inputs: what `read` made of each.

        Raises:
            EventDataError: if the labels of an image cannot be read.
        """
        x = torch.stack(list(inputs), dim=1)
        if self._meter is not None:
            self._meter.expect(len(images))
        raw, _ = self._engine(x.to(self._detector.device, self._detector.dtype))
        activities = self._meter.take() if self._meter is not None else [Activity()] * len(images)
        found = self._detector.head.decode(raw, self._inputs.size)
        return [self._outcome(*row) for row in zip(images, found, activities, strict=True)]

    def _outcome(self, image: LabelledRecording, found: Detections, activity: Activity) -> RecordingOutcome:
        spec = self._detector.spec
        labels, notes = image.labels_and_notes()
        seen = self._kept(found, image)
        zeros = np.zeros(len(seen), np.int64)
        return RecordingOutcome(
            name=image.name,
            truth=_looked_at(select_classes(labels, self._options.truth_classes)),
            silent=None,
            stride_us=spec.stride_us,
            window_us=spec.window_us,
            at_labels=True,
            set_end_us=np.zeros(1, np.int64),
            set_events=np.zeros(1, np.int64),
            end_us=zeros,
            xywh=np.concatenate([seen.xyxy[:, :2], seen.xyxy[:, 2:] - seen.xyxy[:, :2]], axis=1),
            score=seen.score,
            class_id=seen.class_id,
            windows=1,
            labelled_windows=1,
            activity=activity,
            notes=notes,
        )

    def _kept(self, found: Detections, image: LabelledRecording) -> Detections:
        """Return the detections of classes that are evaluated, so numbered, in pixels of the image."""
        numbers = self._options.found_classes
        table = np.full(len(self._detector.spec.classes), -1, np.int64)
        table[list(numbers)] = list(numbers.values())
        found = replace(found, class_id=table[found.class_id])
        found = found[(found.class_id >= 0) & (found.score >= np.float32(self._score_threshold))]
        assert image.size is not None, "the annotations of an image state its size"
        return replace(found, xyxy=self._inputs.letterbox(image.size).boxes_to_source(found.xyxy))


def _looked_at(labels: Labels) -> Labels:
    """Return the labels, or where there are none a row that says so: false alarms count in empty images too."""
    if len(labels):
        return labels
    zero = np.zeros(1, np.int64)
    return Labels(zero, _NOWHERE, zero + NOTHING, zero, np.ones(1, np.float32))
