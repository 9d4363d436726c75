"""The sensor clock against a simulated host: drift, delays, steps, pauses and packets that lie."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snn_perception.events.clock import (
    BUCKET_NS,
    MANY_BUCKETS,
    MOST_DRIFT,
    MOST_HELD_NS,
    SPAN_NS,
    SensorClock,
    lower_hull,
    slope_at,
)
from snn_perception.events.rosbag2 import BagRecording
from snn_perception.events.stream import EventStream, PacketWindows
from tests.clock_support import DELAYS, DRIFTS_PPM, HOST_NS, MS, PERIODS_NS, S, errors, simulated
from tests.paths import recording_path
from tests.runtime_support import tiny_packet, tiny_registry

REGISTRY = tiny_registry()
AFTER_NS = 10 * S  # from here on the error counts
LIMIT_NS = 1 * MS
MOST_MINIMA = SPAN_NS // BUCKET_NS + 1


# ---- accuracy


@pytest.mark.parametrize("period_ns", PERIODS_NS)
@pytest.mark.parametrize("delays", DELAYS)
def test_error_stays_under_a_millisecond_after_ten_seconds(delays, period_ns):
    found = []
    for drift_ppm in DRIFTS_PPM:
        for seed in range(3):
            since, error = errors(
                simulated(delays, seconds=16, drift_ppm=drift_ppm, period_ns=period_ns, seed=1000 * drift_ppm**2 + seed)
            )
            found.append(np.abs(error[since > AFTER_NS]))
    worst = np.concatenate(found)
    assert len(worst) > 15 * 250
    counts, _ = np.histogram(worst / LIMIT_NS, [0, 0.01, 0.03, 0.1, 0.3, 1, np.inf])
    assert worst.max() < LIMIT_NS, f"errors per bin up to 10, 30, 100, 300, 1000 us and more: {counts.tolist()}"
    assert np.percentile(worst, 95) < LIMIT_NS / 2, counts.tolist()


@pytest.mark.parametrize("delays", ["none", "exponential", "floor", "spikes", "load"])
def test_drift_is_found_to_a_few_parts_per_million(delays):
    for drift_ppm in DRIFTS_PPM:
        clock = SensorClock()
        errors(simulated(delays, seconds=30, drift_ppm=drift_ppm), clock)
        assert clock.drift_ppm == pytest.approx(drift_ppm, abs=5)


def test_an_hour_takes_no_more_memory_than_half_a_minute():
    clock = SensorClock()
    since, error = errors(simulated("spikes", seconds=3600, drift_ppm=-200, period_ns=10 * MS), clock)
    assert np.abs(error[since > AFTER_NS]).max() < 0.1 * MS
    assert len(clock._minima) <= MOST_MINIMA and not clock._doubtful


@pytest.mark.slow
@pytest.mark.parametrize("delays", DELAYS)
def test_error_over_many_streams(delays):
    for seed in range(40):
        drift_ppm, period_ns = DRIFTS_PPM[seed % 5], PERIODS_NS[seed % 3]
        since, error = errors(simulated(delays, seconds=60, drift_ppm=drift_ppm, period_ns=period_ns, seed=seed))
        assert np.abs(error[since > AFTER_NS]).max() < LIMIT_NS, (seed, drift_ppm, period_ns)


def test_before_the_drift_shows_the_soonest_packet_counts_alone():
    clock = SensorClock()
    clock.observe(0, HOST_NS + 7 * MS)
    assert (clock.to_host_ns(0), clock.offset_ns, clock.drift_ppm) == (HOST_NS + 7 * MS, HOST_NS + 7 * MS, 0)
    clock.observe(100 * MS, HOST_NS + 100 * MS + 50_000)  # later by 50 us for a drift of 500 ppm, or by chance
    clock.observe(200 * MS, HOST_NS + 200 * MS + 90_000)
    assert (clock.offset_ns, clock.drift_ppm) == (HOST_NS + 50_000, 0)


def test_before_the_first_packet_host_time_is_sensor_time():
    clock = SensorClock()
    assert (clock.to_host_ns(5), clock.to_host_ns(4), clock.offset_ns) == (5_000, 4_000, 0)


# ---- disturbances


def stepped(step_ns, at_ns=20 * S, seconds=50):
    """Return a stream whose host clock is set by `step_ns`, and when."""
    stream = simulated(seconds=seconds)
    step = np.where(stream.sensor - stream.sensor[0] > at_ns, step_ns, 0)
    return replace(stream, true=stream.true + step, stamp=stream.stamp + step)


@pytest.mark.parametrize(
    ("step_ns", "followed_after_ns"),
    [
        (3600 * S, 2.5 * S),
        (200 * MS, 2.5 * S),
        (80 * MS, SPAN_NS + 2 * BUCKET_NS),
        (5 * MS, SPAN_NS + 2 * BUCKET_NS),
        (-5 * MS, 0.5 * S),
        (-30 * MS, 0.5 * S),
        (-900 * MS, 2 * S),  # at half speed
        (-3600 * S, 0.5 * S),
    ],
)
def test_a_step_of_the_host_clock_is_followed(step_ns, followed_after_ns):
    clock = SensorClock()
    since, error = errors(stepped(step_ns), clock)
    assert np.abs(error[(since > AFTER_NS) & (since < 19.9 * S)]).max() < LIMIT_NS
    assert np.abs(error[since > 20 * S + followed_after_ns]).max() < LIMIT_NS
    assert np.abs(error[since > 20.1 * S]).max() < abs(step_ns) + LIMIT_NS
    assert clock.drift_ppm == pytest.approx(100, abs=5)


@pytest.mark.parametrize("wrong_ns", [-HOST_NS, -S, -20 * MS, -2 * MS, 50 * MS, 1000 * S])
@pytest.mark.parametrize("every", [10_000, 250])
def test_a_wrong_stamp_in_a_settled_stream_does_not_show(wrong_ns, every):
    stream = simulated(seconds=30)
    stamp = stream.stamp.copy()
    stamp[1500::every] += wrong_ns
    since, error = errors(replace(stream, stamp=stamp))
    assert np.abs(error[since > AFTER_NS]).max() < LIMIT_NS


@pytest.mark.parametrize("wrong_ns", [-HOST_NS, -S, -200 * MS, 1000 * S])
@pytest.mark.parametrize("at", [0, 1, 100, 300])
def test_a_wrong_stamp_early_in_the_stream_is_forgotten(wrong_ns, at):
    stream = simulated(seconds=20)
    stamp = stream.stamp.copy()
    stamp[at] += wrong_ns
    since, error = errors(replace(stream, stamp=stamp))
    assert np.abs(error[since > AFTER_NS]).max() < LIMIT_NS


@pytest.mark.parametrize("jump_ns", [-3600 * S, -S, -100 * MS, 150 * MS, S, 3600 * S])
@pytest.mark.parametrize("at", [1, 100, 3000])
def test_a_wrong_sensor_time_does_not_show(jump_ns, at):
    stream = simulated(seconds=30)
    seen = SensorClock()
    for number, (sensor, true, stamp) in enumerate(stream.packets()):
        seen.observe(sensor + jump_ns * (number == at), stamp)
        if number >= 2000 and number != at:
            assert abs(seen.to_host_ns(sensor // 1000) - true) < LIMIT_NS + 1000


@pytest.mark.parametrize("gap_ns", [5 * S, 20 * S, 60 * S, 3600 * S])
def test_after_a_pause_drift_and_offset_go_on(gap_ns):
    stream = simulated(seconds=40, drift_ppm=-150, gap_at=20 * S, gap_ns=gap_ns)
    since, error = errors(stream)
    assert since[-1] > 39 * S + gap_ns
    assert np.abs(error[(since > AFTER_NS) & (since < 19.9 * S)]).max() < LIMIT_NS
    soon = (since > 20.5 * S + gap_ns) & (since < 23 * S + gap_ns)
    assert soon.sum() > 100
    assert np.abs(error[since > 20.5 * S + gap_ns]).max() < LIMIT_NS


def test_packets_a_second_apart_still_give_a_line():
    stream = simulated(seconds=120, period_ns=S, drift_ppm=200)
    clock = SensorClock()
    since, error = errors(stream, clock)
    assert np.abs(error[since > 40 * S]).max() < 5 * MS  # of delays of 5 ms in the mean, 24 packets in the span
    assert 0 < clock.drift_ppm <= MOST_DRIFT * 1e6


def test_restart_forgets_the_offset_and_keeps_the_drift():
    stream = simulated(seconds=20)
    clock = SensorClock()
    errors(stream, clock)
    drift = clock.drift_ppm
    last = clock.to_host_ns(int(stream.sensor[-1]) // 1000)
    clock.restart()
    assert clock.offset_ns == 0 and clock.drift_ppm == drift
    clock.observe(5 * S, last + S)
    assert clock.to_host_ns(5_000_000) == last + S
    assert clock.to_host_ns(9_000_000) == last + 5 * S + int(4 * S * drift * 1e-6)


def test_stamps_go_on_over_a_restart():
    clock = SensorClock()
    clock.observe(0, HOST_NS)
    first = clock.to_host_ns(50_000)
    clock.restart()
    clock.observe(100 * S, HOST_NS + 30 * MS)
    assert first < clock.to_host_ns(100_000_000) < clock.to_host_ns(100_010_000) < first + 20 * MS


def test_a_lowered_line_is_met_at_half_speed_and_not_run_back_to():
    clock = SensorClock()
    clock.observe(0, HOST_NS + 50 * MS)  # held up by 50 ms
    assert clock.to_host_ns(10_000) == HOST_NS + 60 * MS
    clock.observe(10 * MS, HOST_NS + 10 * MS)
    answers = [clock.to_host_ns(10_000 * k) - HOST_NS for k in range(2, 16)]
    assert answers == [max(60 * MS + 5 * MS * (k - 1), 10 * MS * k) for k in range(2, 16)]
    assert clock.to_host_ns(150_000) == answers[-1] + HOST_NS
    assert clock.to_host_ns(140_000) == HOST_NS + 140 * MS


# ---- what holds for any packets

ANY_TIME = st.integers(-(2**63), 2**63 - 1)
STEPS = st.integers(-60 * MS, 400 * MS) | st.integers(0, 60 * S) | st.integers(-(10**18), 10**18)
LATE = st.integers(0, 5 * MS) | st.integers(-300 * MS, 300 * MS) | st.integers(-(10**18), 10**18)


@given(st.lists(st.tuples(ANY_TIME, ANY_TIME) | st.none(), max_size=60))
def test_any_numbers_leave_memory_and_drift_bounded(packets):
    clock = SensorClock()
    for packet in packets:
        if packet is None:
            clock.restart()
        else:
            clock.observe(*packet)
            assert isinstance(clock.to_host_ns(packet[0] // 1000), int)
        assert len(clock._minima) <= MOST_MINIMA and len(clock._doubtful) < 3
        assert abs(clock.drift_ppm) <= MOST_DRIFT * 1e6


@given(st.lists(st.tuples(STEPS, LATE), min_size=1, max_size=400), st.booleans())
def test_answers_for_rising_sensor_times_never_run_back_but_for_a_large_step(packets, restarts):
    clock = SensorClock()
    sensor, asked, answers = 0, 0, []
    for number, (step, late) in enumerate(packets):
        sensor += step
        if restarts and number % 50 == 49:
            clock.restart()
            asked = min(asked, sensor)
        clock.observe(sensor, HOST_NS + sensor + late)
        asked = max(asked, sensor) + 10 * MS
        answers.append(clock.to_host_ns(asked // 1000))
    steps = np.diff(np.array(answers, dtype=object))
    assert all(step > 0 or step < -MOST_HELD_NS + 10 * MS for step in steps)


@given(st.lists(st.tuples(st.integers(1, 300 * MS), st.integers(0, 30 * MS)), min_size=1, max_size=300))
def test_the_line_lies_beneath_every_packet_in_the_span(packets):
    """For honest packets of an unsettled stream; a settled one may doubt them."""
    clock, sensor = SensorClock(), 0
    clock_points = []
    for step, late in packets[:199]:
        sensor += step
        clock.observe(sensor, HOST_NS + sensor + late)
        clock_points.append((sensor, late))
    newest = clock._minima[-1][0] if clock._minima else 0
    held = {at for at, _ in clock._minima} | {clock._soonest[0]}
    for at, late in clock_points:
        if at in held or at > newest:
            assert clock._offset_at(at) <= HOST_NS + late + 1
    assert any(abs(clock._offset_at(at) - HOST_NS - late) <= 2 for at, late in clock_points)


@given(st.lists(st.tuples(st.integers(1, 1000), st.integers(-1000, 1000)), min_size=1, max_size=40), st.integers(0, 99))
def test_the_hull_is_the_largest_convex_function_beneath_the_points(steps, share):
    xs = np.cumsum([step for step, _ in steps]).tolist()
    points = list(zip(xs, [y for _, y in steps], strict=True))
    hull = lower_hull(points)
    assert set(hull) <= set(points) and hull[0] == points[0] and hull[-1] == points[-1]
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(hull)]
    assert slopes == sorted(slopes) and len(set(slopes)) == len(slopes)
    heights = np.interp(xs, [x for x, _ in hull], [y for _, y in hull])
    assert all(height <= y + 1e-9 for height, (_, y) in zip(heights, points, strict=True))
    x = xs[0] + (xs[-1] - xs[0]) * share // 100
    if slopes:
        expected = next(s for s, (a, b) in zip(slopes, pairwise(hull), strict=True) if a[0] <= x <= b[0])
        assert slope_at(hull, x) == expected


def test_the_line_is_the_best_of_all_lines_beneath_the_packets():
    """The edge below the mean time beats any other line beneath the points in the sum of distances."""
    stream = simulated("gamma 2", seconds=BUCKET_NS / S * (MANY_BUCKETS + 10))
    clock = SensorClock()
    for sensor, _, stamp in stream.packets():
        clock.observe(sensor, stamp)
    clock._close_bucket()
    xs, ys = np.array(clock._minima, dtype=object).T
    xs, ys = (xs - xs[-1]).astype(float), (ys - ys[-1]).astype(float)
    ours = ys - (clock._offset - clock._minima[-1][1]) - clock._drift * xs
    assert ours.min() >= 0
    for drift in np.linspace(-300e-6, 500e-6, 2001):
        distances = ys - drift * xs
        assert (distances - distances.min()).sum() >= ours.sum() - 2 * len(xs)


# ---- real cameras


@pytest.mark.parametrize(
    ("name", "late_ms"), [("evt3_triggers_640x480_a", 5), ("evt3_trigger_b", 1.5), ("libcaer_cmp_mcap", 2.5)]
)
def test_stamps_of_a_real_camera_lie_on_or_above_its_line(name, late_ms, registry):
    stream, clock = EventStream(registry), SensorClock()
    packets = []
    for packet in BagRecording(recording_path(name)).packets():
        events = stream.decode(packet).events
        if len(events):
            packets.append((int(events.t[0]) // events.us_divisor * 1000, packet.stamp_ns))
            clock.observe(*packets[-1])
    above = np.array([stamp - sensor - clock._offset_at(sensor) for sensor, stamp in packets]) / MS
    assert len(above) >= 100
    assert -0.05 <= above.min() <= 0.05
    assert np.percentile(above, 95) < late_ms


# ---- through the windows of a stream


def window_ends(packets, max_gap_us=1_000_000):
    """Return (window end in us, host time of it in us) of every window."""
    windows = PacketWindows(REGISTRY, 10_000, max_gap_us=max_gap_us)
    found = []
    for packet in packets:
        found += [(w.t_end_us, windows.clock.to_host_ns(w.t_end_us) // 1000) for w in windows.push(packet)]
    return found


def packet_at(t_us, host_us, seq):
    return replace(tiny_packet([(t_us, True)], seq), stamp_ns=host_us * 1000)


def test_a_steady_stream_keeps_its_smallest_offset():
    late = [0, 400, 90, 7_000, 0, 30, 5, 800]
    packets = [packet_at(5_000 * k, 1_000_000 + 5_000 * k + late[k], k) for k in range(8)]
    assert window_ends(packets) == [(10_000 * k, 1_000_000 + 10_000 * k) for k in range(1, 4)]


@pytest.mark.parametrize("jump_us", [-100_000_000, 3_600_000_000])
def test_a_jump_of_sensor_time_does_not_show_in_the_stamps(jump_us):
    sensor = [200_000_000 + 5_000 * k + (jump_us if k >= 6 else 0) for k in range(12)]
    host = [1_000_000_000 + 5_000 * k for k in range(12)]
    found = window_ends([packet_at(t, h, k) for k, (t, h) in enumerate(zip(sensor, host, strict=True))])
    before = [(t, h) for t, h in found if 200_000_000 < t < 200_100_000]
    after = [(t, h) for t, h in found if not 200_000_000 < t < 200_100_000]
    assert before and after
    assert all(h - t == 800_000_000 for t, h in before)
    assert all(h - (t - jump_us) == 800_000_000 for t, h in after)


@pytest.mark.parametrize("drift_ppm", [-200, 200])
def test_windows_of_a_drifting_camera_get_stamps_to_the_microsecond(drift_ppm):
    packets = [packet_at(10_000 * k, 10**9 + 10_000 * k + k * drift_ppm // 100, k) for k in range(3_000)]
    found = window_ends(packets)
    assert len(found) > 2_900
    assert max(abs(host - (10**9 + t + t * drift_ppm * 1e-6)) for t, host in found if t > 10_000_000) < 2
