"""Counts of events per pixel and polarity: one frame, RVT's stacked histogram, EAS-SNN's micro-bins."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np

from snn_perception.events.grid import Bins, Grid, GridRepresentation, even_edges
from snn_perception.events.letterbox import Interpolation, fit_into, padded
from snn_perception.events.representations import kernels
from snn_perception.events.windower import decreases
from snn_perception.types import I64, U8, EventArray, EventWindow, SensorSize

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_MANY_EVENTS = 10_000  # in a bin, from which on a call of its own pays


class Counts(GridRepresentation):
    """Saturating counts."""

    limit: int = 255

    def fill(self, grid: Grid, events: EventArray, bins: Bins) -> None:
        count = bins.planes.shape[1]
        if len(events) < _MANY_EVENTS * count or decreases(events.t):
            super().fill(grid, events, bins)
            return
        # Bin by bin: time is read once, and images just cleared are still in the cache when their events come.
        height, width = self.size.height, self.size.width
        flat, images, limit = grid.reshape(-1), grid.reshape(-1, height, width), grid.dtype.type(self.limit)
        shared = len(np.unique(bins.planes)) < len(images)  # images of several bins, or of none
        if shared:
            grid.fill(self.blank)
        cuts = np.searchsorted(events.t, bins.edges).tolist()
        for k, (begin, end) in enumerate(pairwise(cuts)):
            off, on = bins.planes[:, k].tolist()
            if not shared:
                images[off], images[on] = self.blank, self.blank
            x, y, p = events.x[begin:end], events.y[begin:end], events.p[begin:end]
            first, other = off * height * width, on * height * width
            kernels.count_in_images(limit, flat, height, width, x, y, p, first, other)

    def add(self, grid: Grid, events: EventArray, bins: Bins) -> None:
        kernels.count_events(grid.dtype.type(self.limit), *self._flat(grid, events, bins))

    def place(self, x: Tensor, y: Tensor, p: Tensor, t: Tensor, bins: Bins) -> Tensor:
        import torch

        from snn_perception.events import on_device

        where, images = self._cells(x, y, p, t, bins), int(np.prod(self.grid_images))
        grid = on_device.counts(where, images, self.limit, torch.from_numpy(np.empty(0, self.grid_dtype)).dtype)
        return grid.view(*self.grid_images, self.size.height, self.size.width)


class EventCount(Counts):
    """Events per pixel and polarity over the window: [1, 2, H, W], channel 0 OFF, up to `limit` (255 at most)."""

    def __init__(self, size: SensorSize, *, limit: int = 255) -> None:
        super().__init__(size, 1, 2)
        self.limit = _within_a_byte("limit", limit)

    def bins(self, t_start_us: int, t_end_us: int) -> Bins:
        return Bins(np.array([t_start_us, t_end_us], np.int64), np.array([[0], [1]], np.int64))


class StackedHistogram(Counts):
    """Events per pixel, polarity and time bin: [1, 2 * bins, H, W], all OFF bins first (RVT; Gehrig, CVPR 2023).

    Bins follow the events, not the window: ``b = min(bins - 1, floor(bins (t - t_first) / max(t_last - t_first, 1)))``.
    Counts end at `limit`; RVT's fast mode wraps at 256 before it cuts, which shows only in pixels that fire more often
    within a bin. RVT's windows include events at their very end (`EventWindow`s do not).

    Args:
        limit: RVT cuts at 10.
        pad_multiple: pad right and bottom with 0 to a multiple of this many pixels (RVT: 32); 1 pads nothing.
    """

    is_incremental = False
    stored_frames = 1

    def __init__(self, size: SensorSize, *, bins: int = 10, limit: int = 10, pad_multiple: int = 1) -> None:
        if bins < 1 or pad_multiple < 1:
            raise ValueError(f"bins and pad_multiple must be at least 1, got {bins} and {pad_multiple}")
        super().__init__(size, 1, 2 * bins)
        self.limit, self._bins = _within_a_byte("limit", limit), bins
        self.letterbox = padded(size, pad_multiple) if pad_multiple > 1 else None

    def bins(self, t_start_us: int, t_end_us: int) -> Bins:
        edges = even_edges(t_start_us, t_start_us + max(t_end_us - t_start_us, 1), self._bins)
        edges[-1] = max(t_end_us + 1, int(edges[-1]))  # the last event belongs to the last bin
        return Bins(edges, np.arange(2 * self._bins, dtype=np.int64).reshape(2, self._bins))

    @property
    def stored_bins(self) -> int:
        """Bins that a preprocessed frame must have."""
        return self._bins

    def of_histogram(self, histogram: U8) -> Tensor:
        """Return a preprocessed frame [2 * bins, H, W] as the tensor that its events would have given."""
        return self.of_histograms(histogram[None])

    def of_histograms(self, histograms: U8, dtype: torch.dtype | None = None) -> Tensor:
        """Return one preprocessed frame [1, 2 * bins, H, W] as input, like `of_histogram`."""
        import torch

        return self.finish(torch.from_numpy(np.ascontiguousarray(histograms)), dtype=dtype)


class MicroBins(Counts):
    """Counts in equal time slices of a window or of its events: [steps, 2, H', W'], letterboxed (EAS-SNN).

    As ``micro_sum`` slices are ``(t_last - t_first) // steps`` whole microseconds long and begin with the first event,
    so that the last event and those of the division's rest belong to none; all events at one time give zeros. Slices of
    the window are those of RVT's stored frames (``event_sum``), and are filled while events arrive. Counts are not cut.

    Args:
        bins: ``events`` lays slices out from the first event to the last (GEN1, N-Caltech101), ``window`` from the
            window's begin to its end (1Mpx).
        steps: slices (Tm).
        network_size: [height, width] of the model's input; None leaves the images as they are. The image is enlarged
            as far as it fits, and put at the top left.
        interpolation: ``bilinear`` (GEN1, 1Mpx) or ``bicubic`` (N-Caltech101; values may go below 0).
        newest_first: time runs backwards along the steps, as the published network reads them.
        macro_slice: leave out the events at the very last time before the slices are laid out. N-Caltech101's pipeline
            cuts one slice of the whole recording first, and each cut drops its tail.
        one_factor: take boxes back by one factor along both sides, as the published evaluation does (`Letterbox`).
    """

    grid_dtype = np.int16  # more than a pixel can fire; torch has no unsigned type of this length before 2.3
    limit = 32_767

    def __init__(
        self,
        size: SensorSize,
        *,
        steps: int = 4,
        bins: Literal["events", "window"] = "events",
        network_size: Sequence[int] | None = (640, 640),
        interpolation: Interpolation = "bilinear",
        newest_first: bool = False,
        macro_slice: bool = False,
        one_factor: bool = False,
    ) -> None:
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        if bins not in ("events", "window"):
            raise ValueError(f"bins must be events or window, got {bins!r}")
        if macro_slice and bins == "window":
            raise ValueError("macro_slice drops the last events of slices of events: it needs bins events, got window")
        super().__init__(size, steps, 2)
        self.is_incremental = bins == "window"
        self._planes = step_planes(steps, newest_first)
        self._newest_first, self._macro_slice = newest_first, macro_slice
        if network_size is not None:
            network = SensorSize(*network_size)
            self.letterbox = fit_into(size, network, interpolation=interpolation, one_factor=one_factor)

    def bins(self, t_start_us: int, t_end_us: int) -> Bins:
        if self.is_incremental:
            return Bins(even_edges(t_start_us, t_end_us, self.steps), self._planes)
        length = (t_end_us - t_start_us) // self.steps
        edges = t_start_us + length * np.arange(self.steps + 1, dtype=np.int64)
        return Bins(edges, self._planes)

    def bins_of(self, window: EventWindow) -> Bins | None:
        t = window.events.t
        if not self._macro_slice or not len(t):
            return super().bins_of(window)
        t = t[: int(np.searchsorted(t, t[-1]))]
        return self.bins(int(t[0]), int(t[-1])) if len(t) else None

    @property
    def stored_frames(self) -> int:
        """Preprocessed frames that make one window."""
        return self.steps

    def of_histograms(self, histograms: U8, dtype: torch.dtype | None = None) -> Tensor:
        """Return preprocessed frames [steps, 2 * bins, H, W], oldest first, as input: summed over their bins."""
        import torch

        steps, channels, height, width = histograms.shape
        grid = histograms.reshape(steps, 2, channels // 2, height, width).sum(axis=2, dtype=np.int16)
        return self.finish(torch.from_numpy(grid[::-1].copy() if self._newest_first else grid), dtype=dtype)


def step_planes(steps: int, newest_first: bool) -> I64:
    """Return the image of each polarity and time slice where a step has one image per polarity, int64 [2, steps]."""
    order = np.arange(steps, dtype=np.int64)
    order = order[::-1] if newest_first else order
    return np.stack([2 * order, 2 * order + 1])


def _within_a_byte(name: str, value: int) -> int:
    if not 1 <= value <= 255:
        raise ValueError(f"{name} must be 1..255, since a cell is a byte, got {value}")
    return value
