"""Events cut into messages: intervals, parts of crowded ones, the silence before a stream, and clouds of points."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snn_perception.errors import EventDataError
from snn_perception.events import intervals
from snn_perception.events.bag_messages import POINT_CLOUD, parse_message, serialize_point_cloud
from snn_perception.events.evt3 import Evt3Decoder
from snn_perception.events.evt3_encode import MAX_SILENCE_US, lead_in, packetize
from snn_perception.events.intervals import by_interval
from snn_perception.events.point_packets import cloud_packets
from snn_perception.events.pointcloud import PointCloudDecoder
from snn_perception.events.rosbag2 import BagRecording, write_bag
from snn_perception.types import DecodedEvents, EventArray, Packet, SensorSize

SIZE = SensorSize(240, 304)


def columns(t):
    t = np.array(t, np.int64)
    n = np.arange(len(t))
    return (n % 304).astype(np.uint16), (n % 240).astype(np.uint16), (n % 2).astype(np.uint8), t


def times(parts):
    return [(start, reached, part[3].tolist()) for start, reached, part in parts]


@given(
    steps=st.lists(st.integers(0, 300), max_size=60),
    start=st.integers(0, 10**6),
    interval=st.integers(1, 400),
    cuts=st.lists(st.integers(0, 60), max_size=5),
    most=st.integers(1, 70),
)
def test_intervals_partition_the_events_however_they_come(steps, start, interval, cuts, most):
    t = start + np.cumsum(steps, dtype=np.int64)
    whole = columns(t)
    edges = [0, *sorted(min(cut, len(t)) for cut in cuts), len(t)]
    chunks = [tuple(column[a:b] for column in whole) for a, b in pairwise(edges)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "MOST_EVENTS", most)
        parts = list(by_interval(chunks, interval, max_silence=10**9))
    for index, column in enumerate(whole):
        joined = [part[index] for _, _, part in parts] or [column[:0]]
        np.testing.assert_array_equal(np.concatenate(joined), column)
    assert all(len(part[3]) <= most for _, _, part in parts)
    for first, reached, (_, _, _, inside) in parts:
        assert first % interval == 0 and ((inside >= first) & (inside < first + interval)).all()
        assert reached == first + interval or (len(inside) == most and reached == inside[-1])
    grid = list(dict.fromkeys(first for first, _, _ in parts))
    assert grid == (list(range(grid[0], int(t[-1]) + 1, interval)) if len(t) else [])


def test_silent_intervals_are_there():
    parts = times(by_interval([columns([12, 41])], 10, max_silence=100))
    assert parts == [(10, 20, [12]), (20, 30, []), (30, 40, []), (40, 50, [41])]


def test_silence_beyond_belief_is_refused_before_it_is_made():
    with pytest.raises(EventDataError, match="silence of 999999999999980 ticks"):
        list(by_interval([columns([12, 10**15])], 10, max_silence=100))
    with pytest.raises(ValueError, match="must be positive"):
        list(by_interval([], 0, max_silence=1))


@given(st.lists(st.integers(0, 10**15), max_size=50))
def test_times_out_of_order_neither_hang_nor_get_lost(t):
    """Whoever encodes the parts refuses them; making them must end."""
    try:
        parts = list(by_interval([columns(t)], 10**6, max_silence=10**8))
    except EventDataError:
        return
    assert sum(len(part[3]) for _, _, part in parts) == len(t)


@pytest.mark.parametrize("most", [1, 7, 1000])
def test_a_crowded_interval_comes_in_several_packets(most, monkeypatch):
    monkeypatch.setattr(intervals, "MOST_EVENTS", most)
    t = np.repeat([5_000, 5_000, 5_003, 9_999], 10)
    events = EventArray(*columns(t), SIZE)
    packets = list(packetize([events], SIZE, interval_us=10_000))
    assert len(packets) == -(-40 // most) and {packet.stamp_ns for packet in packets} == {0}
    assert [packet.seq for packet in packets] == list(range(len(packets)))
    decoder = Evt3Decoder()
    again = [decoder.decode(packet) for packet in packets]
    assert np.concatenate([piece.t for piece in again]).tolist() == t.tolist()
    assert again[-1].t_reached == 10_000
    clouds = list(cloud_packets([events], SIZE, interval_us=10_000))
    assert len(clouds) == len(packets) and max(cloud.layout.width for cloud in clouds) <= most


# ---- the silence before a stream


@pytest.mark.parametrize(
    "t", [0, 1, 4095, 4096, 23 * 4096 - 1, 23 * 4096, 100_000, (1 << 24) - 1, 1 << 24, 3_600_000_000, MAX_SILENCE_US]
)
def test_the_lead_in_reaches_the_very_time_without_a_leap(t):
    words = lead_in(t)
    decoder = Evt3Decoder()
    decoded = decoder.decode(Packet(np.frombuffer(words, np.uint8), "evt3", SIZE))
    assert decoded.t_reached == t and not len(decoded.leaps) and not decoded.losses.total and not len(decoded)
    assert len(words) <= 8 + 2 * (t // 94_208)
    events = EventArray(*columns([t, t + 5]), SIZE)
    decoder = Evt3Decoder()
    pieces = [decoder.decode(packet) for packet in packetize([events], SIZE, interval_us=7_000, from_zero=True)]
    assert [now for piece in pieces for now in piece.t.tolist()] == [t, t + 5]
    assert not any(len(piece.leaps) for piece in pieces)


@pytest.mark.parametrize("t", [-1, MAX_SILENCE_US + 1, 1 << 62])
def test_the_lead_in_is_bounded(t):
    with pytest.raises(EventDataError, match="within a day of time 0"):
        lead_in(t)


# ---- clouds


@given(st.lists(st.integers(0, 5_000_000), max_size=40), st.integers(0, 1 << 61), st.integers(0, 10**9))
def test_clouds_keep_nanoseconds(steps, start, offset):
    t = start + np.cumsum(steps, dtype=np.int64)
    events = DecodedEvents(*columns(t), SIZE, "ns")
    packets = list(cloud_packets([events], SIZE, interval_us=20_000, stamp_offset_ns=offset, frame_id="cam"))
    decoder, again = PointCloudDecoder(size=SIZE), []
    for packet in packets:
        parsed = parse_message(serialize_point_cloud(packet), POINT_CLOUD) if packet.stamp_ns < 1 << 60 else packet
        assert (parsed.stamp_ns, parsed.encoding) == (packet.stamp_ns, "pointcloud2")
        assert parsed.layout == packet.layout and parsed.data.tobytes() == packet.data.tobytes()
        again.append(decoder.decode(parsed))
    assert [now - offset for piece in again for now in piece.t.tolist()] == t.tolist()


def test_clouds_longer_than_their_clock_are_refused():
    for interval in (0, 4_294_968):
        with pytest.raises(EventDataError, match="expected intervals of 1..4294967 us"):
            next(cloud_packets([], SIZE, interval_us=interval))
    (packet,) = cloud_packets([EventArray(*columns([0, 4_294_966]), SIZE)], SIZE, interval_us=4_294_967)
    assert PointCloudDecoder(size=SIZE).decode(packet).t.tolist() == [0, 4_294_966_000]


def test_what_a_cloud_message_cannot_hold_is_refused(tmp_path):
    (cloud,) = cloud_packets([EventArray(*columns([1]), SIZE)], SIZE, stamp_offset_ns=1 << 62)
    with pytest.raises(EventDataError, match="a number does not fit a sensor_msgs/msg/PointCloud2"):
        serialize_point_cloud(cloud)
    with pytest.raises(EventDataError, match="without points cannot become"):
        serialize_point_cloud(Packet(np.zeros(9, np.uint8), "evt3", SIZE))
    (words,) = packetize([EventArray(*columns([1]), SIZE)], SIZE)
    with pytest.raises(EventDataError, match="without points cannot become"):
        write_bag(tmp_path / "bag", [*cloud_packets([EventArray(*columns([1]), SIZE)], SIZE), words])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("noted", ["304x240", "'304x240'", "0x240", "99999x240", "304", "304x240x2", "-1x4", "x"])
def test_the_noted_sensor_size_is_believed_where_it_can_be_one(noted, tmp_path):
    write_bag(tmp_path / "bag", cloud_packets([EventArray(*columns([1, 2, 3]), SIZE)], SIZE))
    metadata = tmp_path / "bag" / "metadata.yaml"
    text = metadata.read_text()
    assert "event_sensor_size: 304x240\n" in text
    metadata.write_text(text.replace("304x240", noted))
    recording = BagRecording(tmp_path / "bag")
    assert recording.size_inferred is (noted.strip("'") != "304x240")
    assert recording.size == (SensorSize(3, 3) if recording.size_inferred else SIZE)
    assert BagRecording(tmp_path / "bag", size=(480, 640)).size == SensorSize(480, 640)
