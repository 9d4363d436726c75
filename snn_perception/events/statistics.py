"""What a recording holds, counted in one pass, and a digest of its events.

Sums are exact at any length, so that two decoders can be compared by them; the digest tells whether two recordings hold
the same events whatever their format.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from snn_perception.events.jit import kernel
from snn_perception.events.pixel_statistics import PixelStatistics
from snn_perception.events.rate import RateBins
from snn_perception.events.walk import EventWalk
from snn_perception.types import LEAP_US, DecodedEvents, Losses, Packet, SensorSize

EDGE_EVENTS = 5  # so many events from either end are kept for a look at them
EDGE_TRIGGERS = 3
PEAK_US = 10_000  # the peak rate is that of the fullest such interval of sensor time
SILENCE_US = LEAP_US  # a longer time without any event is a silence
Advance = Callable[[int, int], None]

# Places in the array that `_tally` fills. Those up to _HIGH are sums of one call, the others go on from call to call.
_ON, _SUM_X, _SUM_Y, _LOW, _HIGH, _MIN, _MAX, _MAX_X, _MAX_Y, _BACK, _LAST, _BIN, _IN_BIN, _PEAK, _PEAK_BIN = range(15)
_SILENCES, _SILENT, _LONGEST, _LONGEST_AT, _PLACES = range(15, 20)
_FIRST = np.iinfo(np.int64).min  # no event yet


@dataclass
class EventStatistics:
    """Figures of a recording, so far. Times are in `time_unit` ticks of the source unless `_us` says otherwise.

    Attributes:
        messages: packets of a bag; 0 for files of events.
        empty_messages, events_in_messages: packets without events; events in each of the first few, and in the last.
        sum_t, sum_x, sum_y: exact sums over all events.
        backwards: events earlier than the one before them.
        leaps: steps of sensor time that the decoder reported (see `DecodedEvents.leaps`).
        rate: events over time. pixels: events per pixel, and events that come twice.
        trigger_edges: how many triggers of either edge; trigger_ids: which inputs; trigger_sum_t: sum of their times.
    """

    messages: int = 0
    empty_messages: int = 0
    events_in_first_messages: list[int] = field(default_factory=list)
    events_in_last_message: int = 0
    first_packet: Packet | None = None
    last_packet: Packet | None = None
    encodings: dict[str, int] = field(default_factory=dict)
    size: SensorSize | None = None
    time_unit: str = "us"
    events: int = 0
    on: int = 0
    sum_t: int = 0
    sum_x: int = 0
    sum_y: int = 0
    first_events: list[tuple[int, int, int, int]] = field(default_factory=list)
    last_events: list[tuple[int, int, int, int]] = field(default_factory=list)
    leaps: int = 0
    triggers: int = 0
    trigger_edges: list[int] = field(default_factory=lambda: [0, 0])
    trigger_ids: set[int] = field(default_factory=set)
    trigger_sum_t: int = 0
    first_triggers: list[tuple[int, int, int]] = field(default_factory=list)
    losses: Losses = field(default_factory=Losses)
    rate: RateBins = field(default_factory=RateBins)
    pixels: PixelStatistics = field(default_factory=PixelStatistics)

    def __post_init__(self) -> None:
        self._tally = np.zeros(_PLACES, np.int64)
        self._tally[_MIN], self._tally[_MAX] = np.iinfo(np.int64).max, np.iinfo(np.int64).min
        self._tally[[_LAST, _BIN]] = _FIRST

    def add(self, events: DecodedEvents, packet: Packet | None = None) -> None:
        """Take in the next piece, and the packet it came in."""
        if packet is not None:
            self._add_message(events, packet)
        self.size, self.time_unit = events.size, events.time_unit
        self.losses += events.losses
        self.leaps += len(events.leaps)
        if len(events):
            self._add_events(events)
        if len(events.triggers):
            self._add_triggers(events)

    @property
    def off(self) -> int:
        """Number of OFF events."""
        return self.events - self.on

    @property
    def t_min(self) -> int:
        """Earliest time; 0 without events."""
        return int(self._tally[_MIN]) if self.events else 0

    @property
    def t_max(self) -> int:
        """Latest time; 0 without events."""
        return int(self._tally[_MAX]) if self.events else 0

    @property
    def max_x(self) -> int:
        """Largest x."""
        return int(self._tally[_MAX_X])

    @property
    def max_y(self) -> int:
        """Largest y."""
        return int(self._tally[_MAX_Y])

    @property
    def backwards(self) -> int:
        """Events earlier than the one before them."""
        return int(self._tally[_BACK])

    @property
    def ticks_per_us(self) -> int:
        """Ticks of the source's time in a microsecond."""
        return 1000 if self.time_unit == "ns" else 1

    @property
    def duration_us(self) -> int:
        """From the earliest event to the latest."""
        return self.t_max // self.ticks_per_us - self.t_min // self.ticks_per_us

    @property
    def rate_mean_hz(self) -> float:
        """Events per second of sensor time; 0 where no time passes."""
        return self.events * 1e6 / self.duration_us if self.duration_us else 0.0

    @property
    def rate_peak_hz(self) -> float:
        """Events per second in the fullest `PEAK_US` of sensor time; the mean of a shorter recording."""
        return max(self.burst[1] * 1e6 / PEAK_US, self.rate_mean_hz)

    @property
    def burst(self) -> tuple[int, int]:
        """Start (us) of the fullest `PEAK_US` of sensor time, on a grid from time 0, and its events; (0, 0) without."""
        if not self.events:
            return 0, 0
        tally = self._tally
        which, n = (_BIN, _IN_BIN) if tally[_IN_BIN] > tally[_PEAK] else (_PEAK_BIN, _PEAK)
        return int(tally[which]) * PEAK_US, int(tally[n])

    @property
    def silences(self) -> int:
        """Steps from one event to the next of more than `SILENCE_US`."""
        return int(self._tally[_SILENCES])

    @property
    def silent_us(self) -> int:
        """Length of all silences together."""
        return int(self._tally[_SILENT]) // self.ticks_per_us

    @property
    def longest_silence_us(self) -> tuple[int, int]:
        """Start and length of the longest silence; (0, 0) without."""
        return int(self._tally[_LONGEST_AT]) // self.ticks_per_us, int(self._tally[_LONGEST]) // self.ticks_per_us

    def _add_message(self, events: DecodedEvents, packet: Packet) -> None:
        self.messages += 1
        self.first_packet = self.first_packet or packet
        self.last_packet = packet
        self.encodings[packet.encoding] = self.encodings.get(packet.encoding, 0) + 1
        self.empty_messages += not len(events)
        self.events_in_last_message = len(events)
        if len(self.events_in_first_messages) < EDGE_EVENTS:
            self.events_in_first_messages.append(len(events))

    def _add_events(self, events: DecodedEvents) -> None:
        tally = self._tally
        tally[: _HIGH + 1] = 0
        ticks = events.us_divisor
        _count(events.t, events.x, events.y, events.p, PEAK_US * ticks, SILENCE_US * ticks, tally)
        self.rate.add(events)
        self.pixels.add(events)
        self.events += len(events)
        self.on += int(tally[_ON])
        self.sum_x += int(tally[_SUM_X])
        self.sum_y += int(tally[_SUM_Y])
        self.sum_t += (int(tally[_HIGH]) << 32) + int(tally[_LOW])
        if len(self.first_events) < EDGE_EVENTS:
            self.first_events += _rows(events, slice(0, EDGE_EVENTS - len(self.first_events)))
        self.last_events = (self.last_events + _rows(events, slice(-EDGE_EVENTS, None)))[-EDGE_EVENTS:]

    def _add_triggers(self, events: DecodedEvents) -> None:
        triggers = events.triggers
        self.triggers += len(triggers)
        rises = int(np.count_nonzero(triggers.edge))
        self.trigger_edges[0] += len(triggers) - rises
        self.trigger_edges[1] += rises
        self.trigger_ids |= set(triggers.id.tolist())
        self.trigger_sum_t += sum(triggers.t.tolist())
        if len(self.first_triggers) < EDGE_TRIGGERS:
            rows = zip(triggers.t.tolist(), triggers.edge.tolist(), triggers.id.tolist(), strict=True)
            self.first_triggers = (self.first_triggers + list(rows))[:EDGE_TRIGGERS]


