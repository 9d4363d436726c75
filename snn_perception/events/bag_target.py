"""A recording's events as the messages of a bag."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from snn_perception.events.bag_messages import EVENT_TYPES, POINT_CLOUD
from snn_perception.events.bag_writer import write_bag
from snn_perception.events.evt3_encode import Evt3Encoder, packetize
from snn_perception.events.passage import Passage
from snn_perception.events.point_layout import pack_points
from snn_perception.events.point_packets import cloud_packets
from snn_perception.events.recording import Recording
from snn_perception.events.transfer_options import TOPICS, TransferOptions
from snn_perception.types import DecodedEvents, EventArray, Packet, SensorSize


def write_bag_of(path: Path, passage: Passage, options: TransferOptions) -> tuple[int, int]:
    """Return (messages written, header stamp minus sensor time in ns) of a bag with the events of a passage."""
    pieces = iter(passage)
    first = next(pieces, None)
    offset_ns = 0 if first is None else _stamp_offset_ns(passage, options, first)
    packets = _packets(passage, options, first, pieces, offset_ns)
    return write_bag(path, packets, options.storage, topic_of(passage.recording, options)), offset_ns


def _packets(
    passage: Passage,
    options: TransferOptions,
    first: DecodedEvents | None,
    pieces: Iterator[DecodedEvents],
    offset_ns: int,
) -> Iterator[Packet]:
    """Yield the messages of a bag: at least one, since a topic without messages cannot be read."""
    frame_id = passage.recording.frame_id if options.frame_id is None else options.frame_id
    if first is None:
        yield _empty_packet(passage.size, options, frame_id)
        return
    events = chain([first], pieces)
    if options.message == "pointcloud2":
        yield from cloud_packets(
            events, passage.size, interval_us=options.packet_us, stamp_offset_ns=offset_ns, frame_id=frame_id
        )
    else:
        yield from packetize(
            (piece.to_event_array() for piece in events),
            passage.size,
            interval_us=options.packet_us,
            stamp_offset_ns=offset_ns,
            frame_id=frame_id,
            from_zero=True,
        )


def _empty_packet(size: SensorSize, options: TransferOptions, frame_id: str) -> Packet:
    """Return a message without events, which tells sensor time 0."""
    stamp_ns = options.first_stamp_ns or options.stamp_offset_ns or 0
    if options.message == "pointcloud2":
        layout, _ = pack_points(EventArray.empty(size), 0)
        return Packet(np.empty(0, np.uint8), "pointcloud2", size, stamp_ns=stamp_ns, frame_id=frame_id, layout=layout)
    words = Evt3Encoder(size, t_start_us=0).encode(EventArray.empty(size), 0)
    return Packet(np.frombuffer(words, np.uint8), "evt3", size, seq=0, stamp_ns=stamp_ns, frame_id=frame_id)


def _stamp_offset_ns(passage: Passage, options: TransferOptions, first: DecodedEvents) -> int:
    """Return header stamp minus sensor time."""
    t_first_ns = int(first.t[0]) * (1 if first.time_unit == "ns" else 1000)
    if options.first_stamp_ns is not None:
        offset_ns = options.first_stamp_ns - t_first_ns
    elif options.stamp_offset_ns is not None:
        return options.stamp_offset_ns
    elif options.message == "pointcloud2" or passage.first_packet is None:
        return 0
    else:
        packet, t_ns = passage.first_packet
        offset_ns = packet.stamp_ns - t_ns
    interval_ns = options.packet_us * 1000
    return max(offset_ns, -(t_first_ns // interval_ns * interval_ns))  # no stamp before 1970


def topic_of(recording: Recording, options: TransferOptions) -> str:
    """Return the topic to write: the one asked for, the source's for the same kind of message, or the usual one."""
    if options.topic is not None:
        return options.topic
    kind = getattr(recording, "message_type", None)
    same = kind == POINT_CLOUD if options.message == "pointcloud2" else kind in EVENT_TYPES
    return str(getattr(recording, "topic", "")) if same else TOPICS[options.message]
