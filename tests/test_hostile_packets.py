"""Hostile packets: what each may cost in memory, that it ends in one error or a counted loss, and that the next good
packet works. Damage of every other kind is in test_fuzz_packets.py."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from snn_perception.discovery import load_registry
from snn_perception.errors import EventDataError
from snn_perception.events.bag_messages import EVENT_PACKET, parse_message, serialize_event_packet
from snn_perception.events.evt3_encode import packetize
from snn_perception.events.payload import MAX_PACKET_BYTES, MAX_PACKET_EVENTS, MAX_PACKET_MARKS
from snn_perception.events.stream import PacketWindows
from snn_perception.events.windower import Windower
from snn_perception.types import MAX_SIDE_PX, EventArray, Losses, Packet, SensorSize
from tests.runtime_support import tiny_pipeline
from tools.fuzz_packets import DECODERS, seeds

MIB = 1 << 20
EVENT_BYTES = 13  # x, y, p, t
SIZE = SensorSize(480, 640)
REGISTRY = load_registry(installed=False, environment=False)
WINDOW_US = 10_000
# Rows that a byte of payload can claim: a 16-bit vector word holds 12 events, a 64-bit one 32.
ROWS_PER_BYTE = {"evt3": 6, "libcaer_cmp": 4, "evt21": 4, "evt21e": 4, "evt2": 0.25, "libcaer": 0.125, "mono": 0.125}
REST_PER_BYTE = 32  # triggers, leaps, words in another byte order, columns before what lies outside is left out


def peak_bytes(work) -> tuple[int, object]:
    """Return the most memory that `work` held at a time, and what it returned or the EventDataError it raised."""
    tracemalloc.start()
    try:
        result = work()
    except EventDataError as error:
        result = error
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak, result


def evt3(*words: int, repeat: int = 1) -> np.ndarray:
    """Return a payload: a time, a row and a vector base, and then these words so often."""
    head = np.array([0x8001, 0x6001, 0x0005, 0x3000], "<u2")
    return np.concatenate([head, np.tile(np.array(words, "<u2"), repeat)]).view(np.uint8)


def payloads(encoding: str, nbytes: int):
    rng = np.random.default_rng(0)
    yield "zeros", np.zeros(nbytes, np.uint8)
    yield "ones", np.full(nbytes, 255, np.uint8)
    yield "noise", rng.integers(0, 256, nbytes).astype(np.uint8)
    yield "events", np.resize(np.concatenate([packet.data for packet in seeds(encoding)[0]]), nbytes)
    if encoding == "evt3":
        yield "vectors outside", evt3(0x4FFF, repeat=nbytes // 2 - 4)
        yield "vectors inside", evt3(0x3000, *[0x4FFF] * 31, repeat=nbytes // 64 - 1)
        yield "triggers", evt3(0xA001, repeat=nbytes // 2 - 4)
        yield "leaps", evt3(0x8100, 0x6000, 0x2001, 0x8200, 0x6000, 0x2001, repeat=nbytes // 12 - 1)
    if encoding == "evt21":
        words = np.full(nbytes // 8, (1 << 60) | 0xFFFFFFFF, "<u8")
        words[0] = 8 << 60
        yield "full masks", words.view(np.uint8)


def as_packet(encoding: str, data: np.ndarray) -> Packet:
    sample = seeds(encoding)[0][0]
    if sample.layout is None:
        return replace(sample, data=data, size=SIZE)
    step = sample.layout.dtype.itemsize
    points = len(data) // step
    layout = replace(sample.layout, width=points, height=1, row_step=points * step)
    return replace(sample, data=data[: points * step], size=SIZE, layout=layout)


CASES = [(encoding, name) for encoding in DECODERS for name, _ in payloads(encoding, 128)]


@pytest.mark.parametrize(("encoding", "name"), CASES)
def test_memory_is_bounded_by_the_payload(encoding, name):
    nbytes = MIB // 2
    packet = as_packet(encoding, dict(payloads(encoding, nbytes))[name])
    decoder = DECODERS[encoding]()
    decoder.decode(as_packet(encoding, packet.data[:720]))  # compiled, and buffers grown
    peak, decoded = peak_bytes(lambda: decoder.decode(packet))
    bound = len(packet.data) * (EVENT_BYTES * ROWS_PER_BYTE.get(encoding, 0.2) + REST_PER_BYTE) + MIB
    assert not isinstance(decoded, EventDataError) and peak < bound, f"{peak / len(packet.data):.1f} bytes per byte"
    assert not len(decoded) or (int(decoded.x.max()) < SIZE.width and int(decoded.y.max()) < SIZE.height)
    assert name != "events" or len(decoded) > 1000
    assert name != "triggers" or len(decoded.triggers) > 200_000
    assert name != "leaps" or len(decoded.leaps) > 80_000


@pytest.mark.parametrize("encoding", DECODERS)
def test_a_packet_above_the_limit_is_refused_unread(encoding):
    packet = replace(as_packet(encoding, np.zeros(720, np.uint8)), data=np.zeros(MAX_PACKET_BYTES + 1, np.uint8))
    decoder = DECODERS[encoding]()
    peak, error = peak_bytes(lambda: decoder.decode(packet))
    assert isinstance(error, EventDataError) and f"at most {MAX_PACKET_BYTES} bytes" in str(error)
    assert peak < MIB // 16


def test_64_mib_of_vectors_are_refused_by_their_events_before_room_is_made_for_them():
    packet = Packet(evt3(0x4FFF, repeat=MAX_PACKET_BYTES // 2 - 4), "evt3", SIZE)
    assert len(packet.data) == MAX_PACKET_BYTES
    decoder = DECODERS["evt3"]()
    peak, error = peak_bytes(lambda: decoder.decode(packet))
    assert isinstance(error, EventDataError) and f"at most {MAX_PACKET_EVENTS} events" in str(error)
    assert peak < MIB // 16


def test_64_mib_of_triggers_are_refused_where_no_camera_comes():
    packet = Packet(evt3(0xA001, repeat=MAX_PACKET_BYTES // 2 - 4), "evt3", SIZE)
    peak, error = peak_bytes(lambda: DECODERS["evt3"]().decode(packet))
    assert isinstance(error, EventDataError) and f"at most {MAX_PACKET_MARKS} trigger edges" in str(error)
    assert peak < 24 * MAX_PACKET_MARKS + 4 * MIB


def test_64_mib_of_nothing_are_read():
    packet = Packet(np.zeros(MAX_PACKET_BYTES, np.uint8), "mono", SIZE)
    peak, decoded = peak_bytes(lambda: DECODERS["mono"]().decode(packet))
    assert len(decoded) == MAX_PACKET_BYTES // 8 and peak < 5 * MAX_PACKET_BYTES


# ---- the way of a live stream

GOOD = [
    replace(packet, stamp_ns=packet.stamp_ns + 10**15)
    for packet in packetize(
        [
            EventArray(
                np.arange(4000, dtype=np.uint16) % 640,
                np.arange(4000, dtype=np.uint16) % 480,
                np.arange(4000, dtype=np.uint8) % 2,
                np.arange(4000, dtype=np.int64) * 50,
                SIZE,
            )
        ],
        SIZE,
        interval_us=5_000,
        seq=10,
    )
]
FIRST, BAD_AT = 20, 20  # good packets before the hostile one
AFTER = GOOD[BAD_AT]


def windows_of(hostile: list[Packet], **options):
    """Return (PacketWindows, events of the good packets after the hostile ones, errors)."""
    stream = PacketWindows(REGISTRY, WINDOW_US, max_gap_us=1_000_000, topic="/events", **options)
    errors, windows = [], []
    for packet in [*GOOD[:FIRST], *hostile, *GOOD[BAD_AT:]]:
        try:
            windows += list(stream.push(packet))
        except EventDataError as error:
            errors.append(str(error))
    windows += list(stream.flush())
    return stream, windows, errors


def hostile(**changes) -> Packet:
    """Return a packet that claims to be the next one."""
    return replace(AFTER, **{"stamp_ns": AFTER.stamp_ns - 1, **changes})


CLEAN, CLEAN_WINDOWS, _ = windows_of([])


def same_end(windows) -> bool:
    """Whether the last eight windows are those of the stream without hostile packets."""
    ends = zip(windows[-8:], CLEAN_WINDOWS[-8:], strict=True)
    return all(
        (a.t_start_us, len(a.events), a.events.x.tolist()) == (b.t_start_us, len(b.events), b.events.x.tolist())
        for a, b in ends
    )


def test_the_clean_stream_is_one():
    assert CLEAN.stream.counts.packets == len(GOOD) == 40 and CLEAN.stream.counts.losses.total == 0
    assert len(CLEAN_WINDOWS) == 20 and all(len(window.events) == 200 for window in CLEAN_WINDOWS)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"data": np.zeros(MAX_PACKET_BYTES + 1, np.uint8)}, "at most"),
        ({"encoding": "evt9"}, "unknown event encoding 'evt9'"),
        ({"encoding": ""}, "unknown event encoding"),
        ({"encoding": "libcaer", "time_base": 1 << 63}, "time_base"),
        ({"size": None, "encoding": "mono"}, "expected a sensor size"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_impossible_packet_is_one_error_and_the_next_good_one_is_read(changes, expected):
    stream, windows, errors = windows_of([hostile(**changes)])
    assert len(errors) == 1 and expected in errors[0] and "\n" not in errors[0]
    counts = stream.stream.counts
    assert (counts.bad_packets, counts.packets, counts.lost_packets, counts.restarts) == (1, len(GOOD), 0, 0)
    assert len(windows) == len(CLEAN_WINDOWS) and same_end(windows)


@pytest.mark.parametrize(
    ("data", "losses"),
    [
        (b"", Losses()),
        (b"\xa5", Losses(ragged=1)),
        (AFTER.data.tobytes()[:-3], Losses(ragged=1)),
        (b"\x99" * 4096, Losses(unknown=2048)),  # words of a kind that does not exist
        (b"\xff" * 4096, Losses()),  # of one that means nothing to us
    ],
    ids=["empty", "one byte", "cut off", "unknown words", "other words"],
)
def test_a_payload_cut_off_or_of_nonsense_is_counted_and_the_next_good_one_is_read(data, losses):
    stream, windows, errors = windows_of([hostile(seq=None, data=np.frombuffer(data, np.uint8))])
    assert not errors
    counts = stream.stream.counts
    assert counts.packets == len(GOOD) + 1 and counts.losses == losses
    assert (counts.bad_packets, counts.restarts) == (0, 0)
    assert same_end(windows)


@pytest.mark.parametrize(
    ("seq", "lost", "restarts"),
    [
        (0, 29, 1),  # the driver seems to begin anew, and then loses 29
        (29, 0, 0),  # one that never counts
        (31, 1, 1),
        (10**6, 10**6 - 30, 1),
        ((1 << 63) + 5, (1 << 63) - 25, 1),
        ((1 << 64) - 1, (1 << 64) - 31, 1),
    ],
)
def test_sequence_numbers_that_jump_are_counted(seq, lost, restarts):
    stream, windows, errors = windows_of([hostile(seq=seq, data=np.empty(0, np.uint8))])
    assert not errors
    counts = stream.stream.counts
    assert (counts.lost_packets, counts.restarts, counts.packets) == (lost, restarts, len(GOOD) + 1)
    assert len(windows) <= len(CLEAN_WINDOWS) + 2, "no number makes windows"
    assert same_end(windows)


@pytest.mark.parametrize("started", [True, False])
def test_time_words_that_claim_hours_make_no_windows(started):
    """Each of these words says that 4 ms went by in silence: 38 hours of them fit into 64 MiB."""
    hours = np.concatenate([evt3(0x2001), (np.arange(1 << 21) & 0xFFF | 0x8000).astype("<u2").view(np.uint8)])
    stream = PacketWindows(REGISTRY, WINDOW_US, max_gap_us=1_000_000)
    before = [window for packet in GOOD[: FIRST * started] for window in stream.push(packet)]
    with pytest.raises(EventDataError, match="runs over 85.. s of sensor time, expected at most 3601 s"):
        list(stream.push(hostile(data=hours)))
    counts = stream.stream.counts
    assert (counts.bad_packets, counts.packets) == (1, FIRST * started)
    after = [window for packet in GOOD[BAD_AT + 1 :] for window in stream.push(packet)] + list(stream.flush())
    assert len(before) + len(after) <= len(CLEAN_WINDOWS) + 1
    assert after[0].after_gap == bool(before), "what follows is a stream of its own"
    assert sum(len(window.events) for window in after) == 100 * len(GOOD[BAD_AT + 1 :])


def test_seconds_of_silence_in_one_packet_are_silence():
    words = (np.arange(2, 0x800) & 0xFFF | 0x8000).astype("<u2").view(np.uint8)
    stream = PacketWindows(REGISTRY, WINDOW_US, max_gap_us=1_000_000)
    windows = list(stream.push(Packet(np.concatenate([evt3(0x2001), words]), "evt3", SIZE, seq=0)))
    assert len(windows) == pytest.approx(0x7FF * 4096 / WINDOW_US, abs=3) and len(windows[0].events) == 1


@pytest.mark.parametrize("side", [0, MAX_SIDE_PX + 1, 65_535, (1 << 32) - 1])
def test_absurd_sizes_are_refused_before_they_are_a_size(side):
    """From the bytes of a message, as bags and the wire have it."""
    with pytest.raises(ValueError):
        SensorSize(side, side)
    raw = bytearray(serialize_event_packet(AFTER))
    at = raw.index(np.array([SIZE.height, SIZE.width], "<u4").tobytes())
    raw[at : at + 8] = np.array([side, side], "<u4").tobytes()
    peak, error = peak_bytes(lambda: parse_message(bytes(raw), EVENT_PACKET))
    assert isinstance(error, EventDataError) and "damaged" in str(error) and peak < MIB // 16


def test_the_largest_size_costs_what_the_model_costs_not_what_the_sensor_would():
    """A sensor of 16384x16384 has 268 million pixels; nothing may be made for each of them."""
    pipeline = tiny_pipeline()
    size = SensorSize(MAX_SIDE_PX, MAX_SIDE_PX)
    large = replace(AFTER, size=size)
    peak, (stream, windows, errors) = peak_bytes(lambda: windows_of([large], make_filler=pipeline.make_filler))
    assert not errors and stream.stream.counts.restarts == 2, "to the other size, and back"
    assert any(window.events.size == size and len(window.events) for window in windows)
    assert peak < 64 * MIB
    assert same_end(windows)


@pytest.mark.parametrize("announced", [1, 1 << 20, (1 << 32) - 1])
def test_a_message_that_announces_more_than_it_has_is_refused(announced):
    raw = bytearray(serialize_event_packet(AFTER))
    at = len(raw) - len(AFTER.data) - 4
    raw[at : at + 4] = np.array([len(AFTER.data) + announced if announced < 1 << 31 else announced], "<u4").tobytes()
    peak, error = peak_bytes(lambda: parse_message(bytes(raw), EVENT_PACKET))
    assert isinstance(error, EventDataError) and "announced" in str(error) and peak < MIB // 16


# ---- a window that never ends


def standing(count: int, t_us: int = 5_000) -> EventArray:
    """Return events that all have the same time."""
    some = np.arange(count, dtype=np.uint32) % 480
    return EventArray(
        some.astype(np.uint16), some.astype(np.uint16), (some % 2).astype(np.uint8), np.full(count, t_us), SIZE
    )


def test_a_window_holds_so_many_events_and_counts_the_rest():
    windower = Windower(WINDOW_US, SIZE, max_events=1000)
    assert not list(windower.push(standing(900))) and windower.overflowed == 0
    for _ in range(5):
        assert not list(windower.push(standing(400)))
    assert windower.overflowed == 900 + 5 * 400 - 1000
    [window] = windower.push(standing(1, 10_000))
    assert len(window.events) == 1000 and window.lossy
    assert window.events.x.tolist() == [*standing(900).x.tolist(), *standing(100).x.tolist()], "the first ones"
    [window] = windower.push(standing(1000, 20_000))
    assert len(window.events) == 1 and not window.lossy
    [window] = windower.push(standing(1, 30_000))
    assert len(window.events) == 1000 and not window.lossy, "exactly as many as it may hold"


def test_how_the_stream_was_cut_does_not_show_in_what_is_kept():
    rng = np.random.default_rng(1)
    t = np.sort(rng.integers(0, 100_000, 20_000))
    events = EventArray(
        rng.integers(0, 640, len(t)).astype(np.uint16),
        rng.integers(0, 480, len(t)).astype(np.uint16),
        rng.integers(0, 2, len(t)).astype(np.uint8),
        t,
        SIZE,
    )

    def kept(piece: int) -> list[tuple]:
        windower = Windower(WINDOW_US, SIZE, max_events=1500)
        windows = [w for at in range(0, len(t), piece) for w in windower.push(events[at : at + piece])]
        windows += list(windower.flush())
        assert windower.overflowed == len(t) - sum(len(window.events) for window in windows) > 1000
        return [(w.t_start_us, w.lossy, w.events.x.tolist(), w.events.t.tolist()) for w in windows]

    assert kept(len(t)) == kept(777) == kept(13)


def test_overlapping_windows_share_the_bound():
    windower = Windower(WINDOW_US, SIZE, stride_us=5_000, max_events=1000)
    windows = [w for t in (1_000, 6_000, 11_000) for w in windower.push(standing(900, t))]
    windows += list(windower.flush())
    assert [len(window.events) for window in windows] == [500, 1000, 1000] and windower.overflowed == 3 * 400


def test_a_stream_whose_time_stands_still_keeps_its_memory():
    """Packets of a quarter of a million events each, all within one window."""
    data = evt3(0x3000, *[0x4FFF] * 31, repeat=700)
    packets = [Packet(data, "evt3", SIZE, seq=seq, stamp_ns=seq) for seq in range(40)]

    def run(most: int):
        stream = PacketWindows(REGISTRY, WINDOW_US, max_gap_us=1_000_000, max_events=most)
        for packet in packets:
            assert not list(stream.push(packet))
        assert stream.windower is not None
        [window] = stream.flush()
        return stream.windower.overflowed, len(window.events)

    run(1000)
    free, (overflowed, held) = peak_bytes(lambda: run(1 << 26))
    assert overflowed == 0 and held == 40 * 700 * 31 * 12
    bound, (overflowed, kept) = peak_bytes(lambda: run(500_000))
    assert kept == 500_000 and overflowed == held - kept
    one_packet = 13 * 700 * 31 * 12
    assert bound < 500_000 * 13 + 4 * one_packet < free / 4
