from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snn_perception.errors import EventDataError
from snn_perception.events.stream import EventStream, PacketWindows
from snn_perception.types import Losses, SensorSize
from tests.runtime_support import SIZE, broken_packet, tiny_packet, tiny_registry

REGISTRY = tiny_registry()
OTHER_SIZE = SensorSize(height=60, width=80)
WINDOW_US = 10_000


def stream(**options):
    return EventStream(REGISTRY, **options)


def packets_of(*times, first=0):
    """Return one packet per time, each with one event, numbered from `first`."""
    return [tiny_packet([(t, True)], seq=first + i) for i, t in enumerate(times)]


def test_packets_in_order_are_decoded_and_counted():
    camera = stream()
    pieces = [camera.decode(packet) for packet in packets_of(10, 20, 30, first=7)]
    assert [piece.events.t.tolist() for piece in pieces] == [[10], [20], [30]]
    assert not any(piece.lossy or piece.restarted for piece in pieces)
    assert (camera.counts.packets, camera.counts.events, camera.counts.lost_packets) == (3, 3, 0)


def test_a_number_that_skips_ahead_is_a_loss_and_the_decoder_is_told():
    camera = stream()
    camera.decode(tiny_packet([(10, True)], seq=5))
    piece = camera.decode(tiny_packet([(20, True), (30, True)], seq=9))
    assert piece.lossy and not piece.restarted
    assert piece.events.t.tolist() == [30], "the decoder drops what it cannot place after a loss"
    assert (camera.counts.lost_packets, camera.counts.sequence_gaps) == (3, 1)
    assert camera.counts.losses == Losses(unsynced=1)


def test_the_same_number_again_is_a_duplicate():
    camera = stream()
    first, second = tiny_packet([(10, True)], seq=5), tiny_packet([(20, True)], seq=6)
    assert camera.decode(first) is not None
    assert camera.decode(first) is None
    assert not camera.decode(second).lossy
    assert (camera.counts.packets, camera.counts.duplicates, camera.counts.lost_packets) == (2, 1, 0)


def test_a_lower_number_is_a_new_stream_with_a_new_decoder():
    camera = stream()
    camera.decode(tiny_packet([(10, True)], seq=500))
    piece = camera.decode(tiny_packet([(20, True)], seq=0))
    assert piece.restarted and not piece.lossy
    assert piece.events.t.tolist() == [20]
    assert (camera.counts.restarts, camera.counts.lost_packets) == (1, 0)


def test_a_lost_packet_that_comes_late_is_left_out():
    camera = stream()
    packets = [replace(p, stamp_ns=1_000 * k) for k, p in enumerate(packets_of(10, 20, 30, 40, 50))]
    for packet in (packets[0], packets[3]):
        camera.decode(packet)
    assert camera.decode(packets[1]) is None
    assert camera.decode(packets[2]) is None
    piece = camera.decode(packets[4])
    assert piece.events.t.tolist() == [50] and not piece.lossy and not piece.restarted
    counts = camera.counts
    assert (counts.packets, counts.late_packets, counts.lost_packets, counts.restarts) == (3, 2, 2, 0)


@pytest.mark.parametrize(("seq", "stamp_ns"), [(2, 9_000), (0, 500), (6, 500)])
def test_a_lower_number_with_a_later_stamp_or_that_was_not_missing_is_a_new_stream(seq, stamp_ns):
    camera = stream()
    for packet in packets_of(10, 20, 30, 40, 50, 60, 70, 80):
        if packet.seq not in (2, 3):
            camera.decode(replace(packet, stamp_ns=1_000 * packet.seq))
    piece = camera.decode(replace(tiny_packet([(5, True)], seq), stamp_ns=stamp_ns))
    assert piece.restarted and camera.counts.late_packets == 0
    again = camera.decode(replace(tiny_packet([(15, True)], seq + 1), stamp_ns=stamp_ns - 100))
    assert not again.restarted and again.events.t.tolist() == [15]


def test_another_size_is_a_new_stream():
    camera = stream()
    camera.decode(tiny_packet([(10, True)], seq=1))
    assert camera.size == SIZE
    piece = camera.decode(tiny_packet([(20, True)], seq=2, size=OTHER_SIZE))
    assert piece.restarted
    assert piece.events.size == camera.size == OTHER_SIZE
    assert camera.counts.restarts == 1


def test_another_encoding_is_a_new_stream():
    camera = stream()
    camera.decode(tiny_packet([(10, True)], seq=1))
    piece = camera.decode(tiny_packet([], seq=2, encoding="mono"))
    assert piece.restarted
    assert camera.counts.restarts == 1


def test_an_unknown_encoding_names_topic_and_known_ones_and_the_stream_goes_on():
    camera = stream(topic="/left/events")
    camera.decode(tiny_packet([(10, True)], seq=1))
    with pytest.raises(EventDataError, match=r"topic '/left/events': unknown event encoding 'morse'; known: .*tiny"):
        camera.decode(tiny_packet([(20, True)], seq=2, encoding="morse"))
    piece = camera.decode(tiny_packet([(30, True), (40, True)], seq=3))
    assert piece.lossy and not piece.restarted
    assert camera.counts.lost_packets == 1


