"""Which cameras are behind of late, and which of them send too much."""

from __future__ import annotations

import time
from collections.abc import Mapping

from snn_perception.ros.cadence import Cadence

# For so long it counts after the last time: while a camera is caught up with, it has less in line at times.
CROWDED_NS = 1_000_000_000


class Crowding:
    """Cameras with more windows in line than half of what is kept. Written under the queue's lock, read by any thread.

    Windows of all cameras cover the same time, so that of cameras which send in real time none is to blame: one sends
    too much if its windows also come much faster than those of another camera.
    """

    def __init__(self) -> None:
        self._behind_ns: dict[str, int] = {}  # camera -> when it was last
        self._crowded_ns: dict[str, int] = {}

    def note(self, camera: str, cadences: Mapping[str, Cadence]) -> None:
        """Note that a camera has too many windows in line now, given the pace of all."""
        now_ns = self._behind_ns[camera] = time.monotonic_ns()
        mine, since_ns = cadences.get(camera, Cadence()), now_ns - CROWDED_NS
        others = (one for name, one in cadences.items() if name != camera and one.closed_ns > since_ns)
        if any(mine.is_much_faster_than(one) for one in others):
            self._crowded_ns[camera] = now_ns

    def is_behind(self, camera: str) -> bool:
        """Return whether a camera had too many windows in line of late."""
        return self._was_of_late(self._behind_ns.get(camera))

    def sends_too_much(self, camera: str) -> bool:
        """Return whether a camera had so of late, and sent more than another one."""
        return self._was_of_late(self._crowded_ns.get(camera))

    def sends_well(self, cadences: Mapping[str, Cadence]) -> bool:
        """Return whether a camera has sent of late, and not too much."""
        since_ns = time.monotonic_ns() - CROWDED_NS
        return any(one.closed_ns > since_ns and not self.sends_too_much(name) for name, one in cadences.items())

    @staticmethod
    def _was_of_late(at_ns: int | None) -> bool:
        return at_ns is not None and time.monotonic_ns() - at_ns < CROWDED_NS
