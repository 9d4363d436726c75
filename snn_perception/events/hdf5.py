"""HDF5 recordings: plain columns (h5py users, DSEC, the raw files that accompany RVT) and Prophesee's tables."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from snn_perception.errors import EventDataError
from snn_perception.events.event_file import EventFile
from snn_perception.events.hdf5_chunks import ChunkTable
from snn_perception.events.hdf5_layout import EventLayout, TimeHint, claims_hdf5, find_layout
from snn_perception.events.hdf5_storage import Hdf5File, Rows, opened_hdf5
from snn_perception.events.recording import CHUNK_EVENTS, from_time_on
from snn_perception.events.tidy import Tidier, with_triggers
from snn_perception.types import I64, MAX_SIDE_PX, DecodedEvents, SensorSize, Triggers

log = logging.getLogger(__name__)

MAX_TIME_US = 1 << 62  # beyond it times are damage
MAX_TRIGGERS = 1 << 20


class Hdf5Recording(EventFile):
    """An HDF5 file of events: ``events/{x,y,t,p}``, the same four at the root, or Prophesee's ``CD/events``.

    Times are microseconds as the file has them, unwrapped already; where they run backwards they stay so, and steps
    back beyond `JITTER_US` are reported as leaps. Polarities above 0 are ON. Events outside the sensor are dropped and
    counted (`Losses.outside`), as are those at impossible times (`Losses.unknown`).

    Args:
        path: the file.
        size: (height, width) of the sensor, in place of what the file states. Where neither does, the smallest size
            that holds every event is used, found by a pass over the coordinates (`size_inferred`).
        t_offset: add the file's ``t_offset`` (DSEC) to every time; else times start where the columns do.

    Attributes:
        layout: where the file keeps its events.
        notes: what a person should know about the file, found so far.

    Raises:
        EventDataError: if the file cannot be read, holds no events, or is compressed with a filter that cannot be
            read here; the message says how to convert it.
    """

    format = "hdf5"
    encoding = "hdf5"

    def __init__(
        self, path: str | Path, *, size: tuple[int, int] | list[int] | None = None, t_offset: bool = True
    ) -> None:
        self.path = Path(path)
        with opened_hdf5(self.path) as file:
            self.layout: EventLayout = find_layout(file, self.path)
        self.notes: list[str] = []
        self._offset_us = self.layout.t_offset_us if t_offset else 0
        self._stated = SensorSize(*size) if size is not None else self.layout.size
        self._tables: dict[str, ChunkTable] = {}
        self._done = 0

    @staticmethod
    def claims(path: Path) -> bool:
        """Return whether `path` is an HDF5 file with events, or called like one but unreadable."""
        return claims_hdf5(path)

    def chunks(
        self, max_events: int = CHUNK_EVENTS, *, start_us: int | None = None, align_us: int | None = None
    ) -> Iterator[DecodedEvents]:
        """Yield the events in pieces of at most `max_events`; t in us (see `Recording.chunks`).

        Pieces end where the file's own chunks do, as far as `max_events` allows; each of those is decoded once.
        `start_us` is found by bisection over the chunks of the time column. That is exact where time does not run
        backwards, or by no more than a chunk holds; otherwise an event out of order that reached `start_us` long
        before the rest may be passed over, and a time that comes twice (a loop) be found where it comes again.

        Raises:
            ValueError: if `max_events` or `align_us` is not positive.
            EventDataError: at a chunk that is missing or damaged.
        """
        if max_events < 1 or (align_us is not None and align_us < 1):
            raise ValueError(f"max_events and align_us must be at least 1, got {max_events} and {align_us}")
        with opened_hdf5(self.path) as file:
            columns = _Columns(file, self.layout, self._tables)
            pieces = self._pieces(file, columns, max_events, start_us, align_us)
            if start_us is not None:
                pieces = from_time_on(pieces, start_us)
            yield from with_triggers(pieces, self._triggers(file, start_us), self.size)

    def progress(self) -> tuple[int, int]:
        """Return events done and events in all."""
        return self._done, self.layout.events

    def _pieces(
        self, file: Hdf5File, columns: _Columns, max_events: int, start_us: int | None, align_us: int | None
    ) -> Iterator[DecodedEvents]:
        tidier = Tidier(self.size, self._offset_us, MAX_TIME_US)
        at, events = 0, self.layout.events
        if start_us is not None:
            at = _TimeSearch(columns.rows("t"), columns, tidier).block_reaching(start_us, self._guess(file, start_us))
        self._done = at
        while at < events:
            stop = min(at + max_events, events)
            if align_us is None:
                stop = columns.stop(at, stop)
            t = tidier.times(columns.read("t", at, stop))
            if align_us is not None and stop < events:
                t = t[: _cut(t, align_us)]
                stop = at + len(t)
            x, y, p = (columns.read(name, at, stop) for name in "xyp")
            at = self._done = stop
            yield tidier.piece(x, y, t, p)

    def _guess(self, file: Hdf5File, start_us: int) -> int | None:
        """Return the row that the file's own table gives for a time; None where there is no such entry."""
        hint: TimeHint | None = self.layout.hint
        number = (start_us - self._offset_us) // hint.step_us if hint else -1
        if hint is None or number < 0:
            return None
        try:
            rows = file.rows(hint.name, self._tables)
            if number >= len(rows) or (hint.field is not None and hint.field not in (rows.dtype.names or ())):
                return None
            row = rows.read(number, number + 1)
            return int((row if hint.field is None else row[hint.field]).reshape(-1)[0])
        except (EventDataError, ValueError, TypeError, OverflowError):
            return None  # bisection does without

    def _triggers(self, file: Hdf5File, start_us: int | None) -> Triggers:
        if self.layout.triggers is None:
            return Triggers.empty()
        try:
            rows = file.rows(self.layout.triggers, self._tables)
            fields = rows.dtype.names or ()
            if len(rows.shape) != 1 or any(name not in fields or rows.dtype[name].kind not in "iu" for name in "pt"):
                raise EventDataError(f"expected rows of whole numbers p and t, got {rows.dtype!s:.100}")
            if len(rows) > MAX_TRIGGERS:
                self._note(f"{len(rows)} triggers, of which the first {MAX_TRIGGERS} are read")
            table = rows.read(0, min(len(rows), MAX_TRIGGERS))
        except EventDataError as error:
            self._note(f"triggers are left out: {str(error).removeprefix(f'{self.path}: ')}")
            return Triggers.empty()
        t, edge = table["t"].astype(np.int64), (table["p"] > 0).astype(np.uint8)
        is_numbered = "id" in fields and rows.dtype["id"].kind in "iu"
        number = table["id"].astype(np.uint8) if is_numbered else np.zeros(len(t), np.uint8)
        kept = (t >= (0 if start_us is None else start_us)) & (t <= MAX_TIME_US)
        order = np.argsort(t[kept], kind="stable")
        return Triggers(t[kept][order], edge[kept][order], number[kept][order])

    def _infer_size(self) -> SensorSize:
        with opened_hdf5(self.path) as file:
            columns = _Columns(file, self.layout, self._tables)
            width, height = (1 + columns.largest(name, MAX_SIDE_PX) for name in "xy")
        if not width or not height:
            raise EventDataError(
                f"{self.path}: states no sensor size and holds no events within one; give the size: --size WxH"
            )
        size = SensorSize(height, width)
        self._note(f"states no sensor size; used is {size} px, the smallest that holds its events")
        return size


