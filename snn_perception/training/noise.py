"""Noise events that depend on time and seed alone, so that it does not matter how a recording is cut."""

from __future__ import annotations

import math

import numpy as np

from snn_perception.events.jit import kernel
from snn_perception.types import EventArray, SensorSize

SLOT_US = 10_000  # noise is drawn slot by slot of sensor time; part of the definition


def noise_events(size: SensorSize, rate_hz: float, start_us: int, end_us: int, seed: int) -> EventArray:
    """Return noise in ``[start_us, end_us)`` in time order: a Poisson process, uniform over pixels and polarities.

    Args:
        rate_hz: events per second and pixel, above 0.
        seed: of 64 bits.
    """
    per_us = rate_hz * size.height * size.width * 1e-6
    first, last = start_us // SLOT_US, -(-end_us // SLOT_US)
    expected = per_us * (last - first) * SLOT_US
    room = math.ceil(expected + 8 * math.sqrt(expected)) + 16
    while True:
        x, y, p, t = (
            np.empty(room, np.uint16),
            np.empty(room, np.uint16),
            np.empty(room, np.uint8),
            np.empty(room, np.int64),
        )
        count = _fill(first, last, per_us, size.width, size.height, np.uint64(seed % (1 << 64)), x, y, p, t)
        if count <= room:
            break
        room *= 2  # once in 10^15 times
    begin, stop = np.searchsorted(t[:count], [start_us, end_us]).tolist()
    return EventArray(x[begin:stop], y[begin:stop], p[begin:stop], t[begin:stop], size)


@kernel
def _mixed(z):  # type: ignore[no-untyped-def]
    """Return 64 bits of which each depends on each of z (SplitMix64; Steele, Lea & Flood, OOPSLA 2014)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@kernel
def _fill(first, last, per_us, width, height, seed, x, y, p, t):  # type: ignore[no-untyped-def]
    """Fill the columns slot by slot and return how many events there are; beyond their length if that is too short."""
    step = np.uint64(0x9E3779B97F4A7C15)
    fraction, low = 1.0 / (1 << 53), np.uint64(0xFFFFFF)
    n = 0
    for slot in range(first, last):
        state = _mixed(seed ^ _mixed(np.uint64(slot) * step))
        at = 0.0
        while True:
            state += step
            at -= math.log((np.float64(_mixed(state) >> np.uint64(11)) + 0.5) * fraction) / per_us
            if at >= SLOT_US:
                break
            if n == len(t):
                return n + 1
            state += step
            bits = _mixed(state)
            x[n] = np.uint16(((bits >> np.uint64(40)) * np.uint64(width)) >> np.uint64(24))
            y[n] = np.uint16((((bits >> np.uint64(16)) & low) * np.uint64(height)) >> np.uint64(24))
            p[n] = np.uint8(bits & np.uint64(1))
            t[n] = slot * SLOT_US + np.int64(at)
            n += 1
    return n
