"""The order in which parallel executors take units and give results, and how much they hold at a time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import Any, NamedTuple

from snn_perception.work.attempt import Outcome, unit_name
from snn_perception.work.executor import Executor, OnDone, Result, Unit, count_of

_AHEAD = 3  # units per worker from the one whose result is waited for to the one that is taken last


class Numbered(NamedTuple):
    """A unit and which one it is, counted from 1."""

    number: int
    unit: Any

    @property
    def name(self) -> str:
        """What a person calls it."""
        return unit_name(self.unit, self.number)


class BoundedExecutor(Executor):
    """An executor that runs some units at a time; what runs them, its subclasses know."""

    _is_mapping = False

    def map(
        self, function: Callable[[Unit], Result], units: Iterable[Unit], *, on_done: OnDone | None = None
    ) -> Iterator[Result]:
        """Yield ``function(unit)`` of every unit, as `Executor.map` says; one iteration at a time.

        Raises:
            TypeError: if the function or a unit cannot travel to another process.
            RuntimeError: if an earlier iteration is neither finished nor closed.
        """
        return self._run(self._prepared(function), units, on_done)

    def _run(self, prepared: object, units: Iterable[Any], on_done: OnDone | None) -> Iterator[Any]:
        if self._is_mapping:
            raise RuntimeError("this executor is at work already: finish or close the earlier iteration first")
        self._is_mapping = True
        try:
            yield from self._results(prepared, units, on_done)
        finally:
            self._is_mapping = False
            self._cancel()  # after an error, Ctrl-C, or where nobody wants the rest; else there is nothing

    def _results(self, prepared: object, units: Iterable[Any], on_done: OnDone | None) -> Iterator[Any]:
        total, source = count_of(units), map(Numbered, count(1), units)
        early: dict[int, Any] = {}  # results before whose turn it is
        taken = running = done = 0
        given = 1
        last = False
        while True:
            while not last and running < self.workers and taken + 1 - given < _AHEAD * self.workers:
                numbered = next(source, None)
                if numbered is None:
                    last = True
                    break
                self._start(prepared, numbered)
                taken, running = taken + 1, running + 1
            if given in early:
                yield early.pop(given)
                given += 1
            elif running:
                for (number, unit), outcome in self._answers():
                    running, done = running - 1, done + 1
                    early[number] = outcome.value(unit, number)
                    if on_done is not None:
                        on_done(done, total)
            else:
                return

    @abstractmethod
    def _prepared(self, function: Callable[[Any], Any]) -> object:
        """Return the function as `_start` takes it."""

    @abstractmethod
    def _start(self, prepared: Any, numbered: Numbered) -> None:
        """Let a unit run; called with fewer than `workers` units running."""

    @abstractmethod
    def _answers(self) -> Iterator[tuple[Numbered, Outcome]]:
        """Wait until some unit is done, or for a while; yield those that are.

        Raises:
            SnnPerceptionError: if a worker is gone.
        """

    @abstractmethod
    def _cancel(self) -> None:
        """End the units that run, at once."""
