"""Boxes as offsets from default boxes: centre shift in units of the default box, logarithm of the size ratio."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from snn_perception.api import cxcywh_to_xyxy, xyxy_to_cxcywh

WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # bring the four terms to about unit variance
LOG_SIZE_LIMIT = math.log(1000.0 / 16.0)  # no box grows by more than this factor: exp must not overflow


def encode(boxes: Tensor, default: Tensor) -> Tensor:
    """Return codes [..., 4] of xyxy `boxes` against as many `default` boxes; both need a positive width and height.

    ``(10 (gx - cx) / w, 10 (gy - cy) / h, 5 ln(gw / w), 5 ln(gh / h))`` for a box g and a default box (cx, cy, w, h).
    """
    ground, anchor = xyxy_to_cxcywh(boxes), xyxy_to_cxcywh(default)
    shift = (ground[..., :2] - anchor[..., :2]) / anchor[..., 2:]
    growth = (ground[..., 2:] / anchor[..., 2:]).log()
    return torch.cat([shift, growth], dim=-1) * boxes.new_tensor(WEIGHTS)


def decode(codes: Tensor, default: Tensor) -> Tensor:
    """Return the xyxy boxes [..., 4] whose codes against `default` are `codes`; the size terms are limited above."""
    anchor = xyxy_to_cxcywh(default)
    terms = codes / codes.new_tensor(WEIGHTS)
    centre = terms[..., :2] * anchor[..., 2:] + anchor[..., :2]
    sides = terms[..., 2:].clamp(max=LOG_SIZE_LIMIT).exp() * anchor[..., 2:]
    return cxcywh_to_xyxy(torch.cat([centre, sides], dim=-1))
