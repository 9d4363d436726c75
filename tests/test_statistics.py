"""What is counted over a recording's events: rate over time, pixels, duplicates, silences; and where a walk stops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snn_perception.events.dat import DatRecording
from snn_perception.events.dat_writer import write_dat
from snn_perception.events.duplicates import DuplicateFilter
from snn_perception.events.pixel_statistics import MAX_PIXELS, PixelStatistics, hot_pixels, silent_ranges
from snn_perception.events.rate import FINEST_US, MAX_BINS, RateBins
from snn_perception.events.rosbag2 import BagRecording, write_bag
from snn_perception.events.statistics import EventStatistics
from snn_perception.events.walk import EventWalk
from snn_perception.types import DecodedEvents, EventArray, Losses, SensorSize, Triggers
from tests import bag_support as support

SIZE = SensorSize(240, 304)


def events(t, *, x=1, y=2, p=1, unit="us", size=SIZE, **rest) -> DecodedEvents:
    t = np.array(t, np.int64)
    columns = (np.broadcast_to(np.array(value, kind), t.shape) for value, kind in ((x, "u2"), (y, "u2"), (p, "u1")))
    return DecodedEvents(*(np.ascontiguousarray(column) for column in columns), t, size, unit, **rest)


def of(*pieces: DecodedEvents) -> EventStatistics:
    statistics = EventStatistics()
    for piece in pieces:
        statistics.add(piece)
    return statistics


# ---- rate over time


def expected_rate(t, p) -> tuple[int, int, list[int], list[int]]:
    """Return (width, start, events, ON events) by the rule itself: the narrowest width at which the bins suffice."""
    width = FINEST_US
    while max(t) // width - min(t) // width >= MAX_BINS:
        width *= 2
    first = min(t) // width
    bins = np.zeros((2, max(t) // width - first + 1), np.int64)
    for time, polarity in zip(t, p, strict=True):
        bins[:, time // width - first] += 1, polarity
    return width, first * width, *bins.tolist()


def rate_rows():
    """Lists of (time, polarity) in any order, from a few microseconds to years, before and after time 0."""
    scale = st.sampled_from([1_000, 100_000, 100_000_000, 1 << 52])
    return scale.flatmap(
        lambda most: st.lists(st.tuples(st.integers(-most, most), st.integers(0, 1)), min_size=1, max_size=60)
    )


@given(rows=rate_rows(), cut=st.integers(1, 60), ticks=st.sampled_from([1, 1000]))
def test_rate_bins_follow_the_rule_whatever_the_order_and_the_pieces(rows, cut, ticks):
    t, p = [row[0] for row in rows], [row[1] for row in rows]
    rate = RateBins()
    for at in range(0, len(rows), cut):
        unit = "us" if ticks == 1 else "ns"
        rate.add(events(np.array(t[at : at + cut]) * ticks, p=p[at : at + cut], unit=unit))
    assert (rate.bin_us, rate.t_start_us, rate.events.tolist(), rate.on.tolist()) == expected_rate(t, p)


def test_rate_of_nothing():
    rate = RateBins()
    rate.add(events([]))
    assert (rate.bin_us, rate.t_start_us, rate.events.tolist(), rate.on.tolist()) == (0, 0, [], [])


def test_rate_at_the_ends_of_64_bits():
    t = [-(1 << 63), (1 << 63) - 1, 0]
    rate = RateBins()
    rate.add(events(t, p=[1, 0, 1]))
    assert (rate.bin_us, rate.t_start_us, rate.events.tolist(), rate.on.tolist()) == expected_rate(t, [1, 0, 1])


# ---- pixels


def test_events_per_pixel_and_exact_duplicates():
    t = [0, 0, 0, 0, 5, 5, 6, 5]
    x = [1, 1, 1, 2, 1, 1, 1, 1]
    p = [1, 1, 0, 1, 1, 1, 1, 1]
    whole, pieces = PixelStatistics(), PixelStatistics()
    whole.add(events(t, x=x, p=p))
    for i in range(len(t)):
        pieces.add(events(t[i : i + 1], x=x[i : i + 1], p=p[i : i + 1]))
    for pixels in (whole, pieces):
        assert pixels.counts.shape == (240, 304)
        assert (pixels.counts[2, 1], pixels.counts[2, 2], pixels.counts.sum()) == (7, 1, 8)
        assert pixels.duplicates == 2  # the second event and the sixth; the last one comes late and repeats nothing
        assert pixels.active_share == 2 / (240 * 304)


@given(
    rows=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(0, 1)), max_size=60),
    cut=st.integers(1, 60),
    in_order=st.booleans(),
)
def test_duplicates_are_those_that_the_filter_drops(rows, cut, in_order):
    rows = sorted(rows) if in_order else rows
    pixels, filtered = PixelStatistics(), DuplicateFilter()
    for at in range(0, len(rows), cut):
        t, x, p = zip(*rows[at : at + cut], strict=True)
        piece = events(t, x=x, p=p)
        pixels.add(piece)
        filtered.filter(piece)
    assert pixels.duplicates == filtered.dropped
    assert not in_order or pixels.duplicates == len(rows) - len(set(rows))


def test_a_larger_sensor_in_the_middle_of_a_stream():
    pixels = PixelStatistics()
    pixels.add(events([1, 2], size=SensorSize(3, 400)))
    pixels.add(events([2], x=303, y=239))
    assert pixels.counts.shape == (240, 400)
    assert (pixels.counts[2, 1], pixels.counts[239, 303]) == (2, 1)
    pixels.add(events([2], size=SensorSize(3, 400)))
    assert pixels.duplicates == 1


def test_a_sensor_beyond_reason_is_not_counted():
    pixels = PixelStatistics()
    pixels.add(events([1, 1], size=SensorSize(MAX_PIXELS // 16384 + 1, 16384)))
    assert (pixels.is_counted, pixels.duplicates, pixels.counts.size, pixels.active_share) == (False, 0, 0, 0.0)
    pixels.add(events([1, 1]))  # another size later does not bring half a count
    assert not pixels.is_counted


def scene(seed=3) -> np.ndarray:
    """Return counts of a scene with everything that is no hot pixel: noise, edges, and a lamp of 12 x 12 pixels."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(3, (240, 304))
    counts[100:102, :] += rng.poisson(400, (2, 304))
    counts[:, 200:202] += rng.poisson(300, (240, 2))
    counts[30:42, 50:62] += rng.poisson(5000, (12, 12))
    return counts.astype(np.int64)


