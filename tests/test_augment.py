"""Augmentation: where events and boxes go, what chance decides, and that it does not matter how a recording is cut."""

import math
from dataclasses import FrozenInstanceError, replace
from itertools import pairwise

import numpy as np
import pytest

from snn_perception.training.augment import Transform, draw
from snn_perception.training.config import AugmentConfig
from snn_perception.training.event_kernels import ZOOM_STEPS, merge_events
from snn_perception.training.noise import noise_events
from snn_perception.types import EventArray, EventWindow, SensorSize, Targets

SIZE = SensorSize(height=48, width=64)
ALL = Transform(
    SIZE, flipped=True, swapped=True, zoom=1.25, left_px=-9, top_px=-5, drop=0.2, noise_hz=20.0, seed=3 << 40 | 77
)
WAYS = [
    Transform(SIZE, flipped=True),
    Transform(SIZE, swapped=True),
    Transform(SIZE, left_px=7, top_px=-3),
    Transform(SIZE, flipped=True, left_px=7, top_px=-3),
    Transform(SIZE, zoom=0.5, left_px=16, top_px=12),
    Transform(SIZE, zoom=0.75, left_px=20, top_px=-6, flipped=True),
    Transform(SIZE, zoom=1.5, left_px=-16, top_px=-12),
    Transform(SIZE, zoom=3.125, left_px=-60, top_px=-40, flipped=True, swapped=True),
    Transform(SIZE, zoom=10.0, left_px=-300, top_px=-200),
]


def uniform(count=20_000, size=SIZE, seed=0, length_us=200_000, start_us=0):
    """Return events all over a sensor; more than a block of the kernel, with a remainder."""
    rng = np.random.default_rng(seed)
    return EventArray(
        rng.integers(size.width, size=count).astype(np.uint16),
        rng.integers(size.height, size=count).astype(np.uint16),
        rng.integers(2, size=count).astype(np.uint8),
        start_us + np.sort(rng.integers(length_us, size=count)),
        size,
    )


def columns(events):
    return [events.x.tolist(), events.y.tolist(), events.p.tolist(), events.t.tolist()]


def targets(*boxes):
    return Targets(np.array(boxes, np.float32).reshape(-1, 4), np.arange(len(boxes)), 123)


# Where events go


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_each_event_goes_to_where_its_pixel_comes_to_lie(way):
    """Against plain arithmetic, event by event: the kept ones are matched by their times, which are unique here."""
    events = replace(uniform(3_000), t=np.arange(3_000) * 7)
    moved = way.events(events).validate()
    by_time = {t: (x, y, p) for x, y, p, t in zip(*columns(moved), strict=True)}
    inside = 0
    for x, y, p, t in zip(*columns(events), strict=True):
        low_x, high_x = way.zoom * x + way.left_px, way.zoom * (x + 1) + way.left_px
        low_y, high_y = way.zoom * y + way.top_px, way.zoom * (y + 1) + way.top_px
        if way.flipped:
            low_x, high_x = SIZE.width - high_x, SIZE.width - low_x
        surely = low_x >= 0 and low_y >= 0 and high_x <= SIZE.width and high_y <= SIZE.height
        possibly = high_x > 0 and high_y > 0 and low_x < SIZE.width and low_y < SIZE.height
        assert not surely or t in by_time
        assert possibly or t not in by_time
        if t in by_time:
            inside += 1
            to_x, to_y, to_p = by_time[t]
            assert math.floor(low_x) <= to_x < math.ceil(high_x) and math.floor(low_y) <= to_y < math.ceil(high_y)
            assert to_p == p ^ way.swapped
    assert inside == len(moved) > 25