def survey(walk: EventWalk, *, digest: bool = True, advance: Advance | None = None) -> tuple[EventStatistics, str]:
    """Return the figures of a recording and the digest of its events ("" if not wanted).

    The digest is SHA-256 over the columns t int64 in the source's time unit, x uint16, y uint16, p uint8, little
    endian, one column after the other. Each column takes a pass of its own, so that memory stays that of one piece.

    Args:
        advance: called with (done, total) now and then.

    Raises:
        EventDataError: if the recording cannot be read.
    """
    statistics, sha = EventStatistics(), hashlib.sha256()
    passes = "txyp" if digest else "t"
    for number, column in enumerate(passes):
        for packet, events in walk:
            if column == "t":
                statistics.add(events, packet)
            if digest:
                values = getattr(events, column)
                sha.update(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).data)
            if advance is not None:
                done, total = walk.recording.progress()
                advance(number * total + done, len(passes) * total)
    return statistics, sha.hexdigest() if digest else ""


def _rows(events: DecodedEvents, rows: slice) -> list[tuple[int, int, int, int]]:
    columns: list[list[Any]] = [column[rows].tolist() for column in (events.t, events.x, events.y, events.p)]
    return list(zip(*columns, strict=True))


@kernel
def _count(t, x, y, p, bin_ticks, silence, tally):  # type: ignore[no-untyped-def]
    """Add one piece to the tally. The sum of times is kept in two halves, since 64 bits do not hold it."""
    on = sum_x = sum_y = low = high = backwards = np.int64(0)
    t_min, t_max, last = tally[_MIN], tally[_MAX], tally[_LAST]
    max_x, max_y = tally[_MAX_X], tally[_MAX_Y]
    in_bin = tally[_IN_BIN]
    bin_begin = bin_end = np.int64(0)  # of the bin of the event before, once it is known in this piece
    for i in range(len(t)):
        now = t[i]
        low += now & np.int64(0xFFFFFFFF)
        high += now >> np.int64(32)
        t_min, t_max = min(t_min, now), max(t_max, now)
        backwards += now < last
        if now - last > silence and last != _FIRST:
            _note_silence(last, now - last, tally)
        last = now
        if now < bin_begin or now >= bin_end:
            tally[_IN_BIN] = in_bin
            in_bin = _enter_bin(now // bin_ticks, tally)
            bin_begin = (now // bin_ticks) * bin_ticks
            bin_end = bin_begin + bin_ticks
        in_bin += 1
        on += p[i] != 0
        sum_x += x[i]
        sum_y += y[i]
        max_x, max_y = max(max_x, np.int64(x[i])), max(max_y, np.int64(y[i]))
    tally[_ON], tally[_SUM_X], tally[_SUM_Y], tally[_LOW], tally[_HIGH] = on, sum_x, sum_y, low, high
    tally[_MIN], tally[_MAX], tally[_MAX_X], tally[_MAX_Y] = t_min, t_max, max_x, max_y
    tally[_BACK] += backwards
    tally[_LAST], tally[_IN_BIN] = last, in_bin


@kernel
def _enter_bin(number, tally):  # type: ignore[no-untyped-def]
    """Make a bin the current one, having judged the one before; returns the events that it holds already."""
    if number == tally[_BIN]:
        return tally[_IN_BIN]
    if tally[_IN_BIN] > tally[_PEAK]:
        tally[_PEAK], tally[_PEAK_BIN] = tally[_IN_BIN], tally[_BIN]
    tally[_BIN] = number
    return np.int64(0)


@kernel
def _note_silence(begin, length, tally):  # type: ignore[no-untyped-def]
    tally[_SILENCES] += 1
    tally[_SILENT] += length
    if length > tally[_LONGEST]:
        tally[_LONGEST], tally[_LONGEST_AT] = length, begin
