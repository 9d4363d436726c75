"""EVT2 and EVT2.1 packets: against plain Python decoders, and hand-made words with known results."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snn_perception.errors import EventDataError
from snn_perception.events import evt2_kernels
from snn_perception.events.evt2 import Evt2Decoder, Evt21Decoder, Evt21eDecoder
from snn_perception.events.evt3 import warm_up
from snn_perception.events.payload import MAX_PACKET_BYTES, MAX_PACKET_EVENTS
from snn_perception.types import JITTER_US, LEAP_US, DecodedEvents, Losses, Packet, SensorSize
from tests import reference_decoders as reference

SIZE = SensorSize(480, 640)
DECODERS = {
    "evt2": (Evt2Decoder, reference.Evt2, 4),
    "evt21": (Evt21Decoder, reference.Evt21, 8),
    "evt21e": (Evt21eDecoder, reference.Evt21e, 8),
}


def packet(words, encoding="evt2", size=SIZE, big=False) -> Packet:
    """A packet of words, given as integers; of EVT 2.1, as (upper half, mask)."""
    sign = ">" if big else "<"
    if encoding == "evt2":
        data = np.array([word[0] if isinstance(word, tuple) else word for word in words], f"{sign}u4")
    else:
        pairs = [word if isinstance(word, tuple) else (word, 1) for word in words]
        if encoding == "evt21":
            data = np.array([upper << 32 | mask for upper, mask in pairs], f"{sign}u8")
        else:
            data = np.array(pairs, f"{sign}u4").reshape(-1)
    return Packet(data.view(np.uint8), encoding, size, is_bigendian=big)


def cd(low: int, x: int, y: int, p: int) -> int:
    return p << 28 | low << 22 | x << 11 | y


def high(value: int) -> int:
    return 8 << 28 | value


def trigger(low: int, number: int, edge: int) -> int:
    return 10 << 28 | low << 22 | number << 8 | edge


def rows(decoded: DecodedEvents) -> list[tuple[int, ...]]:
    return list(zip(*(getattr(decoded, name).tolist() for name in "txyp"), strict=True))


def told(decoded: DecodedEvents) -> list[tuple[int, ...]]:
    found = decoded.triggers
    return list(zip(found.t.tolist(), found.edge.tolist(), found.id.tolist(), strict=True))


def assert_as_reference(decoded: DecodedEvents, expected) -> None:
    events, triggers, leaps, reached, losses = expected
    assert rows(decoded) == events
    assert told(decoded) == triggers
    assert [tuple(leap) for leap in decoded.leaps.tolist()] == leaps
    assert decoded.t_reached == reached
    assert decoded.losses == Losses(losses["outside"], losses["unknown"], losses["unsynced"], losses["ragged"])
    assert not decoded.in_order or decoded.t.tolist() == sorted(decoded.t.tolist())


# --- against the reference ------------------------------------------------------------------------------------------

SMALL = st.integers(0, 700)
NEAR_WRAP = st.integers(2**28 - 2_000, 2**28 - 1) | st.integers(0, 2_000)
UPPER = st.one_of(
    st.integers(0, 2**32 - 1),
    st.builds(cd, st.integers(0, 63), SMALL, SMALL, st.integers(0, 1)),
    st.builds(cd, st.integers(0, 63), SMALL, SMALL, st.integers(0, 1)),
    st.builds(high, st.integers(0, 5_000)),
    st.builds(high, NEAR_WRAP),
    st.builds(trigger, st.integers(0, 63), st.integers(0, 31), st.integers(0, 1)),
)
MASK = st.integers(0, 2**32 - 1) | st.integers(0, 31).map(lambda k: 1 << k) | st.just(0)
WORDS = st.lists(st.tuples(UPPER, MASK), max_size=60)


@pytest.mark.parametrize("encoding", DECODERS)
def test_decoder_equals_the_reference_on_any_words(encoding):
    make, make_reference, _ = DECODERS[encoding]

    @given(st.lists(st.tuples(WORDS, st.booleans(), st.booleans()), min_size=1, max_size=4), st.booleans())
    def check(packets, synced):
        decoder, expected = make(), make_reference()
        if synced:
            start = packet([high(100)], encoding)
            assert_as_reference(decoder.decode(start), expected.decode(start))
        for words, lost_before, big in packets:
            if lost_before:
                decoder.resync()
                expected.resync()
            given_packet = packet(words, encoding, big=big)
            assert_as_reference(decoder.decode(given_packet), expected.decode(given_packet))

    check()


@pytest.mark.parametrize("encoding", DECODERS)
@pytest.mark.parametrize("size", [SIZE, SensorSize(2048, 2048), SensorSize(16384, 16384)])
def test_decoder_equals_the_reference_on_long_streams(encoding, size):
    """Tens of thousands of words of all types, garbage among them, in packets cut anywhere."""
    make, make_reference, record = DECODERS[encoding]
    rng = np.random.default_rng(3)
    count = 40_000
    kinds = rng.choice([0, 1, 8, 10, 14, 15, 3], count, p=[0.4, 0.4, 0.12, 0.03, 0.02, 0.02, 0.01])
    time = np.cumsum(rng.choice([0, 1, 2, 300, 4_000], count, p=[0.5, 0.3, 0.17, 0.02, 0.01])) + 2**28 - 50_000
    upper = kinds << 28 | np.where(kinds == 8, time % 2**28, rng.integers(0, 2**28, count))
    upper = np.where(rng.random(count) < 0.01, rng.integers(0, 2**32, count), upper)
    masks = np.where(rng.random(count) < 0.5, 1 << rng.integers(0, 32, count), rng.integers(0, 2**32, count))
    words = list(zip(upper.tolist(), masks.tolist(), strict=True))
    decoder, expected = make(), make_reference()
    cuts = [0, *np.sort(rng.integers(0, count, 20)).tolist(), count]
    events = leaps = 0
    for a, b in pairwise(cuts):
        part = packet(words[a:b], encoding, size)
        decoded = decoder.decode(part)
        assert_as_reference(decoded, expected.decode(part))
        events, leaps = events + len(decoded), leaps + len(decoded.leaps)
    assert events > 2_000 and leaps > 100 and record


@pytest.mark.parametrize("encoding", DECODERS)
@given(words=WORDS, cuts=st.lists(st.integers(0, 60), max_size=8))
def test_how_words_are_cut_does_not_show(encoding, words, cuts):
    make, _, _ = DECODERS[encoding]
    whole = make().decode(packet(words, encoding))
    decoder = make()
    bounds = [0, *sorted(min(cut, len(words)) for cut in cuts), len(words)]
    parts = [decoder.decode(packet(words[a:b], encoding)) for a, b in pairwise(bounds)]
    assert [row for part in parts for row in rows(part)] == rows(whole)
    assert [row for part in parts for row in told(part)] == told(whole)
    firsts = np.cumsum([0] + [len(part) for part in parts])
    leaps = np.concatenate([part.leaps + np.array([first, 0, 0]) for part, first in zip(parts, firsts, strict=False)])
    np.testing.assert_array_equal(leaps, whole.leaps)
    assert parts[-1].t_reached == whole.t_reached
    assert sum((part.losses for part in parts), Losses()) == whole.losses


# --- by hand --------------------------------------------------------------------------------------------------------


def test_evt2_words():
    words = [
        cd(1, 9, 9, 1),
        high(3),
        cd(5, 1279, 719, 1),
        cd(63, 0, 0, 0),
        trigger(7, 17, 1),
        0xE << 28,
        0xF << 28,
        3 << 28,
    ]
    decoded = Evt2Decoder().decode(packet(words, size=SensorSize(720, 1280)))
    assert rows(decoded) == [(3 * 64 + 5, 1279, 719, 1), (3 * 64 + 63, 0, 0, 0)]
    assert told(decoded) == [(3 * 64 + 7, 1, 17)]
    assert decoded.losses == Losses(unknown=1, unsynced=1)
    assert decoded.t_reached == 3 * 64 + 7 and decoded.time_unit == "us"


def test_evt2_bytes():
    """The bits as the format's description places them, spelled out."""
    time_high = 0b1000_0000000000000000000000000010
    event = 0b0001_000011_00000000101_00000000110
    decoded = Evt2Decoder().decode(packet([time_high, event]))
    assert rows(decoded) == [(2 * 64 + 3, 5, 6, 1)]


