"""The packet decoders against plain Python decoders, and against hand-made words with known results."""

from dataclasses import replace
from itertools import pairwise

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snn_perception.errors import EventDataError
from snn_perception.events import evt3_kernels, libcaer_kernels
from snn_perception.events.evt3 import Evt3Decoder, warm_up
from snn_perception.events.jit import kernel
from snn_perception.events.libcaer import LibcaerCmpDecoder, LibcaerDecoder
from snn_perception.events.mono import MonoDecoder
from snn_perception.events.payload import MAX_PACKET_BYTES, MAX_PACKET_EVENTS
from snn_perception.types import LEAP_US, DecodedEvents, Losses, Packet, SensorSize
from tests import reference_decoders as reference

SIZE = SensorSize(480, 640)
DECODERS = {
    "evt3": (Evt3Decoder, reference.Evt3, "<u2"),
    "libcaer_cmp": (LibcaerCmpDecoder, reference.LibcaerCmp, "<u2"),
    "libcaer": (LibcaerDecoder, reference.Libcaer, "<u4"),
    "mono": (MonoDecoder, reference.Mono, "<u8"),
}


def packet(words, encoding="evt3", dtype="<u2", **fields) -> Packet:
    return Packet(np.array(words, dtype).view(np.uint8), encoding, fields.pop("size", SIZE), **fields)


def rows(decoded: DecodedEvents) -> list[tuple[int, ...]]:
    return list(zip(*(getattr(decoded, name).tolist() for name in "txyp"), strict=True))


def high(value):
    return 0x8000 | value


def low(value):
    return 0x6000 | value


def x_on(value):
    return 0x2800 | value


START = [high(1), low(0), 0x0005]  # time 4096 us, row 5


def assert_as_reference(decoded: DecodedEvents, expected) -> None:
    events, triggers, leaps, reached, losses = expected
    assert rows(decoded) == events
    found = decoded.triggers
    assert list(zip(found.t.tolist(), found.edge.tolist(), found.id.tolist(), strict=True)) == triggers
    assert [tuple(leap) for leap in decoded.leaps.tolist()] == leaps
    assert decoded.t_reached == reached
    counted = Losses(losses["outside"], losses["unknown"], losses["unsynced"], losses["ragged"])
    assert decoded.losses == counted


# --- against the reference ---------------------------------------------------------------------------------------

EVT3_WORDS = st.one_of(
    st.integers(0, 0xFFFF),
    st.builds(lambda kind, value: kind << 12 | value, st.sampled_from([0, 2, 3, 4, 5, 6, 6, 8]), st.integers(0, 700)),
    st.builds(high, st.integers(0, 60)),  # mostly small steps of time
)
CMP_WORDS = st.one_of(
    st.integers(0, 0xFFFF),
    st.builds(lambda kind, value: kind << 12 | value, st.integers(0, 6), st.integers(0, 700)),
)
CAER_WORDS = st.one_of(
    st.integers(0, 2**32 - 1),
    st.builds(lambda x, y, p: x << 17 | y << 2 | p, *[st.integers(0, 660)] * 2, st.integers(0, 3)),
)
TIMES = st.integers(0, 2**31 - 1) | st.integers(0, 500)
LIBCAER_WORDS = st.lists(st.tuples(CAER_WORDS, TIMES), max_size=40).map(
    lambda pairs: [w for pair in pairs for w in pair]
)
MONO_WORD = st.builds(
    lambda t, x, y, p: t | x << 32 | y << 48 | p << 63, TIMES, *[st.integers(0, 660)] * 2, st.integers(0, 1)
)
STREAMS = {
    "evt3": st.lists(EVT3_WORDS, max_size=120),
    "libcaer_cmp": st.lists(CMP_WORDS, max_size=120),
    "libcaer": LIBCAER_WORDS,
    "mono": st.lists(MONO_WORD | st.integers(0, 2**64 - 1), max_size=40),
}


