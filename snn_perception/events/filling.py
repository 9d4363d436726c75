"""Fills a representation's grid while events arrive, so that a window is ready as soon as it closes."""

from __future__ import annotations

from snn_perception.events.geometry import InputMapping
from snn_perception.events.grid import Bins, Filled, Grid, GridRepresentation
from snn_perception.types import EventArray


class Filler:
    """The grid of one stream's open window.

    Args:
        representation: whose grids they are; its bins must follow the window (`is_incremental`).
        mapping: from the stream's sensor to the representation's size.
    """

    def __init__(self, representation: GridRepresentation, mapping: InputMapping) -> None:
        if not representation.is_incremental:
            raise ValueError("a representation whose bins follow its events cannot be filled before they are all there")
        self._representation, self._mapping = representation, mapping
        self._grid: Grid | None = None
        self._bins: Bins | None = None

    def add(self, events: EventArray, t_start_us: int, t_end_us: int) -> None:
        """Add events of the open window ``[t_start_us, t_end_us)``."""
        if self._grid is None:
            self._grid = self._representation.new_grid()
            self._bins = self._representation.bins(t_start_us, t_end_us)
        assert self._bins is not None
        self._representation.add(self._grid, self._mapping.map_events(events), self._bins)

    def take(self, events: EventArray) -> Filled:
        """Return the grid of the window that closes with these events, and begin with the next one."""
        grid = self._representation.new_grid() if self._grid is None else self._grid
        self._grid = self._bins = None
        return Filled(grid, self._representation, self._mapping, events)
