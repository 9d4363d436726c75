"""The packet encodings, word by word in plain Python: slow, and simple enough to check against their description.

Each `decode` takes a Packet and returns (events as a list of (t, x, y, p), triggers as (t, edge, id), leaps as
(index, before, after), t_reached, losses as a dict).
"""

import struct
from collections import Counter

LEAP_US, JITTER_US = 100_000, 50_000


class _KnownTimes:
    """The times a stream has told, and the leaps between them."""

    def __init__(self, ticks):
        self.last, self.ticks = None, ticks

    def tell(self, t, index, leaps):
        if self.last is not None:
            step = t - self.last
            if step > LEAP_US * self.ticks or step < -JITTER_US * self.ticks:
                leaps.append((index, self.last, t))
        self.last = t

    def reached(self, lowest):
        """The time reached when a high half alone has told of times from `lowest` on (None: nothing is open)."""
        if lowest is None or self.last is None:
            return self.last
        if -JITTER_US * self.ticks <= lowest - self.last <= (LEAP_US - 4095) * self.ticks:
            return lowest
        return self.last


def words_of(packet, letter):
    """The payload's whole words, and the bytes left over."""
    size = struct.calcsize(letter)
    data = packet.data.tobytes()
    whole = len(data) // size
    return struct.unpack(f"{'>' if packet.is_bigendian else '<'}{whole}{letter}", data[: whole * size]), len(
        data
    ) % size


class Evt3:
    def __init__(self):
        self.high = self.low = self.row = self.base = None
        self.polarity = 0
        self.wraps = 0
        self.times = _KnownTimes(1)
        self.open_high = False  # a new high half has come, and nothing that settles its time
        self.waiting = True  # for the first time in both halves

    def resync(self):
        self.row = self.base = self.low = None
        self.waiting, self.high_since = True, False

    high_since = False

    def time(self):
        return self.wraps * 2**24 + self.high * 4096 + self.low

    def decode(self, packet):
        events, triggers, leaps, losses = [], [], [], Counter()
        words, losses["ragged"] = words_of(packet, "H")
        start = self.times.last is None
        if start:
            self.high, self.high_since = None, False
        for word in words:
            kind, value = word >> 12, word & 0xFFF
            if kind == 8:
                self._take_high(value, len(events), leaps)
            elif kind == 6 and self.high_since:
                self.low = value
                if self.open_high or self.waiting:
                    self._settle(len(events), leaps)
                self.waiting = False
            elif kind == 0 and self.times.last is not None:
                self.row = value & 0x7FF
            elif kind == 3 and self.times.last is not None:
                self.base, self.polarity = value & 0x7FF, value >> 11
            elif kind == 2:
                self._emit([value & 0x7FF], value >> 11, packet, events, leaps, losses)
            elif kind in (4, 5):
                self._take_vector(value, 12 if kind == 4 else 8, packet, events, leaps, losses)
            elif kind == 10:
                if self.waiting:
                    losses["unsynced"] += 1
                else:
                    if self.open_high:
                        self._settle(len(events), leaps)
                    triggers.append((self.time(), value & 1, value >> 8))
            elif kind not in (0, 3, 6, 7, 14, 15):
                losses["unknown"] += 1
        if not self.waiting and not self.open_high:
            self.times.last = self.time()
        lowest = self.wraps * 2**24 + self.high * 4096 if self.open_high else None
        return events, triggers, leaps, self.times.reached(lowest), losses

    def _take_high(self, value, index, leaps):
        known = self.times.last is not None
        self.high_since = True
        if value == self.high:
            return
        if known:
            if self.open_high:
                self.times.tell(self.wraps * 2**24 + self.high * 4096, index, leaps)
            elif not self.waiting:
                self.times.last = self.time()
            self.open_high = True
            if self.high - value > 10:
                self.wraps += 1
        self.high = value

    def _settle(self, index, leaps):
        self.times.tell(self.time(), index, leaps)
        self.open_high = False

    def _take_vector(self, mask, bits, packet, events, leaps, losses):
        offsets = [k for k in range(bits) if mask >> k & 1]
        if self.base is None:
            losses["unsynced"] += len(offsets)
            return
        self._emit([self.base + k for k in offsets], self.polarity, packet, events, leaps, losses)
        self.base += bits

    def _emit(self, columns, polarity, packet, events, leaps, losses):
        if self.waiting or self.row is None:
            losses["unsynced"] += len(columns)
            return
        if self.open_high:
            self._settle(len(events), leaps)
        for x in columns:
            if x < min(packet.size.width, 2048) and self.row < packet.size.height:
                events.append((self.time(), x, self.row, polarity))
            else:
                losses["outside"] += 1