class _Columns:
    """The four columns of an opened file, whatever data sets they lie in."""

    def __init__(self, file: Hdf5File, layout: EventLayout, tables: dict[str, ChunkTable]) -> None:
        self._layout = layout
        self._rows = {name: file.rows(name, tables) for name in sorted({name for name, _ in layout.columns.values()})}
        for name, rows in self._rows.items():
            if rows.shape != (layout.events,):
                raise EventDataError(f"{file.path}: {name} changed since the file was opened; open it again")

    def rows(self, column: str) -> Rows:
        """Return the data set a column lies in."""
        return self._rows[self._layout.columns[column][0]]

    def read(self, column: str, start: int, stop: int) -> npt.NDArray[Any]:
        """Return numbers of a column, in the file's own type."""
        field = self._layout.columns[column][1]
        rows = self.rows(column).read(start, stop)
        return rows if field is None else rows[field]

    def stop(self, at: int, stop: int) -> int:
        """Return where a piece that begins at `at` ends, `stop` at the latest: at a chunk's end if one lies near."""
        step = self.rows("t").step
        end = stop // step * step
        return stop if stop == self._layout.events or end <= at else end

    def largest(self, column: str, limit: int) -> int:
        """Return the largest number of a column from 0 to below `limit`; -1 if there is none."""
        rows, largest = self.rows(column), -1
        for at in range(0, len(rows), rows.step):
            numbers = self.read(column, at, min(at + rows.step, len(rows)))
            inside = numbers[(numbers >= 0) & (numbers < limit)]
            largest = max(largest, int(inside.max(initial=0)) if len(inside) else -1)
        return largest


class _TimeSearch:
    """Finds a time among the chunks of the time column."""

    def __init__(self, rows: Rows, columns: _Columns, tidier: Tidier) -> None:
        self._rows, self._columns, self._tidier = rows, columns, tidier
        self._blocks = -(-len(rows) // rows.step)
        self._latest: dict[int, int] = {}

    def block_reaching(self, start_us: int, guess: int | None) -> int:
        """Return the first row of the chunk in which time reaches `start_us`; the number of rows if it never does."""
        block = -1 if guess is None else guess // self._rows.step
        if not 0 <= block < self._blocks or not self._is_first(block, start_us):
            block = self._bisect(start_us)
        if block == self._blocks:  # beyond the end, unless time runs backwards
            block = next((number for number in range(block) if self._reaches(number, start_us)), block)
        while 0 < block < self._blocks and self._reaches(block - 1, start_us):  # out of order
            block -= 1
        return min(block * self._rows.step, len(self._rows))

    def _is_first(self, block: int, start_us: int) -> bool:
        """Return whether time reaches `start_us` in a chunk, and not in the one before it."""
        return self._reaches(block, start_us) and not (block and self._reaches(block - 1, start_us))

    def _bisect(self, start_us: int) -> int:
        low, high = 0, self._blocks
        while low < high:
            middle = (low + high) // 2
            if self._reaches(middle, start_us):
                high = middle
            else:
                low = middle + 1
        return low

    def _reaches(self, block: int, start_us: int) -> bool:
        """Return whether a time in a chunk is `start_us` or later."""
        if block not in self._latest:
            start = block * self._rows.step
            t: I64 = self._tidier.times(self._columns.read("t", start, min(start + self._rows.step, len(self._rows))))
            self._latest[block] = self._tidier.latest(t)
        return self._latest[block] >= start_us


def _cut(t: I64, align_us: int) -> int:
    """Return how many events come before the last multiple of `align_us` among times [N]; all if there is none."""
    cut = int(np.searchsorted(t, int(t[-1]) // align_us * align_us))
    return cut or len(t)
