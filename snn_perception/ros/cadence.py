"""When cameras' next windows are due, and what room one that sends too much leaves for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

FADE = 0.95  # of a long step's weight, with each shorter one after it
SMOOTH = 0.95  # of what is known of a camera's pace, with each window
PAUSE_NS, PAUSE_STEPS = 1_000_000_000, 4  # without windows, and that many steps: a pause
MOST_PASS = 3  # windows that one which sends too much lets pass before it has its turn whatever is due
FAR_NS = 1_000_000_000
MORE = 2.0  # times as many windows as another camera's are too many


@dataclass(frozen=True)
class Cadence:
    """Where in sensor time a camera's last window ended, how far that is from the one before it, and when it closed.

    Attributes:
        closed_ns: on the monotonic clock of this host.
        interval_ns: of that time between two windows, in the mean of late; None for the first.
    """

    last_us: int | None = None
    step_us: int = 0
    closed_ns: int = 0
    interval_ns: float | None = None

    def then(self, end_us: int, closed_ns: int) -> Cadence:
        """Return the cadence after one more window."""
        if self.last_us is None:
            return Cadence(end_us, 0, closed_ns)
        step_us, passed_ns = end_us - self.last_us, float(closed_ns - self.closed_ns)
        if passed_ns > max(PAUSE_NS, PAUSE_STEPS * 1000 * (self.step_us or step_us)):
            return Cadence(end_us, step_us, closed_ns, self.interval_ns)  # a pause tells nothing about the pace
        known_ns = passed_ns if self.interval_ns is None else self.interval_ns
        return Cadence(end_us, step_us, closed_ns, SMOOTH * known_ns + (1 - SMOOTH) * passed_ns)

    def is_much_faster_than(self, other: Cadence) -> bool:
        """Return whether `MORE` times as many windows came of late; not while either's pace is unknown."""
        if self.interval_ns is None or other.interval_ns is None:
            return False
        return MORE * self.interval_ns <= other.interval_ns

    def next_is_at(self, end_us: int, tolerance_us: int) -> bool:
        """Return whether the camera's next window ends then, rather than the one before or behind it.

        Of its first two windows none can tell.
        """
        if self.last_us is None:
            return False
        off_us = abs(self.last_us + self.step_us - end_us)
        return off_us <= tolerance_us and 2 * off_us < self.step_us

    @property
    def due_ns(self) -> int | None:
        """When the next window will close, if the camera goes on in real time; None while nobody can tell."""
        return self.closed_ns + 1000 * self.step_us if self.step_us > 0 else None


class Room:
    """For how long the inference thread should stay free, rather than begin with a camera that sends too much.

    A step that is under way cannot be put off: a window that comes meanwhile waits for its end. A camera that has more
    windows in line than it will ever get through loses nothing by letting others pass: `MOST_PASS` of them in each of
    its turns, so that it gets on however many there are.
    """

    def __init__(self) -> None:
        self._step_ns = 0.0  # what a step takes, of late, on the long side
        self._began_ns: int | None = None
        self._let_pass: Counter[str] = Counter()

    def begin(self, camera: str | None, now_ns: int) -> None:
        """Note that a camera's window, or something else, is taken up."""
        self._began_ns = None if camera is None else now_ns
        if camera is not None:
            del self._let_pass[camera]

    def end(self, now_ns: int) -> None:
        """Note that what was taken up is done."""
        if self._began_ns is not None:
            self._step_ns = max(float(now_ns - self._began_ns), FADE * self._step_ns)
            self._began_ns = None

    def spare_ns(self, others: Iterable[Cadence], now_ns: int) -> int:
        """Return how much later a step may begin that is over before the next of other cameras' windows; below 0 if it
        is too late for one, `FAR_NS` if none is to come."""
        due = [one.due_ns for one in others if one.due_ns is not None and one.due_ns > now_ns]
        return min(due) - now_ns - round(self._step_ns) if due else FAR_NS

    def for_others_ns(
        self, camera: str, others: Iterable[Cadence], now_ns: int, *, whatever_is_due: bool = False
    ) -> int:
        """Return for how long to wait for the next of other cameras' windows, 0 if none is due within a step.

        One that is late is waited for a little: half a step.

        Args:
            whatever_is_due: wait for one that is due later, too, and as often as that: there is something better to do
                than a step.
        """
        late_ns, reach_ns = round(self._step_ns / 2), FAR_NS if whatever_is_due else self._step_ns
        due = [one.due_ns for one in others if one.due_ns is not None]
        soon = [due_ns for due_ns in due if now_ns - late_ns < due_ns < now_ns + reach_ns]
        if not soon or (self._let_pass[camera] >= MOST_PASS and not whatever_is_due):
            return 0
        self._let_pass[camera] += not whatever_is_due
        return min(soon) + late_ns - now_ns
