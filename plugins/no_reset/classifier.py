"""The head of the classification networks: one class for the whole input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snn_perception.api import (
    Detections,
    FeatureInfo,
    NeuronFactory,
    NormConv,
    SensorSize,
    State,
    Targets,
    box_area,
    fold_time,
    sum_over_ranks,
)


class Classifier(nn.Module):
    """Class scores of the last feature map: norm and a 1x1 convolution, summed over all positions; keeps no state.

    The raw output is a plain tensor of logits [B, K]. A sample is several windows long (five of 20 ms in the published
    networks) while the membranes are carried: its logits are the sum of its windows' logits, and `loss` and `decode`
    take that sum as they take a single window's (Cordone, PhD thesis, 2022, ch. 5).
    """

    def __init__(self, features: FeatureInfo, num_classes: int, neuron: NeuronFactory) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"expected at least one class, got {num_classes}")
        self.num_classes = num_classes
        self.layer = NormConv(features.channels[-1], num_classes, 1)
        nn.init.kaiming_normal_(self.layer.conv.weight)

    def forward(self, maps: Sequence[Tensor], state: State = None) -> tuple[Tensor, State]:
        """Return logits [B, K] of feature maps [T, B, C_i, H_i, W_i], summed over the time steps, and no state."""
        scores = fold_time(self.layer, maps[-1])
        return scores.sum(dim=(0, -2, -1)), None

    def loss(self, raw: Tensor, targets: Sequence[Targets | None], size: SensorSize) -> dict[str, Tensor]:
        """Return the loss ``class``: cross entropy of each labelled row's logits [B, K], averaged over these rows.

        Rows are counted over all processes that train together. Without any labelled row it is 0, with a gradient of 0.

        Args:
            raw: logits of a window, or summed over the windows of a sample.
            targets: one for each row. A row has one class, that of its largest box, whatever the box is; rows without
                targets (None or no boxes) are left out.

        Raises:
            ValueError: for a class_id the head does not have.
        """
        logits = raw.to(torch.promote_types(raw.dtype, torch.float32))
        given = [(row, target) for row, target in enumerate(targets) if target is not None and len(target)]
        labelled = [(row, self._class_of(target)) for row, target in given]
        rows = torch.tensor([row for row, _ in labelled], dtype=torch.int64, device=raw.device)
        wanted = torch.tensor([class_id for _, class_id in labelled], dtype=torch.int64, device=raw.device)
        count = max(1, int(sum_over_ranks(torch.tensor(len(labelled), device=raw.device))))
        return {"class": F.cross_entropy(logits[rows], wanted, reduction="sum") / count}

    def decode(self, raw: Tensor, size: SensorSize) -> list[Detections]:
        """Return for each row one detection that covers the whole input: the likeliest class and its probability.

        Args:
            raw: logits [B, K], of one window or summed over several.
            size: model input size; the box is (0, 0, width, height).
        """
        score, class_id = raw.detach().to(torch.promote_types(raw.dtype, torch.float32)).softmax(dim=1).max(dim=1)
        box = np.array([[0, 0, size.width, size.height]], np.float32)
        scores, classes = score.float().cpu().numpy(), class_id.cpu().numpy()
        return [Detections(box.copy(), scores[i : i + 1], classes[i : i + 1]) for i in range(len(raw))]

    def _class_of(self, target: Targets) -> int:
        class_id = int(target.class_id[box_area(torch.from_numpy(target.xyxy)).argmax()])
        if not 0 <= class_id < self.num_classes:
            raise ValueError(f"targets: expected class_id in 0..{self.num_classes - 1}, got {class_id}")
        return class_id