@pytest.mark.parametrize("zoom", [1.5, 1.03, 0.8, 0.97])
def test_no_grid_of_empty_or_full_pixels_appears(zoom):
    """Evenly spread events stay evenly spread, each pixel near the mean of all that are covered in whole."""
    zoom = round(zoom * ZOOM_STEPS) / ZOOM_STEPS
    left, top = round(32 * (1 - zoom)), round(24 * (1 - zoom))
    moved = Transform(SIZE, zoom=zoom, left_px=left, top_px=top, seed=5).events(uniform(600_000))
    image = np.zeros((SIZE.height, SIZE.width))
    np.add.at(image, (moved.y, moved.x), 1)
    first_x, last_x = max(0, left) + 1, min(SIZE.width, math.floor(zoom * SIZE.width + left)) - 1
    first_y, last_y = max(0, top) + 1, min(SIZE.height, math.floor(zoom * SIZE.height + top)) - 1
    covered = image[first_y:last_y, first_x:last_x]
    expected = 600_000 / (SIZE.width * SIZE.height) / zoom**2
    assert abs(covered.mean() / expected - 1) < 0.01
    assert covered.min() > expected - 6 * math.sqrt(expected)
    assert covered.max() < expected + 6 * math.sqrt(expected)
    image[first_y - 1 : last_y + 2, first_x - 1 : last_x + 2] = 0  # with those that are covered in part
    assert not image.any(), "borders stay empty"


def test_a_box_holds_the_events_that_it_held_before():
    events = uniform(60_000)
    box = (20, 12, 33, 30)
    within = (events.x >= 20) & (events.x < 33) & (events.y >= 12) & (events.y < 30)
    for way in WAYS:
        moved = way.events(events[within])
        placed = way.targets(targets(box))
        if not len(moved):
            assert not len(placed)
            continue
        x1, y1, x2, y2 = placed.xyxy[0]
        assert math.floor(x1) <= moved.x.min() and moved.x.max() < math.ceil(x2)
        assert math.floor(y1) <= moved.y.min() and moved.y.max() < math.ceil(y2)
        assert moved.x.min() - x1 < max(1.0, way.zoom) + 0.01 and x2 - moved.x.max() < max(1.0, way.zoom) + 1.01


def test_nothing_to_do_gives_the_very_same_things():
    still = Transform(SIZE, min_box_share=0.5, seed=9)
    events, boxes = uniform(100), targets((1, 2, 30, 40))
    window = EventWindow(events, 0, 200_000)
    assert still.is_identity
    assert still.events(events) is events and still.targets(boxes) is boxes and still.window(window) is window
    assert not any(way.is_identity for way in [*WAYS, Transform(SIZE, drop=0.1), Transform(SIZE, noise_hz=0.1)])
    with pytest.raises(FrozenInstanceError):
        still.zoom = 2.0


def test_no_events_and_foreign_events():
    for way in [*WAYS, ALL]:
        assert len(way.events(EventArray.empty(SIZE))) == 0
    with pytest.raises(ValueError, match="drawn for 64x48 px, got events of 304x240"):
        ALL.events(EventArray.empty(SensorSize(240, 304)))


def test_the_largest_sensors_do_not_overflow():
    size = SensorSize(1 << 14, 1 << 14)
    corner = np.array([0, size.width - 1], np.uint16)
    events = EventArray(corner, corner, np.zeros(2, np.uint8), np.array([1 << 40, 1 << 41]), size)
    way = Transform(size, zoom=10.0, left_px=-9 * size.width, top_px=-9 * size.height, seed=1)
    moved = way.events(events).validate()
    assert moved.t.tolist() == [1 << 41] and moved.x[0] >= size.width - 10
    assert len(replace(way, flipped=True).events(events)) == 1


# What chance decides


def test_dropping_takes_its_share_and_leaves_the_others_as_they_are():
    events = uniform(100_000)
    kept = Transform(SIZE, drop=0.3, seed=4).events(events)
    assert abs(len(kept) / len(events) - 0.7) < 0.01
    before = np.stack([events.t, events.x, events.y, events.p], axis=1)
    after = {tuple(row) for row in np.stack([kept.t, kept.x, kept.y, kept.p], axis=1).tolist()}
    assert after <= {tuple(row) for row in before.tolist()}
    for column in ("x", "y", "p", "t"):  # no pixel, polarity or time is favoured
        assert abs(getattr(kept, column).mean() / getattr(events, column).mean() - 1) < 0.02
    other = Transform(SIZE, drop=0.3, seed=5).events(events)
    assert columns(other) != columns(kept), "another seed, other events"
    assert columns(Transform(SIZE, drop=0.3, seed=4).events(events)) == columns(kept)