@pytest.mark.parametrize("encoding", DECODERS)
def test_decoder_equals_the_reference_on_any_words(encoding):
    make, make_reference, dtype = DECODERS[encoding]

    @given(
        st.lists(st.tuples(STREAMS[encoding], st.booleans(), st.integers(0, 2**40)), min_size=1, max_size=4),
        st.booleans(),
    )
    def check(packets, synced):
        decoder, expected = make(), make_reference()
        if synced and encoding == "evt3":
            assert_as_reference(decoder.decode(packet(START)), expected.decode(packet(START)))
        for words, lost_before, time_base in packets:
            if lost_before:
                decoder.resync()
                expected.resync()
            given_packet = packet(words, encoding, dtype, time_base=time_base)
            assert_as_reference(decoder.decode(given_packet), expected.decode(given_packet))

    check()


def random_evt3(rng: np.random.Generator, count: int, shares: dict[int, float]) -> np.ndarray:
    """Words of the given types, with time that mostly runs on."""
    kinds = rng.choice(list(shares), count, p=np.array(list(shares.values())) / sum(shares.values()))
    values = rng.integers(0, 1 << 12, count)
    values[kinds == 0] %= 500  # some rows outside
    steps = np.where(rng.random(count) < 0.02, rng.integers(-12, 60, count), rng.integers(0, 2, count))
    values = np.where(kinds == 8, np.cumsum(np.where(kinds == 8, steps, 0)) % 4096, values)
    return (kinds << 12 | values).astype("<u2")


MIXES = {
    "single events": {0: 3, 2: 3, 6: 3, 8: 1, 10: 0.05},
    "vectors": {0: 1, 2: 1, 3: 2, 4: 4, 5: 2, 6: 1, 8: 0.2},
    "triggers": {2: 1, 6: 1, 8: 0.5, 10: 5},
    "everything": dict.fromkeys(range(16), 1.0),
}


@pytest.mark.parametrize("mix", MIXES)
def test_evt3_equals_the_reference_over_many_blocks(mix):
    """Long enough to fill the kernel's store and its trigger and leap rows several times."""
    words = np.concatenate([np.array(START, "<u2"), random_evt3(np.random.default_rng(7), 60_000, MIXES[mix])])
    decoded, expected = Evt3Decoder().decode(packet(words)), reference.Evt3().decode(packet(words))
    assert_as_reference(decoded, expected)
    assert len(decoded) + len(decoded.triggers) > 3_000


def test_a_wrong_reference_is_noticed():
    class Wrong(reference.Evt3):
        def _take_vector(self, mask, bits, *args):
            super()._take_vector(mask, bits, *args)
            if mask == 0 and self.base is not None:
                self.base -= bits  # an empty mask does not advance the base

    words = random_evt3(np.random.default_rng(3), 5_000, MIXES["vectors"])
    words[::7] = 0x4000
    words = packet(np.concatenate([np.array(START, "<u2"), words]))
    with pytest.raises(AssertionError):
        assert_as_reference(Evt3Decoder().decode(words), Wrong().decode(words))


# --- packets --------------------------------------------------------------------------------------------------------


@given(st.lists(EVT3_WORDS, max_size=150), st.lists(st.integers(0, 150), max_size=8))
def test_evt3_gives_the_same_however_words_are_cut(words, cuts):
    whole = Evt3Decoder()
    whole.decode(packet(START))
    expected = whole.decode(packet(words))
    decoder = Evt3Decoder()
    decoder.decode(packet(START))
    bounds = [0, *sorted(min(cut, len(words)) for cut in cuts), len(words)]
    parts = [decoder.decode(packet(words[a:b])) for a, b in pairwise(bounds)]
    assert [row for part in parts for row in rows(part)] == rows(expected)
    for column in ("t", "edge", "id"):
        found = np.concatenate([getattr(part.triggers, column) for part in parts])
        np.testing.assert_array_equal(found, getattr(expected.triggers, column))
    firsts = np.cumsum([0] + [len(part) for part in parts])
    leaps = np.concatenate([part.leaps + np.array([first, 0, 0]) for part, first in zip(parts, firsts, strict=False)])
    np.testing.assert_array_equal(leaps, expected.leaps)
    assert parts[-1].t_reached == expected.t_reached
    assert sum((part.losses for part in parts), Losses()) == expected.losses