def test_a_packet_that_cannot_be_read_counts_as_lost():
    camera = stream()
    camera.decode(tiny_packet([(10, True)], seq=1))
    with pytest.raises(EventDataError, match="impossible record"):
        camera.decode(broken_packet(seq=2))
    piece = camera.decode(tiny_packet([(30, True), (40, True)], seq=3))
    assert piece.lossy
    assert piece.events.t.tolist() == [40]
    assert (camera.counts.packets, camera.counts.bad_packets, camera.counts.lost_packets) == (2, 1, 1)


def test_a_first_packet_that_cannot_be_read_leaves_no_decoder_behind():
    camera = stream()
    with pytest.raises(EventDataError, match="impossible record"):
        camera.decode(broken_packet(seq=1))
    assert camera.decode(tiny_packet([], seq=2, encoding="mono")).events.t.tolist() == []
    assert camera.size == SIZE


def test_an_unreadable_restart_does_not_change_the_decoder_of_the_old_stream():
    camera = stream()
    camera.decode(tiny_packet([(10, True)], seq=1))
    with pytest.raises(EventDataError):
        camera.decode(replace(broken_packet(seq=2), size=OTHER_SIZE))
    piece = camera.decode(tiny_packet([(20, True), (30, True)], seq=3))
    assert piece.lossy and not piece.restarted
    assert piece.events.t.tolist() == [30]


def test_packets_without_numbers_are_never_lost():
    camera = stream()
    pieces = [camera.decode(tiny_packet([(t, True)])) for t in (10, 20)]
    assert not any(piece.lossy or piece.restarted for piece in pieces)
    assert camera.counts.packets == 2


def test_the_size_comes_from_outside_where_packets_have_none():
    with pytest.raises(EventDataError, match="no sensor size"):
        stream().decode(tiny_packet([(10, True)], size=None))
    camera = stream(size=OTHER_SIZE)
    assert camera.size == OTHER_SIZE
    assert camera.decode(tiny_packet([(10, True)], size=None)).events.size == OTHER_SIZE


def test_losses_inside_packets_add_up():
    camera = stream()
    for seq in range(3):
        camera.decode(tiny_packet([(10 * seq, True)], seq, extra=b"xyz"))
    assert camera.counts.losses == Losses(ragged=9)
    assert camera.counts.losses.total == 9


def cut(packets, **options):
    """Return the windows of the packets, and what made them."""
    maker = PacketWindows(REGISTRY, WINDOW_US, **{"max_gap_us": 1_000_000, **options})
    return [window for packet in packets for window in maker.push(packet)] + list(maker.flush()), maker


def test_windows_of_packets_are_those_of_their_events():
    windows, maker = cut(packets_of(1_000, 12_000, 34_000))
    assert [(w.t_start_us, w.events.t.tolist()) for w in windows] == [
        (0, [1_000]),
        (10_000, [12_000]),
        (20_000, []),
        (30_000, [34_000]),
    ]
    assert maker.windower.windows == 4


def test_a_lost_packet_marks_its_window():
    windows, _ = cut([tiny_packet([(1_000, True)], 1), tiny_packet([(2_000, True), (3_000, True), (11_000, True)], 3)])
    assert [(len(w.events), w.lossy) for w in windows] == [(2, True), (1, False)]


def test_a_restart_closes_the_window_and_leaves_a_gap():
    windows, maker = cut([tiny_packet([(901_000, True)], 50), *packets_of(2_000, 13_000)])
    assert [(w.t_start_us, w.after_gap) for w in windows] == [(900_000, False), (0, True), (10_000, False)]
    assert maker.windower.gaps == 1


def test_another_size_starts_windows_of_that_size_and_counting_goes_on():
    windows, maker = cut([*packets_of(1_000, 12_000), tiny_packet([(14_000, True)], 2, size=OTHER_SIZE)])
    assert [(w.events.size, w.after_gap) for w in windows] == [(SIZE, False), (SIZE, False), (OTHER_SIZE, True)]
    assert maker.windower.windows == 3
    assert maker.windower.gaps == 1


def test_a_duplicate_makes_no_windows():
    packet = tiny_packet([(1_000, True)], 1)
    windows, _ = cut([packet, packet, packet])
    assert [len(w.events) for w in windows] == [1]


def test_windows_carry_the_name_of_their_camera():
    windows, _ = cut(packets_of(1_000), name="left")
    assert windows[0].stream == "left"


@given(
    st.lists(st.tuples(st.integers(0, 4_000), st.booleans()), min_size=1, max_size=60),
    st.lists(st.integers(0, 60), max_size=10),
)
def test_how_the_stream_was_cut_into_packets_does_not_show(steps, cuts):
    times = np.cumsum([step for step, _ in steps]).tolist()
    known = list(zip(times, [is_event for _, is_event in steps], strict=True))
    edges = [0, *sorted(cut % (len(known) + 1) for cut in cuts), len(known)]
    split = [tiny_packet(known[a:b], seq) for seq, (a, b) in enumerate(pairwise(edges))]
    whole, _ = cut([tiny_packet(known, 0)])
    parts, maker = cut(split)
    assert [(w.t_start_us, w.events.t.tolist(), w.lossy) for w in whole] == [
        (w.t_start_us, w.events.t.tolist(), w.lossy) for w in parts
    ]
    assert maker.stream.counts.events == sum(is_event for _, is_event in known)
