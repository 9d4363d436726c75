"""The sensor's model: thresholds, bandwidth, refractory time and noise, held against the same model in plain Python."""

import numpy as np
import pytest

from snn_perception.synth.draw_kernels import exponential, normal, uniform
from snn_perception.synth.sensor import BACKGROUND_ON_SHARE, DvsSensor
from snn_perception.synth.sensor_kernels import log_of
from snn_perception.types import EventArray, SensorSize
from tests.synth_support import REFRACTORY_US, SensorNumbers, oracle_events

STEP_US = 4000


def seen(numbers, frames, times_us=None, *, seed=1, **options):
    """Return the events of frames [N, H, W], 4 ms apart unless said otherwise."""
    frames = np.asarray(frames, np.float32)
    size = SensorSize(*frames.shape[1:])
    sensor = DvsSensor(numbers, size, seed, **options)
    times_us = range(0, len(frames) * STEP_US, STEP_US) if times_us is None else times_us
    parts = [sensor.events(frame, t_us) for frame, t_us in zip(frames, times_us, strict=True)]
    assert not len(parts[0])
    return EventArray.concatenate(parts, size).validate()


def of_pixel(events, x, y=0):
    chosen = (events.x == x) & (events.y == y)
    return list(zip(events.t[chosen].tolist(), events.p[chosen].tolist(), strict=True))


@pytest.mark.parametrize(
    ("light", "numbers"),
    [
        (1.0, SensorNumbers()),
        (0.15, SensorNumbers(threshold_on=0.21, threshold_off=0.17)),
        (4.0, SensorNumbers(threshold_on=0.05, threshold_off=0.06)),  # quick: many events in each step
    ],
)
def test_every_event_is_that_of_the_model_in_plain_python(light, numbers):
    rng = np.random.default_rng(5)
    frames = (light * np.exp(np.cumsum(rng.normal(0, 0.25, (25, 1, 6)), axis=0) - 1.0)).astype(np.float32)
    times_us = np.cumsum(rng.integers(500, 6000, 25)).tolist()  # steps need not be equal
    events = seen(numbers, frames, times_us)
    total = 0
    for x in range(6):
        expected = oracle_events(frames[:, 0, x].astype(float).tolist(), times_us, numbers)
        got = of_pixel(events, x)
        assert [p for _, p in got] == [p for _, p in expected]
        assert all(abs(ours - theirs) <= 8 for (ours, _), (theirs, _) in zip(got, expected, strict=True))
        total += len(got)
    assert total > 20 and {0, 1} == set(events.p.tolist())


def test_a_change_below_the_threshold_is_silent_and_one_above_is_not():
    numbers = SensorNumbers(threshold_on=0.2, threshold_off=0.3)
    contrast = np.array([0.19, 0.21, -0.29, -0.31])  # in front of bright light, where the dark current is no part of it
    before = np.full((1, 4), 50.0, np.float32)
    events = seen(numbers, [before, before * np.exp(contrast), before * np.exp(contrast)])
    assert [[p for _, p in of_pixel(events, x)] for x in range(4)] == [[], [1], [], [0]]


def test_two_events_of_a_pixel_are_never_closer_than_the_refractory_time():
    noise = {"noise_hz": 900.0, "hot_pixel_share": 0.2}
    numbers = SensorNumbers(threshold_on=0.02, threshold_off=0.02, **noise)
    rng = np.random.default_rng(3)
    events = seen(numbers, np.exp(rng.normal(1, 1, (60, 8, 9))))
    gaps = np.concatenate([np.diff(events.t[(events.x == x) & (events.y == y)]) for x in range(9) for y in range(8)])
    assert len(gaps) > 5000
    assert gaps.min() == REFRACTORY_US  # hot pixels and steep changes come up to it


def test_low_light_is_slower():
    """The corner of the low pass rises with intensity, so the same step of contrast shows later in the dark."""
    first = {}
    for light in (0.3, 0.05):
        frames = np.full((30, 4, 4), light, np.float32)
        frames[5:] *= 1.6
        times_us = range(0, 30_000, 1000)
        events = seen(SensorNumbers(), frames, times_us)
        assert set(events.p.tolist()) == {1}
        first[light] = int(events.t[0])
    assert 4000 < first[0.3] < first[0.05] - 300


def test_a_still_scene_without_noise_is_silent():
    still = np.random.default_rng(1).uniform(0.05, 1.5, (40, 60)).astype(np.float32)
    assert not len(seen(SensorNumbers(threshold_spread=0.03), [still] * 100))


def test_background_activity_has_its_rate_and_grows_in_low_light():
    rates = {}
    for light in (1.0, 0.1):
        numbers = SensorNumbers(noise_hz=6.0)
        events = seen(numbers, np.full((501, 40, 50), light, np.float32))
        rates[light] = len(events) / (40 * 50) / 2.0
        assert abs(events.p.mean() - BACKGROUND_ON_SHARE) < 0.03
        assert np.abs(np.histogram(events.t, 4, (0, 2_000_000))[0] / len(events) - 0.25).max() < 0.03
        assert len(np.unique(events.y * 50 + events.x)) > 1500
    assert rates[1.0] == pytest.approx(6.0 / 5, rel=0.05)
    assert rates[0.1] == pytest.approx(6.0 / 1.4, rel=0.05)


