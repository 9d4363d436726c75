"""Cameras that send too much wait where they would be in another one's way: for Python's lock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

HOLD_S, FREE_S = 0.4, 0.1  # so long one waits at most until it has taken all, and then for so long for nobody
MOMENT_S = 0.05  # so long waits at most what can be done later
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
        self._since_s: dict[str, float] = {}  # of those that are behind, when that began
        self._free_until_s: dict[str, float] = {}

    def begin(self) -> None:
        """Note that a window is taken in hand which nobody is to be in the way of."""
        self._clear.clear()

    def end(self) -> None:
        """Note that what was in hand is done."""
        self._clear.set()

    def wait(self, camera: str) -> None:
        """Wait while such a window is in hand; each camera from one thread.

        For `HOLD_S` since it first had to, however many windows that were: were each message to wait anew, windows that
        follow closely on one another would let one message through between two of them.
        """
        now_s = time.monotonic()
        if self._clear.is_set() or now_s < self._free_until_s.get(camera, 0.0):
            return
        if camera not in self._behind:
            self._since_s[camera] = now_s
            self._behind.add(camera)
        if not self._clear.wait(max(0.0, self._since_s[camera] + HOLD_S - now_s)):
            self._since_s[camera] = self._free_until_s[camera] = time.monotonic() + FREE_S

    def wait_for_a_moment(self) -> None:
        """Wait while such a window is in hand, for `MOMENT_S` at most; from any thread."""
        self._clear.wait(MOMENT_S)

    def is_done(self, camera: str) -> None:
        """Note that a camera has nothing more to take."""
        if camera in self._behind:
            with self._changed:
                self._behind.discard(camera)
                self._changed.notify_all()

    def let_take(self, is_enough: Callable[[], bool], most_s: float) -> bool:
        """Wait until those have taken what had to wait, or until it `is_enough`; `SLICE_S` and `most_s` at most.

        Returns whether they have.
        """
        if self._behind and most_s > 0:
            self._changed.wait_for(lambda: not self._behind or is_enough(), min(SLICE_S, most_s))
        return not self._behind
