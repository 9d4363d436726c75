"""When to stop a window's network steps so that its detections are there in time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

RECENT = 8  # windows from which the cost of a step is foretold


@dataclass
class StepCosts:
    """What network steps, and the rest after the last one, have cost lately: the most of the last windows, in ns.

    The most and not the mean: a window that is late is late, one that could have had another step is merely less sure.
    """

    _steps_ns: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT))
    _rest_ns: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT))

    @property
    def step_ns(self) -> int:
        """Cost of one network step."""
        return max(self._steps_ns, default=0)

    @property
    def rest_ns(self) -> int:
        """Cost of what follows the last one: the part behind the steps, head and decoding."""
        return max(self._rest_ns, default=0)

    def note(self, step_ns: int, rest_ns: int) -> None:
        """Take in what a window has cost."""
        self._steps_ns.append(step_ns)
        self._rest_ns.append(rest_ns)


class Deadline:
    """Decides for one window, after each network step, whether another one fits.

    Args:
        costs: of the windows before; this one's are added by `end`.
        deadline_ns, since_ns: the detections are to be there `deadline_ns` after `since_ns`, a time of `now_ns`.
        now_ns: the clock; on a GPU it has to wait for the device.
    """

    def __init__(
        self, costs: StepCosts, deadline_ns: int, since_ns: int, now_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._costs, self._now_ns = costs, now_ns
        self._until_ns = since_ns + deadline_ns
        self._last_ns = self._longest_ns = 0

    def begin(self) -> None:
        """Say that the input is there and the first network step begins."""
        self._last_ns = self._now_ns()

    def enough(self, done: int) -> bool:
        """Return whether to stop after `done` network steps: another one would end too late."""
        now_ns = self._now_ns()
        self._longest_ns = max(self._longest_ns, now_ns - self._last_ns)
        self._last_ns = now_ns
        step_ns = max(self._costs.step_ns, self._longest_ns)
        return now_ns + step_ns + self._costs.rest_ns > self._until_ns

    def end(self) -> None:
        """Say that the detections are there."""
        self._costs.note(self._longest_ns, self._now_ns() - self._last_ns)
