"""How a recording is to be written."""

from __future__ import annotations

from dataclasses import dataclass, field

from snn_perception.errors import EventDataError
from snn_perception.events.passage import Selection
from snn_perception.events.point_packets import MOST_INTERVAL_US

MESSAGES = ("event_packet", "pointcloud2")
TOPICS = {"event_packet": "/event_camera/events", "pointcloud2": "/event_camera/points"}


@dataclass(frozen=True)
class TransferOptions:
    """How to write.

    Attributes:
        selection: which events, and what happens to their times.
        event_type: of DAT: 12 (EventCD) or 0 (Event2D, as GEN1 has it).
        storage: of bags: ``sqlite3`` or ``mcap``.
        message: of bags: ``event_packet`` (EVT3 words) or ``pointcloud2`` (nanoseconds are kept).
        topic: of bags; that of a source bag of the same kind of message, or the one in `TOPICS`.
        packet_us: sensor time of one message.
        frame_id: of the messages' headers; the source's by default.
        stamp_offset_ns: header stamp minus sensor time. By default that of the source bag's first packet with events,
            or 0; always 0 for point clouds, whose stamps are part of their events' times.
        first_stamp_ns: the first event's time on the clock of the stamps, in place of an offset.
        verify: read back what was written and compare every event.
    """

    selection: Selection = field(default_factory=Selection)
    event_type: int = 12
    storage: str = "sqlite3"
    message: str = "event_packet"
    topic: str | None = None
    packet_us: int = 4_000
    frame_id: str | None = None
    stamp_offset_ns: int | None = None
    first_stamp_ns: int | None = None
    verify: bool = False

    def __post_init__(self) -> None:
        if self.message not in MESSAGES:
            raise EventDataError(f"unknown kind of message '{self.message}'; known: {', '.join(MESSAGES)}")
        if not 0 < self.packet_us <= MOST_INTERVAL_US:
            raise EventDataError(f"expected messages of 0.001..{MOST_INTERVAL_US / 1000} ms, got {self.packet_us} us")
        if self.stamp_offset_ns is not None and self.first_stamp_ns is not None:
            raise EventDataError("got both an offset of the stamps and a time of the first one; give one of them")