@pytest.mark.parametrize(("make", "data"), [(Evt21Decoder, "le"), (Evt21eDecoder, "swapped")])
def test_evt21_bytes_in_both_orders(make, data):
    time_high = (0b1000_0000000000000000000000000010 << 32).to_bytes(8, "little")
    event = (0b0001_000011_00000100000_00000000110 << 32 | 1 << 31 | 0b101).to_bytes(8, "little")
    trigger_word = (0b1010_000100 << 54 | 3 << 40 | 1 << 32).to_bytes(8, "little")
    words = [time_high, event, trigger_word]
    payload = b"".join(word if data == "le" else word[4:] + word[:4] for word in words)
    decoded = make().decode(Packet(np.frombuffer(payload, np.uint8), "evt21", SIZE))
    assert rows(decoded) == [(131, 32, 6, 1), (131, 34, 6, 1), (131, 63, 6, 1)]
    assert told(decoded) == [(132, 1, 3)]


@pytest.mark.parametrize("encoding", ["evt21", "evt21e"])
@given(mask=st.integers(0, 2**32 - 1), x=st.integers(0, 660), y=st.integers(0, 500))
def test_a_mask_is_expanded_by_rising_x_and_clipped(encoding, mask, x, y):
    words = [high(1), (cd(0, x, y, 1), mask)]
    decoded = DECODERS[encoding][0]().decode(packet(words, encoding))
    inside = [x + k for k in range(32) if mask >> k & 1 and x + k < 640 and y < 480]
    assert decoded.x.tolist() == inside
    assert decoded.losses.outside == mask.bit_count() - len(inside)


