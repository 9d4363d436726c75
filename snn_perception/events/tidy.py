"""Foreign columns made ours: integers of any type become the columns of an EventArray, what cannot be is counted.

For formats whose times need no unwrapping.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from snn_perception.types import I64, JITTER_US, DecodedEvents, Losses, SensorSize, Triggers

_NO_LEAPS = np.empty((0, 3), np.int64)
_NEVER = -1  # stands for every impossible time


class Tidier:
    """Makes pieces of a recording from its columns, and keeps the time between them.

    Args:
        size: sensor; events outside it are dropped and counted as `Losses.outside`.
        offset_us: added to every time, below 2^62.
        max_us: times beyond it, and negative ones, are impossible: dropped and counted as `Losses.unknown`.
    """

    def __init__(self, size: SensorSize, offset_us: int = 0, max_us: int = 1 << 62) -> None:
        self._size, self._offset, self._max = size, offset_us, max_us
        self._last: int | None = None

    def times(self, column: npt.NDArray[Any]) -> I64:
        """Return int64 [N] with the offset added, for integers of any type; impossible ones become negative."""
        t: I64 = column.astype(np.int64, copy=False)  # what uint64 holds beyond int64 becomes negative here
        if not len(t):
            return t
        low, high = int(t.min()), int(t.max())
        if low + self._offset >= 0 and high + self._offset <= self._max and (low >= 0 or column.dtype.kind != "u"):
            return t + self._offset if self._offset else t
        possible = (t >= -self._offset) & (t <= self._max - max(0, self._offset))
        if column.dtype.kind == "u":
            possible &= t >= 0
        return np.where(possible, np.where(possible, t, 0) + self._offset, _NEVER)

    @staticmethod
    def latest(t: I64) -> int:
        """Return the latest of times that `times` made; -1 where none is possible."""
        return int(t.max(initial=_NEVER))

    def piece(self, x: npt.NDArray[Any], y: npt.NDArray[Any], t: I64, p: npt.NDArray[Any]) -> DecodedEvents:
        """Return the next events: x, y and p as integers of any type, t from `times`."""
        wide_x, wide_y = _unsigned(x), _unsigned(y)
        on = (p > 0).astype(np.uint8)
        losses, kept = Losses(), None
        if len(t) and (wide_x.max() >= self._size.width or wide_y.max() >= self._size.height or t.min() < 0):
            timely = t >= 0
            kept = timely & (wide_x < self._size.width) & (wide_y < self._size.height)
            unknown = len(t) - int(timely.sum())
            losses = Losses(outside=len(t) - unknown - int(kept.sum()), unknown=unknown)
        leaps, in_order = self._advance(t, kept)
        if kept is not None:
            wide_x, wide_y, t, on = wide_x[kept], wide_y[kept], t[kept], on[kept]
        x, y = np.ascontiguousarray(wide_x, np.uint16), np.ascontiguousarray(wide_y, np.uint16)
        t = np.ascontiguousarray(t)
        return DecodedEvents(
            x, y, on, t, self._size, t_reached=self._last, leaps=leaps, losses=losses, in_order=in_order
        )

    def _advance(self, t: I64, kept: npt.NDArray[np.bool_] | None) -> tuple[I64, bool]:
        """Note the time reached; return the leaps back among the possible times and whether time never falls."""
        at = np.arange(len(t)) if kept is None else np.cumsum(kept) - kept  # index among the kept events
        if kept is not None:
            timely = t >= 0
            t, at = t[timely], at[timely]
        if not len(t):
            return _NO_LEAPS, True
        before = t[0] if self._last is None else self._last
        self._last = int(t[-1])
        if t[0] >= before and not (t[1:] < t[:-1]).any():
            return _NO_LEAPS, True
        earlier = np.concatenate([[before], t[:-1]])
        back = np.flatnonzero(earlier - t > JITTER_US)
        return np.stack([at[back], earlier[back], t[back]], axis=1).astype(np.int64), False


def with_triggers(pieces: Iterable[DecodedEvents], triggers: Triggers, size: SensorSize) -> Iterator[DecodedEvents]:
    """Yield the pieces with the triggers up to the time each reached; those after the last one in an empty piece.

    Args:
        triggers: in time order.
    """
    done = 0
    for piece in pieces:
        reached = piece.t_reached
        if done < len(triggers) and reached is not None:
            stop = max(done, int(np.searchsorted(triggers.t, reached, "right")))
            piece = replace(piece, triggers=_rows(triggers, done, stop))
            done = stop
        yield piece
    if done < len(triggers):
        none, no_time = np.empty(0, np.uint16), np.empty(0, np.int64)
        rest = _rows(triggers, done, len(triggers))
        yield DecodedEvents(none, none, np.empty(0, np.uint8), no_time, size, triggers=rest)


def _rows(triggers: Triggers, start: int, stop: int) -> Triggers:
    return Triggers(triggers.t[start:stop], triggers.edge[start:stop], triggers.id[start:stop])


def _unsigned(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return integers as unsigned ones of native order, in which negative ones are huge."""
    if not column.dtype.isnative:
        column = column.astype(column.dtype.newbyteorder("="))
    if column.dtype.kind != "i":
        return column
    return np.ascontiguousarray(column).view(f"u{column.dtype.itemsize}")
