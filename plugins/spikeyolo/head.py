"""The detection head: a box branch and a class branch of spiking convolutions on each feature map, without anchors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from snn_perception.api import (
    Chain,
    Detections,
    FeatureInfo,
    NeuronFactory,
    Selection,
    SensorSize,
    State,
    Targets,
    beside,
    class_wise_nms,
    clip_boxes,
    parts_of,
)

from .blocks import standard_conv
from .decoding import candidates, decode_levels
from .losses import BINS, Gains, yolo_loss
from .units import SpikingConv

Raw = tuple[Tensor, ...]  # [B, 64 + K, H_i, W_i], one for each feature map

_PRIOR_SIDE_PX = 640  # the image in which about 5 objects are expected before training
_BOX_BIAS = 1.0


class SpikeYOLOHead(nn.Module):
    """Boxes as distributions of the distances to their sides, and class scores, at every cell of each feature map.

    Each branch is two 3x3 units and a neuron with a 1x1 convolution; the output is the mean over the time steps of its
    logits. Branches share no weights, and each has neurons of its own on the feature map.

    Args:
        score_threshold: detections have a score strictly above it. By default that of the published validation;
            the published prediction uses 0.25 with `best_class_only`.
        nms_threshold: a box is suppressed by a better one of its class at an IoU above it.
        max_detections: kept of an image. max_candidates: that enter the suppression.
        best_class_only: whether a cell gives one box, of its best class, in place of one for each class above the
            threshold.
        box_gain, class_gain, dfl_gain: weights of the three losses.

    The attributes `score_threshold`, `nms_threshold`, `max_detections`, `max_candidates` and `best_class_only` may be
    changed at any time.
    """

    def __init__(
        self,
        features: FeatureInfo,
        num_classes: int,
        neuron: NeuronFactory,
        *,
        score_threshold: float = 0.001,
        nms_threshold: float = 0.7,
        max_detections: int = 300,
        max_candidates: int = 30_000,
        best_class_only: bool = False,
        box_gain: float = 7.5,
        class_gain: float = 0.5,
        dfl_gain: float = 1.5,
    ) -> None:
        super().__init__()
        if not 0 <= score_threshold < 1 or not 0 <= nms_threshold <= 1:
            raise ValueError(
                f"expected score_threshold in [0, 1) and nms_threshold in [0, 1], "
                f"got {score_threshold} and {nms_threshold}"
            )
        if min(max_detections, max_candidates, num_classes) < 1:
            raise ValueError(
                f"max_detections and max_candidates must be at least 1, got {max_detections} and {max_candidates}"
            )
        self.score_threshold, self.nms_threshold = score_threshold, nms_threshold
        self.max_detections, self.max_candidates = max_detections, max_candidates
        self.best_class_only = best_class_only
        self.gains = Gains(box_gain, class_gain, dfl_gain)
        self.num_classes, self.strides = num_classes, features.strides
        box_width, class_width = branch_widths(features.channels[0], num_classes)
        self.boxes = nn.ModuleList(_branch(c, box_width, 4 * BINS, neuron) for c in features.channels)
        self.classes = nn.ModuleList(_branch(c, class_width, num_classes, neuron) for c in features.channels)
        # Never trained, but part of the published files and parameter counts.
        self.projection = nn.Parameter(torch.arange(BINS, dtype=torch.float32), requires_grad=False)
        self._set_biases()

    @property
    def learns_from_empty(self) -> bool:
        """Whether a batch that holds background alone is trained on: as published, its class loss is."""
        return True

    def forward(self, maps: Sequence[Tensor], state: State = None) -> tuple[Raw, State]:
        """Return the raw maps [B, 64 + K, H_i, W_i] of feature maps [T, B, C_i, H_i, W_i], and the state.

        The first 64 channels are logits of 16 distances for each of left, top, right and bottom, in cells; then come
        the logits of the classes.
        """
        raw, after = [], []
        for x, boxes, classes, part in zip(
            maps, self.boxes, self.classes, parts_of(state, len(self.boxes)), strict=True
        ):
            box_state, class_state = parts_of(part, 2)
            sides, box_state = boxes(x, box_state)
            logits, class_state = classes(x, class_state)
            raw.append(beside([sides, logits]).mean(dim=0))
            after.append((box_state, class_state))
        return tuple(raw), tuple(after)

    def loss(self, raw: Raw, targets: Sequence[Targets | None], size: SensorSize) -> dict[str, Tensor]:
        """Return the losses ``box``, ``class`` and ``dfl`` of a batch, scalars; their sum is trained.

        See `losses.yolo_loss`; targets are in pixels of the model input of `size`.
        """
        return yolo_loss(raw, targets, size, strides=self.strides, gains=self.gains)

    def decode(self, raw: Raw, size: SensorSize, least_score: float = 0.0) -> list[Detections]:
        """Return the detections of each batch row, boxes in pixels of the model input; rows do not mix.

        Args:
            least_score: those below it are left out from the start, which changes nothing for the others.
        """
        boxes, scores = self.boxes_and_scores(raw, size)
        least = float(np.nextafter(np.float32(least_score), np.float32(-1)))  # strictly above it: at least least_score
        threshold = max(self.score_threshold, least)
        return [self._detections(box, score, size, threshold) for box, score in zip(boxes, scores, strict=True)]

    def boxes_and_scores(self, raw: Raw, size: SensorSize) -> tuple[Tensor, Tensor]:
        """Return boxes xyxy [B, A, 4] in pixels of the model input, not cut, and scores [B, A, K] of all cells."""
        return decode_levels(raw, self.strides, self.projection)

    @property
    def selection(self) -> Selection:
        """How `decode` chooses among `boxes_and_scores`."""
        limits = self.nms_threshold, self.max_detections, None, self.max_candidates
        return Selection(self.score_threshold, True, *limits, best_class_only=self.best_class_only)

    def _detections(self, boxes: Tensor, scores: Tensor, size: SensorSize, threshold: float) -> Detections:
        anchor, class_id, score = candidates(
            scores, threshold, self.max_candidates, best_class_only=self.best_class_only
        )
        kept = class_wise_nms(boxes[anchor], score, class_id, self.nms_threshold, self.max_detections)
        xyxy = clip_boxes(boxes[anchor[kept]], size.height, size.width)
        return Detections(
            xyxy.detach().float().cpu().numpy(),
            score[kept].detach().float().cpu().numpy(),
            class_id[kept].cpu().numpy(),
        )

    @torch.no_grad()
    def _set_biases(self) -> None:
        """Start with distances near 0 and with class scores as rare as objects are."""
        for boxes, classes, stride in zip(self.boxes, self.classes, self.strides, strict=True):
            _last_bias(boxes).fill_(_BOX_BIAS)
            _last_bias(classes).fill_(math.log(5 / self.num_classes / (_PRIOR_SIDE_PX / stride) ** 2))


def branch_widths(channels: int, num_classes: int) -> tuple[int, int]:
    """Return the widths of the box and the class branches for the channels of the finest map."""
    return max(16, channels // 4, 4 * BINS), max(channels, min(num_classes, 100))


def _branch(channels: int, width: int, outputs: int, neuron: NeuronFactory) -> Chain:
    first, second = standard_conv(channels, width, 3, neuron), standard_conv(width, width, 3, neuron)
    return Chain([first, second, SpikingConv(neuron(), nn.Conv2d(width, outputs, 1))])


def _last_bias(branch: nn.Module) -> Tensor:
    bias = branch.layers[-1].current.bias  # type: ignore[union-attr,index]
    assert isinstance(bias, Tensor)
    return bias
