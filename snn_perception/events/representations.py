"""Events to tensors, as the published systems define them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from snn_perception.events.jit import kernel
from snn_perception.types import I64, U8, U16, EventWindow, SensorSize


class VoxelCube:
    """Presence of events per pixel, polarity and micro time bin: [1, 2 * tbin, H, W], 0 or 1.

    Channel ``2 * b + p`` with ``b = floor((t - t_start) * tbin / window length)``. One time step; counts are discarded.
    With ``tbin = 1`` this is the input of ST-VGG and ResCat (Cordone, PhD thesis, 2022, ch. 5). For more bins the
    authors' code left the added channels empty; this is the form they describe.

    Args:
        size: model input size; events must lie on it.
        tbin: micro time bins per window.
    """

    steps = 1

    def __init__(self, size: SensorSize, *, tbin: int = 1) -> None:
        if tbin < 1:
            raise ValueError(f"tbin must be at least 1, got {tbin}")
        self.size, self.tbin, self.channels = size, tbin, 2 * tbin

    def __call__(self, window: EventWindow) -> Tensor:
        """Return float32 [1, 2 * tbin, H, W].

        Raises:
            ValueError: if the events lie on another grid than the model's.
        """
        events = window.events
        if events.size != self.size:
            raise ValueError(f"events lie on {events.size}, the representation is for {self.size}; map them first")
        grid = np.zeros((1, self.channels, self.size.height, self.size.width), np.uint8)
        _mark(grid[0], events.x, events.y, events.p, events.t, window.t_start_us, window.t_end_us, self.tbin)
        return torch.from_numpy(grid).float()


@kernel
def _mark(grid: U8, x: U16, y: U16, p: U8, t: I64, start_us: int, end_us: int, tbin: int) -> None:
    """Set grid[2 b + p, y, x] to 1 for each event; what lies outside grid or window is passed over."""
    channels, height, width = grid.shape
    for i in range(len(t)):
        b = 0 if tbin == 1 else (t[i] - start_us) * tbin // (end_us - start_us)
        c = 2 * b + (p[i] & 1)
        if 0 <= c < channels and y[i] < height and x[i] < width:
            grid[c, y[i], x[i]] = 1
