"""Cameras that send too much wait where they would be in another one's way: for Python's lock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

HOLD_S = 0.05  # nobody waits longer than that at a time, and then for as long for nobody
SLICE_S = 0.01  # for so long what has come meanwhile may be taken before the next window


class GivingWay:
    """Lets the messages of cameras that send too much be taken between windows, and not while one is in hand.

    A message is some hundred steps of Python, and so is a network; between any two of them either may have to wait for
    the other. Beside a thousand packets per second a network took nearly twice its time, and at worst five times
    (docs/benchmarks/node.md).

    Args:
        changed: of the queue; it is told when a camera has nothing more to take.
    """

    def __init__(self, changed: threading.Condition) -> None:
        self._changed = changed
        self._clear = threading.Event()
        self._clear.set()
        self._behind: set[str] = set()
        self._free_until_s: dict[str, float] = {}

    def begin(self) -> None:
        """Note that a window is taken in hand which nobody is to be in the way of."""
        self._clear.clear()

    def end(self) -> None:
        """Note that what was in hand is done."""
        self._clear.set()

    def wait(self, camera: str) -> None:
        """Wait while such a window is in hand, for `HOLD_S` at most; each camera from one thread."""
        if self._clear.is_set() or time.monotonic() < self._free_until_s.get(camera, 0.0):
            return
        self._behind.add(camera)
        if not self._clear.wait(HOLD_S):
            self._free_until_s[camera] = time.monotonic() + HOLD_S

    def wait_for_a_moment(self) -> None:
        """Wait while such a window is in hand, for `HOLD_S` at most; from any thread."""
        self._clear.wait(HOLD_S)

    def is_done(self, camera: str) -> None:
        """Note that a camera has nothing more to take."""
        if camera in self._behind:
            with self._changed:
                self._behind.discard(camera)
                self._changed.notify_all()

    def let_take(self, is_enough: Callable[[], bool], most_s: float) -> None:
        """Wait until those have taken what had to wait, or until it `is_enough`; `SLICE_S` and `most_s` at most."""
        if self._behind and most_s > 0:
            self._changed.wait_for(lambda: not self._behind or is_enough(), min(SLICE_S, most_s))
