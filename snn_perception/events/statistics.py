"""What a recording holds, counted in one pass, and a digest of its events.

Sums are exact at any length, so that two decoders can be compared by them; the digest tells whether two recordings hold
the same events whatever their format.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from snn_perception.errors import EventDataError
from snn_perception.events.jit import kernel
from snn_perception.events.recording import Recording
from snn_perception.events.stream import EventStream, StreamCounts
from snn_perception.registry import Registry
from snn_perception.types import DecodedEvents, Losses, Packet, SensorSize

log = logging.getLogger(__name__)

EDGE_EVENTS = 5  # so many events from either end are kept for a look at them
EDGE_TRIGGERS = 3
PEAK_US = 10_000  # the peak rate is that of the fullest such interval of sensor time
Advance = Callable[[int, int], None]

# Places in the array that `_tally` fills. Those up to _HIGH are sums of one call, the others go on from call to call.
_ON, _SUM_X, _SUM_Y, _LOW, _HIGH, _MIN, _MAX, _MAX_X, _MAX_Y, _BACK, _LAST, _BIN, _IN_BIN, _PEAK, _PLACES = range(15)
_FIRST = np.iinfo(np.int64).min  # no event yet


class EventWalk:
    """Reads a recording's events front to back, any number of times, decoding a bag's packets as the live node does.

    Attributes:
        counts: what the decoding of the latest pass counted (packet recordings).
        undecodable: packets of the latest pass that could not be decoded at all.
    """

    def __init__(self, recording: Recording, registry: Registry) -> None:
        self.recording, self._registry = recording, registry
        self.counts = StreamCounts()
        self.undecodable = 0
        self._told = False

    def __iter__(self) -> Iterator[tuple[Packet | None, DecodedEvents]]:
        """Yield (packet, its events), or (None, events) piece by piece for a file recording.

        Raises:
            EventDataError: if no packet can be decoded.
        """
        self.counts, self.undecodable = StreamCounts(), 0
        if not self.recording.is_packets:
            yield from ((None, events) for events in self.recording.chunks())
            return
        stream = EventStream(self._registry, size=self.recording.size, topic=getattr(self.recording, "topic", ""))
        for packet in self.recording.packets():
            try:
                piece = stream.decode(packet)
            except EventDataError as error:
                self._count_undecodable(stream, error)
                continue
            self.counts = stream.counts
            if piece is not None:
                yield packet, piece.events
        if self.undecodable and not stream.counts.packets:
            raise EventDataError(f"{self.recording.path}: not one of {self.undecodable} packets can be decoded")

    def _count_undecodable(self, stream: EventStream, error: EventDataError) -> None:
        if not self._told:
            self._told = True
            log.warning("%s: packet %d: %s", self.recording.path, stream.counts.packets + 1, error)
        self.undecodable += 1


@dataclass
class EventStatistics:
    """Figures of a recording, so far. Times are in `time_unit` ticks of the source unless `_us` says otherwise.

    Attributes:
        messages: packets of a bag; 0 for files of events.
        empty_messages, events_in_messages: packets without events; events in each of the first few, and in the last.
        sum_t, sum_x, sum_y: exact sums over all events.
        backwards: events earlier than the one before them.
        leaps: steps of sensor time that the decoder reported (see `DecodedEvents.leaps`).
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
        peak = max(int(self._tally[_PEAK]), int(self._tally[_IN_BIN])) * 1e6 / PEAK_US
        return max(peak, self.rate_mean_hz)

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
        _count(events.t, events.x, events.y, events.p, PEAK_US * events.us_divisor, tally)
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
def _count(t, x, y, p, bin_ticks, tally):  # type: ignore[no-untyped-def]
    """Add one piece to the tally. The sum of times is kept in two halves, since 64 bits do not hold it."""
    on = sum_x = sum_y = low = high = backwards = np.int64(0)
    t_min, t_max, last = tally[_MIN], tally[_MAX], tally[_LAST]
    max_x, max_y = tally[_MAX_X], tally[_MAX_Y]
    current, in_bin, peak = tally[_BIN], tally[_IN_BIN], tally[_PEAK]
    for i in range(len(t)):
        now = t[i]
        low += now & np.int64(0xFFFFFFFF)
        high += now >> np.int64(32)
        t_min, t_max = min(t_min, now), max(t_max, now)
        backwards += now < last
        last = now
        if now // bin_ticks != current:
            current, peak, in_bin = now // bin_ticks, max(peak, in_bin), np.int64(0)
        in_bin += 1
        on += p[i] != 0
        sum_x += x[i]
        sum_y += y[i]
        max_x, max_y = max(max_x, np.int64(x[i])), max(max_y, np.int64(y[i]))
    tally[_ON], tally[_SUM_X], tally[_SUM_Y], tally[_LOW], tally[_HIGH] = on, sum_x, sum_y, low, high
    tally[_MIN], tally[_MAX], tally[_MAX_X], tally[_MAX_Y] = t_min, t_max, max_x, max_y
    tally[_BACK] += backwards
    tally[_LAST], tally[_BIN], tally[_IN_BIN], tally[_PEAK] = last, current, in_bin, peak
