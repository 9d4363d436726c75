"""Which objects are silent, against plain loops, and that noise of every kind is no motion."""

from dataclasses import replace

import numpy as np
import pytest

from snn_perception.data.labels import Labels
from snn_perception.evaluation.motion import WINDOW_US, silent_rows
from snn_perception.types import EventArray, SensorSize
from tests.dataset_support import labels_of

SIZE = SensorSize(120, 160)


class Source:
    """Events of a recording by time, and which intervals were asked for."""

    def __init__(self, *parts: EventArray) -> None:
        whole = EventArray.concatenate(list(parts), parts[0].size)
        self.events = whole[np.argsort(whole.t, kind="stable")]
        self.asked: list[tuple[int, int]] = []

    def __call__(self, start_us: int, end_us: int) -> EventArray:
        self.asked.append((start_us, end_us))
        low, high = np.searchsorted(self.events.t, [start_us, end_us])
        return self.events[low:high]


def events(x, y, t, size=SIZE) -> EventArray:
    x, y, t = (np.asarray(column).astype(dtype) for column, dtype in ((x, np.uint16), (y, np.uint16), (t, np.int64)))
    return EventArray(x, y, (t & 1).astype(np.uint8), t, size)


def noise(rate_hz: float, length_us: int, seed: int = 0, size: SensorSize = SIZE) -> EventArray:
    """Return background activity at this rate for each pixel."""
    rng = np.random.default_rng(seed)
    count = rng.poisson(rate_hz * size.height * size.width * length_us * 1e-6)
    return events(
        rng.integers(0, size.width, count), rng.integers(0, size.height, count), rng.integers(0, length_us, count), size
    )


def hot_pixel(x: int, y: int, rate_hz: float, length_us: int) -> EventArray:
    t = np.arange(0, length_us, round(1e6 / rate_hz))
    return events(np.full(len(t), x), np.full(len(t), y), t)


def outline(x: int, y: int, w: int, h: int, t_us: int) -> EventArray:
    """Return events of the two vertical edges, 2 px wide, of a box that moves."""
    columns, rows = np.meshgrid([x, x + 1, x + w - 2, x + w - 1], np.arange(y, y + h))
    return events(columns.ravel(), rows.ravel(), np.full(columns.size, t_us))


BOXES = labels_of([(1_000_000, 20, 30, 30, 40, 0, 1), (1_000_000, 90, 30, 30, 40, 0, 2)])


@pytest.mark.parametrize("rate_hz", [0.0, 0.03, 0.1, 0.4, 0.6])
def test_noise_is_no_motion_and_a_moving_outline_is(rate_hz):
    sources = [noise(rate_hz, 1_000_000, seed) for seed in range(5)]
    for source in sources:
        moving = outline(20, 30, 30, 40, 950_000)
        assert silent_rows(BOXES, Source(source, moving)).tolist() == [False, True]


def test_a_hot_pixel_and_repeated_events_are_no_motion():
    hot = hot_pixel(100, 40, 5_000, 1_000_000)
    assert len(hot) * WINDOW_US / 1_000_000 > 0.03 * 30 * 40, "as events it would pass for motion"
    moving = outline(20, 30, 30, 40, 950_000)
    assert silent_rows(BOXES, Source(hot, noise(0.1, 1_000_000), moving)).tolist() == [False, True]
    doubled = noise(0.2, 1_000_000)
    assert silent_rows(BOXES, Source(doubled, doubled, doubled)).all()


def test_only_the_last_moments_before_the_label_count():
    for t_us, expected in ((899_999, True), (900_000, False), (999_999, False), (1_000_000, True)):
        assert silent_rows(BOXES[:1], Source(outline(20, 30, 30, 40, t_us))).tolist() == [expected]
    source = Source(outline(20, 30, 30, 40, 850_000))
    assert silent_rows(BOXES[:1], source, window_us=200_000).tolist() == [False]


def test_motion_all_over_the_image_hides_nothing_that_moves():
    """With ego motion the quiet quarter is no noise: the limit stays low enough for an ordinary object."""
    rng = np.random.default_rng(2)
    count = SIZE.height * SIZE.width
    everywhere = events(
        rng.integers(0, SIZE.width, count), rng.integers(0, SIZE.height, count), np.full(count, 950_000)
    )
    inside = (everywhere.x >= 90) & (everywhere.x < 120) & (everywhere.y >= 30) & (everywhere.y < 70)
    assert silent_rows(BOXES, Source(everywhere[~inside])).tolist() == [False, True]


def _shares(labels: Labels, source: Source) -> list[float]:
    """Return by plain loops the share of each box's pixels that saw an event."""
    shares = []
    for t_us, (x, y, w, h) in zip(labels.t_us, labels.xywh.astype(float), strict=True):
        window = (source.events.t >= t_us - WINDOW_US) & (source.events.t < t_us)
        seen = set(zip(source.events.x[window].tolist(), source.events.y[window].tolist(), strict=True))
        box = {
            (column, row)
            for column in range(SIZE.width)
            for row in range(SIZE.height)
            if column + 1 > x and column < x + w and row + 1 > y and row < y + h
        }
        shares.append(len(box & seen) / len(box) if box else 0.0)
    return shares


def test_equals_plain_loops_and_asks_once_for_each_time_in_order():
    rng = np.random.default_rng(1)
    rows = [
        (int(rng.choice([300_000, 340_000, 450_000, 900_000])), *rng.uniform(-20, 90, 2), *rng.uniform(2, 60, 2), 0, i)
        for i in range(60)
    ]
    labels = labels_of(rows)
    patch = noise(8.0, 400_000, 3, SensorSize(40, 60))  # the upper left corner is busy for a while
    source = Source(noise(0.05, 1_000_000), replace(patch, size=SIZE))
    shares = np.array(_shares(labels, source))
    silent = silent_rows(labels, source, min_active_share=0.05)
    assert np.array_equal(silent, shares < 0.05)
    assert 5 < silent.sum() < 50
    assert source.asked == [(t - WINDOW_US, t) for t in sorted(set(labels.t_us.tolist()))]


def test_a_box_outside_the_image_and_a_time_before_the_start_are_silent():
    busy = Source(noise(50.0, 200_000))
    outside = labels_of([(150_000, -50, 10, 40, 40, 0, 1), (150_000, 500, 10, 40, 40, 0, 2), (0, 20, 30, 30, 40, 0, 3)])
    assert silent_rows(outside, busy).all()
    assert busy.asked == [(50_000, 150_000)]
    early = labels_of([(60_000, 20, 30, 30, 40, 0, 1)])
    assert not silent_rows(early, busy).any() and busy.asked[-1] == (0, 60_000)
    assert len(silent_rows(Labels.empty(), busy)) == 0


def test_a_sensor_smaller_than_a_tile():
    tiny = SensorSize(8, 10)
    labels = labels_of([(100_000, 2, 2, 6, 5, 0, 1)])
    assert silent_rows(labels, Source(EventArray.empty(tiny))).all()
    assert not silent_rows(labels, Source(noise(50.0, 100_000, size=tiny))).any()
