"""A camera and a host in numbers, for tests of the sensor clock: drift, ways to be late, and the resulting error."""

from dataclasses import dataclass

import numpy as np

from snn_perception.events.clock import SensorClock

MS, S = 1_000_000, 1_000_000_000
HOST_NS = 1_700_000_000 * S
DRIFTS_PPM = (-200, -50, 0, 50, 200)
PERIODS_NS = (1 * MS, 5 * MS, 10 * MS)
WINDOW_US = 20_000


@dataclass(frozen=True)
class Stream:
    """Packets of a camera: sensor times, the host's true times of them, and their stamps; int64 [N], ns."""

    sensor: np.ndarray
    true: np.ndarray
    stamp: np.ndarray

    def packets(self):
        return zip(self.sensor.tolist(), self.true.tolist(), self.stamp.tolist(), strict=True)


def in_order(sensor, delay):
    """Return delays such that no packet overtakes the one before it."""
    return np.maximum.accumulate(sensor + delay) - sensor


def bursts(rng, sensor):
    """Packets wait for the next delivery, up to 60 ms."""
    deliveries = sensor[0] + np.cumsum(rng.uniform(1 * MS, 60 * MS, int(np.ptp(sensor) / (5 * MS)) + 100))
    return deliveries[np.searchsorted(deliveries, sensor)] - sensor + rng.exponential(0.2 * MS, len(sensor))


def spikes(rng, sensor):
    delay = rng.exponential(1 * MS, len(sensor))
    return in_order(sensor, delay + 50 * MS * (rng.random(len(sensor)) < 0.02))


def load(rng, sensor):
    """A busy host, 2 s out of 6."""
    busy = (sensor - sensor[0]) // (2 * S) % 3 == 0
    delay = rng.exponential(1 * MS, len(sensor)) + busy * (5 * MS + rng.exponential(20 * MS, len(sensor)))
    return in_order(sensor, delay)


# Name -> (delays of packets at these sensor times, the part of them that every packet has), ns.
DELAYS = {
    "none": (lambda rng, sensor: np.zeros(len(sensor)), 0),
    "exponential": (lambda rng, sensor: rng.exponential(5 * MS, len(sensor)), 0),
    "gamma 2": (lambda rng, sensor: rng.gamma(2, 1 * MS, len(sensor)), 0),
    "gamma 4": (lambda rng, sensor: rng.gamma(4, 0.5 * MS, len(sensor)), 0),
    "floor": (lambda rng, sensor: 5 * MS + rng.exponential(2 * MS, len(sensor)), 5 * MS),
    "spikes": (spikes, 0),
    "bursts": (bursts, 0),
    "load": (load, 0),
}


def simulated(delays="exponential", *, seconds=20.0, drift_ppm=100.0, period_ns=5 * MS, seed=0, gap_at=None, gap_ns=0):
    """Return a stream whose true times include the constant part of the delays."""
    rng = np.random.default_rng(seed)
    make, floor = DELAYS[delays]
    count = int(seconds * S / period_ns)
    sensor = np.cumsum(rng.uniform(0.8, 1.2, count) * period_ns).astype(np.int64)
    if gap_at is not None:
        sensor[sensor > gap_at] += gap_ns
    delay = make(rng, sensor)
    elapsed = sensor + np.floor(sensor * drift_ppm * 1e-6).astype(np.int64)
    start = int(rng.integers(0, 10**15))
    true = HOST_NS + elapsed + floor
    return Stream(start + sensor, true, HOST_NS + elapsed + np.floor(delay).astype(np.int64))


def errors(stream: Stream, clock: SensorClock | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return (sensor time since the start, error of the host time) of window ends, as a live node asks for them."""
    clock = clock or SensorClock()
    window_ns = WINDOW_US * 1000
    found, told = [], []
    end = (int(stream.sensor[0]) // window_ns + 1) * window_ns
    start, host = int(stream.sensor[0]), stream.true
    for sensor, _, stamp in stream.packets():
        clock.observe(sensor, stamp)
        while end <= sensor:
            found.append((end - start, clock.to_host_ns(end // 1000)))
            end = max(end + window_ns, sensor // window_ns * window_ns)  # windows of a pause need not be asked for
            told.append(found[-1][1])
    since, answers = np.array(found, np.int64).T
    true = np.interp(since, stream.sensor - start, host - HOST_NS)
    return since, answers - HOST_NS - true
