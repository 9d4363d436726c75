"""What a stream of packets has received and lost."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

from snn_perception.types import NO_LOSSES, DecodedEvents, Losses


@dataclass(frozen=True)
class StreamCounts:
    """What a stream has received and lost, since it began.

    Attributes:
        packets, events, triggers: received.
        lost_packets: missing by their `seq`; sequence_gaps: in how many places.
        duplicates: packets that came twice in a row, ignored. bad_packets: those that cannot be read at all.
        late_packets: packets that came after later ones, ignored; they stay counted as lost.
        restarts: the driver, the sensor size or the encoding began anew.
        losses: what the decoders could not use.
    """

    packets: int = 0
    events: int = 0
    triggers: int = 0
    lost_packets: int = 0
    sequence_gaps: int = 0
    duplicates: int = 0
    bad_packets: int = 0
    restarts: int = 0
    losses: Losses = field(default_factory=Losses)
    late_packets: int = 0


class StreamTally(SimpleNamespace):
    """The same while it grows, attribute by attribute: a value made anew for each of a thousand packets per second
    would cost a tenth of their decoding."""

    def __init__(self) -> None:
        super().__init__(**vars(StreamCounts()))

    def add_packet(self, events: DecodedEvents, lost: int, restarted: bool) -> None:
        """Count a packet that was decoded, and those that were lost before it."""
        self.packets += 1
        self.events += len(events)
        self.triggers += len(events.triggers)
        if lost:
            self.lost_packets += lost
            self.sequence_gaps += 1
        self.restarts += restarted
        if events.losses is not NO_LOSSES and events.losses.total:
            self.losses += events.losses

    def counts(self) -> StreamCounts:
        """Return what was counted so far."""
        return StreamCounts(**vars(self))
