"""The representations' kernels in torch, for events that live on a device: the same cells, by scatter operations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from snn_perception.types import I64, SensorSize


@dataclass(frozen=True, eq=False)
class Cells:
    """Where events go: flat indices int64 [N] of those inside a bin, which events these are, and cells per image."""

    index: Tensor
    rows: Tensor
    image: int


def cells(x: Tensor, y: Tensor, p: Tensor, t: Tensor, edges: I64, planes: I64, size: SensorSize) -> Cells:
    """Return the cells of events, columns int64 [N] (see `kernels`)."""
    device = t.device
    bins = torch.bucketize(t, torch.from_numpy(edges).to(device), right=True) - 1
    inside = (bins >= 0) & (bins < len(edges) - 1)
    rows = torch.nonzero(inside).squeeze(1)
    image = size.height * size.width
    plane = torch.from_numpy(planes).to(device)[(p[rows] != 0).long(), bins[rows]]
    return Cells(plane * image + y[rows] * size.width + x[rows], rows, image)


def counts(where: Cells, images: int, limit: int, dtype: torch.dtype) -> Tensor:
    """Return the flat grid of event counts, up to `limit`."""
    return torch.bincount(where.index, minlength=images * where.image).clamp_(max=limit).to(dtype)


def latest(where: Cells, order: Tensor, images: int, nothing: int) -> Tensor:
    """Return the flat grid int64 of the largest of `order` int64 [N] in each cell, `nothing` where there is none."""
    grid = torch.full((images * where.image,), nothing, dtype=torch.int64, device=order.device)
    return grid.scatter_reduce_(0, where.index, order[where.rows], "amax")
