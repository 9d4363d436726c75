"""Decodes the encodings of libcaer's driver: polarity events as they are, and its compressed words."""

from __future__ import annotations

import numpy as np

from snn_perception.events import libcaer_kernels as k
from snn_perception.events.leaps import KnownTime
from snn_perception.events.payload import all_trimmed, check_event_count, records, sensor_size, time_base
from snn_perception.types import I64, JITTER_US, LEAP_US, DecodedEvents, Losses, Packet

ROLL_OVER_US = 1 << 31
MOST_ROLL_OVERS = 1 << 20  # of a hostile packet, so that its times stay in int64; a true one has one at most


class LibcaerDecoder:
    """Returns the events of one stream's packets, 8 bytes each: a word with x (bits 17-31), y (2-16), polarity (1) and
    whether it is valid (0), and 31 bits of us since `time_base`, rolled over where they fall within a packet.

    Records that are not valid, or whose time is negative, count as unknown.
    """

    time_unit = "ns"

    def __init__(self) -> None:
        self._known = KnownTime(1000)

    def decode(self, packet: Packet) -> DecodedEvents:
        """Return what the packet holds, in ns. Raises EventDataError for a packet without size or beyond all limits."""
        size, base = sensor_size(packet), time_base(packet)
        words, odd = records(packet, np.uint32)
        words = words[: len(words) // 2 * 2].reshape(-1, 2)
        check_event_count(packet, len(words))
        ragged = odd + len(packet.data) // 4 % 2 * 4
        data, time = words[:, 0], words[:, 1].astype(np.int64)
        x, y = (data >> np.uint32(17)).astype(np.uint16), (data >> np.uint32(2)).astype(np.uint16) & np.uint16(0x7FFF)
        valid = ((data & np.uint32(1)) != 0) & (time < ROLL_OVER_US)
        kept = valid & (x < size.width) & (y < size.height)
        unknown = len(words) - int(np.count_nonzero(valid))
        outside = len(words) - unknown - int(np.count_nonzero(kept))
        if unknown or outside:
            data, time, x, y = data[kept], time[kept], x[kept], y[kept]
        p = (data >> np.uint32(1)).astype(np.uint8) & np.uint8(1)
        t = base + _unrolled(time) * 1000
        leaps = self._known.advance(t)
        losses = Losses(outside, unknown, ragged=ragged)
        return DecodedEvents(x, y, p, t, size, self.time_unit, t_reached=self._known.t, leaps=leaps, losses=losses)

    def resync(self) -> None:
        """Do nothing: every record stands for itself."""


def _unrolled(time: I64) -> I64:
    """Return times in us that grow by 2^31 wherever they fall."""
    falls = time[1:] < time[:-1]
    if not falls.any():
        return time
    roll_overs = np.zeros(len(time), np.int64)
    np.cumsum(falls, out=roll_overs[1:])
    return time + np.minimum(roll_overs, MOST_ROLL_OVERS) * ROLL_OVER_US


class LibcaerCmpDecoder:
    """Returns the events of one stream's packets of 16-bit words: like EVT3, with other numbers and vectors along y.

    Time is ``time_base + (high * 4096 + low) us``; both halves are 0 at the start of a packet, and never wrap in it.
    Column, vector base and polarity last from packet to packet; events wait for the first of them. When a time is
    known, and what `t_reached` promises, is as in `Evt3Decoder`; the time base alone tells none.
    """

    time_unit = "ns"

    def __init__(self) -> None:
        self._state = k.new_state()
        self._leaps = np.empty((1024, 3), np.int64)

    def decode(self, packet: Packet) -> DecodedEvents:
        """Return what the packet holds, in ns. Raises EventDataError for a packet without size or beyond all limits."""
        size, base = sensor_size(packet), time_base(packet)
        words, ragged = records(packet, np.uint16)
        capacity = k.count_events(words)
        check_event_count(packet, capacity)
        x, y = np.empty(capacity, np.uint16), np.empty(capacity, np.uint16)
        p, t = np.empty(capacity, np.uint8), np.empty(capacity, np.int64)
        state, start, leaps = self._state, 0, []
        state[[k.HIGH, k.LOW]], state[k.TIME], state[k.UNTOLD], state[k.OUTSIDE :] = 0, base, k.UNTOLD_PACKET, 0
        while True:
            start = k.decode_words(words, start, base, x, y, p, t, self._leaps, size.width, size.height, state)
            leaps.append(self._leaps[: state[k.LEAPS]].copy())
            if start == len(words):
                break
            state[k.LEAPS] = 0
        outside, unknown, unsynced, n = state[k.OUTSIDE : k.EVENTS + 1].tolist()
        return DecodedEvents(
            *all_trimmed((x, y, p, t), n),
            size,
            self.time_unit,
            t_reached=self._t_reached(base),
            leaps=np.concatenate(leaps),
            losses=Losses(outside, unknown, unsynced, ragged),
        )

    def resync(self) -> None:
        """Drop events until the next column and vector base; time begins anew with every packet in any case."""
        self._state[k.NEED] = k.NEED_ALL

    def _t_reached(self, base: int) -> int | None:
        state = self._state
        if not state[k.STARTED]:
            return None
        if state[k.UNTOLD] == k.UNTOLD_HIGH:
            lowest = base + (int(state[k.HIGH]) << 12) * 1000
            if -JITTER_US * 1000 <= lowest - state[k.KNOWN] <= (LEAP_US - 0xFFF) * 1000:
                return lowest
        return int(state[k.KNOWN])