def test_hot_pixels_are_found_and_edges_and_lamps_are_none():
    counts = scene()
    assert hot_pixels(counts, 10_000_000) == []
    planted = {(0, 0): 9000, (303, 239): 700, (150, 60): 2500, (151, 60): 2400, (53, 100): 60_000}
    for (x, y), n in planted.items():
        counts[y, x] = n
    found = hot_pixels(counts, 10_000_000)
    assert {(pixel.x, pixel.y): pixel.events for pixel in found} == planted
    assert [pixel.events for pixel in found] == sorted(planted.values(), reverse=True)
    assert found[0].rate_hz == 6000
    assert found[0].share == 60_000 / counts.sum()


@pytest.mark.parametrize(
    ("n", "duration_us", "is_hot"), [(21, 1_000_000, True), (20, 1_000_000, False), (21, 10_000_000, False)]
)
def test_a_few_events_make_no_hot_pixel(n, duration_us, is_hot):
    counts = np.zeros((10, 10), np.int64)
    counts[:5] = 1
    counts[7, 7] = n
    assert [(pixel.x, pixel.y) for pixel in hot_pixels(counts, duration_us)] == [(7, 7)] * is_hot


def test_no_events_no_hot_pixels():
    assert hot_pixels(np.zeros((3, 3), np.int64), 0) == []


@pytest.mark.parametrize(
    ("sums", "ranges"),
    [([1, 2], []), ([0, 0, 1, 0, 1, 0], [(0, 1), (3, 3), (5, 5)]), ([0, 0], [(0, 1)]), ([], [])],
)
def test_silent_ranges(sums, ranges):
    assert silent_ranges(np.array(sums, np.int64)) == ranges


