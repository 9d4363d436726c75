"""Raw outputs of a window to detections: best class of each anchor point, threshold, class-wise suppression."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from snn_perception.api import Detections, SensorSize, class_wise_nms, clip_boxes, cxcywh_to_xyxy

from .points import CLASSES, OBJECTNESS, Points, decode_boxes

_LOG_SIDE = 10.0  # of a box, in strides: no image is that large, and the exponential must not overflow


@dataclass(frozen=True)
class Found:
    """Boxes of one image, best first: xyxy [N, 4] in pixels of the network input, not cut to it, and [N] of the rest.

    The score is objectness times the best class's score.
    """

    xyxy: Tensor
    objectness: Tensor
    class_score: Tensor
    class_id: Tensor

    @property
    def score(self) -> Tensor:
        """Return [N], not increasing."""
        return self.objectness * self.class_score

    def __len__(self) -> int:
        return len(self.class_id)

    def __getitem__(self, rows: Tensor) -> Found:
        """Return the chosen rows."""
        return Found(self.xyxy[rows], self.objectness[rows], self.class_score[rows], self.class_id[rows])


def detections(
    row: Tensor, points: Points, size: SensorSize, score_threshold: float, nms_threshold: float, max_detections: int
) -> Detections:
    """Return what is found in the raw output [A, 5 + K] of one image; boxes in pixels of the input, cut to it."""
    found = suppressed(candidates(row, points, score_threshold), nms_threshold, max_detections)
    return Detections(
        clip_boxes(found.xyxy, size.height, size.width).detach().float().cpu().numpy(),
        found.score.detach().float().cpu().numpy(),
        found.class_id.cpu().numpy(),
    )


def candidates(row: Tensor, points: Points, score_threshold: float) -> Found:
    """Return the best class of each anchor point with a score of at least the threshold; equal ones in their order."""
    objectness = row[:, OBJECTNESS].sigmoid()
    class_score, class_id = row[:, CLASSES].sigmoid().max(dim=1)
    score = objectness * class_score
    (above,) = torch.nonzero(score >= score_threshold, as_tuple=True)
    order = above[score[above].argsort(descending=True, stable=True)]
    codes = torch.cat([row[order, :2], row[order, 2:4].clamp(max=_LOG_SIDE)], dim=1)
    boxes = cxcywh_to_xyxy(decode_boxes(codes, Points(points.grid[order], points.stride[order])))
    return Found(boxes, objectness[order], class_score[order], class_id[order])


def boxes_and_scores(rows: Tensor, points: Points) -> tuple[Tensor, Tensor]:
    """Return boxes [B, A, 4], not cut to the input, and objectness times class scores [B, A, K] of raw outputs."""
    codes = torch.cat([rows[..., :2], rows[..., 2:4].clamp(max=_LOG_SIDE)], dim=-1)
    boxes = cxcywh_to_xyxy(decode_boxes(codes, points))
    return boxes, rows[..., OBJECTNESS, None].sigmoid() * rows[..., CLASSES].sigmoid()


def suppressed(found: Found, nms_threshold: float, max_detections: int) -> Found:
    """Return the first `max_detections` of what class-wise greedy suppression leaves of candidates, best first."""
    rank = -torch.arange(len(found), device=found.class_id.device)  # already in order
    return found[class_wise_nms(found.xyxy, rank, found.class_id, nms_threshold, max_detections)]