def test_hot_pixels_stay_where_they_are_and_differ_in_rate():
    numbers = SensorNumbers(hot_pixel_share=0.01)
    still = np.full((501, 40, 50), 0.5, np.float32)
    first, second = (seen(numbers, still, noise_seed=noise) for noise in (0, 1))
    places = [np.unique(events.y.astype(int) * 50 + events.x, return_counts=True) for events in (first, second)]
    assert 10 <= len(places[0][0]) <= 20
    assert np.array_equal(places[0][0], places[1][0]) and not np.array_equal(first.t, second.t)
    counts = places[0][1] / 2.0
    assert counts.max() > 50 > 15 > counts.min()
    for place in places[0][0]:  # of one polarity each
        assert len(set(first.p[first.y.astype(int) * 50 + first.x == place].tolist())) == 1


def test_thresholds_differ_between_pixels_as_told():
    numbers = SensorNumbers(threshold_spread=0.1)
    ramp = np.exp(np.linspace(0, 0.3, 101))[:, None, None] * np.full((1, 60, 60), 50.0)
    events = seen(numbers, ramp)
    first = np.array([of_pixel(events, x, y)[0][0] for x in range(60) for y in range(60)])
    crossed = first / 400_000 * 0.3
    assert crossed.mean() == pytest.approx(0.15, rel=0.02) and crossed.std() == pytest.approx(0.015, rel=0.1)


def test_the_artefact_of_gen1_doubles_events_beyond_column_255_only():
    rng = np.random.default_rng(2)
    frames = np.exp(rng.normal(-1, 0.4, (6, 20, 304)))
    numbers = SensorNumbers(noise_hz=1.0)
    plain, doubled = seen(numbers, frames), seen(numbers, frames, duplicates=True)
    again = np.repeat(np.arange(len(plain)), np.where(plain.x > 255, 2, 1))
    assert len(again) > len(plain) > 1000
    for name in "xypt":
        assert np.array_equal(getattr(doubled, name), getattr(plain, name)[again])


def test_equal_input_gives_equal_events_and_order_of_time_is_stable():
    frames = np.exp(np.random.default_rng(4).normal(-1, 0.5, (8, 50, 61)))
    numbers = SensorNumbers(noise_hz=1.0, hot_pixel_share=0.01, threshold_spread=0.02)
    one, two = seen(numbers, frames), seen(numbers, frames)
    assert len(one) > 5000
    assert all(getattr(one, name).tobytes() == getattr(two, name).tobytes() for name in "xypt")
    place = one.y.astype(np.int64) * 61 + one.x
    same_time = np.diff(one.t) == 0
    assert same_time.any() and (np.diff(place)[same_time] > 0).all()


@pytest.mark.parametrize(
    ("frame", "t_us", "message"),
    [
        (np.ones((4, 5), np.float64), 8000, "float32"),
        (np.ones((5, 4), np.float32), 8000, r"\[4, 5\]"),
        (np.zeros((4, 5), np.float32), 8000, "positive"),
        (np.full((4, 5), np.nan, np.float32), 8000, "positive"),
        (np.full((4, 5), np.inf, np.float32), 8000, "finite"),
        (np.ones((4, 5), np.float32), 4000, "within"),
        (np.ones((4, 5), np.float32), 5_000_000, "within"),
    ],
)
def test_bad_frames_are_refused(frame, t_us, message):
    sensor = DvsSensor(SensorNumbers(), SensorSize(4, 5), 0)
    sensor.events(np.ones((4, 5), np.float32), 4000)
    with pytest.raises(ValueError, match=message):
        sensor.events(frame, t_us)


def test_the_own_logarithm_is_near_enough():
    values = np.exp(np.linspace(-12, 12, 100_001)).astype(np.float32)
    out = np.empty_like(values)
    log_of(values, out)
    expected = np.log(values.astype(np.float64))
    assert (np.abs(out - expected) <= 3e-6 + 1.2e-7 * np.abs(expected)).all()


def test_the_own_random_numbers_are_distributed_as_their_names_say():
    draws = np.array([11], np.uint64)
    u = np.array([uniform(draws) for _ in range(20_000)])
    e = np.array([exponential(draws) for _ in range(20_000)])
    n = np.array([normal(draws) for _ in range(20_000)])
    assert u.min() >= 0 and u.max() < 1 and abs(u.mean() - 0.5) < 0.01
    assert abs(e.mean() - 1) < 0.03 and abs((e > 2).mean() - np.exp(-2)) < 0.01
    assert abs(n.mean()) < 0.03 and abs(n.std() - 1) < 0.02
    assert draws[0] != 11
    # The reference sequence of SplitMix64 from state 0: 0xE220A8397B1DCDAF is its first number.
    assert uniform(np.zeros(1, np.uint64)) == (0xE220A8397B1DCDAF >> 11) / 2**53