# ---- silences and bursts


@pytest.mark.parametrize("ticks", [1, 1000])
@pytest.mark.parametrize("cut", [1, 2, 100])
def test_silences_and_the_largest_burst(ticks, cut):
    t = np.array([10, 100_010, 200_011, 200_011, 700_000, 700_001, 700_002, 690_000, 1_000_000]) * ticks
    unit = "us" if ticks == 1 else "ns"
    statistics = of(*[events(t[at : at + cut], unit=unit) for at in range(0, len(t), cut)])
    assert statistics.silences == 3  # a step of exactly 100 ms is none
    assert statistics.silent_us == 100_001 + 499_989 + 310_000
    assert statistics.longest_silence_us == (200_011, 499_989)
    assert statistics.burst == (700_000, 3)
    assert of(events(t[::-1], unit=unit)).burst == (700_000, 3)


def test_no_silence_and_no_burst():
    assert (of(events([])).silences, of(events([])).burst, of(events([7])).burst) == (0, (0, 0), (0, 1))
    assert of(events([7])).longest_silence_us == (0, 0)


# ---- a walk with a limit


def test_a_walk_stops_at_its_limit(tmp_path, registry):
    t = np.arange(0, 300_000, 1000)
    write_dat(tmp_path / "a.dat", [EventArray(*(getattr(events(t + 5_000), name) for name in "xypt"), SIZE)], SIZE)
    recording = DatRecording(tmp_path / "a.dat")
    for limit_us, expected in ((None, 300), (100_000, 100), (1, 1), (299_001, 300), (10**9, 300)):
        walk = EventWalk(recording, registry, limit_us=limit_us)
        assert sum(len(piece) for _, piece in walk) == expected
        assert walk.stopped is (expected < 300)


def test_what_belongs_to_events_beyond_the_limit_is_left_out():
    """Leaps and triggers go with their events, losses with the piece; time words end a walk as events do."""
    triggers = Triggers(np.array([3, 90], np.int64), np.zeros(2, np.uint8), np.zeros(2, np.uint8))
    leaps = np.array([[1, 0, 1], [3, 50, 60]], np.int64)
    pieces = [
        events([0, 1, 40, 60], triggers=triggers, leaps=leaps, losses=Losses(outside=2), t_reached=95),
        events([200]),
    ]

    class Pieces(DatRecording):
        def __init__(self):
            pass

        def chunks(self, *arguments, **options):
            yield from pieces

    ((_, cut),) = EventWalk(Pieces(), None, limit_us=50)
    assert (cut.t.tolist(), cut.triggers.t.tolist(), cut.leaps.tolist()) == ([0, 1, 40], [3], [[1, 0, 1]])
    assert (cut.losses.outside, cut.t_reached) == (2, 50)
    ((_, whole),) = EventWalk(Pieces(), None, limit_us=95)
    assert len(whole) == 4


def test_a_walk_since_a_time(tmp_path, registry):
    write_bag(tmp_path / "bag", support.packets(5))
    bag = EventWalk(BagRecording(tmp_path / "bag"), registry)
    assert sum(len(piece) for piece in bag.since(10**12)) == 15  # packets are decoded from the front
    write_dat(tmp_path / "a.dat", [EventArray(*(getattr(events(range(50)), name) for name in "xypt"), SIZE)], SIZE)
    assert sum(len(piece) for piece in EventWalk(DatRecording(tmp_path / "a.dat"), registry).since(40)) == 10


def test_encodings_that_nobody_knows_are_named(tmp_path, registry):
    from dataclasses import replace

    messages = support.packets(4)
    messages[1] = replace(messages[1], encoding="no_such")
    write_bag(tmp_path / "bag", messages)
    walk = EventWalk(BagRecording(tmp_path / "bag"), registry)
    assert len(list(walk)) == 3
    assert (walk.unknown_encodings, walk.undecodable) == ({"no_such"}, 1)
