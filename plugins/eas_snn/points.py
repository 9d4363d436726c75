"""Anchor points of the head, one per cell of each level, and the boxes that the raw outputs mean at them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

STRIDES = (8, 16, 32)
BOX, OBJECTNESS, CLASSES = slice(0, 4), 4, slice(5, None)  # channels of a raw level


@dataclass(frozen=True)
class Points:
    """Cells of all levels, finest first, row by row: grid [A, 2] as (column, row), stride [A] in pixels."""

    grid: Tensor
    stride: Tensor

    @property
    def centres(self) -> Tensor:
        """Return the middle of each cell (x, y) [A, 2] in pixels of the network input."""
        return (self.grid + 0.5) * self.stride[:, None]


def in_rows(levels: Sequence[Tensor]) -> Tensor:
    """Return [B, A, 5 + K], at least float32, of raw levels [B, 5 + K, h, w]; A in the order of `anchor_points`."""
    rows = torch.cat([level.flatten(2) for level in levels], dim=2).transpose(1, 2)
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def anchor_points(levels: Sequence[Tensor], strides: Sequence[int], dtype: torch.dtype) -> Points:
    """Return the points of raw levels [B, 5 + K, h, w] that lie `strides` pixels apart."""
    grids, steps = [], []
    for level, stride in zip(levels, strides, strict=True):
        height, width = level.shape[-2:]
        row = torch.arange(height, device=level.device, dtype=dtype)[:, None].expand(height, width)
        column = torch.arange(width, device=level.device, dtype=dtype)[None].expand(height, width)
        grids.append(torch.stack([column, row], dim=-1).reshape(-1, 2))
        steps.append(torch.full((height * width,), float(stride), device=level.device, dtype=dtype))
    return Points(torch.cat(grids), torch.cat(steps))


def decode_boxes(codes: Tensor, points: Points) -> Tensor:
    """Return boxes cxcywh [..., A, 4] in pixels of the network input, of raw codes [..., A, 4].

    Centre ``(code + grid) * stride``, sides ``exp(code) * stride`` (Ge et al., arXiv 2107.08430, YOLOX).
    """
    stride = points.stride[:, None]
    return torch.cat([(codes[..., :2] + points.grid) * stride, codes[..., 2:].exp() * stride], dim=-1)
