"""Decodes the ``mono`` encoding: one 64-bit word per event (deprecated, but found in older bags)."""

from __future__ import annotations

import numpy as np

from snn_perception.events.leaps import KnownTime
from snn_perception.events.payload import check_event_count, records, sensor_size, time_base
from snn_perception.types import DecodedEvents, Losses, Packet


class MonoDecoder:
    """Returns the events of one stream's packets. A word holds ns since `time_base` (bits 0-31), x (32-47), y (48-62)
    and polarity (63)."""

    time_unit = "ns"

    def __init__(self) -> None:
        self._known = KnownTime(1000)

    def decode(self, packet: Packet) -> DecodedEvents:
        """Return what the packet holds, in ns. Raises EventDataError for a packet without size or beyond all limits."""
        size, base = sensor_size(packet), time_base(packet)
        words, ragged = records(packet, np.uint64)
        check_event_count(packet, len(words))
        x = (words >> np.uint64(32)).astype(np.uint16)
        top = (words >> np.uint64(48)).astype(np.uint16)
        y = top & np.uint16(0x7FFF)
        inside = (x < size.width) & (y < size.height)
        outside = len(words) - int(np.count_nonzero(inside))
        if outside:
            words, x, y, top = words[inside], x[inside], y[inside], top[inside]
        t = (words & np.uint64(0xFFFFFFFF)).astype(np.int64) + base
        p = (top >> np.uint16(15)).astype(np.uint8)
        leaps = self._known.advance(t)
        losses = Losses(outside=outside, ragged=ragged)
        return DecodedEvents(x, y, p, t, size, self.time_unit, t_reached=self._known.t, leaps=leaps, losses=losses)

    def resync(self) -> None:
        """Do nothing: every word stands for itself."""
