"""Events of a sensor, and the windows they are cut into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from snn_perception.types.arrays import I64, MAX_SIDE_PX, U8, U16, require, require_same_length

_COLUMN_TYPES = (np.dtype(np.uint16), np.dtype(np.uint16), np.dtype(np.uint8), np.dtype(np.int64))  # x, y, p, t


def _are_event_columns(x: Any, y: Any, p: Any, t: Any) -> bool:
    """Return whether these are the columns of an EventArray: right dtypes, one axis, one length."""
    try:
        types = (x.dtype, y.dtype, p.dtype, t.dtype)
        return types == _COLUMN_TYPES and x.shape == y.shape == p.shape == t.shape and x.ndim == 1
    except AttributeError:
        return False


@dataclass(frozen=True)
class SensorSize:
    """Height and width of a sensor or model input, in pixels."""

    height: int
    width: int

    def __post_init__(self) -> None:
        for name, side in (("height", self.height), ("width", self.width)):
            if not isinstance(side, (int, np.integer)) or not 1 <= side <= MAX_SIDE_PX:
                raise ValueError(f"{name} must be 1..{MAX_SIDE_PX} px, got {side!r}")
            object.__setattr__(self, name, int(side))  # NumPy's integers have no JSON form

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True, eq=False)
class EventArray:
    """Change-detection events in time order: columns of equal length and the sensor they belong to.

    Attributes:
        x, y: pixel columns, uint16 [N], inside `size`.
        p: polarity, uint8 [N]; 1 is ON (brighter), 0 is OFF.
        t: sensor time in microseconds, int64 [N], not decreasing.
        size: sensor size.

    Raises:
        ValueError: for a wrong dtype, shape or differing lengths. Order and range cost a pass over the data and are
            checked by `validate`, at the borders where foreign data enters.
    """

    x: U16
    y: U16
    p: U8
    t: I64
    size: SensorSize

    def __post_init__(self) -> None:
        x, y, p, t = self.x, self.y, self.p, self.t
        if _are_event_columns(x, y, p, t):  # quick, since a window makes several of these
            return
        for name, column, dtype in zip("xypt", (x, y, p, t), _COLUMN_TYPES, strict=True):
            require(column, name, dtype, (None,))
        require_same_length(x=self.x, y=self.y, p=self.p, t=self.t)

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, rows: slice | npt.NDArray[Any]) -> EventArray:
        """Return the chosen rows (a view for a slice)."""
        return EventArray(self.x[rows], self.y[rows], self.p[rows], self.t[rows], self.size)

    def validate(self) -> EventArray:
        """Return self after checking time order, sensor bounds and polarity; raise ValueError naming the event."""
        for name, column, limit in (("x", self.x, self.size.width), ("y", self.y, self.size.height), ("p", self.p, 2)):
            if len(column) and int(column.max()) >= limit:
                at = int(np.argmax(column >= limit))
                raise ValueError(f"event {at}: {name}={int(column[at])} lies outside 0..{limit - 1} ({self.size})")
        if len(self.t) > 1:
            back = self.t[1:] < self.t[:-1]
            if back.any():
                at = int(np.argmax(back)) + 1
                raise ValueError(f"event {at} at t={self.t[at]} us precedes t={self.t[at - 1]} us")
        return self

    @staticmethod
    def empty(size: SensorSize) -> EventArray:
        """Return no events of a sensor."""
        pixels, polarity, time = np.empty(0, np.uint16), np.empty(0, np.uint8), np.empty(0, np.int64)
        return EventArray(pixels, pixels, polarity, time, size)

    @staticmethod
    def joined(parts: list[EventArray], size: SensorSize) -> EventArray:
        """Return the events of `parts`, one after the other, copied only when a column is first asked for."""
        if len(parts) == 1:
            return parts[0]
        whole = object.__new__(_JoinedEvents)
        object.__setattr__(whole, "size", size)
        object.__setattr__(whole, "_parts", tuple(parts))
        return whole

    @staticmethod
    def concatenate(parts: list[EventArray], size: SensorSize) -> EventArray:
        """Return the events of `parts`, one after the other; a single part is returned as it is."""
        parts = [part for part in parts if len(part)]
        if not parts:
            return EventArray.empty(size)
        if len(parts) == 1:
            return parts[0]
        x, y, p, t = (np.concatenate([getattr(part, name) for part in parts]) for name in "xypt")
        return EventArray(x, y, p, t, size)


class _JoinedEvents(EventArray):
    """Events in parts, which become one array when somebody looks at a column."""

    _parts: tuple[EventArray, ...] | None = None  # of one made by `dataclasses.replace`, which has its columns

    def __len__(self) -> int:
        return len(self.t) if self._parts is None else sum(map(len, self._parts))

    def __getattr__(self, name: str) -> Any:  # called where an attribute is not there yet
        if name not in ("x", "y", "p", "t") or self._parts is None:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        parts = [getattr(part, name) for part in self._parts]
        column = np.concatenate(parts) if parts else getattr(EventArray.empty(self.size), name)
        object.__setattr__(self, name, column)
        return column

    def __reduce__(self) -> tuple[Any, ...]:
        return EventArray, (self.x, self.y, self.p, self.t, self.size)


@dataclass(frozen=True, eq=False)
class EventWindow:
    """The events of one half-open interval ``[t_start_us, t_end_us)`` of sensor time; often none at all.

    Attributes:
        lossy: packets were lost inside it, so that it may lack events.
        after_gap: the stream was interrupted just before it (a long gap, a jump of time, another camera), so that
            state from before says nothing about it.
        filled: what a representation has made of the events as they arrived (see `events.grid.Filled`);
            None where none did.
    """

    events: EventArray
    t_start_us: int
    t_end_us: int
    stream: str = ""
    lossy: bool = False
    after_gap: bool = False
    filled: Any = None

    def __post_init__(self) -> None:
        if self.t_end_us <= self.t_start_us:
            raise ValueError(f"window must have a positive length, got [{self.t_start_us}, {self.t_end_us}) us")

    @property
    def size(self) -> SensorSize:
        """Size of the sensor."""
        return self.events.size

    @property
    def event_count(self) -> int:
        """How many events there are."""
        return len(self.events)
