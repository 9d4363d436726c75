"""Default boxes: a few scales and aspect ratios at each cell of each feature map (Liu et al., 2016, sec. 2.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from snn_perception.api import SensorSize, cxcywh_to_xyxy

Grid = tuple[int, int]


@dataclass(frozen=True)
class BoxShapes:
    """What fixes the relative sizes of the default boxes: aspect ratios of each map, smallest and largest scale."""

    aspect_ratios: tuple[tuple[float, ...], ...]
    min_ratio: float
    max_ratio: float

    def __post_init__(self) -> None:
        if not self.aspect_ratios:
            raise ValueError("aspect_ratios must have one list for each feature map, got none")
        if any(ratio <= 0 for ratios in self.aspect_ratios for ratio in ratios):
            raise ValueError(f"aspect_ratios must be positive, got {self.aspect_ratios}")
        if not 0 < self.min_ratio <= self.max_ratio <= 1:
            raise ValueError(f"expected 0 < min_ratio <= max_ratio <= 1, got {self.min_ratio} and {self.max_ratio}")

    @property
    def per_cell(self) -> tuple[int, ...]:
        """Number of default boxes at each cell of each map: two squares, and two boxes for each aspect ratio."""
        return tuple(2 + 2 * len(ratios) for ratios in self.aspect_ratios)

    @property
    def scales(self) -> tuple[float, ...]:
        """Scale s_k of each map, evenly spaced from `min_ratio` to `max_ratio`, and 1 after the last."""
        last = max(len(self.aspect_ratios) - 1, 1)
        span = self.max_ratio - self.min_ratio
        return (*(self.min_ratio + span * k / last for k in range(len(self.aspect_ratios))), 1.0)

    def sizes(self, k: int) -> list[tuple[float, float]]:
        """Return (width, height) of the default boxes of map `k`, relative to the image, at most 1."""
        scale, between = self.scales[k], math.sqrt(self.scales[k] * self.scales[k + 1])
        pairs = [(scale, scale), (between, between)]
        for ratio in self.aspect_ratios[k]:
            root = math.sqrt(ratio)
            pairs += [(scale * root, scale / root), (scale / root, scale * root)]
        return [(min(width, 1.0), min(height, 1.0)) for width, height in pairs]


@lru_cache(maxsize=16)
def default_boxes(
    shapes: BoxShapes,
    grids: tuple[Grid, ...],
    size: SensorSize,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    table_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return the default boxes [A, 4], xyxy in pixels of an image of `size`, not clipped to it.

    Ordered by map, row, column, shape. Widths and heights are relative to the image's own, so that a "square" box has
    the image's aspect ratio. Shared between calls: never write to the result.

    Args:
        grids: (height, width) of each feature map.
        dtype: of the result. table_dtype: of the relative centres and sizes; the published model has them in float32
            also where everything else is float64.
    """
    if len(grids) != len(shapes.aspect_ratios):
        raise ValueError(f"aspect_ratios are for {len(shapes.aspect_ratios)} feature maps, got {len(grids)} maps")
    # The cache outlives the caller's mode: a tensor made in inference mode could never take part in a loss.
    with torch.inference_mode(False), torch.no_grad():
        maps = [_table(grid, shapes.sizes(k), table_dtype) for k, grid in enumerate(grids)]
        relative = cxcywh_to_xyxy(torch.cat(maps).to(dtype))
        return (relative * torch.tensor([size.width, size.height] * 2, dtype=dtype)).to(device)


def _table(grid: Grid, sizes: Sequence[tuple[float, float]], dtype: torch.dtype) -> Tensor:
    """Return [H * W * shapes, 4] centres and sizes; the centre of cell (i, j) is ((j + .5) / W, (i + .5) / H)."""
    height, width = grid
    cy = (torch.arange(height, dtype=dtype) + 0.5) / height
    cx = (torch.arange(width, dtype=dtype) + 0.5) / width
    box = torch.empty(height, width, len(sizes), 4, dtype=dtype)
    box[..., 0] = cx[:, None]
    box[..., 1] = cy[:, None, None]
    box[..., 2:] = torch.tensor(sizes, dtype=dtype)
    return box.flatten(0, 2)
