"""From one camera's packets to windows: the same code, packet for packet, in the live node and in a replay."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from snn_perception.errors import EventDataError
from snn_perception.events.clock import SensorClock
from snn_perception.events.duplicates import DuplicateFilter
from snn_perception.events.stream_counts import StreamCounts, StreamTally
from snn_perception.events.windower import Windower
from snn_perception.registry import Registry
from snn_perception.types import DecodedEvents, EventWindow, Packet, SensorSize

if TYPE_CHECKING:  # it brings torch, which reading a recording does not need
    from snn_perception.events.filling import Filler

    MakeFiller = Callable[[SensorSize], Filler | None]

MAX_WINDOW_EVENTS = 1 << 26  # 0.8 GiB; the fastest sensors read out 10^9 events a second, so 67 ms of them
MAX_PACKET_SPAN_US = 3_600_000_000  # besides one interruption; drivers send a packet every few milliseconds
LOSSES_KEPT = 16  # of so many of the latest losses a packet may yet come late


class Decoder(Protocol):
    """What the hook ``snn_event_decoders`` builds; one instance belongs to one stream."""

    def decode(self, packet: Packet) -> DecodedEvents:
        """Return the packet's events; damage in the payload is counted, an impossible packet is an EventDataError."""

    def resync(self) -> None:
        """Forget what lost packets may have changed."""


@dataclass(frozen=True)
class Piece:
    """One decoded packet, whether it lacks events for packets lost before it, and whether the stream began anew."""

    events: DecodedEvents
    lossy: bool = False
    restarted: bool = False


class EventStream:
    """Decodes one camera's packets in order: picks the decoder by encoding, watches `seq`, counts everything.

    A `seq` that skips ahead is a loss: the decoder drops what it cannot place until the next time and row words. The
    same packet again is a duplicate, ignored, and so is one of the lost packets that comes after all, with its earlier
    stamp: time has moved on. Any other lower `seq`, another sensor size or another encoding is a new stream.
    """

    def __init__(self, registry: Registry, *, size: SensorSize | None = None, topic: str = "") -> None:
        self._tally = StreamTally()
        self._registry, self._size, self._topic = registry, size, topic
        self._decoder: Decoder | None = None
        self._kind: tuple[str, SensorSize | None] | None = None
        self._seq: int | None = None
        self._last: Packet | None = None
        self._missing: deque[tuple[int, int]] = deque(maxlen=LOSSES_KEPT)  # first and last `seq` of the latest losses

    @property
    def counts(self) -> StreamCounts:
        """What came and what was lost, so far."""
        return self._tally.counts()

    @property
    def size(self) -> SensorSize | None:
        """Sensor size of the stream so far."""
        return self._kind[1] if self._kind else self._size

    def decode(self, packet: Packet) -> Piece | None:
        """Return the packet's events, or None for a duplicate or one that comes late.

        Raises:
            EventDataError: for an unknown encoding or an impossible packet; the stream goes on with the next one.
        """
        try:
            return self._decode(packet)
        except EventDataError:
            self._tally.bad_packets += 1
            raise

    def _decode(self, packet: Packet) -> Piece | None:
        lost = 0
        restarted = False
        if packet.seq is not None and self._seq is not None:
            if self._is_duplicate(packet):
                self._tally.duplicates += 1
                return None
            if self._is_late(packet):
                self._tally.late_packets += 1
                return None
            lost = max(0, packet.seq - self._seq - 1)
            restarted = packet.seq < self._seq
        kind = (packet.encoding, packet.size or self._size)
        restarted |= self._kind is not None and kind != self._kind
        decoder = self._decoder
        if decoder is None or restarted:
            decoder = self._new_decoder(packet)
        elif lost:
            decoder.resync()
        events = decoder.decode(packet if packet.size is not None else replace(packet, size=kind[1]))
        if restarted:
            self._missing.clear()
        elif lost and packet.seq is not None:
            self._missing.append((packet.seq - lost, packet.seq - 1))
        # After a loss events may have to wait for their row for several packets, which lack them as well.
        lossy = lost > 0 or (bool(self._missing) and events.losses.unsynced > 0)
        # Kept only now: a packet that cannot be read counts as lost when the next one comes.
        self._decoder, self._kind, self._seq, self._last = decoder, kind, packet.seq, packet
        self._tally.add_packet(events, lost, restarted)
        return Piece(events, lossy=lossy, restarted=restarted)

    def refuse_last(self) -> None:
        """Count the packet decoded last as one that cannot be read: its events are of no use."""
        self._tally.bad_packets += 1
        self._tally.packets -= 1

    def _is_duplicate(self, packet: Packet) -> bool:
        """Return whether this is the last packet again. A driver that never sets `seq` repeats the number alone."""
        last = self._last
        if last is None or packet.seq != last.seq or packet.stamp_ns != last.stamp_ns:
            return False
        return np.array_equal(packet.data, last.data)

    def _is_late(self, packet: Packet) -> bool:
        """Return whether this is a packet that was taken for lost. A driver that begins anew has a later stamp."""
        last, seq = self._last, packet.seq
        if last is None or seq is None or packet.stamp_ns >= last.stamp_ns or packet.encoding != last.encoding:
            return False
        return any(first <= seq <= to for first, to in self._missing)

    def _new_decoder(self, packet: Packet) -> Decoder:
        known = self._registry.names("event_decoder")
        if packet.encoding not in known:
            where = f"topic '{self._topic}': " if self._topic else ""
            raise EventDataError(f"{where}unknown event encoding {packet.encoding!r}; known: {', '.join(known)}")
        decoder: Decoder = self._registry.build("event_decoder", packet.encoding)
        return decoder