class LibcaerCmp:
    def __init__(self):
        self.column = self.base = None
        self.polarity = 0
        self.times = _KnownTimes(1000)

    def resync(self):
        self.column = self.base = None

    def decode(self, packet):
        events, leaps, losses = [], [], Counter()
        words, losses["ragged"] = words_of(packet, "H")
        high = low = 0
        told, open_high = False, False  # whether the time in force is told; whether a high half waits for its low one

        def time(low_half):
            return packet.time_base + (high * 4096 + low_half) * 1000

        def emit(rows, polarity):
            nonlocal told, open_high
            if not told:
                self.times.tell(time(low), len(events), leaps)
                told, open_high = True, False
            for y in rows:
                if self.column < packet.size.width and y < min(packet.size.height, 2048):
                    events.append((time(low), self.column, y, polarity))
                else:
                    losses["outside"] += 1

        for word in words:
            kind, value = word >> 12, word & 0xFFF
            if kind == 0 and value != high:
                if open_high:
                    self.times.tell(time(0), len(events), leaps)
                high, told, open_high = value, False, True
            elif kind == 1:
                low = value
                self.times.tell(time(low), len(events), leaps)
                told, open_high = True, False
            elif kind == 2:
                self.column = value & 0x7FF
            elif kind == 3:
                if self.column is None:
                    losses["unsynced"] += 1
                else:
                    emit([value & 0x7FF], value >> 11)
            elif kind == 4:
                self.base, self.polarity = value & 0x7FF, value >> 11
            elif kind == 5:
                bits = [k for k in range(8) if value >> k & 1]
                if self.column is None or self.base is None:
                    losses["unsynced"] += len(bits)
                else:
                    emit([self.base + k for k in bits], self.polarity)
                if self.base is not None:
                    self.base += 8
            elif kind != 0:
                losses["unknown"] += 1
        return events, [], leaps, self.times.reached(time(0) if open_high else None), losses


class Libcaer:
    def __init__(self):
        self.times = _KnownTimes(1000)

    def resync(self):
        pass

    def decode(self, packet):
        events, leaps, losses = [], [], Counter()
        words, _ = words_of(packet, "I")
        losses["ragged"] = len(packet.data) % 8
        rolled, before = 0, None
        for data, time in zip(words[0 : len(words) // 2 * 2 : 2], words[1::2], strict=True):
            x, y, p = data >> 17, data >> 2 & 0x7FFF, data >> 1 & 1
            if not data & 1 or time >= 2**31:
                losses["unknown"] += 1
            elif x >= packet.size.width or y >= packet.size.height:
                losses["outside"] += 1
            else:
                rolled += before is not None and time < before
                before = time
                t = packet.time_base + (time + rolled * 2**31) * 1000
                self.times.tell(t, len(events), leaps)
                events.append((t, x, y, p))
        return events, [], leaps, self.times.last, losses


class Mono:
    def __init__(self):
        self.times = _KnownTimes(1000)

    def resync(self):
        pass

    def decode(self, packet):
        events, leaps, losses = [], [], Counter()
        words, losses["ragged"] = words_of(packet, "Q")
        for word in words:
            t, x, y, p = packet.time_base + word % 2**32, word >> 32 & 0xFFFF, word >> 48 & 0x7FFF, word >> 63
            if x >= packet.size.width or y >= packet.size.height:
                losses["outside"] += 1
            else:
                self.times.tell(t, len(events), leaps)
                events.append((t, x, y, p))
        return events, [], leaps, self.times.last, losses


class Evt2:
    """EVT2; `Evt21` reads 64-bit words as such a word and a mask."""

    def __init__(self):
        self.high, self.wraps, self.waiting = None, 0, True
        self.times = _KnownTimes(1)

    def resync(self):
        self.waiting = True

    def words(self, packet):
        words, ragged = words_of(packet, "I")
        return [(word, 1) for word in words], ragged

    def time(self, low):
        return self.wraps * 2**34 + self.high * 64 + low

    def decode(self, packet):
        events, triggers, leaps, losses = [], [], [], Counter()
        words, losses["ragged"] = self.words(packet)
        for word, mask in words:
            kind, low = word >> 28, word >> 22 & 63
            if kind == 8:
                self._take_high(word % 2**28, len(events), leaps)
            elif kind in (0, 1):
                columns = [(word >> 11 & 0x7FF) + k for k in range(32) if mask >> k & 1]
                row = word & 0x7FF
                if self.waiting:
                    losses["unsynced"] += len(columns)
                    continue
                self.times.tell(self.time(low), len(events), leaps)
                for x in columns:
                    if x < min(packet.size.width, 2048) and row < packet.size.height:
                        events.append((self.time(low), x, row, kind))
                    else:
                        losses["outside"] += 1
            elif kind == 10:
                if self.waiting:
                    losses["unsynced"] += 1
                else:
                    self.times.tell(self.time(low), len(events), leaps)
                    triggers.append((self.time(low), word & 1, word >> 8 & 31))
            elif kind not in (14, 15):
                losses["unknown"] += 1
        return events, triggers, leaps, self.times.last, losses

    def _take_high(self, value, index, leaps):
        self.waiting = False
        before, self.high = self.high, value
        if before is None:
            self.times.tell(self.time(0), index, leaps)
        elif value != before:
            if before - value > 2**27:
                self.wraps += 1
            elif value - before > 2**27 and self.wraps and (before + 2**28 - value) * 64 <= JITTER_US:
                self.wraps -= 1
            self.times.tell(self.time(0), index, leaps)


class Evt21(Evt2):
    def words(self, packet):
        words, ragged = words_of(packet, "Q")
        return [(word >> 32, word % 2**32) for word in words], ragged


class Evt21e(Evt2):
    def words(self, packet):
        halves, _ = words_of(packet, "I")
        return list(zip(halves[0::2], halves[1::2], strict=False)), len(packet.data) % 8
