"""The SSD head: two convolutions on each feature map, and their output to losses and detections."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from snn_perception.api import (
    Detections,
    FeatureInfo,
    NeuronFactory,
    NormConv,
    Selection,
    SensorSize,
    SpecError,
    State,
    Targets,
    class_wise_nms,
    clip_boxes,
    side_by_side,
)

from .anchors import BoxShapes, default_boxes
from .coder import decode
from .connections import Connections
from .losses import Criterion, GroundTruth, detection_loss

Raw = tuple[
    tuple[Tensor, ...], tuple[Tensor, ...]
]  # box maps [B, A_i * 4, H_i, W_i], class maps [B, A_i * K, H_i, W_i]


class SSDHead(nn.Module):
    """Boxes and class scores for the default boxes of each feature map; without `dsod` it has no neurons and no state.

    On each map pad 1, batch norm, 3x3 convolution without bias, once for the boxes and once for the classes (Cordone,
    PhD thesis, 2022, ch. 5). Published for one time step per window: the prediction is read from that step's spikes.

    Args:
        aspect_ratios: for each map, the ratios besides 1; each adds two default boxes.
        min_ratio, max_ratio: scale of the default boxes of the first and the last map, relative to the image.
        score_threshold: detections have a score strictly above it.
        nms_threshold: a box is suppressed by a better one of its class at an IoU above it.
        top_k: candidates per class that enter the suppression. max_detections: kept over all classes.
        iou_threshold: IoU at which a default box is matched to a ground truth in training.
        focal_alpha, focal_gamma, smooth_l1_beta: of the losses.
        class_prior: score of every default box before training, by a learnable bias of each class map (Lin et al.,
            ICCV 2017, sec. 4.1). None, as published here: no bias, and scores around 0.5, whose loss first falls by
            hundreds.
        dsod: whether spiking connections lead from each level to the next (see `connections.Connections`); their
            membranes are the head's state.

    The four attributes `score_threshold`, `nms_threshold`, `top_k` and `max_detections` may be changed at any time.
    """

    def __init__(
        self,
        features: FeatureInfo,
        num_classes: int,
        neuron: NeuronFactory,
        *,
        aspect_ratios: Sequence[Sequence[float]] = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
        min_ratio: float = 0.05,
        max_ratio: float = 0.80,
        score_threshold: float = 0.01,
        nms_threshold: float = 0.45,
        top_k: int = 200,
        max_detections: int = 100,
        iou_threshold: float = 0.5,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        smooth_l1_beta: float = 1.0,
        dsod: bool = False,
        class_prior: float | None = None,
    ) -> None:
        super().__init__()
        maps = len(features.channels)
        if len(aspect_ratios) != maps:
            raise ValueError(
                f"aspect_ratios must have one list for each of the {maps} feature maps, got {len(aspect_ratios)}"
            )
        if not 0 <= score_threshold < 1 or not 0 <= nms_threshold <= 1:
            raise ValueError(
                f"expected score_threshold in [0, 1) and nms_threshold in [0, 1], "
                f"got {score_threshold} and {nms_threshold}"
            )
        if min(top_k, max_detections, num_classes) < 1:
            raise ValueError(f"top_k and max_detections must be at least 1, got {top_k} and {max_detections}")
        self.shapes = BoxShapes(tuple(tuple(map(float, ratios)) for ratios in aspect_ratios), min_ratio, max_ratio)
        self.criterion = Criterion(iou_threshold, focal_alpha, focal_gamma, smooth_l1_beta)
        self.num_classes = num_classes
        self.score_threshold, self.nms_threshold = score_threshold, nms_threshold
        self.top_k, self.max_detections = top_k, max_detections
        self.connections = Connections(features, neuron) if dsod else None
        features = features if self.connections is None else self.connections.features
        self.boxes = nn.ModuleList(self._convolutions(features, 4))
        self.classes = nn.ModuleList(self._convolutions(features, num_classes))
        self.both = nn.ModuleList()  # boxes and classes in one convolution, in the form that `merged` returns
        self.class_biases = nn.ParameterList(self._biases(class_prior))

    def _biases(self, prior: float | None) -> list[Tensor]:
        """Return the starting bias of each class map; none without a prior."""
        if prior is None:
            return []
        if not 0 < prior < 1:
            raise ValueError(f"class_prior must be in (0, 1), got {prior}")
        for convolution in (module for module in self.classes.modules() if isinstance(module, nn.Conv2d)):
            nn.init.normal_(convolution.weight, std=0.01)
        return [
            torch.full((per_cell * self.num_classes,), math.log(prior / (1 - prior)))
            for per_cell in self.shapes.per_cell
        ]

    def _convolutions(self, features: FeatureInfo, terms: int) -> list[NormConv]:
        layers = [
            NormConv(channels, per_cell * terms, 3, padding=1)
            for channels, per_cell in zip(features.channels, self.shapes.per_cell, strict=True)
        ]
        for layer in layers:
            nn.init.kaiming_normal_(layer.conv.weight)
        return layers

    def forward(self, maps: Sequence[Tensor], state: State = None) -> tuple[Raw, State]:
        """Return (box maps, class maps) of feature maps [1, B, C_i, H_i, W_i], and the connections' state, if any.

        The channel of a box map is ``shape * 4 + term``, of a class map ``shape * K + class``.

        Raises:
            SpecError: for more than one time step per window.
        """
        if any(len(x) != 1 for x in maps):
            raise SpecError(
                f"head 'ssd' reads one time step per window, got {len(maps[0])}; choose a representation with one step "
                "(voxel_cube puts finer time into channels: tbin)"
            )
        if self.connections is not None:
            maps, state = self.connections(maps, state)
        boxes, classes = self._both(maps)
        if len(self.class_biases):
            classes = tuple(x + bias[:, None, None] for x, bias in zip(classes, self.class_biases, strict=True))
        return (boxes, classes), None if self.connections is None else state

    def _both(self, maps: Sequence[Tensor]) -> Raw:
        """Return the box and class maps, without biases."""
        if len(self.both):
            of_boxes = [4 * per_cell for per_cell in self.shapes.per_cell]
            parts = [
                layer(x[0]).tensor_split([count], dim=1)
                for layer, x, count in zip(self.both, maps, of_boxes, strict=True)
            ]
            return tuple(box for box, _ in parts), tuple(of_class for _, of_class in parts)
        boxes = tuple(layer(x[0]) for layer, x in zip(self.boxes, maps, strict=True))
        return boxes, tuple(layer(x[0]) for layer, x in zip(self.classes, maps, strict=True))

    def merged(self) -> SSDHead:
        """Return the equal head, for inference, with one convolution per map; norms must be folded."""
        head = copy.deepcopy(self)
        pairs = zip(head.boxes, head.classes, strict=True)
        head.both = nn.ModuleList(side_by_side([box, of_class]) for box, of_class in pairs)  # type: ignore[list-item]
        head.boxes, head.classes = nn.ModuleList(), nn.ModuleList()
        return head

    def loss(self, raw: Raw, targets: Sequence[Targets | None], size: SensorSize) -> dict[str, Tensor]:
        """Return the losses ``box`` and ``class`` of a batch, scalars; their sum is trained.

        Samples without targets (None or no boxes) are left out; see `losses.detection_loss`.

        Args:
            size: model input size, whose pixels the targets are in.

        Raises:
            ValueError: for a class_id the head does not have.
        """
        codes, logits, default = self._flatten(raw, size)
        truths = [self._ground_truth(target, default) for target in targets]
        box, classes, _ = detection_loss(codes, logits, default, truths, self.criterion)
        return {"box": box, "class": classes}

    def decode(self, raw: Raw, size: SensorSize, least_score: float = 0.0) -> list[Detections]:
        """Return the detections of each batch row, boxes in pixels of the model input; rows do not mix.

        Candidates are the `top_k` best of each class above `score_threshold`; of these, what class-wise suppression
        leaves, best first, equal scores in the order of class and default box.

        Args:
            least_score: those below it are left out from the start, which changes nothing for the others.
        """
        codes, logits, default = self._flatten(raw, size)
        rows = zip(codes, logits, strict=True)
        return [self._detections(code, logit, default, size, least_score) for code, logit in rows]

    def boxes_and_scores(self, raw: Raw, size: SensorSize) -> tuple[Tensor, Tensor]:
        """Return boxes xyxy [B, A, 4] in pixels of the model input, not cut, and scores [B, A, K] of all boxes."""
        codes, logits, default = self._flatten(raw, size)
        return decode(codes, default), logits.sigmoid()

    @property
    def selection(self) -> Selection:
        """How `decode` chooses among `boxes_and_scores`."""
        limits = self.nms_threshold, self.max_detections
        return Selection(self.score_threshold, True, *limits, per_class=self.top_k, cut_first=True)

    def _flatten(self, raw: Raw, size: SensorSize) -> tuple[Tensor, Tensor, Tensor]:
        """Return codes [B, A, 4], logits [B, A, K] (at least float32) and the default boxes [A, 4] they belong to."""
        boxes, classes = raw
        grids = tuple((x.shape[-2], x.shape[-1]) for x in boxes)
        codes, logits = _in_box_order(boxes, 4), _in_box_order(classes, self.num_classes)
        return codes, logits, default_boxes(self.shapes, grids, size, codes.dtype, codes.device)

    def _ground_truth(self, target: Targets | None, like: Tensor) -> GroundTruth | None:
        if target is None or not len(target):
            return None
        if target.class_id.min() < 0 or target.class_id.max() >= self.num_classes:
            raise ValueError(
                f"targets: expected class_id in 0..{self.num_classes - 1}, got {np.unique(target.class_id)}"
            )
        xyxy = target.xyxy
        solid = (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])  # an empty box has no logarithm
        return GroundTruth(
            torch.from_numpy(xyxy[solid]).to(like), torch.from_numpy(target.class_id[solid]).to(like.device)
        )

    def _detections(
        self, codes: Tensor, logits: Tensor, default: Tensor, size: SensorSize, least_score: float
    ) -> Detections:
        scores = logits.sigmoid()
        class_id, box = self._candidates(scores, least_score)
        xyxy = clip_boxes(decode(codes[box], default[box]), size.height, size.width)
        score = scores[box, class_id]
        kept = class_wise_nms(xyxy, score, class_id, self.nms_threshold, self.max_detections)
        return Detections(
            xyxy[kept].detach().float().cpu().numpy(),
            score[kept].detach().float().cpu().numpy(),
            class_id[kept].cpu().numpy(),
        )

    def _candidates(self, scores: Tensor, least_score: float) -> tuple[Tensor, Tensor]:
        """Return class and default box [N] of the scores [A, K] above the threshold, the `top_k` best of each class.

        They come by class; equal scores of one in the order of the default boxes.
        """
        above = scores >= least_score if least_score > self.score_threshold else scores > self.score_threshold
        class_id, box = torch.nonzero(above.T, as_tuple=True)
        if len(box) <= self.top_k:  # so nothing is cut, and the suppression sorts them
            return class_id, box
        order = scores[box, class_id].argsort(descending=True, stable=True)
        best = torch.cat([order[class_id[order] == k][: self.top_k] for k in range(self.num_classes)])
        return class_id[best], box[best]


def _in_box_order(maps: Sequence[Tensor], terms: int) -> Tensor:
    """Return [B, A, terms] of maps [B, A_i * terms, H_i, W_i], ordered by map, row, column, shape."""
    flat = [x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, terms) for x in maps]  # len() would make the batch a constant
    rows = torch.cat(flat, dim=1)
    return rows.to(torch.promote_types(rows.dtype, torch.float32))
