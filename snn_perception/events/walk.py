"""A recording's events from front to back, whatever its kind, for those who count rather than detect."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from snn_perception.errors import EventDataError
from snn_perception.events.recording import Recording
from snn_perception.events.stream import EventStream
from snn_perception.events.stream_counts import StreamCounts
from snn_perception.registry import Registry
from snn_perception.types import DecodedEvents, Packet, Triggers

log = logging.getLogger(__name__)


class EventWalk:
    """Reads a recording's events front to back, any number of times, decoding a bag's packets as the live node does.

    Args:
        limit_us: stop this long after the first event; None for the whole recording.

    Attributes:
        counts: what the decoding of the latest pass counted (packet recordings).
        undecodable: packets of the latest pass that could not be decoded at all.
        unknown_encodings: encodings among them that no decoder here knows.
        stopped: whether the latest pass ended at the limit, before the end of the recording.
    """

    def __init__(self, recording: Recording, registry: Registry, *, limit_us: int | None = None) -> None:
        self.recording, self.limit_us, self._registry = recording, limit_us, registry
        self.counts = StreamCounts()
        self.undecodable = 0
        self.unknown_encodings: set[str] = set()
        self.stopped = False
        self._told = False

    def __iter__(self) -> Iterator[tuple[Packet | None, DecodedEvents]]:
        """Yield (packet, its events), or (None, events) piece by piece for a file recording.

        Raises:
            EventDataError: if no packet can be decoded.
        """
        self.stopped, end = False, None
        for packet, events in self._all():
            if end is None and self.limit_us is not None and len(events):
                end = int(events.t[0]) + self.limit_us * events.us_divisor
            if end is not None and _passes(events, end):
                self.stopped = True
                yield packet, _before(events, end)
                return
            yield packet, events

    def since(self, start_us: int) -> Iterator[DecodedEvents]:
        """Yield the events from about `start_us` on: a file recording seeks, a packet recording is read from the front.

        Raises:
            EventDataError: if no packet can be decoded.
        """
        if self.recording.is_packets:
            yield from (events for _, events in self._all())
        else:
            yield from self.recording.chunks(start_us=start_us)

    def _all(self) -> Iterator[tuple[Packet | None, DecodedEvents]]:
        self.counts, self.undecodable = StreamCounts(), 0
        if not self.recording.is_packets:
            yield from ((None, events) for events in self.recording.chunks())
            return
        stream = EventStream(self._registry, size=self.recording.size, topic=getattr(self.recording, "topic", ""))
        for packet in self.recording.packets():
            try:
                piece = stream.decode(packet)
            except EventDataError as error:
                self._count_undecodable(packet, stream, error)
                continue
            self.counts = stream.counts
            if piece is not None:
                yield packet, piece.events
        if self.undecodable and not stream.counts.packets:
            raise EventDataError(f"{self.recording.path}: not one of {self.undecodable} packets can be decoded")

    def _count_undecodable(self, packet: Packet, stream: EventStream, error: EventDataError) -> None:
        if not self._told:
            self._told = True
            log.warning("%s: packet %d: %s", self.recording.path, stream.counts.packets + 1, error)
        if packet.encoding not in self._registry.names("event_decoder"):
            self.unknown_encodings.add(packet.encoding)
        self.undecodable += 1


def _passes(events: DecodedEvents, end: int) -> bool:
    """Return whether these events, or the time told with them, reach a time (in ticks of the source)."""
    reached = events.t_reached is not None and events.t_reached >= end
    return reached or bool(len(events) and events.t.max() >= end)


def _before(events: DecodedEvents, end: int) -> DecodedEvents:
    """Return the events before the first one at or past `end`, with what belongs to them."""
    n = int(np.argmax(events.t >= end)) if len(events) and events.t.max() >= end else len(events)
    early = events.triggers.t < end
    triggers = events.triggers
    return replace(
        events,
        **{name: getattr(events, name)[:n] for name in "xypt"},
        t_reached=end,
        leaps=events.leaps[events.leaps[:, 0] < n],
        triggers=Triggers(triggers.t[early], triggers.edge[early], triggers.id[early]),
    )
