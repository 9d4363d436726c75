"""An hour of two clocks that drift apart, ever differently: how far the fitted mapping is off."""

import numpy as np
import pytest

from snn_perception.events.clock import SPAN_NS, SensorClock
from tests.clock_support import DELAYS, HOST_NS, MS, S, Stream, errors

PERIOD_NS = 10 * MS
HOUR_NS = 3600 * S
AFTER_NS = 10 * S


def wandering(ppm_of, delays, seed=0):
    """Return an hour of packets of a host that runs `ppm_of(sensor time)` faster than the sensor."""
    rng = np.random.default_rng(seed)
    sensor = np.cumsum(rng.uniform(0.8, 1.2, HOUR_NS // PERIOD_NS) * PERIOD_NS).astype(np.int64)
    ahead = np.cumsum(np.diff(sensor, prepend=0) * ppm_of(sensor) * 1e-6).astype(np.int64)
    make, floor = DELAYS[delays]
    true = HOST_NS + sensor + ahead + floor
    return Stream(sensor, true, HOST_NS + sensor + ahead + np.floor(make(rng, sensor)).astype(np.int64))


KINDS = {
    "steady, 200 ppm": lambda t: np.full(len(t), 200.0),
    "steady, -200 ppm": lambda t: np.full(len(t), -200.0),
    "from -200 to 200 ppm in the hour": lambda t: -200 + 400 * t / HOUR_NS,
    "to and fro within 200 ppm, ten minutes each": lambda t: 200 * np.sin(2 * np.pi * t / (600 * S)),
    "a step of 100 ppm after half an hour": lambda t: np.where(t < HOUR_NS // 2, 50.0, 150.0),
}


@pytest.mark.parametrize(
    ("kind", "delays"), [*((kind, "exponential") for kind in KINDS), ("from -200 to 200 ppm in the hour", "floor")]
)
def test_the_mapping_follows_a_drift_for_an_hour(kind, delays):
    stream, clock = wandering(KINDS[kind], delays), SensorClock()
    since, error = errors(stream, clock)
    assert len(since) > 179_000
    drifted = stream.true - HOST_NS - stream.sensor
    assert np.ptp(drifted) > 19 * MS, "not to follow it would show"
    assert np.abs(error[since > AFTER_NS]).max() < 1 * MS
    recent = stream.sensor[stream.sensor > stream.sensor[-1] - SPAN_NS]
    assert clock.drift_ppm == pytest.approx(float(KINDS[kind](recent).mean()), abs=5)
