"""Sensor time to host time, from the stamps that packets carry."""

from __future__ import annotations

SPAN_NS = 15_000_000_000  # a clock may drift by some 50 ppm: 0.75 ms in this time


class SensorClock:
    """Keeps the offset between a camera's own clock and the host clock of the message stamps.

    A stamp is when the host got a packet, which is never before its events happened: the smallest difference is the
    best estimate of the true offset, and late packets do not disturb it. It is taken over the last 15 to 30 s of
    sensor time, so that it follows a drift, and forgets a packet whose time was wrong.
    """

    def __init__(self) -> None:
        self._before: int | None = None  # smallest offset of the span before
        self._now: int | None = None  # ... and of this one
        self._span_from_ns: int | None = None

    def observe(self, sensor_ns: int, stamp_ns: int) -> None:
        """Take in one packet: the sensor time of its first event and its header stamp, in nanoseconds."""
        offset = stamp_ns - sensor_ns
        if self._span_from_ns is None or sensor_ns - self._span_from_ns >= SPAN_NS:
            self._before, self._now, self._span_from_ns = self._now, offset, sensor_ns
        else:
            self._now = offset if self._now is None else min(self._now, offset)

    def restart(self) -> None:
        """Forget the offset: the sensor's time jumped or began anew."""
        self._before = self._now = self._span_from_ns = None

    def to_host_ns(self, sensor_us: int) -> int:
        """Return the host time of a sensor time; before the first packet, the sensor time itself."""
        offsets = [offset for offset in (self._before, self._now) if offset is not None]
        return sensor_us * 1000 + min(offsets, default=0)
