"""Decodes Prophesee EVT 3.0 words, as ROS drivers send them in EventPacket messages."""

from __future__ import annotations

import numpy as np

from snn_perception.events import evt3_kernels as k
from snn_perception.events.payload import check_event_count, records, sensor_size, trimmed
from snn_perception.types import I64, U8, U16, DecodedEvents, Losses, Packet, SensorSize, Triggers


class Evt3Decoder:
    """Returns the events of one stream's packets; carries row, vector base and time from one packet to the next.

    How the words are cut into packets does not show in the result, once time has started. It starts with a TIME_HIGH
    and a TIME_LOW word in the same packet; everything before, rows included, is dropped. Events also wait for the
    first row, and vectors for the first base. Sensor time is in us, ``wraps * 2^24 + high * 4096 + low``. A high half
    smaller than the last by more than 10 is a wrap; by less, it is a glitch that some devices show, taken as it is. No
    decoder can tell how often time wrapped within a loss of more than 16.7 s.

    Known times, on which `leaps` and `t_reached` rest: A TIME_HIGH that differs from the last says little by itself,
    since the low half in force is the old one. Its time is settled by the word after it: by a TIME_LOW (high and low
    are one time then), by an event or trigger (which takes the old low half), or by another, different TIME_HIGH (the
    time of the first is then ``high * 4096``: the sensor ran through silence). While it is unsettled, `t_reached` is
    ``high * 4096``, which no later event can precede, or the time before it where this step may turn out a leap: no
    window closes across a gap before the gap is told.
    """

    time_unit = "us"

    def __init__(self) -> None:
        self._state = k.new_state()
        self._store = np.empty(k.BLOCK, np.uint64)
        self._triggers, self._leaps = np.empty((1024, 3), np.int64), np.empty((1024, 3), np.int64)

    def decode(self, packet: Packet) -> DecodedEvents:
        """Return what the packet holds, in us.

        Raises:
            EventDataError: if the packet states no sensor size, or is larger than any camera sends.
        """
        size = sensor_size(packet)
        words, ragged = records(packet, np.uint16)
        capacity = k.count_events(words)
        check_event_count(packet, capacity)
        x, y = np.empty(capacity, np.uint16), np.empty(capacity, np.uint16)
        p, t = np.empty(capacity, np.uint8), np.empty(capacity, np.int64)
        triggers, leaps = self._run(words, (x, y, p, t), size)
        started, _, outside, unknown, unsynced, n, _, _, reached = self._state[k.STARTED :].tolist()
        return DecodedEvents(
            trimmed(x, n),
            trimmed(y, n),
            trimmed(p, n),
            trimmed(t, n),
            size,
            self.time_unit,
            t_reached=reached if started else None,
            leaps=leaps,
            triggers=_triggers(triggers),
            losses=Losses(outside, unknown, unsynced, ragged),
        )

    def resync(self) -> None:
        """Drop events until the next row, vector base and time; the time known so far stays, to tell the leap."""
        self._state[k.NEED] = k.NEED_ALL

    def _run(self, words: U16, columns: tuple[U16, U16, U8, I64], size: SensorSize) -> tuple[I64, I64]:
        """Fill the columns; return the trigger and leap rows, collected a full buffer at a time."""
        state, start = self._state, 0
        state[k.OUTSIDE :] = 0
        triggers, leaps = [], []
        while True:
            args = (self._triggers, self._leaps, self._store, size.width, size.height, state)
            start = k.decode_words(words, start, *columns, *args)
            triggers.append(self._triggers[: state[k.TRIGGERS]].copy())
            leaps.append(self._leaps[: state[k.LEAPS]].copy())
            if start == len(words):
                break
            state[k.TRIGGERS] = state[k.LEAPS] = 0
        if len(triggers) == 1:
            return triggers[0], leaps[0]
        return np.concatenate(triggers), np.concatenate(leaps)


def _triggers(rows: I64) -> Triggers:
    """Return rows (t, edge, id) as columns."""
    if not len(rows):
        return _NO_TRIGGERS
    return Triggers(rows[:, 0].copy(), rows[:, 1].astype(np.uint8), rows[:, 2].astype(np.uint8))


_NO_TRIGGERS = Triggers.empty()


def warm_up() -> None:
    """Compile every kernel that decodes packets (or load it from disk), so that the first packet waits for none."""
    from snn_perception.events.libcaer import LibcaerCmpDecoder

    for decoder, encoding in ((Evt3Decoder(), "evt3"), (LibcaerCmpDecoder(), "libcaer_cmp")):
        decoder.decode(Packet(np.zeros(2, np.uint8), encoding, SensorSize(1, 1)))
