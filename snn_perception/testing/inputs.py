"""Small inputs: events of a few moving pixels, and sparse tensors such as events become."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from snn_perception.types import EventArray, EventWindow, SensorSize


def sparse_input(*shape: int, density: float = 0.2, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return a tensor of the shape, e.g. [T, B, C, H, W], of zeros and, at about `density` of the places, ones."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=generator) < density).to(dtype)


def event_window(
    size: SensorSize, *, count: int = 500, t_start_us: int = 0, length_us: int = 50_000, seed: int = 0, stream: str = ""
) -> EventWindow:
    """Return a window with `count` events at random pixels and times, the first instant and the last included."""
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(0, length_us, count))
    if count > 1:
        t[0], t[-1] = 0, length_us - 1
    events = EventArray(
        rng.integers(0, size.width, count).astype(np.uint16),
        rng.integers(0, size.height, count).astype(np.uint16),
        rng.integers(0, 2, count).astype(np.uint8),
        t + t_start_us,
        size,
    )
    return EventWindow(events, t_start_us, t_start_us + length_us, stream)