@pytest.mark.parametrize("encoding", DECODERS)
def test_wraps_over_a_day_leave_no_error(encoding):
    """25 h in steps of 1 s; time wraps every 4.77 h."""
    decoder = DECODERS[encoding][0]()
    t = np.arange(0, 25 * 3600 * 10**6, 10**6) + 17
    words = [word for now in t.tolist() for word in (high(now >> 6 & (2**28 - 1)), cd(now & 63, 1, 2, 1))]
    decoded = [decoder.decode(packet(words[a : a + 999], encoding)) for a in range(0, len(words), 999)]
    np.testing.assert_array_equal(np.concatenate([part.t for part in decoded]), t)
    assert t[-1] > 5 * 2**34 and decoded[-1].t_reached == t[-1]


def test_wrap_disorder_and_stragglers():
    top = 2**28 - 1
    words = [high(top), cd(0, 1, 1, 1), high(2), cd(0, 2, 2, 1), high(top), cd(1, 3, 3, 1), high(3), cd(0, 4, 4, 1)]
    decoded = Evt2Decoder().decode(packet(words))
    assert decoded.t.tolist() == [top * 64, 2**34 + 128, top * 64 + 1, 2**34 + 192]
    assert not len(decoded.leaps) and not decoded.in_order


def test_the_word_after_the_last_high_part_is_no_time():
    decoded = Evt2Decoder().decode(packet([high(2**28 - 1), 9 << 28, cd(5, 1, 1, 1)]))
    assert decoded.t.tolist() == [2**34 - 64 + 5] and decoded.losses == Losses(unknown=1)


def test_a_fall_of_half_the_range_is_no_wrap():
    decoded = Evt2Decoder().decode(packet([high(2**27), cd(0, 1, 1, 1), high(0), cd(0, 1, 1, 1)]))
    assert decoded.t.tolist() == [2**33, 0]
    assert decoded.leaps.tolist() == [[1, 2**33, 0]]
    decoded = Evt2Decoder().decode(packet([high(2**27 + 1), cd(0, 1, 1, 1), high(0), cd(0, 1, 1, 1)]))
    assert decoded.t.tolist() == [2**33 + 64, 2**34]