@given(st.lists(st.tuples(st.sampled_from([0, 2, 3, 4, 5, 6, 10]), st.integers(0, 0xFFF)), max_size=60), st.data())
def test_t_reached_never_passes_a_later_event_of_a_sound_stream(parts, data):
    """Sound: time never falls, and every new high half is followed by its low half, but for cuts between packets."""
    words, now = list(START), 4096
    for kind, value in parts:
        if kind == 6:
            before, now = now, now + value * data.draw(st.integers(0, 30))
            for h in range((before >> 12) + 1, (now >> 12) + 1):
                words.append(high(h & 0xFFF))
            words.append(low(now & 0xFFF))
        else:
            words.append(kind << 12 | value)
    decoder = Evt3Decoder()
    decoder.decode(packet(START))
    reached = 0
    for word in words:
        decoded = decoder.decode(packet([word]))
        assert (decoded.t >= reached).all()
        assert not len(decoded.leaps)
        assert decoded.t_reached is not None and decoded.t_reached >= reached
        reached = decoded.t_reached
    assert reached == now


@pytest.mark.parametrize("encoding", DECODERS)
def test_big_endian_words_give_the_same(encoding):
    make, _, dtype = DECODERS[encoding]
    rng = np.random.default_rng(5)
    words = rng.integers(0, 2 ** (8 * np.dtype(dtype).itemsize - 1), 3_000, dtype=np.uint64).astype(dtype)
    if encoding == "evt3":
        words[:3] = START
    swapped = packet(words.byteswap(), encoding, dtype, is_bigendian=True, size=SensorSize(2048, 2048))
    expected = make().decode(packet(words, encoding, dtype, size=SensorSize(2048, 2048)))
    decoded = make().decode(swapped)
    assert rows(decoded) == rows(expected) and decoded.losses == expected.losses
    assert len(expected) or encoding in ("libcaer", "mono")


@pytest.mark.parametrize("encoding", DECODERS)
def test_bytes_that_fill_no_record_are_counted(encoding):
    make, _, dtype = DECODERS[encoding]
    record = 8 if encoding == "libcaer" else np.dtype(dtype).itemsize
    for extra in range(record):
        data = np.zeros(4 * record + extra, np.uint8)
        assert make().decode(Packet(data, encoding, SIZE)).losses.ragged == extra


@pytest.mark.parametrize("encoding", DECODERS)
def test_payload_may_be_read_only_and_unaligned(encoding):
    make, _, dtype = DECODERS[encoding]
    words = np.array(START * 8, dtype).view(np.uint8)
    shifted = np.frombuffer(b"\0" + words.tobytes(), np.uint8)[1:]
    assert not shifted.flags.writeable
    expected = make().decode(Packet(words, encoding, SIZE))
    decoded = make().decode(Packet(shifted, encoding, SIZE))
    assert rows(decoded) == rows(expected) and decoded.losses == expected.losses


@pytest.mark.parametrize("encoding", DECODERS)
def test_an_impossible_packet_is_refused(encoding, monkeypatch):
    decoder = DECODERS[encoding][0]()
    with pytest.raises(EventDataError, match="sensor size"):
        decoder.decode(Packet(np.zeros(8, np.uint8), encoding, None))
    huge = np.broadcast_to(np.zeros(1, np.uint8), MAX_PACKET_BYTES + 1)  # costs no memory
    with pytest.raises(EventDataError, match=f"at most {MAX_PACKET_BYTES} bytes"):
        decoder.decode(Packet(huge, encoding, SIZE))
    if encoding != "evt3":  # which has no use for it
        for base in (-1, 2**63):
            with pytest.raises(EventDataError, match="time_base"):
                decoder.decode(Packet(np.zeros(8, np.uint8), encoding, SIZE, time_base=base))


