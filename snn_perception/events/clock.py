"""Sensor time to host time, from the stamps that packets carry."""

from __future__ import annotations

import math
from collections import deque
from itertools import pairwise

from snn_perception.types import JITTER_US

Point = tuple[int, int]  # sensor time, and how far a stamp was ahead of it; ns

BUCKET_NS = 250_000_000  # of the packets in such a time only the one that came soonest is kept
SPAN_NS = 24_000_000_000  # the line is fitted to so much sensor time
FEW_BUCKETS, MANY_BUCKETS = 8, 32  # between them the fitted drift gains its say: from 2 to 8 s of steady packets
MOST_DRIFT = 500e-6  # crystals stay within 200 ppm of each other; the rest is room for a host clock being slewed
DOUBT_NS, DOUBT_SPREADS = 1_000_000, 3  # a packet so much too early, in a stream that has settled, is wrong or a step
DOUBTFUL_PACKETS = 3  # ... a step if so many in a row are
SETTLED_PACKETS = 200
STEP_NS, STEP_SPREAD_NS, STEP_BUCKETS = 100_000_000, 10_000_000, 8  # what shows that stamps stepped forward
MOST_HELD_NS = 1_000_000_000  # stamps are kept from running backwards by no more than this


class SensorClock:
    """Keeps the relation between a camera's own clock and the host clock of the message stamps: offset and drift.

    A stamp is when the host got a packet, never before its events happened: however unevenly packets are delayed, the
    differences (stamp - sensor time) lie on or above a line ``offset + drift * t``, and the soonest ones close to it.
    The line is the one beneath all packets of the last `SPAN_NS` of sensor time that comes closest to them in the sum,
    which is the edge of their lower convex hull below their mean time (Moon, Skelly and Towsley, INFOCOM 1999). A delay
    that every packet has is part of the offset: no method can tell it.

    Until the drift shows (2 to 8 s) it is taken from what was fitted before, at first 0. A packet that would put the
    line lower does so at once. In a stream that has settled, one far too early is ignored, unless the next two are too
    early as well: then host or sensor clock stepped, and the fit begins anew. Stamps that stepped forward by `STEP_NS`
    or more are followed after 2 s; smaller steps, and what else disturbs the line, as they leave the span.

    Memory is bounded, and a packet costs one to four microseconds.
    """

    def __init__(self) -> None:
        self._earlier_drift = 0.0  # from before the packets in the span
        self._told: tuple[int | None, int] | None = None  # the last answer: sensor time (None: another run), host time
        self._forget()

    def _forget(self) -> None:
        self._minima: deque[Point] = deque()  # the soonest packet of each closed bucket
        self._from_ns: int | None = None  # where the open bucket begins
        self._soonest: Point = (0, 0)  # of the open bucket
        self._excess = 0.0  # how far it lies above the line
        self._at_ns, self._offset, self._drift = 0, 0, self._earlier_drift  # the line
        self._lowered = 0.0  # by how much, since it was fitted
        self._packets = 0
        self._doubt_ns = float(DOUBT_NS)
        self._doubtful: list[Point] = []
        self._high_buckets, self._high_excess = 0, 0.0

    @property
    def drift_ppm(self) -> float:
        """By how much the host clock runs faster than the sensor's, parts per million; 0 until it shows."""
        return self._drift * 1e6

    @property
    def offset_ns(self) -> int:
        """Host time less sensor time, ns, at the latest packet; 0 before the first."""
        return self._offset_at(self._soonest[0])

    def observe(self, sensor_ns: int, stamp_ns: int) -> None:
        """Take in one packet: the sensor time of its first event and its header stamp, in nanoseconds."""
        offset, start = stamp_ns - sensor_ns, self._from_ns
        if start is None:
            self._begin(sensor_ns, offset)
            return
        excess = offset - self._offset - self._drift * (sensor_ns - self._at_ns)
        if (excess < -self._doubt_ns or sensor_ns < start) and self._is_doubtful(sensor_ns, excess):
            self._doubt(sensor_ns, offset)
            return
        if self._doubtful:
            self._doubtful = []
        self._packets += 1
        if sensor_ns >= start + BUCKET_NS:
            self._close_bucket()
            self._from_ns = sensor_ns
            self._excess = math.inf
            excess = offset - self._offset - self._drift * (sensor_ns - self._at_ns)
        if excess < 0:
            self._lower(excess)
            excess = 0.0
        if excess < self._excess and sensor_ns >= start:
            self._soonest, self._excess = (sensor_ns, offset), excess

    def restart(self) -> None:
        """Forget the offset: the sensor's time jumped or began anew. The drift, a matter of crystals, is kept."""
        self._forget()
        if self._told is not None:
            self._told = (None, self._told[1])

    def to_host_ns(self, sensor_us: int) -> int:
        """Return the host time of a sensor time; before the first packet, the sensor time itself.

        For sensor times that increase from call to call so do the answers, also where the line has been lowered in
        between or the clock was restarted: they then run at half speed until they meet the line. Only a correction of
        more than `MOST_HELD_NS` (the host clock was set back, or a stamp was wrong) is followed backwards.
        """
        sensor_ns = sensor_us * 1000
        if self._from_ns is None:
            return sensor_ns
        host_ns = sensor_ns + self._offset_at(sensor_ns)
        if self._told is not None:
            told_sensor_ns, told_ns = self._told
            if told_sensor_ns is not None and sensor_ns <= told_sensor_ns:
                return told_ns if sensor_ns == told_sensor_ns else min(host_ns, told_ns)
            least_ns = told_ns + (1 if told_sensor_ns is None else (sensor_ns - told_sensor_ns) // 2)
            if least_ns - MOST_HELD_NS <= host_ns < least_ns:
                host_ns = least_ns
        self._told = (sensor_ns, host_ns)
        return host_ns

    def _offset_at(self, sensor_ns: int) -> int:
        return self._offset + math.floor(self._drift * (sensor_ns - self._at_ns))

    def _begin(self, sensor_ns: int, offset: int) -> None:
        self._from_ns = self._at_ns = sensor_ns
        self._offset, self._soonest, self._excess = offset, (sensor_ns, offset), 0.0
        self._packets = 1

    def _lower(self, excess: float) -> None:
        """Lower the line to a packet beneath it; where that adds up to a step, forget what it was fitted to."""
        self._offset += math.floor(excess)
        self._excess -= excess
        self._lowered -= excess
        if self._lowered > self._doubt_ns and self._is_settled():
            self._minima.clear()

    def _is_settled(self) -> bool:
        return self._packets >= SETTLED_PACKETS and len(self._minima) >= FEW_BUCKETS

    def _is_doubtful(self, sensor_ns: int, excess: float) -> bool:
        assert self._from_ns is not None
        if sensor_ns < self._from_ns - JITTER_US * 1000:
            return True
        return excess < -self._doubt_ns and self._is_settled()

    def _doubt(self, sensor_ns: int, offset: int) -> None:
        """Set a packet aside; where it is not the only one, believe it and forget what it contradicts."""
        self._doubtful.append((sensor_ns, offset))
        if len(self._doubtful) == DOUBTFUL_PACKETS:
            believed = self._doubtful
            self._forget()
            for sensor, ahead in believed:
                self.observe(sensor, sensor + ahead)

    def _close_bucket(self) -> None:
        self._minima.append(self._soonest)
        if self._excess > STEP_NS:
            agrees = abs(self._excess - self._high_excess) < STEP_SPREAD_NS
            self._high_buckets = self._high_buckets + 1 if agrees else 1
            self._high_excess = self._excess
        else:
            self._high_buckets = 0
        oldest = self._soonest[0] - SPAN_NS
        while self._minima[0][0] < oldest or len(self._minima) > self._high_buckets >= STEP_BUCKETS:
            self._minima.popleft()
        self._fit()

    def _fit(self) -> None:
        """Lay the line beneath the minima; its drift is known as far as there are enough of them."""
        points = self._minima
        at_ns, base = points[-1]
        hull = lower_hull(points)
        drift = self._earlier_drift
        trust = min(1.0, (len(points) - FEW_BUCKETS) / (MANY_BUCKETS - FEW_BUCKETS))
        if trust > 0:
            fitted = slope_at(hull, sum(sensor for sensor, _ in points) // len(points))
            drift += trust * (min(max(fitted, -MOST_DRIFT), MOST_DRIFT) - drift)
            if trust == 1.0 and not self._high_buckets:
                self._earlier_drift = drift
        lowest = min(offset - base - drift * (sensor - at_ns) for sensor, offset in hull)
        spread = sum(offset - base - drift * (sensor - at_ns) for sensor, offset in points) / len(points) - lowest
        self._doubt_ns = DOUBT_NS + DOUBT_SPREADS * spread
        self._at_ns, self._offset, self._drift, self._lowered = at_ns, base + math.floor(lowest), drift, 0.0


def lower_hull(points: deque[Point]) -> list[Point]:
    """Return the corners of the lower convex hull of points in order of increasing sensor time (monotone chain)."""
    hull: list[Point] = []
    for x, y in points:
        while len(hull) > 1:
            (x0, y0), (x1, y1) = hull[-2:]
            if (y1 - y0) * (x - x0) < (y - y0) * (x1 - x0):
                break
            hull.pop()
        hull.append((x, y))
    return hull


def slope_at(hull: list[Point], x: int) -> float:
    """Return the slope of the hull's edge at `x`, which lies between its ends."""
    for (x0, y0), (x1, y1) in pairwise(hull):
        if x <= x1:
            return (y1 - y0) / (x1 - x0)
    return 0.0
