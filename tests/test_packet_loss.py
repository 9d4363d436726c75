"""Packets lost, doubled or out of order: the events that can be placed come out, at their true times, and no others."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from snn_perception.types import Packet
from tests.evt3_placing import evt3_stream, packetised, packets_of
from tests.time_support import (
    EVT2_WRAP_US,
    SIZE,
    check_grid,
    cut,
    decoded_rows,
    events_at,
    evt2_packets,
    evt2_words,
    rows,
)


def test_the_plain_reading_agrees_with_the_decoder_where_nothing_is_lost(registry):
    stream, size = evt3_stream(0)
    edges = np.array([0, len(stream.words)])
    found, _, _ = decoded_rows(registry, packets_of(stream.words, edges, size))
    assert len(found) > 80_000
    np.testing.assert_array_equal(found, stream.placed(edges, np.array([True])))


@given(packetised(), st.data())
@settings(max_examples=60)
def test_after_a_loss_exactly_the_events_that_can_be_placed_come_out(registry, drawn, data):
    stream, size, edges = drawn
    packets = packets_of(stream.words, edges, size)
    kept = np.array([True, *data.draw(st.lists(st.booleans(), min_size=len(packets) - 1, max_size=len(packets) - 1))])
    found, counts, pieces = decoded_rows(registry, [p for p, keep in zip(packets, kept, strict=True) if keep])
    np.testing.assert_array_equal(found, stream.placed(edges, kept))
    last = int(np.flatnonzero(kept)[-1])
    assert counts.lost_packets == int((~kept[:last]).sum()) and counts.restarts == 0
    assert all((piece.leaps[:, 2] > piece.leaps[:, 1]).all() for piece in pieces), "a loss never runs backwards"


@given(packetised(most=12), st.data())
@settings(max_examples=60)
def test_windows_that_lack_events_after_a_loss_say_so(registry, drawn, data):
    stream, size, edges = drawn
    packets = packets_of(stream.words, edges, size)
    kept = np.array([True, *data.draw(st.lists(st.booleans(), min_size=len(packets) - 1, max_size=len(packets) - 1))])
    whole, _ = cut(registry, packets)
    parts, maker = cut(registry, [p for p, keep in zip(packets, kept, strict=True) if keep])
    check_grid(parts)
    expected = {window.t_start_us: window for window in whole}
    for window in parts[:-1]:
        full = expected[window.t_start_us]
        assert set(rows(window.events)) <= set(rows(full.events))
        assert window.lossy or len(window.events) == len(full.events), (window.t_start_us, len(full.events))
    assert maker.windower.gaps == maker.windower.disordered == 0


@given(packetised(), st.data())
@settings(max_examples=40)
def test_packets_that_come_twice_or_late_spoil_no_time(registry, drawn, data):
    """Packets that others overtook are left out: they stay the losses that they were taken for."""
    stream, size, edges = drawn
    packets = packets_of(stream.words, edges, size)
    order = list(range(len(packets)))
    for at in data.draw(st.lists(st.integers(1, len(packets)), max_size=8)):
        order[at : at + 2] = order[at : at + 2][::-1]
    arrivals = [k for k in order for _ in range(data.draw(st.integers(1, 2)))]
    found, counts, _ = decoded_rows(registry, [packets[k] for k in arrivals])
    kept = np.array([k == max(order[: order.index(k) + 1]) for k in range(len(packets))])
    np.testing.assert_array_equal(found, stream.placed(edges, kept))
    assert counts.restarts == 0
    late = int((~kept).sum())
    assert counts.packets == len(packets) - late and counts.lost_packets == late
    assert counts.late_packets + counts.duplicates == len(arrivals) - counts.packets


@given(
    st.sampled_from(["evt2", "evt21", "evt21e"]),
    st.lists(st.integers(0, 50) | st.integers(0, 5_000_000), min_size=1, max_size=60),
    st.lists(st.tuples(st.integers(0, 120), st.booleans()), max_size=12),
)
def test_evt2_after_a_loss_waits_for_the_next_high_part(registry, encoding, steps, cuts):
    """Times wrap at 2^34 us in the middle."""
    t = EVT2_WRAP_US - 1 - sum(steps) // 2 + np.cumsum([0, *steps])
    events = events_at(t)
    words, at, high_at = evt2_words(encoding, events)
    edges = np.array([0, *sorted(min(1 + cut, len(words)) for cut, _ in cuts), len(words)])
    kept = np.array([True, *(keep for _, keep in cuts)])
    packets = evt2_packets(encoding, words, edges)
    found, counts, _ = decoded_rows(registry, [p for p, keep in zip(packets, kept, strict=True) if keep])
    run_start = np.zeros(len(kept), np.int64)
    for k in range(1, len(kept)):
        run_start[k] = run_start[k - 1] if kept[k - 1] else edges[k]
    packet = np.searchsorted(edges, at, side="right") - 1
    placed = kept[packet] & (high_at >= run_start[packet])
    assert found.tolist() == [list(row) for row in rows(events[placed])]
    assert counts.restarts == 0


def test_a_window_is_lossy_as_long_as_events_wait_for_a_row_after_a_loss(registry):
    """After the loss time is known at once, but not the row, which comes two windows later."""

    def packet(seq, *words):
        return Packet(np.array(words, "<u2").view(np.uint8), "evt3", SIZE, seq=seq)

    packets = [
        packet(0, 0x8001, 0x6000, 0x0007, 0x2801),  # an event at 4096 us
        packet(2, 0x8002, 0x6000),  # 8192 us
        packet(3, 0x8003, 0x6000, 0x2802),  # at 12288 us, of an unknown row
        packet(4, 0x8005, 0x6000, 0x2803),  # 20480 us
        packet(5, 0x8006, 0x6000, 0x0007, 0x2804, 0x8008, 0x6000, 0x2805, 0x800A, 0x6000),
    ]
    windows, maker = cut(registry, packets)
    assert maker.stream.counts.losses.unsynced == 2
    assert [(w.t_start_us, len(w.events), w.lossy) for w in windows] == [
        (0, 1, True),
        (10_000, 0, True),
        (20_000, 1, True),
        (30_000, 1, False),
    ]


def test_windows_are_lossy_until_time_is_known_again_after_a_loss(registry):
    """The first packet after the loss tells half a time, so that the loss may yet last for windows."""

    def packet(seq, *words):
        return Packet(np.array(words, "<u2").view(np.uint8), "evt3", SIZE, seq=seq)

    packets = [
        packet(0, 0x8001, 0x6000, 0x0007, 0x2801),
        packet(2, 0x6005, 0x2802),
        packet(3, 0x800A, 0x6000, 0x0007, 0x2803, 0x800C, 0x6000, 0x2804),
        packet(4, 0x800F, 0x6000, 0x2805),
    ]
    windows, _ = cut(registry, packets)
    assert [(w.t_start_us, len(w.events), w.lossy) for w in windows] == [
        (0, 1, True),
        (10_000, 0, True),
        (20_000, 0, True),
        (30_000, 0, True),
        (40_000, 2, True),
        (50_000, 0, False),
        (60_000, 1, False),
    ]


def test_a_loss_just_after_a_new_high_half_does_not_end_the_stream(registry):
    """The high half before the loss has not been settled by a low one when the next comes."""

    def packet(seq, *words):
        return Packet(np.array(words, "<u2").view(np.uint8), "evt3", SIZE, seq=seq)

    packets = [
        packet(0, 0x8001, 0x6000, 0x0007, 0x2801, 0x8002),
        packet(2, 0x6005, 0x0008, 0x2802, 0x8002, 0x6006, 0x2803, 0x8003, 0x6001, 0x2804),
    ]
    found, counts, _ = decoded_rows(registry, packets)
    assert found.tolist() == [[4096, 1, 7, 1], [2 * 4096 + 6, 3, 8, 1], [3 * 4096 + 1, 4, 8, 1]]
    assert counts.losses.unsynced == 1