@pytest.mark.parametrize("step", [LEAP_US, LEAP_US + 64, -JITTER_US // 64 * 64, -JITTER_US // 64 * 64 - 64])
def test_leaps(step):
    first = 10**6 // 64
    decoded = Evt2Decoder().decode(packet([high(first), cd(0, 1, 1, 1), high(first + step // 64), cd(0, 1, 1, 1)]))
    step = step // 64 * 64
    expected = [[1, first * 64, first * 64 + step]] if step > LEAP_US or step < -JITTER_US else []
    assert decoded.leaps.tolist() == expected


@pytest.mark.parametrize("encoding", DECODERS)
def test_resync_waits_for_time_and_tells_the_leap(encoding):
    decoder = DECODERS[encoding][0]()
    decoder.decode(packet([high(5), cd(1, 1, 1, 1)], encoding))
    decoder.resync()
    lost = decoder.decode(packet([cd(2, 1, 1, 1), trigger(1, 1, 1)], encoding))
    assert not len(lost) and not len(lost.triggers) and lost.losses.unsynced == 2 and lost.t_reached == 321
    back = decoder.decode(packet([high(5_000), cd(3, 2, 2, 0)], encoding))
    assert rows(back) == [(320_003, 2, 2, 0)] and back.leaps.tolist() == [[0, 321, 320_000]]


@pytest.mark.parametrize("encoding", DECODERS)
def test_many_triggers_and_leaps_in_one_packet_are_all_told(encoding):
    words = [word for k in range(3_000) for word in (high(100 + k % 2 * 10_000), trigger(1, k % 32, k & 1))]
    part = packet(words, encoding)
    decoded = DECODERS[encoding][0]().decode(part)
    assert len(decoded.leaps) == 2_999 and len(decoded.triggers) == 3_000
    assert_as_reference(decoded, DECODERS[encoding][1]().decode(part))


@pytest.mark.parametrize("encoding", DECODERS)
def test_bytes_that_fill_no_record_are_counted(encoding):
    make, _, record = DECODERS[encoding]
    for extra in range(record):
        assert make().decode(Packet(np.zeros(4 * record + extra, np.uint8), encoding, SIZE)).losses.ragged == extra


@pytest.mark.parametrize("encoding", DECODERS)
def test_payload_may_be_read_only_and_unaligned(encoding):
    sound = packet([high(1), *[cd(1, x, 2, 1) for x in range(50)]], encoding)
    shifted = np.frombuffer(b"\0" + sound.data.tobytes(), np.uint8)[1:]
    make = DECODERS[encoding][0]
    assert rows(make().decode(Packet(shifted, encoding, SIZE))) == rows(make().decode(sound))


@pytest.mark.parametrize("encoding", DECODERS)
def test_an_impossible_packet_is_refused(encoding):
    decoder = DECODERS[encoding][0]()
    with pytest.raises(EventDataError, match="sensor size"):
        decoder.decode(Packet(np.zeros(8, np.uint8), encoding, None))
    huge = np.broadcast_to(np.zeros(1, np.uint8), MAX_PACKET_BYTES + 1)  # costs no memory
    with pytest.raises(EventDataError, match=f"at most {MAX_PACKET_BYTES} bytes"):
        decoder.decode(Packet(huge, encoding, SIZE))


def test_a_packet_of_more_events_than_possible_leaves_no_trace():
    decoder = Evt21Decoder()
    decoder.decode(packet([high(1)], "evt21"))
    words = np.full(MAX_PACKET_EVENTS // 32 + 1, cd(0, 1, 1, 1) << 32 | 0xFFFFFFFF, "<u8")
    with pytest.raises(EventDataError, match="events"):
        decoder.decode(Packet(words.view(np.uint8), "evt21", SIZE))
    assert rows(decoder.decode(packet([cd(3, 9, 5, 1)], "evt21"))) == [(67, 9, 5, 1)]


@pytest.mark.parametrize("encoding", DECODERS)
def test_columns_take_no_more_memory_than_the_events_kept(encoding):
    words = [high(1), *[(cd(0, 2000, 5, 1), 0xFFFFFFFF)] * 10_000]
    decoded = DECODERS[encoding][0]().decode(packet(words, encoding))
    assert len(decoded) == 0 and decoded.losses.outside >= 10_000
    held = sum(c.nbytes if c.base is None else c.base.nbytes for c in (decoded.x, decoded.y, decoded.p, decoded.t))
    assert held < 2_000


@pytest.mark.parametrize("encoding", DECODERS)
def test_decoders_are_registered(registry, encoding):
    assert isinstance(registry.build("event_decoder", encoding), DECODERS[encoding][0])


def test_warm_up_leaves_nothing_to_compile():
    warm_up()
    kernels = [evt2_kernels.decode_words, evt2_kernels.decode_vector_words, evt2_kernels.count_vector_events]
    before = [len(kernel.signatures) for kernel in kernels]
    assert all(before)
    for encoding, (make, _, _) in DECODERS.items():
        for big in (False, True):
            make().decode(packet([high(1), cd(1, 1, 1, 1), trigger(1, 1, 1)], encoding, big=big))
    assert [len(kernel.signatures) for kernel in kernels] == before
