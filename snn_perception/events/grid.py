"""What representations have in common: a reusable buffer that events fill, and how it becomes the model's input.

A representation says where events go (time bins, and the plane of each polarity and bin); filling is one kernel call
per piece of events. Where the bins follow the window's edges the pieces can be added as they arrive, so that closing a
window costs next to nothing. Where they follow its first and last event, all events are needed first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from snn_perception.types import I64, EventArray, EventWindow, SensorSize

if TYPE_CHECKING:  # filling a grid takes no torch, and an exported model runs without it
    import torch
    from torch import Tensor

    from snn_perception.events import on_device
    from snn_perception.events.letterbox import Letterbox

Grid = npt.NDArray[Any]
_SPARES = 8  # buffers kept for reuse: one is filled, one is read, some wait in a queue


@dataclass(frozen=True, eq=False)
class Bins:
    """Where events go: `edges` int64 [B + 1] of the time bins (``[begin, end)``), `planes` int64 [2, B] of each
    polarity and bin, as indices into the grid's images.
    """

    edges: I64
    planes: I64


class Filled:
    """The grid of a window whose events are all in; good for one use, since the buffer is used again.

    Attributes:
        maker: the representation whose grid it is.
        mapping: what brought the sensor's events onto it (an `InputMapping`).
    """

    def __init__(self, grid: Grid, maker: GridRepresentation, mapping: object, events: EventArray) -> None:
        self.maker, self.mapping = maker, mapping
        self._grid: Grid | None = grid
        self._events = events

    def belongs_to(self, window: EventWindow) -> bool:
        """Return whether the grid is still there and the window's events are those it was filled with."""
        return self._grid is not None and window.events is self._events

    def take(self) -> Grid:
        """Return the grid, which is the caller's from now on."""
        assert self._grid is not None, "a filled grid can be taken once"
        grid, self._grid = self._grid, None
        return grid

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as None: in another process the events have to do."""
        return type(None), ()


class GridRepresentation(ABC):
    """Events of a window as images [T, C, H, W].

    Attributes:
        size: of the images in the grid, which the events' pixels must lie on.
        steps, channels: T and C of the tensor.
        letterbox: how an image becomes the model's input; None where it is the input.
        is_incremental: whether the bins are known before the window's events are.
        grid_dtype: of a cell. grid_images: how many images the grid holds, as a shape before H and W.
        blank: value of a cell without events.
    """

    size: SensorSize
    steps: int
    channels: int
    letterbox: Letterbox | None = None
    is_incremental: bool = True
    grid_dtype: Any = np.uint8
    blank: int = 0

    def __init__(self, size: SensorSize, steps: int, channels: int) -> None:
        self.size, self.steps, self.channels = size, steps, channels
        self._spares: deque[Grid] = deque(maxlen=_SPARES)

    @property
    def output_size(self) -> SensorSize:
        """Height and width of the tensor."""
        return self.letterbox.target if self.letterbox else self.size

    @property
    def grid_images(self) -> tuple[int, ...]:
        """Shape of the grid before height and width."""
        return (self.steps, self.channels)

    @abstractmethod
    def bins(self, t_start_us: int, t_end_us: int) -> Bins:
        """Return where the events of ``[t_start_us, t_end_us)`` go; of representations that are not incremental, those
        between a first event at `t_start_us` and a last one at `t_end_us`.
        """

    @abstractmethod
    def add(self, grid: Grid, events: EventArray, bins: Bins) -> None:
        """Add events to a grid."""

    @abstractmethod
    def place(self, x: Tensor, y: Tensor, p: Tensor, t: Tensor, bins: Bins) -> Tensor:
        """Return the grid of a window's events, columns of int64 on any device: the same cells as `add` makes."""

    def finish(self, grid: Tensor, bins: Bins | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """Return a grid on any device as the tensor [T, C, H, W] of a floating dtype, letterboxed.

        `bins` are those it was filled with, None where there were no events to tell them.
        """
        import torch

        images = grid.to(dtype or torch.float32, copy=True)
        return self.letterbox.apply(images) if self.letterbox else images

    def __call__(self, window: EventWindow, dtype: torch.dtype | None = None) -> Tensor:
        """Return the window as a tensor [T, C, H, W] on the CPU.

        Raises:
            ValueError: if the events lie on another grid than the model's, or outside their own.
        """
        import torch

        return self.to_device(window, torch.device("cpu"), dtype)

    def to_device(self, window: EventWindow, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
        """Return the window as a tensor [T, C, H, W] on a device; the grid travels in its own, small dtype."""
        import torch

        grid = self.grid(window)
        tensor = self.finish(torch.from_numpy(grid).to(device), self.bins_of(window), dtype or torch.float32)
        self.give_back(grid)
        return tensor

    def give_back(self, grid: Grid) -> None:
        """Take a grid that nobody needs any more, for reuse."""
        spares = tuple(self._spares)  # at once: another thread may take one meanwhile
        if not any(spare is grid for spare in spares):
            self._spares.append(grid)

    def grid(self, window: EventWindow) -> Grid:
        """Return the grid of a window: the one that was filled on the way, or one filled now. It is the caller's.

        Raises:
            ValueError: if the events lie on another grid than the model's, or outside their own.
        """
        filled = window.filled
        if isinstance(filled, Filled) and filled.maker is self and filled.belongs_to(window):
            return filled.take()
        events = self._checked(window.events)
        bins = self.bins_of(window)
        if bins is None:
            return self.new_grid()
        grid = self._spare()
        self.fill(grid, events, bins)
        return grid

    def through_torch(self, window: EventWindow, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
        """Return what `to_device` does, with the events themselves brought to the device and placed there.

        Raises:
            ValueError: as `grid`.
        """
        import torch

        dtype = dtype or torch.float32
        bins, events = self.bins_of(window), self._checked(window.events).validate()
        if bins is None:
            return self.finish(torch.from_numpy(self.new_grid()).to(device), None, dtype)
        x, y, p, t = (torch.from_numpy(np.asarray(getattr(events, name), np.int64)).to(device) for name in "xypt")
        return self.finish(self.place(x, y, p, t, bins), bins, dtype)

    def _checked(self, events: EventArray) -> EventArray:
        if events.size != self.size:
            raise ValueError(f"events lie on {events.size}, the representation is for {self.size}; map them first")
        return events

    def new_grid(self) -> Grid:
        """Return an empty grid, one that was used before where there is one."""
        grid = self._spare()
        grid.fill(self.blank)
        return grid

    def fill(self, grid: Grid, events: EventArray, bins: Bins) -> None:
        """Make a grid, whatever it holds, that of just these events."""
        grid.fill(self.blank)
        self.add(grid, events, bins)

    def _spare(self) -> Grid:
        """Return a grid with anything in it."""
        try:
            return self._spares.pop()
        except IndexError:
            return np.empty((*self.grid_images, self.size.height, self.size.width), self.grid_dtype)

    def bins_of(self, window: EventWindow) -> Bins | None:
        """Return the bins of a window; None where it takes events to tell and there are none."""
        if self.is_incremental:
            return self.bins(window.t_start_us, window.t_end_us)
        t = window.events.t
        return self.bins(int(t[0]), int(t[-1])) if len(t) else None

    def _flat(self, grid: Grid, events: EventArray, bins: Bins) -> tuple[Any, ...]:
        """Return the arguments that the kernels share."""
        height, width = self.size.height, self.size.width
        planes = bins.planes * (height * width)
        return (grid.reshape(-1), height, width, events.x, events.y, events.p, events.t, bins.edges, planes)

    def _cells(self, x: Tensor, y: Tensor, p: Tensor, t: Tensor, bins: Bins) -> on_device.Cells:
        from snn_perception.events import on_device

        return on_device.cells(x, y, p, t, bins.edges, bins.planes, self.size)


def even_edges(begin: int, end: int, count: int) -> I64:
    """Return the edges int64 [count + 1] of equal bins: t lies in ``(t - begin) * count // (end - begin)``."""
    steps = np.arange(count + 1, dtype=np.int64)
    return begin - (-(end - begin) * steps) // count
