"""What the decoders of Prophesee's word formats share: state, packets in one piece, files in many."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from snn_perception.events.payload import all_trimmed, check_event_count, check_mark_count, records, sensor_size
from snn_perception.types import I64, NO_LOSSES, U8, U16, DecodedEvents, Losses, Packet, SensorSize, Triggers

Columns = tuple[U16, U16, U8, I64]
Words = npt.NDArray[Any]
FOREVER_US = 1 << 62
_MARKS = 1024  # trigger edges, or leaps, that the inner loop tells of at a time


class WordDecoder:
    """Base of the decoders whose inner loop is ``kernels.decode_words``; one instance belongs to one stream.

    A packet is decoded whole (`decode`). A file is decoded piece by piece into columns of a given length: `begin`, then
    `fill` as often as there are words and room, then `piece`.

    Attributes:
        kernels: module with `decode_words`, `count_events`, `new_state`, the slots of the state and `MARGIN`, the rows
            that `fill` leaves free.
        record: NumPy type of the format's words.
    """

    time_unit = "us"
    kernels: ModuleType
    record: type[np.unsignedinteger[Any]]

    def __init__(self) -> None:
        self._state: I64 = self.kernels.new_state()
        self._triggers, self._leaps = np.empty((_MARKS, 3), np.int64), np.empty((_MARKS, 3), np.int64)
        self._told: tuple[list[I64], list[I64]] = ([], [])

    def decode(self, packet: Packet) -> DecodedEvents:
        """Return what the packet holds, in us.

        Raises:
            EventDataError: if the packet states no sensor size, or is larger than any camera sends.
        """
        size = sensor_size(packet)
        words, ragged = self.packet_words(packet)
        capacity = self.count(words)
        check_event_count(packet, capacity)
        columns = new_columns(capacity + self.kernels.MARGIN)
        self.begin()
        self.fill(words, 0, columns, size)
        return self.piece(columns, size, ragged)

    def resync(self) -> None:
        """Drop events until what lost packets may have changed is told anew; the time known so far stays, to tell the
        leap."""
        self._state[self.kernels.NEED] = self.kernels.NEED_ALL

    def packet_words(self, packet: Packet) -> tuple[Words, int]:
        """Return the payload's words and the number of bytes that fill none."""
        return records(packet, self.record)

    def count(self, words: Words) -> int:
        """Return how many rows the events of the words take at most."""
        return int(self.kernels.count_events(words))

    def of_file(self, origin_us: int = 0) -> None:
        """Take all that follows as one file, however it is cut, whose sensor time 0 is `origin_us`; at the start."""
        self._state[self.kernels.JOINED], self._state[self.kernels.ORIGIN] = 1, origin_us

    def begin(self, rows: int = 0, in_order: bool = True, until_us: int = FOREVER_US) -> None:
        """Start a piece whose columns hold `rows` events already; it ends soon after time reaches `until_us`."""
        k, state = self.kernels, self._state
        state[k.OUTSIDE : k.REACHED] = 0
        state[k.EVENTS], state[k.FELL], state[k.UNTIL] = rows, not in_order, until_us
        self._told = ([], [])

    def fill(self, words: Words, start: int, columns: Columns, size: SensorSize) -> int:
        """Decode words from `start` on into the columns; return where it stopped: at the end, for want of room, or at
        the time at which the piece is to end."""
        k, state = self.kernels, self._state
        full = len(columns[3]) - k.MARGIN
        while True:
            start = self.run(words, start, columns, size)
            if state[k.TRIGGERS] or state[k.LEAPS]:
                self._keep_marks()
            if start == len(words) or state[k.EVENTS] > full or state[k.EPOCH] >= state[k.UNTIL]:
                return start

    def _keep_marks(self) -> None:
        """Take what the inner loop told of trigger edges and leaps out of its way."""
        k, state = self.kernels, self._state
        if state[k.TRIGGERS]:
            self._told[0].append(self._triggers[: state[k.TRIGGERS]].copy())
        if state[k.LEAPS]:
            self._told[1].append(self._leaps[: state[k.LEAPS]].copy())
        state[k.TRIGGERS] = state[k.LEAPS] = 0
        check_mark_count(_MARKS * max(map(len, self._told)))

    def run(self, words: Words, start: int, columns: Columns, size: SensorSize) -> int:
        """Call the inner loop once; return where it stopped, also for want of room for triggers or leaps."""
        args = (self._triggers, self._leaps, size.width, size.height, self._state)
        return self.kernels.decode_words(words, start, *columns, *args)  # type: ignore[no-any-return]

    @property
    def filled(self) -> int:
        """Rows of the columns in use."""
        return int(self._state[self.kernels.EVENTS])

    @property
    def told(self) -> int:
        """Triggers and leaps found since `begin`."""
        return sum(map(len, self._told[0])) + sum(map(len, self._told[1]))

    def piece(self, columns: Columns, size: SensorSize, ragged: int = 0) -> DecodedEvents:
        """Return what was decoded since `begin`, behind the rows that the columns held before."""
        k = self.kernels
        started = self._state[k.STARTED]
        outside, unknown, unsynced, fell, n, _, _, reached = self._state[k.OUTSIDE : k.UNTIL].tolist()
        columns = all_trimmed(columns, n)
        losses = Losses(outside, unknown, unsynced, ragged) if outside or unknown or unsynced or ragged else NO_LOSSES
        return DecodedEvents(
            *columns,
            size,
            self.time_unit,
            t_reached=reached if started else None,
            leaps=_joined(self._told[1]),
            triggers=_triggers(self._told[0]),
            losses=losses,
            in_order=not fell,
        )

    @property
    def latest_us(self) -> int:
        """A time that no event so far is later than, a little after the latest."""
        return int(self._state[self.kernels.TOP]) + int(self.kernels.LATEST_LOW)

    def snapshot(self) -> I64:
        """Return the state, for `restore`."""
        return self._state.copy()

    def restore(self, state: I64) -> None:
        """Go on as after the words before the snapshot."""
        self._state[:] = state


def new_columns(rows: int) -> Columns:
    """Return columns x, y, p, t of so many rows, not initialised."""
    return np.empty(rows, np.uint16), np.empty(rows, np.uint16), np.empty(rows, np.uint8), np.empty(rows, np.int64)


def _joined(parts: list[I64]) -> I64:
    if not parts:
        return _NO_ROWS
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _triggers(parts: list[I64]) -> Triggers:
    """Return rows (t, edge, id) as columns."""
    if not parts:
        return _NO_TRIGGERS
    rows = _joined(parts)
    return Triggers(rows[:, 0].copy(), rows[:, 1].astype(np.uint8), rows[:, 2].astype(np.uint8))


_NO_ROWS = np.empty((0, 3), np.int64)
_NO_TRIGGERS = Triggers.empty()
