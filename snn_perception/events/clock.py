"""Sensor time to host time, from the stamps that packets carry."""

from __future__ import annotations


class SensorClock:
    """Keeps the offset between a camera's own clock and the host clock of the message stamps.

    A stamp is when the host got a packet, which is never before its events happened: the smallest difference seen is
    the best estimate of the true offset, and late packets do not disturb it.
    """

    def __init__(self) -> None:
        self._offset_ns: int | None = None

    def observe(self, sensor_ns: int, stamp_ns: int) -> None:
        """Take in one packet: the sensor time of its first event and its header stamp, in nanoseconds."""
        offset = stamp_ns - sensor_ns
        self._offset_ns = offset if self._offset_ns is None else min(self._offset_ns, offset)

    def restart(self) -> None:
        """Forget the offset: the sensor's time began anew."""
        self._offset_ns = None

    def to_host_ns(self, sensor_us: int) -> int:
        """Return the host time of a sensor time; before the first packet, the sensor time itself."""
        return sensor_us * 1000 + (self._offset_ns or 0)
