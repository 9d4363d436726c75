"""The decoupled head of YOLOX: box, objectness and classes at every cell of three maps."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from snn_perception.api import (
    Detections,
    FeatureInfo,
    NeuronFactory,
    Selection,
    SensorSize,
    State,
    Targets,
    beside,
    fold_time,
)

from .decoding import boxes_and_scores, detections
from .layers import ConvUnit, InTurn, Membranes, count_neurons
from .losses import yolox_loss
from .points import anchor_points, in_rows

Raw = tuple[Tensor, ...]  # of each map [B, 4 box codes + objectness + classes, H_i, W_i]
PRIOR = 0.01  # score of objectness and classes before training


class YOLOXHead(nn.Module):
    """Two 3x3 units each for classes and boxes behind a 1x1 stem, and 1x1 predictions (Ge et al., arXiv 2107.08430).

    Without neurons the maps are averaged over their steps first. With neurons (`spiking`; authors: ``full_spike_v2``)
    the predictions run at every step and are averaged, before any sigmoid or exponential; the state is the tuple of the
    membranes in the order in which they run.

    Args:
        spiking: whether stems and 3x3 units have neurons.
        l1: whether the loss has the L1 term.
        score_threshold: detections have a score, objectness times the best class's, of at least this. The authors
            evaluate at 0.001.
        nms_threshold: a box is suppressed by a better one of its class at an IoU above it.
        max_detections: kept over all classes.

    The attributes `score_threshold`, `nms_threshold` and `max_detections` may be changed at any time.
    """

    def __init__(
        self,
        features: FeatureInfo,
        num_classes: int,
        neuron: NeuronFactory,
        *,
        spiking: bool = False,
        l1: bool = True,
        score_threshold: float = 0.001,
        nms_threshold: float = 0.65,
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        if not 0 <= score_threshold < 1 or not 0 <= nms_threshold <= 1:
            raise ValueError(
                f"expected score_threshold in [0, 1) and nms_threshold in [0, 1], "
                f"got {score_threshold} and {nms_threshold}"
            )
        if min(max_detections, num_classes) < 1:
            raise ValueError(f"max_detections must be at least 1, got {max_detections}")
        self.strides, self.spiking, self.l1 = features.strides, spiking, l1
        self.score_threshold, self.nms_threshold = score_threshold, nms_threshold
        self.max_detections = max_detections
        width, unit = features.channels[0], neuron if spiking else None
        self.stems = nn.ModuleList(ConvUnit(channels, width, 1, unit) for channels in features.channels)
        self.cls_convs, self.reg_convs = (
            nn.ModuleList(InTurn(ConvUnit(width, width, 3, unit) for _ in range(2)) for _ in features.channels)
            for _ in range(2)
        )
        self.cls_preds, self.reg_preds, self.obj_preds = (
            nn.ModuleList(nn.Conv2d(width, terms, 1) for _ in features.channels) for terms in (num_classes, 4, 1)
        )
        for layer in (*self.cls_preds, *self.obj_preds):
            nn.init.constant_(layer.bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type]
        self._neurons = count_neurons(self)

    @property
    def runs_by_step(self) -> bool:
        """Whether it has membranes, and so sees every network step."""
        return self.spiking

    def forward(self, maps: Sequence[Tensor], state: State = None) -> tuple[Raw, State]:
        """Return the raw outputs of a window's maps [T, B, C_i, H_i, W_i], and the membranes, if any."""
        raw, state = self.steps(maps, state)
        return self.gather(raw), state

    def steps(self, maps: Sequence[Tensor], state: State = None) -> tuple[Raw, State]:
        """Return raw outputs [T, B, 5 + K, H_i, W_i] of every step, and the membranes.

        Of a head without neurons it is one step, that of the maps' average.
        """
        membranes = Membranes(state, self._neurons)
        maps = maps if self.spiking else [_average(x) for x in maps]
        return tuple(self._level(i, x, membranes) for i, x in enumerate(maps)), membranes.after()

    def gather(self, raw: Sequence[Tensor]) -> Raw:
        """Return the raw outputs [B, 5 + K, H_i, W_i] of some or all steps of a window, as `steps` gives them."""
        return tuple(_average(x)[0] for x in raw)

    def _level(self, i: int, x: Tensor, membranes: Membranes) -> Tensor:
        stem = self.stems[i](x, membranes)
        of_class, of_box = self.cls_convs[i](stem, membranes), self.reg_convs[i](stem, membranes)
        parts = (self.reg_preds[i], of_box), (self.obj_preds[i], of_box), (self.cls_preds[i], of_class)
        return beside([fold_time(layer, y) for layer, y in parts])

    def loss(self, raw: Raw, targets: Sequence[Targets | None], size: SensorSize) -> dict[str, Tensor]:
        """Return the losses of a batch, scalars; their sum is trained. See `losses.yolox_loss`.

        Args:
            size: model input size, whose pixels the targets are in.
        """
        return yolox_loss(raw, targets, self.strides, l1=self.l1)

    def decode(self, raw: Raw, size: SensorSize, least_score: float = 0.0) -> list[Detections]:
        """Return the detections of each batch row, boxes in pixels of the model input, cut to it; rows do not mix.

        Args:
            least_score: those below it are left out from the start, which changes nothing for the others.
        """
        rows = in_rows(raw)
        points = anchor_points(raw, self.strides, rows.dtype)
        limits = max(self.score_threshold, least_score), self.nms_threshold, self.max_detections
        return [detections(row, points, size, *limits) for row in rows]

    def boxes_and_scores(self, raw: Raw, size: SensorSize) -> tuple[Tensor, Tensor]:
        """Return boxes xyxy [B, A, 4] in pixels of the model input, not cut, and scores [B, A, K] of all cells."""
        rows = in_rows(raw)
        return boxes_and_scores(rows, anchor_points(raw, self.strides, rows.dtype))

    @property
    def selection(self) -> Selection:
        """How `decode` chooses among `boxes_and_scores`."""
        limits = self.nms_threshold, self.max_detections
        return Selection(self.score_threshold, False, *limits, best_class_only=True)


def _average(x: Tensor) -> Tensor:
    """Return the mean over time [1, ...] of x [T, ...]."""
    return x if len(x) == 1 else x.mean(0, keepdim=True)
