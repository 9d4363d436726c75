"""Time that wraps, jumps, repeats itself or is lost, through the public path: decoder or recording, then windows."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snn_perception.events.dat import DatRecording
from snn_perception.events.evt3_encode import packetize
from snn_perception.events.rosbag2 import BagRecording
from snn_perception.events.stream import EventStream
from snn_perception.events.windower import Windower
from snn_perception.types import JITTER_US, EventArray, Packet
from tests.evt3_placing import packetised, packets_of
from tests.paths import recording_path
from tests.time_support import (
    EVT2_WRAP_US,
    SIZE,
    WINDOW_US,
    check_grid,
    cut,
    events_at,
    evt2_packets,
    evt2_words,
    joined,
    recorded,
    rows,
)

HEADER = b"% Data file containing CD events.\n% Version 2\n% Height 480\n% Width 640\n% end\n\x0c\x08"
DAT_WRAP_US, EVT3_WRAP_US, ROLL_OVER_US = 1 << 32, 1 << 24, 1 << 31


# ---- DAT: 32 bits of microseconds


def write_words(path, events: EventArray):
    """Write events with their times cut to 32 bits, whatever they are."""
    words = np.empty(len(events), "<u8")
    place = events.x.astype(np.uint64) | events.y.astype(np.uint64) << np.uint64(14)
    place |= events.p.astype(np.uint64) << np.uint64(28)
    words[:] = (events.t % DAT_WRAP_US).astype(np.uint64) | place << np.uint64(32)
    path.write_bytes(HEADER + words.tobytes())
    return path


@st.composite
def times_over_wraps(draw):
    """Times over up to five wraps: long and short steps, and stragglers of up to `JITTER_US`, most of them at wraps."""
    now = draw(st.integers(JITTER_US, DAT_WRAP_US - 1))
    times = [now]
    for _ in range(draw(st.integers(1, 12))):
        near = (now // DAT_WRAP_US + 1) * DAT_WRAP_US - now
        steps = st.integers(0, 40_000) | st.integers(0, (1 << 31) - 1)
        if near < 1 << 31:
            steps |= st.integers(max(0, near - 5), min(near + 5, (1 << 31) - 1))
        now += draw(steps)
        times.append(now)
        for back in draw(st.lists(st.integers(0, JITTER_US) | st.just(JITTER_US), max_size=2)):
            times += [max(now - back, times[0]), now]
    return times


@given(times_over_wraps())
@settings(max_examples=60)
def test_dat_times_over_several_wraps_are_exact_wherever_pieces_end(tmp_path_factory, times):
    events = events_at(times)
    recording = DatRecording(write_words(tmp_path_factory.mktemp("dat") / "a.dat", events))
    for max_events in range(1, len(times) + 1):
        chunks = list(recording.chunks(max_events))
        assert [row for chunk in chunks for row in rows(chunk)] == rows(events)
        assert not any(len(chunk.leaps) for chunk in chunks), "stragglers and silence are no leaps in a file"
        reached = [chunk.t_reached for chunk in chunks]
        assert reached == [int(chunk.t[-1]) for chunk in chunks]


@pytest.mark.parametrize("wraps", [1, 3, 20])
def test_dat_windows_over_wraps_with_disorder_are_those_of_the_true_times(tmp_path, wraps):
    rng = np.random.default_rng(wraps)
    near = [np.sort(rng.integers(k * DAT_WRAP_US - 60_000, k * DAT_WRAP_US + 60_000, 200)) for k in range(1, wraps + 1)]
    between = [np.array([k * DAT_WRAP_US + DAT_WRAP_US // 2 - 1]) for k in range(wraps)]  # a step stays under half
    t = np.concatenate([part for pair in zip(between, near, strict=True) for part in pair])
    late = rng.random(len(t)) < 0.1
    late[0] = False
    t[late] -= rng.integers(1, JITTER_US // 4, int(late.sum()))
    events = events_at(t)
    path, window_us = write_words(tmp_path / "a.dat", events), 60_000_000
    whole = Windower(window_us, SIZE)
    expected = [*whole.push(events), *whole.flush()]
    assert whole.disordered > 0
    for max_events in (1, 7, 1000):
        windower = Windower(window_us, SIZE)
        windows = [w for chunk in DatRecording(path).chunks(max_events) for w in windower.push(chunk)]
        windows += windower.flush()
        assert joined(windows) == joined(expected) and len(windows) == len(expected)
        assert (windower.disordered, windower.gaps) == (whole.disordered, 0)
        check_grid(windows, window_us)


# ---- libcaer, mono: every record has its time, on the packet's base


def caer_packet(seq, times_us, base_ns, **fields) -> Packet:
    events = events_at(times_us, seed=seq)
    words = np.empty((len(events), 2), "<u4")
    place = events.x.astype(np.uint32) << np.uint32(17) | events.y.astype(np.uint32) << np.uint32(2)
    words[:, 0] = place | events.p.astype(np.uint32) << np.uint32(1) | np.uint32(1)
    words[:, 1] = events.t
    return Packet(words.reshape(-1).view(np.uint8), "libcaer", SIZE, seq=seq, time_base=base_ns, **fields)


def mono_packet(seq, times_ns, base_ns, **fields) -> Packet:
    events = events_at(times_ns, seed=seq)
    words = events.t.astype(np.uint64) | events.x.astype(np.uint64) << np.uint64(32)
    words |= events.y.astype(np.uint64) << np.uint64(48) | events.p.astype(np.uint64) << np.uint64(63)
    return Packet(words.view(np.uint8), "mono", SIZE, seq=seq, time_base=base_ns, **fields)


@given(st.integers(0, 10**15), st.lists(st.integers(0, 5_000), min_size=1, max_size=60), st.data())
def test_libcaer_rolls_over_inside_and_between_packets(registry, epoch_us, steps, data):
    """True times cross 2^31 us somewhere; a packet's base holds the roll-overs before its first event."""
    crossing = (epoch_us // ROLL_OVER_US + 1) * ROLL_OVER_US
    true = crossing - data.draw(st.integers(0, sum(steps))) + np.cumsum(steps)
    edges = [0, *sorted(data.draw(st.lists(st.integers(0, len(true)), max_size=5))), len(true)]
    packets = []
    for seq, (a, b) in enumerate(pairwise(edges)):
        part = true[a:b]
        base = int(part[0]) // ROLL_OVER_US * ROLL_OVER_US if len(part) else 0
        packets.append(caer_packet(seq, part % ROLL_OVER_US, base * 1000))
    windows, maker = cut(registry, packets)
    found = [row[0] for row in joined(windows)]
    assert found == true.tolist()
    assert (maker.windower.gaps, maker.windower.disordered) == (0, 0)
    check_grid(windows)


@pytest.mark.parametrize("make", [caer_packet, mono_packet])
@pytest.mark.parametrize("jump_ns", [-3_600_000_000_000, -60_000_000, 2_000_000_000, 10**17])
def test_a_jump_of_the_time_base_is_a_gap_and_no_event_is_lost(registry, make, jump_ns):
    bases = [10**18 + 1_000_000 * k + (jump_ns if k >= 7 else 0) for k in range(15)]
    packets = [make(k, np.array([0, 300, 900]), base) for k, base in enumerate(bases)]
    windows, maker = cut(registry, packets, max_gap_us=1_000_000)
    assert maker.windower.gaps == 1 and [w.after_gap for w in windows].count(True) == 1
    divisor = 1 if make is caer_packet else 1000
    assert [t for t, *_ in joined(windows)] == [base // 1000 + t // divisor for base in bases for t in (0, 300, 900)]
    check_grid(windows)


@pytest.mark.parametrize("make", [caer_packet, mono_packet])
def test_small_steps_back_of_the_time_base_are_disorder(registry, make):
    packets = [make(k, np.array([0, 300]), 10**18 + 1_000_000 * k - 20_000_000 * (k == 7)) for k in range(15)]
    windows, maker = cut(registry, packets, max_gap_us=1_000_000)
    assert maker.windower.gaps == 0 and maker.windower.disordered == 2
    assert sum(len(w.events) for w in windows) == 30
    check_grid(windows)


def test_the_real_roll_over_leaves_no_trace(registry):
    """The camera's 31 bits roll over between two packets of this recording."""
    packets = list(BagRecording(recording_path("libcaer_rollover")).packets())
    first = [int(packet.data[4:8].view("<u4")[0]) for packet in packets]
    assert any(after < before for before, after in pairwise(first))
    windows, maker = cut(registry, packets, max_gap_us=100_000)
    assert (maker.windower.gaps, maker.windower.disordered, maker.stream.counts.losses.total) == (0, 0, 0)
    assert len(windows) == pytest.approx(2_000_000 / WINDOW_US, abs=2)
    assert sum(len(w.events) for w in windows) == maker.stream.counts.events
    check_grid(windows)


# ---- a start in the middle, for every encoding


def written(encoding) -> list[Packet]:
    """Return packets of an encoding that no recording at hand has."""
    rng = np.random.default_rng(1)
    t = 10**12 + np.sort(rng.integers(0, 200_000, 4_000))
    if encoding == "mono":
        parts = [t[at : at + 100] * 1000 for at in range(0, len(t), 100)]
        return [mono_packet(seq, part - part[0], int(part[0])) for seq, part in enumerate(parts)]
    if encoding.startswith("evt2"):
        words, _, _ = evt2_words(encoding, events_at(t % EVT2_WRAP_US))
        return evt2_packets(encoding, words, range(0, len(words), 100))
    return list(packetize([events_at(t % EVT3_WRAP_US)], SIZE))


START = {
    "evt3": lambda: recorded("evt3_trigger_b"),
    "evt3 written": lambda: written("evt3"),
    "libcaer": lambda: recorded("libcaer_rollover"),
    "libcaer_cmp": lambda: recorded("libcaer_cmp_mcap"),
    "mono": lambda: written("mono"),
    "evt2": lambda: written("evt2"),
    "evt21": lambda: written("evt21"),
    "evt21e": lambda: written("evt21e"),
}


@pytest.mark.parametrize("source", START)
def test_a_start_in_the_middle_gives_the_end_of_the_whole(registry, source):
    packets = START[source]()
    whole = [EventStream(registry)]
    pieces = [whole[0].decode(packet).events for packet in packets]
    for start in (1, 2, len(packets) // 2, len(packets) - 1):
        later, found = EventStream(registry), []
        for packet in packets[start:]:
            found += [later.decode(packet).events]
        expected = [row for piece in pieces[start:] for row in rows(piece)]
        got = [row for piece in found for row in rows(piece)]
        unsynced = later.counts.losses.unsynced
        assert got == expected[len(expected) - len(got) :] and len(got) == len(expected) - unsynced
        assert len(got) > 0 and unsynced <= 2_000, "at most until the next row and time words"
        assert not later.counts.restarts and not any(len(piece.leaps) for piece in found)


# ---- EVT3 for a day


def test_evt3_time_is_exact_over_a_day(registry):
    """24 h of time words as a sensor sends them (each high half), an event now and then: 5,150 wraps, no us amiss."""
    day_us, rng = 86_400_000_000, np.random.default_rng(0)
    highs = day_us >> 12
    t = np.sort(rng.integers(1 << 12, day_us, 20_000))
    t[-1] = day_us - 1
    x = rng.integers(0, 640, len(t))
    at = t >> 12  # the number of the high half before each
    words_at = np.arange(highs + 1) + 4 * np.searchsorted(at, np.arange(highs + 1))
    words = np.empty(highs + 1 + 4 * len(t), np.uint16)
    words[words_at] = 0x8000 | np.arange(highs + 1) & 0xFFF
    first = words_at[at] + 1 + 4 * (np.arange(len(t)) - np.searchsorted(at, at))
    for k, word in enumerate((0x6000 | t & 0xFFF, 0x0007, 0x2800 | x, 0x6FFF)):
        words[first + k] = word
    words = np.concatenate([[0x8000, 0x6000], words]).astype("<u2")
    packets = (
        Packet(words[start : start + 500_000].view(np.uint8), "evt3", SIZE, seq=k)
        for k, start in enumerate(range(0, len(words), 500_000))
    )
    windows, maker = cut(registry, packets, 10_000_000, max_gap_us=1_000_000)
    found = np.concatenate([window.events.t for window in windows])
    assert int(t[-1]) // EVT3_WRAP_US == 5149
    np.testing.assert_array_equal(found, t)
    np.testing.assert_array_equal(np.concatenate([window.events.x for window in windows]), x)
    assert (maker.windower.gaps, maker.windower.disordered) == (0, 0)
    check_grid(windows, 10_000_000)
    assert len(windows) == day_us // 10_000_000 - int(t[0]) // 10_000_000


# ---- windows partition the events


@given(
    st.lists(st.tuples(st.integers(0, 30_000), st.integers(1, 5)), min_size=1, max_size=40),
    st.sampled_from([1_000, 4_000, 9_973]),
    st.sampled_from([1, 700, 5_000, 10_000, 33_333]),
)
@settings(max_examples=60)
def test_windows_partition_the_events_for_any_packets(registry, steps, interval_us, window_us):
    t = 5_000 + np.repeat(np.cumsum([step for step, _ in steps]), [count for _, count in steps])
    events = events_at(t)
    packets = list(packetize([events], SIZE, interval_us=interval_us, from_zero=True))
    windows, _ = cut(registry, packets, window_us)
    assert sorted(joined(windows)) == sorted(rows(events))
    check_grid(windows, window_us)
    assert windows[0].t_start_us <= 5_000 + steps[0][0] < windows[0].t_end_us


@given(packetised(), st.sampled_from([3_000, 50_000]))
@settings(max_examples=30)
def test_windows_of_a_real_camera_are_the_same_for_any_packets(registry, drawn, window_us):
    stream, size, edges = drawn
    windows, maker = cut(registry, packets_of(stream.words, edges, size), window_us)
    found = np.concatenate([np.stack([getattr(w.events, n).astype(np.int64) for n in "txyp"], 1) for w in windows])
    np.testing.assert_array_equal(found, stream.placed(edges, np.ones(len(edges) - 1, bool)))
    check_grid(windows, window_us)
    assert maker.windower.disordered == maker.windower.gaps == 0
    assert not any(window.lossy for window in windows)


def test_disorder_and_duplicates_together(registry):
    """Late events are moved up, copies of one time are dropped, and no window loses another event."""
    t = np.repeat(np.arange(0, 100_000, 100), 3)
    events = events_at(t)
    copies = np.sort(np.concatenate([np.arange(len(t)), np.arange(0, len(t), 7)]))
    times = events.t[copies] * 1000
    times[2_000] -= 30_000_000
    doubled = replace(events[copies], t=times)
    words = doubled.t.astype(np.uint64) | doubled.x.astype(np.uint64) << np.uint64(32)
    words |= doubled.y.astype(np.uint64) << np.uint64(48) | doubled.p.astype(np.uint64) << np.uint64(63)
    packets = [
        Packet(words[at : at + 50].view(np.uint8), "mono", SIZE, seq=k, time_base=10**15)
        for k, at in enumerate(range(0, len(words), 50))
    ]
    windows, maker = cut(registry, packets, drop_duplicates=True)
    runs = np.cumsum(np.concatenate([[0], np.diff(times) != 0]))  # the late event splits the run that it is in
    once = len(set(zip(runs.tolist(), doubled.x.tolist(), doubled.y.tolist(), doubled.p.tolist(), strict=True)))
    assert maker.duplicates.dropped == len(copies) - once > 400
    assert sum(len(window.events) for window in windows) == once
    assert (maker.windower.gaps, maker.windower.disordered) == (0, 1)
    check_grid(windows)