def test_what_is_dropped_does_not_depend_on_where_it_would_have_gone():
    """The same bits must not decide both, or one side of every enlarged pixel would lose more."""
    way = Transform(SIZE, zoom=4.0, left_px=-96, top_px=-72, seed=8)
    place = replace(way, drop=0.5).events(uniform(400_000)).x % 4
    assert np.allclose(np.bincount(place) / len(place), 0.25, atol=0.01)


def test_it_does_not_matter_how_a_recording_is_cut():
    events = uniform(30_000, length_us=300_000)
    whole = ALL.window(EventWindow(events, 0, 300_000)).events.validate()
    assert len(whole) > 20_000
    for edges in ([0, 50_000, 100_000, 300_000], [0, 1, 77_777, 123_456, 299_999, 300_000]):
        pieces = []
        for begin, end in pairwise(edges):
            rows = (events.t >= begin) & (events.t < end)
            pieces.append(ALL.window(EventWindow(events[rows], begin, end)).events)
        assert columns(EventArray.concatenate(pieces, SIZE)) == columns(whole)


# Noise


def test_noise_is_even_in_time_space_and_polarity():
    noise = noise_events(SIZE, 50.0, 0, 2_000_000, seed=6).validate()
    expected = 50 * 2 * SIZE.width * SIZE.height
    assert abs(len(noise) - expected) < 5 * math.sqrt(expected)
    assert noise.t[0] < 1_000 and noise.t[-1] > 1_999_000
    for values, count in ((noise.x, SIZE.width), (noise.y, SIZE.height), (noise.p, 2), (noise.t // 100_000, 20)):
        share = np.bincount(values, minlength=count) / len(noise) * count
        assert len(share) == count and abs(share - 1).max() < 0.1
    assert np.diff(noise.t[noise.t < 10_000]).std() > 0, "no comb of times"


def test_noise_is_a_function_of_time_and_seed():
    whole = noise_events(SIZE, 5.0, 5_000, 95_000, seed=7)
    parts = [noise_events(SIZE, 5.0, a, b, seed=7) for a, b in ((5_000, 5_001), (5_001, 31_234), (31_234, 95_000))]
    assert len(whole) > 1000
    assert columns(EventArray.concatenate(parts, SIZE)) == columns(whole)
    assert columns(noise_events(SIZE, 5.0, 5_000, 95_000, seed=8)) != columns(whole)
    assert whole.t.min() >= 5_000 and whole.t.max() < 95_000
    assert len(noise_events(SIZE, 5.0, -30_000, 0, seed=7)) > 300, "times before zero too"


def test_an_empty_window_gets_noise_and_a_seed_beyond_32_bits_counts():
    window = EventWindow(EventArray.empty(SIZE), 100_000, 150_000, filled="something")
    way = Transform(SIZE, noise_hz=10.0, seed=1 << 62)
    changed = way.window(window)
    assert 1200 < len(changed.events) < 1900 and changed.filled is None
    assert (changed.t_start_us, changed.t_end_us) == (100_000, 150_000)
    assert columns(replace(way, seed=0).window(window).events) != columns(changed.events)
    assert len(way.events(EventArray.empty(SIZE))) == 0, "no window, no stretch of time to fill"


def test_two_streams_become_one_in_order_of_time():
    a, b = uniform(5_000, seed=1), uniform(700, seed=2, length_us=300_000)
    both = merge_events(a, b).validate()
    assert len(both) == 5_700
    order = np.argsort(np.concatenate([a.t, b.t]), kind="stable")
    for name in ("x", "y", "p", "t"):
        assert np.array_equal(getattr(both, name), np.concatenate([getattr(a, name), getattr(b, name)])[order])
    assert merge_events(a, EventArray.empty(SIZE)) is a and merge_events(EventArray.empty(SIZE), b) is b


# Boxes


@pytest.mark.parametrize(
    ("way", "box", "expected"),
    [
        (Transform(SIZE, flipped=True), (10, 5, 20, 15), (44, 5, 54, 15)),
        (Transform(SIZE, left_px=5, top_px=-3), (10, 5, 20, 15), (15, 2, 25, 12)),
        (Transform(SIZE, zoom=0.5, left_px=16, top_px=12), (10, 4, 20, 14), (21, 14, 26, 19)),
        (Transform(SIZE, zoom=2.0, left_px=-32, top_px=-24), (20, 20, 30, 30), (8, 16, 28, 36)),
        (Transform(SIZE, zoom=2.0, left_px=-32, top_px=-24, flipped=True), (20, 20, 30, 30), (36, 16, 56, 36)),
        (Transform(SIZE, left_px=50), (10, 5, 20, 15), (60, 5, 64, 15)),
        (Transform(SIZE, swapped=True), (10.5, 5, 20.25, 15), (10.5, 5, 20.25, 15)),
    ],
)
def test_boxes_go_along(way, box, expected):
    placed = way.targets(targets(box))
    assert placed.xyxy.tolist() == [list(expected)]
    assert placed.class_id.tolist() == [0] and placed.t_us == 123


def test_boxes_of_which_too_little_stays_go():
    boxes = targets((54, 0, 64, 10), (44, 0, 54, 10), (50, 0, 60, 10), (0, 0, 10, 10))
    way = Transform(SIZE, left_px=7, min_box_share=0.4)
    kept = way.targets(boxes)  # 3 of 10 columns stay, all, 7 of 10, all
    assert kept.class_id.tolist() == [1, 2, 3]
    assert replace(way, min_box_share=0.3).targets(boxes).class_id.tolist() == [0, 1, 2, 3]
    assert replace(way, min_box_share=0.0, left_px=20).targets(boxes).class_id.tolist() == [3], "none is nothing"
    assert replace(way, min_box_share=1.0).targets(boxes).class_id.tolist() == [1, 3]
    assert len(way.targets(targets())) == 0


# Drawing


FULL = AugmentConfig(flip=0.5, zoom_min=0.5, zoom_max=2.0, shift=0.1, polarity_swap=0.25, drop=0.4, noise_hz=3.0)


def drawn(config, count=2_000, seed=0):
    generator = np.random.default_rng(seed)
    return [draw(config, generator, SensorSize(240, 304)) for _ in range(count)]


def test_draws_fill_their_ranges():
    ways = drawn(FULL)
    assert abs(np.mean([way.flipped for way in ways]) - 0.5) < 0.05
    assert abs(np.mean([way.swapped for way in ways]) - 0.25) < 0.05
    zooms = np.array([way.zoom for way in ways])
    assert 0.5 <= zooms.min() < 0.51 and 1.95 < zooms.max() <= 2.0
    assert abs(np.mean(zooms < 1) - 0.5) < 0.05, "log-uniform: as often smaller as larger"
    assert np.array_equal(zooms * ZOOM_STEPS, np.round(zooms * ZOOM_STEPS))
    for name, high in (("drop", 0.4), ("noise_hz", 3.0)):
        values = np.array([getattr(way, name) for way in ways])
        assert values.min() >= 0 and values.max() <= high and abs(values.mean() / high - 0.5) < 0.05
    middle_x = np.array([way.zoom * 152 + way.left_px - 152 for way in ways])
    middle_y = np.array([way.zoom * 120 + way.top_px - 120 for way in ways])
    assert np.abs(middle_x).max() <= 30.4 + 0.5 and np.abs(middle_y).max() <= 24 + 0.5
    assert np.abs(middle_x).max() > 29 and abs(middle_x.mean()) < 2
    assert len({way.seed for way in ways}) == len(ways)
    assert all(way.min_box_share == FULL.min_box_share for way in ways)


def test_what_is_off_changes_nothing_and_moves_no_other_draw():
    assert AugmentConfig().is_off and all(way.is_identity for way in drawn(AugmentConfig(), 50))
    without = drawn(replace(FULL, flip=0.0, drop=0.0, noise_hz=0.0), 50)
    for one, other in zip(drawn(FULL, 50), without, strict=True):
        assert replace(one, flipped=False, drop=0.0, noise_hz=0.0) == other


def test_the_same_generator_draws_the_same():
    assert drawn(FULL, 20, seed=1) == drawn(FULL, 20, seed=1) != drawn(FULL, 20, seed=2)