def test_a_packet_of_more_events_than_possible_is_refused_before_they_are_made():
    words = np.full(MAX_PACKET_EVENTS // 12 + 1, 0x4FFF, "<u2")
    decoder = Evt3Decoder()
    decoder.decode(packet(START))
    with pytest.raises(EventDataError, match="events"):
        decoder.decode(packet(words))
    assert rows(decoder.decode(packet([x_on(9)]))) == [(4096, 9, 5, 1)], "the refused packet must leave no trace"


# --- EVT3 by hand ---------------------------------------------------------------------------------------------------


def test_evt3_single_events_vectors_and_triggers():
    words = [*START, 0x2003, x_on(7), 0x3864, 0x4805, 0x5081, 0x2009, 0xA601, low(3), 0xA500]
    decoded = Evt3Decoder().decode(packet(words))
    assert rows(decoded) == [
        (4096, 3, 5, 0),
        (4096, 7, 5, 1),
        (4096, 100, 5, 1),
        (4096, 102, 5, 1),
        (4096, 111, 5, 1),
        (4096, 112, 5, 1),
        (4096, 119, 5, 1),
        (4096, 9, 5, 0),
    ]
    assert decoded.triggers.t.tolist() == [4096, 4099]
    assert decoded.triggers.edge.tolist() == [1, 0] and decoded.triggers.id.tolist() == [6, 5]
    assert decoded.t_reached == 4099 and decoded.losses == Losses() and decoded.time_unit == "us"


def test_evt3_base_advances_over_empty_masks():
    words = [*START, 0x3000, 0x4000, 0x5000, 0x4001]
    assert rows(Evt3Decoder().decode(packet(words))) == [(4096, 20, 5, 0)]


def test_evt3_starts_with_both_halves_of_time_in_one_packet_and_a_row():
    decoder = Evt3Decoder()
    first = decoder.decode(packet([0x0005, x_on(1), high(3)]))
    assert first.t_reached is None and first.losses.unsynced == 1
    second = decoder.decode(packet([low(9), x_on(2)]))
    assert second.t_reached is None and second.losses.unsynced == 1
    third = decoder.decode(packet([high(3), 0x0006, low(9), x_on(3), 0x4003, 0x0007, x_on(4)]))
    assert rows(third) == [(3 * 4096 + 9, 4, 7, 1)] and third.losses.unsynced == 3


@pytest.mark.parametrize(
    ("after", "expected"), [(100, 100), (99, 99), (90, 90), (89, 89 + 4096), (0, 4096), (101, 101)]
)
def test_evt3_wrap_or_glitch(after, expected):
    decoded = Evt3Decoder().decode(packet([high(100), low(7), 0x0005, high(after), low(7), x_on(1)]))
    assert decoded.t.tolist() == [expected * 4096 + 7]


def test_evt3_drops_and_counts_what_lies_outside():
    words = [
        *START,
        x_on(639),
        x_on(640),
        0x0000 | 480,
        x_on(1),
        0x0000 | 479,
        0x3000 | 630,
        0x4FFF,
        0x3000 | 2040,
        0x4FFF,
    ]
    decoded = Evt3Decoder().decode(packet(words))
    assert rows(decoded) == [(4096, 639, 5, 1)] + [(4096, 630 + k, 479, 0) for k in range(10)]
    assert decoded.losses == Losses(outside=1 + 1 + 2 + 12)


def test_evt3_counts_unknown_words_and_skips_known_fillers():
    decoded = Evt3Decoder().decode(packet([*START, 0x1000, 0x9000, 0xB000, 0xC000, 0xD000, 0x7000, 0xE000, 0xF000]))
    assert decoded.losses == Losses(unknown=5)


def test_evt3_high_and_low_are_one_time():
    """The high half alone would look 98 400 us ahead, the low half 4 000 more: one leap of 102 400."""
    words = [high(0), low(4000), 0x0005, x_on(1), high(25), low(4000), x_on(2)]
    decoded = Evt3Decoder().decode(packet(words))
    assert decoded.leaps.tolist() == [[1, 4000, 25 * 4096 + 4000]]
    decoder = Evt3Decoder()
    before, after = decoder.decode(packet(words[:5])), decoder.decode(packet(words[5:]))
    assert before.t_reached == 4000, "the step may yet turn out a leap"
    assert after.leaps.tolist() == [[0, 4000, 25 * 4096 + 4000]]


def test_evt3_silence_told_by_high_halves_is_no_leap():
    words = [*START, x_on(1), *(high(2 + k) for k in range(500))]
    decoded = Evt3Decoder().decode(packet(words))
    assert not len(decoded.leaps) and decoded.t_reached == 501 * 4096


def test_evt3_resync_waits_for_row_base_and_time_and_tells_the_leap():
    decoder = Evt3Decoder()
    decoder.decode(packet([*START, 0x3010, x_on(1)]))
    decoder.resync()
    lost = decoder.decode(packet([x_on(2), 0x4007, 0xA600, low(5), x_on(3)]))
    assert not len(lost) and not len(lost.triggers) and lost.losses.unsynced == 6 and lost.t_reached == 4096
    back = decoder.decode(packet([0x0009, high(200), x_on(4), low(6), x_on(5), 0x4001, 0x3020, 0x4001]))
    now = 200 * 4096 + 6
    assert rows(back) == [(now, 5, 9, 1), (now, 32, 9, 0)]
    assert back.losses.unsynced == 2 and back.leaps.tolist() == [[0, 4096, now]]


def test_evt3_resync_counts_a_wrap_within_the_loss():
    decoder = Evt3Decoder()
    decoder.decode(packet([high(4000), low(0), 0x0005]))
    decoder.resync()
    back = decoder.decode(packet([high(3), low(1), 0x0005, x_on(1)]))
    assert back.t.tolist() == [2**24 + 3 * 4096 + 1]


def test_evt3_time_over_a_day_of_wraps():
    """5150 wraps (24 h) in time words alone: two highs per wrap suffice to count them."""
    wraps = 5150
    words = np.array([*START, *[high(4000), high(1)] * wraps, low(7), x_on(3)], "<u2")
    decoded = Evt3Decoder().decode(packet(words))
    assert rows(decoded) == [(wraps * 2**24 + 4096 + 7, 3, 5, 1)]
    assert len(decoded.leaps) == 2 * wraps


def test_evt3_many_leaps_and_triggers_in_one_packet_are_all_told():
    words = [*START]
    for k in range(3_000):
        words += [high(100 + k % 2 * 1000), low(k), 0xA100 | k & 1]
    decoded = Evt3Decoder().decode(packet(words))
    expected = reference.Evt3().decode(packet(words))
    assert len(decoded.leaps) == 3_000 and len(decoded.triggers) == 3_000
    assert_as_reference(decoded, expected)


# --- the others by hand ---------------------------------------------------------------------------------------------


def test_libcaer_cmp_words():
    words = [0x2003, 0x0001, 0x1002, 0x3804, 0x4810, 0x5081, 0x5001, 0x2007, 0x5001, 0x6001, 0x9000]
    decoded = LibcaerCmpDecoder().decode(packet(words, "libcaer_cmp", time_base=10**18))
    t = 10**18 + 4098 * 1000
    assert rows(decoded) == [(t, 3, 4, 1), (t, 3, 16, 1), (t, 3, 23, 1), (t, 3, 24, 1), (t, 7, 32, 1)]
    assert decoded.losses == Losses(unknown=2) and decoded.t_reached == t and decoded.time_unit == "ns"


@pytest.mark.parametrize(
    ("encoding", "base", "expected"), [("evt3", 0x3000, (2047, 5)), ("libcaer_cmp", 0x4000, (5, 2047))]
)
def test_a_vector_does_not_run_past_eleven_bits(encoding, base, expected):
    start = START if encoding == "evt3" else [0x2005]
    words = [*start, base | 2040, 0x5080, 0x5081]
    decoded = DECODERS[encoding][0]().decode(packet(words, encoding, size=SensorSize(4096, 4096)))
    assert [row[1:3] for row in rows(decoded)] == [expected] and decoded.losses == Losses(outside=2)


def test_libcaer_cmp_carries_column_but_not_time_from_packet_to_packet():
    decoder = LibcaerCmpDecoder()
    decoder.decode(packet([0x2003, 0x0001, 0x1002, 0x3004], "libcaer_cmp", time_base=0))
    decoded = decoder.decode(packet([0x3005], "libcaer_cmp", time_base=5_000_000))
    assert rows(decoded) == [(5_000_000, 3, 5, 0)]
    decoder.resync()
    assert decoder.decode(packet([0x3005], "libcaer_cmp")).losses == Losses(unsynced=1)


def test_libcaer_records_and_roll_over():
    def record(t, x, y, p, valid=1):
        return [x << 17 | y << 2 | p << 1 | valid, t]

    last = 2**31 - 5
    words = [*record(last, 3, 4, 1), *record(2, 5, 6, 0), *record(3, 5, 6, 0, valid=0), *record(9, 640, 0, 1)]
    decoded = LibcaerDecoder().decode(packet(words, "libcaer", "<u4", time_base=7))
    assert rows(decoded) == [(7 + last * 1000, 3, 4, 1), (7 + (2**31 + 2) * 1000, 5, 6, 0)]
    assert decoded.losses == Losses(outside=1, unknown=1) and not len(decoded.leaps)


def test_libcaer_times_stay_in_range_however_often_they_fall():
    words = np.zeros((1 << 21, 2), "<u4")
    words[:, 0], words[::2, 1] = 1, 2**31 - 1
    decoded = LibcaerDecoder().decode(packet(words.reshape(-1), "libcaer", "<u4", time_base=2**62 - 1))
    assert len(decoded) == 1 << 21 and (decoded.t >= 2**62 - 1).all()


def test_mono_words_and_leaps_between_packets():
    decoder = MonoDecoder()
    first = decoder.decode(packet([123 | 3 << 32 | 4 << 48 | 1 << 63], "mono", "<u8", time_base=1000))
    assert rows(first) == [(1123, 3, 4, 1)] and not len(first.leaps)
    later = 1123 + LEAP_US * 1000
    second = decoder.decode(packet([0, 1], "mono", "<u8", time_base=later))
    assert not len(second.leaps)
    third = decoder.decode(packet([5, 6], "mono", "<u8", time_base=later + 10**9))
    assert third.leaps.tolist() == [[0, later + 1, later + 10**9 + 5]]
    back = decoder.decode(packet([], "mono", "<u8", time_base=0))
    assert back.t_reached == third.t_reached == later + 10**9 + 6


# --- memory and compilation -----------------------------------------------------------------------------------------


def test_columns_take_no_more_memory_than_the_events_kept():
    """A hostile packet: room for 12 events per word is needed, and none is inside."""
    words = np.full(100_000, 0x4FFF, "<u2")
    words[:4] = [*START, 0x3000 | 2000]
    decoded = Evt3Decoder().decode(packet(words))
    assert len(decoded) == 0 and decoded.losses.outside == 12 * (100_000 - 4)
    held = sum(c.nbytes if c.base is None else c.base.nbytes for c in (decoded.x, decoded.y, decoded.p, decoded.t))
    assert held < 1000


def test_warm_up_leaves_nothing_to_compile():
    warm_up()
    kernels = [
        evt3_kernels.count_events,
        evt3_kernels.decode_words,
        libcaer_kernels.count_events,
        libcaer_kernels.decode_words,
    ]
    before = [len(kernel.signatures) for kernel in kernels]
    assert all(before)
    words = packet([*START, 0x3010, 0x4001, 0xA100])
    Evt3Decoder().decode(words)
    Evt3Decoder().decode(replace(words, is_bigendian=True))
    Evt3Decoder().decode(replace(words, data=np.frombuffer(words.data.tobytes(), np.uint8)))
    LibcaerCmpDecoder().decode(words)
    assert [len(kernel.signatures) for kernel in kernels] == before


def test_kernels_compile_where_no_cache_can_be_written():
    """A function without a file has no place for a cache, as in a read-only container; numba refuses with `cache`."""
    names: dict = {}
    exec("def double(x):\n    return 2 * x", names)
    with pytest.raises(RuntimeError, match="locator"):
        numba.njit(cache=True)(names["double"])
    assert kernel(names["double"])(21) == 42
