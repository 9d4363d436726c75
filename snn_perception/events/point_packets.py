"""Events as a stream of point clouds, as a driver would publish them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from snn_perception.errors import EventDataError
from snn_perception.events.evt3_encode import MAX_SILENCE_US
from snn_perception.events.intervals import Columns, by_interval, columns_of
from snn_perception.events.point_layout import pack_points
from snn_perception.types import DecodedEvents, EventArray, Packet, SensorSize

MOST_INTERVAL_US = 4_294_967  # a point's time has 32 bits of nanoseconds


def cloud_packets(
    events: Iterable[EventArray | DecodedEvents],
    size: SensorSize,
    *,
    interval_us: int = 4_000,
    stamp_offset_ns: int = 0,
    frame_id: str = "",
) -> Iterator[Packet]:
    """Yield events as point clouds, one per interval of sensor time, silent ones too.

    Intervals lie on a grid from sensor time 0. A cloud is stamped with the start of its interval, so that stamp plus
    point time is sensor time (plus `stamp_offset_ns`), to the nanosecond.

    Args:
        events: chunks of one stream in order of time.
        interval_us: length of a cloud, at most `MOST_INTERVAL_US`.
        stamp_offset_ns: stamp minus sensor time.

    Raises:
        EventDataError: for another interval, events out of order, or a silence of more than a day.
    """
    if not 0 < interval_us <= MOST_INTERVAL_US:
        raise EventDataError(f"point cloud: expected intervals of 1..{MOST_INTERVAL_US} us, got {interval_us}")
    chunks = map(_in_ns, events)
    for start, _, (x, y, p, t) in by_interval(chunks, interval_us * 1000, max_silence=MAX_SILENCE_US * 1000):
        layout, data = pack_points(DecodedEvents(x, y, p, t, size, "ns"), start)
        stamp_ns = start + stamp_offset_ns
        points = np.frombuffer(data, np.uint8)
        yield Packet(points, "pointcloud2", size, stamp_ns=stamp_ns, frame_id=frame_id, layout=layout)


def _in_ns(events: EventArray | DecodedEvents) -> Columns:
    x, y, p, t = columns_of(events)
    return x, y, p, t if isinstance(events, DecodedEvents) and events.time_unit == "ns" else t * 1000
