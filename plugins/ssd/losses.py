"""Loss of a batch: smooth L1 on matched default boxes, focal loss (Lin et al., ICCV 2017) on all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from snn_perception.api import iou_matrix, sum_over_ranks

from .coder import encode
from .matching import match


@dataclass(frozen=True)
class Criterion:
    """Numbers of the loss, with the published defaults."""

    iou_threshold: float = 0.5
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    smooth_l1_beta: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.iou_threshold <= 1:
            raise ValueError(f"iou_threshold must be in (0, 1], got {self.iou_threshold}")
        if not 0 <= self.focal_alpha <= 1 or self.focal_gamma < 0 or self.smooth_l1_beta < 0:
            raise ValueError(
                "expected focal_alpha in [0, 1], focal_gamma >= 0 and smooth_l1_beta >= 0, "
                f"got {self.focal_alpha}, {self.focal_gamma} and {self.smooth_l1_beta}"
            )


@dataclass(frozen=True)
class GroundTruth:
    """Boxes of one sample: xyxy [G, 4] in pixels of the model input, class_id int64 [G]."""

    xyxy: Tensor
    class_id: Tensor


def focal_loss(logits: Tensor, targets: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """Return the focal loss of each logit, ``-alpha_t (1 - p_t)^gamma ln(p_t)``; targets are 0 or 1."""
    p = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p_t = p * targets + (1 - p) * (1 - targets)
    alpha_t = alpha * targets + (1 - alpha) * (1 - targets)
    return alpha_t * (1 - p_t) ** gamma * cross_entropy


def detection_loss(
    codes: Tensor, logits: Tensor, default: Tensor, truths: Sequence[GroundTruth | None], criterion: Criterion
) -> tuple[Tensor, Tensor, int]:
    """Return the box loss, the class loss and the number of matched default boxes of a batch.

    Both losses are sums over the samples that have ground truth, divided by max(1, matched default boxes of these),
    counted over all processes that train together, so that their losses add up to that of the whole batch. No
    hard-negative mining: every default box of such a sample counts in the class loss. Without any ground truth both
    are 0, with a gradient of 0.

    Args:
        codes, logits: [B, A, 4] and [B, A, K]. default: default boxes [A, 4].
        truths: one for each sample; None or empty for a sample to leave out.
    """
    box_sum, class_sum, matched_boxes = codes.sum() * 0.0, logits.sum() * 0.0, 0
    for code, logit, truth in zip(codes, logits, truths, strict=True):
        if truth is None or not len(truth.xyxy):
            continue
        matched = match(iou_matrix(truth.xyxy, default), criterion.iou_threshold)
        (chosen,) = torch.nonzero(matched >= 0, as_tuple=True)
        owner = matched[chosen]
        wanted = encode(truth.xyxy[owner], default[chosen])
        box_sum = box_sum + F.smooth_l1_loss(code[chosen], wanted, reduction="sum", beta=criterion.smooth_l1_beta)
        one_hot = torch.zeros_like(logit)
        one_hot[chosen, truth.class_id[owner]] = 1.0
        focal = focal_loss(logit, one_hot, alpha=criterion.focal_alpha, gamma=criterion.focal_gamma)
        class_sum = class_sum + focal.sum()
        matched_boxes += len(chosen)
    count = max(1, int(sum_over_ranks(torch.tensor(matched_boxes, device=codes.device))))
    return box_sum / count, class_sum / count, matched_boxes
