"""Events to EVT3 words and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snn_perception.errors import EventDataError
from snn_perception.events.evt3 import Evt3Decoder
from snn_perception.events.evt3_encode import MAX_SILENCE_US, Evt3Encoder, packetize
from snn_perception.types import DecodedEvents, EventArray, Losses, Packet, SensorSize

SIZE = SensorSize(480, 640)
WRAP_US = 1 << 24


def array(rows, size=SIZE) -> EventArray:
    """Events from rows (t, x, y, p)."""
    t, x, y, p = np.array(rows, np.int64).reshape(-1, 4).T
    return EventArray(x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8), t.copy(), size)


def decode(decoder: Evt3Decoder, data: bytes, size=SIZE) -> DecodedEvents:
    decoded = decoder.decode(Packet(np.frombuffer(data, np.uint8), "evt3", size))
    assert decoded.losses == Losses()
    return decoded


def assert_same(decoded, events: EventArray, offset: int = 0) -> None:
    for name in "xyp":
        np.testing.assert_array_equal(getattr(decoded, name), getattr(events, name))
    np.testing.assert_array_equal(decoded.t + offset, events.t)


def kinds(data: bytes) -> list[int]:
    return (np.frombuffer(data, "<u2") >> 12).tolist()


# Few rows, times and polarities, so that runs which fit into vectors are common.
ROWS = st.tuples(st.integers(0, 2), st.integers(0, 40) | st.integers(0, 639), st.integers(0, 2), st.integers(0, 1))


@given(st.lists(ROWS, max_size=80), st.integers(0, 2**40), st.lists(st.integers(0, 200_000), max_size=80))
def test_round_trip_keeps_every_event_and_their_order(rows, start, steps):
    now, moved = start, []
    for row, step in zip(rows, [*steps, *[0] * len(rows)], strict=False):
        now += row[0] * step
        moved.append((now, *row[1:]))
    events = array(moved)
    decoded = decode(Evt3Decoder(), Evt3Encoder(SIZE).encode(events))
    assert_same(decoded, events, (start if moved else 0) // WRAP_US * WRAP_US)


@given(st.lists(st.lists(ROWS, max_size=20), min_size=1, max_size=6), st.booleans(), st.integers(0, 60_000))
def test_calls_continue_one_stream(chunks, self_contained, step):
    encoder, decoder = Evt3Encoder(SIZE, self_contained=self_contained), Evt3Decoder()
    now = 1000
    sent, back = [], []
    for chunk in chunks:
        rows = []
        for row in chunk:
            now += row[0] * step
            rows.append((now, *row[1:]))
        sent.append(array(rows))
        now += 7
        decoded = decode(decoder, encoder.encode(sent[-1], now))
        assert decoded.t_reached == now and not len(decoded.leaps)
        back.append(decoded.to_event_array())
    assert_same(EventArray.concatenate(back, SIZE), EventArray.concatenate(sent, SIZE))


def test_self_contained_words_decode_alone():
    encoder = Evt3Encoder(SIZE)
    parts = [array([(k * 1000 + j, 10 * j, 7, 1) for j in range(20)]) for k in range(5)]
    words = [encoder.encode(part) for part in parts]
    for part, data in zip(parts, words, strict=True):
        assert_same(decode(Evt3Decoder(), data), part)
    continued = Evt3Encoder(SIZE, self_contained=False)
    assert sum(len(continued.encode(part)) for part in parts) < sum(map(len, words))


def test_neighbours_share_vector_words():
    line = array([(5, x, 9, 1) for x in range(100, 132)])
    data = Evt3Encoder(SIZE).encode(line)
    assert kinds(data) == [8, 6, 0, 3, 4, 4, 5]
    assert_same(decode(Evt3Decoder(), data), line)
    falling = array([(5, x, 9, 1) for x in range(131, 99, -1)])
    assert_same(decode(Evt3Decoder(), Evt3Encoder(SIZE).encode(falling)), falling)


def test_silence_is_told_every_4096_us():
    encoder = Evt3Encoder(SIZE)
    data = encoder.encode(EventArray.empty(SIZE), 0) + encoder.encode(EventArray.empty(SIZE), 1_000_000)
    assert kinds(data).count(8) == 2 + 1_000_000 // 4096
    decoded = decode(Evt3Decoder(), data)
    assert decoded.t_reached == 1_000_000 and not len(decoded.leaps)


def test_a_thousand_wraps():
    """5.6 h with an event every 20 s or so; some wraps hold no event."""
    t = np.cumsum(np.random.default_rng(1).integers(1, 40_000_000, 1_080))
    n = len(t)
    assert t[-1] > 1_200 * WRAP_US
    columns = np.arange(n) % 640, np.arange(n) % 480, np.arange(n) % 2
    events = EventArray(*(c.astype(d) for c, d in zip(columns, (np.uint16, np.uint16, np.uint8), strict=True)), t, SIZE)
    encoder, decoder = Evt3Encoder(SIZE), Evt3Decoder()
    offset = int(t[0]) // WRAP_US * WRAP_US
    for at in range(0, n, 135):
        decoded = decode(decoder, encoder.encode(events[at : at + 135]))
        assert_same(decoded, events[at : at + 135], offset)
        assert not len(decoded.leaps)


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ([([(5, 640, 0, 1)], None)], "x=640 lies outside"),
        ([([(5, 1, 0, 1), (4, 1, 0, 1)], None)], "precedes"),
        ([([(5, 1, 0, 1)], 9), ([(8, 1, 0, 1)], None)], "no time before 9 us"),
        ([([(5, 1, 0, 1)], 4)], "t_until_us after the last event"),
        ([([(5, 1, 0, 1), (MAX_SILENCE_US + 6, 1, 0, 1)], None)], "silence of"),
        ([([(5, 1, 0, 1)], MAX_SILENCE_US + 6)], "silence of"),
    ],
)
def test_what_cannot_be_told_is_refused(calls, message):
    encoder = Evt3Encoder(SIZE)
    with pytest.raises(EventDataError, match=message):
        for rows, until in calls:
            encoder.encode(array(rows), until)


def test_foreign_sensors_are_refused():
    with pytest.raises(EventDataError, match="2048x2048"):
        Evt3Encoder(SensorSize(100, 2049))
    with pytest.raises(EventDataError, match="640x480"):
        Evt3Encoder(SIZE).encode(EventArray.empty(SensorSize(1, 1)), 5)


# --- packets --------------------------------------------------------------------------------------------------------


def test_packets_cover_silence_and_give_back_every_event():
    start = 3 * WRAP_US + 123_456
    rng = np.random.default_rng(2)
    t = start + np.sort(np.concatenate([rng.integers(0, 50_000, 3_000), rng.integers(350_000, 400_000, 3_000)]))
    events = array(
        list(zip(t, rng.integers(0, 640, 6_000), rng.integers(0, 480, 6_000), rng.integers(0, 2, 6_000), strict=True))
    )
    chunks = [events[a : a + 700] for a in range(0, 6_000, 700)] + [EventArray.empty(SIZE)]
    packets = list(packetize(chunks, SIZE, interval_us=5_000, stamp_offset_ns=10**18, seq=40, frame_id="cam"))
    first = start // 5_000
    assert len(packets) == int(t[-1]) // 5_000 - first + 1
    decoder, back = Evt3Decoder(), []
    for k, packet in enumerate(packets):
        assert packet.seq == 40 + k and packet.size == SIZE and packet.frame_id == "cam" and packet.encoding == "evt3"
        assert packet.stamp_ns == (first + k) * 5_000_000 + 10**18
        decoded = decode(decoder, packet.data.tobytes())
        end = (first + k + 1) * 5_000 - 3 * WRAP_US
        assert decoded.t_reached == end and not len(decoded.leaps)
        assert ((decoded.t >= end - 5_000) & (decoded.t < end)).all()
        back.append(decoded.to_event_array())
        assert_same(decode(Evt3Decoder(), packet.data.tobytes()), back[-1])
    assert_same(EventArray.concatenate(back, SIZE), events, 3 * WRAP_US)


def test_packets_of_no_events_are_none():
    assert list(packetize([EventArray.empty(SIZE)], SIZE)) == []


def test_packets_over_a_broken_clock_are_refused_at_once():
    with pytest.raises(EventDataError, match="silence"):
        list(packetize([array([(0, 1, 1, 1), (10**15, 1, 1, 1)])], SIZE))
