"""Where a window's time went: each stage by its definition, and their sum."""

import time

import numpy as np
import pytest

from snn_perception.runtime.stages import (
    LEAST_PLAUSIBLE_NS,
    MOST_PLAUSIBLE_NS,
    STAGES,
    Arrival,
    Stages,
    arrival,
    stage_summary,
    stage_texts,
    stages_of,
)

MS = 1_000_000


def test_each_stage_begins_where_the_one_before_ends():
    arrived = Arrival(taken_ns=1000 * MS, decoded_ns=1003 * MS, sensor_ns=20 * MS, host_ns=4 * MS)
    found = stages_of(arrived, 1010 * MS, 1030 * MS, 1080 * MS, 1081 * MS)
    assert found == Stages(20 * MS, 4 * MS, 3 * MS, 7 * MS, 20 * MS, 50 * MS, 1 * MS, whole=105 * MS)
    assert sum(getattr(found, name) for name in STAGES) == found.whole
    texts = {key: float(value) for key, value in stage_texts(found).items()}
    assert texts.pop("total_ms") == pytest.approx(sum(texts.values())) == 105.0


def test_what_the_clocks_do_not_tell_is_not_a_number_and_not_in_the_sum():
    found = stages_of(Arrival(5 * MS, 6 * MS), 7 * MS, 9 * MS, 10 * MS, 20 * MS)
    assert (found.sensor, found.host, found.whole) == (None, None, 15 * MS)
    texts = stage_texts(found)
    assert (texts["sensor_ms"], texts["host_ms"], texts["total_ms"]) == ("nan", "nan", "15.000")
    assert sum(float(texts[f"{name}_ms"]) for name in STAGES[2:]) == 15.0


def test_the_systems_clock_tells_what_was_before_the_callback():
    now_ns, wall_ns = time.monotonic_ns(), time.time_ns()
    taken_ns, taken_wall_ns = now_ns - 10 * MS, wall_ns - 10 * MS
    found = arrival(taken_ns, now_ns, taken_wall_ns - 2 * MS, taken_wall_ns - 32 * MS)
    assert (found.taken_ns, found.decoded_ns) == (taken_ns, now_ns)
    assert found.host_ns == pytest.approx(2 * MS, abs=MS) and found.sensor_ns == pytest.approx(30 * MS, abs=MS)
    assert found.sensor_ns + found.host_ns == pytest.approx(32 * MS, abs=MS)


@pytest.mark.parametrize("end_ns", [0, -1, 1, 10**15, 2**62])
def test_stamps_of_another_day_or_another_clock_tell_nothing(end_ns):
    now_ns = time.monotonic_ns()
    assert arrival(now_ns, now_ns, time.time_ns(), end_ns).sensor_ns is None


@pytest.mark.parametrize("off_ns", [-LEAST_PLAUSIBLE_NS + 10 * MS, -MOST_PLAUSIBLE_NS - 10 * MS])
def test_a_clock_that_is_far_ahead_or_behind_tells_nothing(off_ns):
    now_ns = time.monotonic_ns()
    found = arrival(now_ns, now_ns, time.time_ns() + off_ns, time.time_ns() + off_ns)
    assert (found.host_ns, found.sensor_ns) == (None, None)


def test_stamps_that_hold_a_delay_which_every_packet_has_are_a_little_ahead():
    now_ns = time.monotonic_ns()
    found = arrival(now_ns, now_ns, time.time_ns() - MS, time.time_ns() + 4 * MS)
    assert found.host_ns == pytest.approx(MS, abs=MS / 2) and found.sensor_ns == pytest.approx(-5 * MS, abs=MS)
    assert stages_of(found, now_ns, now_ns, now_ns, now_ns).whole == pytest.approx(-4 * MS, abs=MS)


def test_without_a_reception_time_the_sensors_stage_ends_with_the_callback():
    now_ns = time.monotonic_ns()
    found = arrival(now_ns, now_ns, 0, time.time_ns() - 40 * MS)
    assert found.host_ns is None and found.sensor_ns == pytest.approx(40 * MS, abs=5 * MS)


def test_the_summary_leaves_out_what_is_not_known():
    assert stage_summary([]) == {}
    recent = [Stages(None, k * MS, 0, 0, 0, 2 * k * MS, 0, whole=3 * k * MS) for k in range(101)]
    told = stage_summary(recent)
    assert not any("sensor" in key for key in told)
    assert (told["stage host p50 ms"], told["stage host p95 ms"]) == ("50.000", "95.000")
    assert (told["stage inference p50 ms"], told["stage total p95 ms"]) == ("100.000", "285.000")
    assert list(told)[:2] == ["stage host p50 ms", "stage host p95 ms"] and len(told) == 14


def test_the_summary_is_that_of_the_values_which_are_known():
    rng = np.random.default_rng(3)
    recent = []
    for _ in range(97):
        values = [int(ns) for ns in rng.integers(0, 50 * MS, 8)]
        sensor, host = (None if rng.random() < 0.3 else ns for ns in values[:2])
        recent.append(Stages(sensor, host, *values[2:]))
    told = stage_summary(recent)
    for name in STAGES:
        known = [ns / 1e6 for one in recent if (ns := getattr(one, name)) is not None]
        median, p95 = np.percentile(known, [50, 95])
        assert (told[f"stage {name} p50 ms"], told[f"stage {name} p95 ms"]) == (f"{median:.3f}", f"{p95:.3f}")
    assert 40 < sum(one.sensor is not None for one in recent) < 97
