"""Images of each pixel's latest event: its polarity (SpikeYOLO on GEN1), or how long ago it was (time surface)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from snn_perception.events import on_device
from snn_perception.events.grid import Bins, Grid, GridRepresentation, even_edges
from snn_perception.events.letterbox import fit_into
from snn_perception.events.representations import kernels
from snn_perception.events.representations.counts import step_planes
from snn_perception.types import EventArray, SensorSize

_GREY, _LETTERBOX_GREY = 127, 114
_NEVER = -(1 << 62)  # far enough from any time, near enough that differences do not overflow


class TernaryImage(GridRepresentation):
    """The polarity of each pixel's last event in time slices: [steps, 3, H', W'], 0 to 1 (SpikeYOLO on GEN1).

    Grey levels 255 (ON), 0 (OFF) and 127 (no event), three equal channels; enlarged with 8-bit bilinear interpolation
    as far as it fits, in the middle of a field of 114, and divided by 255.

    Args:
        steps: equal slices of the window (published weights: 2).
        network_size: [height, width] of the model's input; None leaves the images as they are.
        newest_first: time runs backwards along the steps. The published training and validation do it, by a flip that
            was meant for colour channels; False is the order of time.
    """

    blank = _GREY

    def __init__(
        self,
        size: SensorSize,
        *,
        steps: int = 2,
        network_size: Sequence[int] | None = (320, 320),
        newest_first: bool = True,
    ) -> None:
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        super().__init__(size, steps, 3)
        order = np.arange(steps, dtype=np.int64)
        self._planes = np.stack([order[::-1] if newest_first else order] * 2)
        if network_size is not None:
            self.letterbox = fit_into(
                size,
                SensorSize(*network_size),
                interpolation="bilinear_8bit",
                pad=_LETTERBOX_GREY,
                centred=True,
                round_up=True,
            )

    @property
    def grid_images(self) -> tuple[int, ...]:
        return (self.steps,)

    def bins(self, t_start_us: int, t_end_us: int) -> Bins:
        return Bins(even_edges(t_start_us, t_end_us, self.steps), self._planes)

    def add(self, grid: Grid, events: EventArray, bins: Bins) -> None:
        kernels.mark_events(_LEVELS, *self._flat(grid, events, bins))

    def place(self, x: Tensor, y: Tensor, p: Tensor, t: Tensor, bins: Bins) -> Tensor:
        number = torch.arange(len(t), device=t.device) * 2 + (p != 0)  # the last event wins, and tells its polarity
        last = on_device.latest(self._cells(x, y, p, t, bins), number, self.steps, -1)
        grey = torch.where(last < 0, _GREY, (last % 2) * 255).to(torch.uint8)
        return grey.view(self.steps, self.size.height, self.size.width)

    def finish(self, grid: Tensor, bins: Bins | None = None, dtype: torch.dtype | None = None) -> Tensor:
        images = super().finish(grid, bins, dtype) / 255
        return images[:, None].expand(-1, 3, -1, -1).contiguous()


_LEVELS = np.array([0, 255], np.uint8)


class TimeSurface(GridRepresentation):
    """How long ago each pixel fired: [steps, 2, H, W], ``exp((t_latest - t_step_end) / tau)``, 0 where it never did.

    Each step looks back over the whole window so far (Lagorce et al., HOTS, TPAMI 2017; an option of EAS-SNN).

    Args:
        steps: equal slices of the window, each of which ends a step.
        tau_us: time after which a pixel has faded to 1/e.
        memory_start_us: pixels without events have fired at this time (EAS-SNN: at sensor time 0) instead of never.
    """

    grid_dtype = np.int64

    def __init__(
        self, size: SensorSize, *, steps: int = 1, tau_us: int = 50_000, memory_start_us: int | None = None
    ) -> None:
        if steps < 1 or tau_us < 1:
            raise ValueError(f"steps and tau_us must be at least 1, got {steps} and {tau_us}")
        super().__init__(size, steps, 2)
        self._planes, self._tau_us = step_planes(steps, newest_first=False), tau_us
        self.blank = _NEVER if memory_start_us is None else memory_start_us

    @property
    def grid_images(self) -> tuple[int, ...]:
        return (2 * self.steps,)

    def bins(self, t_start_us: int, t_end_us: int) -> Bins:
        return Bins(even_edges(t_start_us, t_end_us, self.steps), self._planes)

    def add(self, grid: Grid, events: EventArray, bins: Bins) -> None:
        kernels.keep_latest(*self._flat(grid, events, bins))

    def place(self, x: Tensor, y: Tensor, p: Tensor, t: Tensor, bins: Bins) -> Tensor:
        times = on_device.latest(self._cells(x, y, p, t, bins), t, 2 * self.steps, self.blank)
        return times.view(*self.grid_images, self.size.height, self.size.width)

    def finish(self, grid: Tensor, bins: Bins | None = None, dtype: torch.dtype | None = None) -> Tensor:
        assert bins is not None, "the bins of an incremental representation are always known"
        times = grid.view(self.steps, 2, *grid.shape[1:])
        times = times.cummax(dim=0).values if self.steps > 1 else times
        ends = torch.from_numpy(bins.edges[1:]).to(grid.device).view(-1, 1, 1, 1)
        dtype = dtype or torch.float32
        exact = torch.float64 if dtype == torch.float64 else torch.float32  # float16 ends at 65.5 ms
        surface = ((times - ends).to(exact) / self._tau_us).exp_()
        return surface.masked_fill_(times == _NEVER, 0).to(dtype)