class PacketWindows:
    """Packets in, windows out, for one camera.

    Attributes:
        stream: decoding and its counts.
        windower: cutting and its counts; None before the first packet.
        clock: sensor time to the clock of the packets' stamps.
        decoded_ns: when the latest packet was decoded, on the monotonic clock; 0 before the first.
        duplicates: what drops duplicates, and counts them; None unless asked for.

    Args:
        drop_duplicates: leave out events that are equal to another in all columns.
        make_filler: returns what fills the model's grids as events of a sensor size arrive (see `events.filling`).
        max_events: that one window may hold; what comes beyond is dropped, counted and makes it lossy (`Windower`).
    """

    def __init__(
        self,
        registry: Registry,
        window_us: int,
        *,
        max_gap_us: int | None,
        stride_us: int | None = None,
        name: str = "",
        size: SensorSize | None = None,
        topic: str = "",
        drop_duplicates: bool = False,
        make_filler: MakeFiller | None = None,
        max_events: int = MAX_WINDOW_EVENTS,
    ) -> None:
        self._max_events = max_events
        self._told_us: int | None = None  # the last sensor time that a packet told of
        self.stream = EventStream(registry, size=size, topic=topic)
        self.duplicates = DuplicateFilter() if drop_duplicates else None
        self._make_filler = self._wanted_filler = make_filler
        self.windower: Windower | None = None
        self.clock = SensorClock()
        self.decoded_ns = 0
        self._window_us, self._stride_us, self._max_gap_us, self._name = window_us, stride_us, max_gap_us, name

    def fill_with(self, make_filler: MakeFiller | None) -> None:
        """Fill another model's grids from the next window on; may be called from any thread."""
        self._wanted_filler = make_filler

    def push(self, packet: Packet) -> Iterator[EventWindow]:
        """Yield the windows this packet closes; run the iterator to its end.

        Raises:
            EventDataError: for a packet that cannot be read at all.
        """
        if (wanted := self._wanted_filler) != self._make_filler:
            self._make_filler = wanted
            if self.windower is not None:
                self.windower.fill_with(wanted(self.windower.size) if wanted else None)
        piece = self.stream.decode(packet)
        self.decoded_ns = time.monotonic_ns()
        if piece is None:
            return
        if self.duplicates is not None:
            piece = replace(piece, events=self.duplicates.filter(piece.events))
        if self.windower is None:
            self.windower = self._new_windower(piece.events.size)
        elif piece.restarted:
            yield from self.windower.interrupt()
            self.clock.restart()
            self._told_us = None
            if self.windower.size != piece.events.size:
                earlier, self.windower = self.windower, self._new_windower(piece.events.size)
                self.windower.continue_counts(earlier)
        if (span_us := self._excess_us(piece.events, self.windower)) is not None:
            yield from self.windower.interrupt()
            self.clock.restart()
            raise self._refused_span(span_us)
        events, resumes_us = piece.events, self.windower.resumes_us(piece.events)
        windows = self.windower.push(events, lossy=piece.lossy)
        if resumes_us is None:
            if len(events):
                self.clock.observe(int(events.t[0]) // events.us_divisor * 1000, packet.stamp_ns)
            yield from windows
            return
        # What lies before a gap keeps the offset from before it; the packet's stamp tells of what comes after.
        waiting = True
        for window in windows:
            if waiting and window.after_gap:
                self._restart_clock(resumes_us, packet)
                waiting = False
            yield window
        if waiting:
            self._restart_clock(resumes_us, packet)

    def flush(self) -> Iterator[EventWindow]:
        """Yield the last, partial window, if there is one."""
        if self.windower is not None:
            yield from self.windower.flush()

    def _excess_us(self, events: DecodedEvents, windower: Windower) -> int | None:
        """Return the sensor time that a packet runs over, if that is more than any may; None for a packet as it should
        be. Every window of it would go through the model."""
        told_us, reached = self._told_us, events.t_reached
        if reached is not None:
            self._told_us = reached // events.us_divisor
        if self._max_gap_us is None:
            return None
        span_us = windower.span_us(events, told_us)
        return span_us if span_us > MAX_PACKET_SPAN_US + self._max_gap_us else None

    def _refused_span(self, span_us: int) -> EventDataError:
        self.stream.refuse_last()
        most_s = (MAX_PACKET_SPAN_US + (self._max_gap_us or 0)) / 1e6
        return EventDataError(
            f"a packet that runs over {span_us / 1e6:.0f} s of sensor time, expected at most {most_s:.0f} s; it is "
            "damaged or hostile"
        )

    def _restart_clock(self, sensor_us: int, packet: Packet) -> None:
        self.clock.restart()
        self.clock.observe(sensor_us * 1000, packet.stamp_ns)

    def _new_windower(self, size: SensorSize) -> Windower:
        filler = self._make_filler(size) if self._make_filler else None
        return Windower(
            self._window_us,
            size,
            stride_us=self._stride_us,
            max_gap_us=self._max_gap_us,
            stream=self._name,
            filler=filler,
            max_events=self._max_events,
        )
