"""Signed events spread over time bins: the voxel grid of event-based optical flow, an option of EAS-SNN."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from snn_perception.events.grid import Bins, Grid, GridRepresentation
from snn_perception.events.representations import kernels
from snn_perception.types import EventArray, SensorSize


class VoxelGrid(GridRepresentation):
    """Polarities (+1 and -1) shared between the two nearest of `bins` time bins: [1, bins, H, W] (Zhu, CVPR 2019).

    An event at ``s = bins (t - t_first) / (t_last - t_first)`` adds ``1 - (s - b)`` of its sign to bin b = floor(s) and
    the rest to the next one; what falls behind the last bin is lost, as in EAS-SNN's form. All at one time: bin 0.

    Args:
        as_steps: one bin a time step, [bins, 1, H, W].
    """

    is_incremental = False
    grid_dtype = np.float64

    def __init__(self, size: SensorSize, *, bins: int = 5, as_steps: bool = False) -> None:
        if bins < 1:
            raise ValueError(f"bins must be at least 1, got {bins}")
        super().__init__(size, *((bins, 1) if as_steps else (1, bins)))
        self._bins = bins

    def bins(self, t_start_us: int, t_end_us: int) -> Bins:
        return Bins(np.array([t_start_us, t_end_us], np.int64), np.zeros((2, 1), np.int64))

    def add(self, grid: Grid, events: EventArray, bins: Bins) -> None:
        first, last = bins.edges.tolist()
        columns = (events.x, events.y, events.p, events.t)
        kernels.spread_signed(grid.reshape(-1), self.size.height, self.size.width, self._bins, *columns, first, last)

    def place(self, x: Tensor, y: Tensor, p: Tensor, t: Tensor, bins: Bins) -> Tensor:
        first, last = bins.edges.tolist()
        at = self._bins * (t - first).to(torch.float64) / max(last - first, 1)
        b = at.floor().long()
        sign = torch.where(p != 0, 1.0, -1.0).to(torch.float64)
        image = self.size.height * self.size.width
        grid = torch.zeros(self._bins * image, dtype=torch.float64, device=t.device)
        cell = y * self.size.width + x
        for near, share in ((b, 1.0 - (at - b)), (b + 1, at - b)):
            kept = near < self._bins
            grid.index_add_(0, (near * image + cell)[kept], (sign * share)[kept])
        return grid.view(*self.grid_images, self.size.height, self.size.width)
