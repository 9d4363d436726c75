"""What runs units of work, and the choice of it by name."""

from __future__ import annotations

import math
import multiprocessing
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from snn_perception.errors import SnnPerceptionError
from snn_perception.work.attempt import attempt
from snn_perception.work.threads import one_thread

EXECUTORS = ("processes", "serial", "ray")

OnDone = Callable[[int, int], None]
Unit = TypeVar("Unit")
Result = TypeVar("Result")
_Self = TypeVar("_Self", bound="Executor")

_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container


class Executor(ABC):
    """Runs one function over many units; used as a context, whose end leaves no worker behind.

    Attributes:
        workers: how many units run at a time.
    """

    workers: int = 1

    @abstractmethod
    def map(
        self, function: Callable[[Unit], Result], units: Iterable[Unit], *, on_done: OnDone | None = None
    ) -> Iterator[Result]:
        """Yield ``function(unit)`` of every unit, in the order of the units.

        Units are taken, and results held, a few per worker at a time, however many there are. Ending the iteration
        early cancels the rest. Each unit computes with one thread, so that sums come out the same everywhere.

        Args:
            function: of a module (or a `functools.partial` of one), as it travels to other processes; so do units and
                results. It must not depend on what ran before it.
            on_done: called with (done, total) whenever a unit is done, in whatever order; total is 0 where `units`
                has no length.

        Raises:
            Exception: of the first unit that fails, with the unit named in its message (SnnPerceptionError) or its
                cause (others); the rest is cancelled.
            SnnPerceptionError: if a worker dies, with the unit and the likely cause.
        """

    def close(self) -> None:  # noqa: B027  # for those that have workers
        """End the workers. Units under way are cancelled."""

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SerialExecutor(Executor):
    """Runs the units one after the other in this process."""

    def map(
        self, function: Callable[[Unit], Result], units: Iterable[Unit], *, on_done: OnDone | None = None
    ) -> Iterator[Result]:
        """Yield ``function(unit)`` of every unit, as `Executor.map` says."""
        total = count_of(units)
        for done, unit in enumerate(units, start=1):
            with one_thread():
                outcome = attempt(function, unit)
            result = outcome.value(unit, done)
            if on_done is not None:
                on_done(done, total)
            yield result


def make_executor(name: str = "processes", workers: int | None = None) -> Executor:
    """Return an executor; within a worker of another one always the serial one.

    A Ray cluster runs whatever its users send, and its ports ask for no password: for trusted networks only.

    Args:
        name: ``processes`` (of this machine), ``serial`` (this process alone) or ``ray`` (extra ``ray``; the cluster
            named in ``RAY_ADDRESS``, or one of this machine alone).
        workers: units at a time; by default one for each processor at hand (``ray``: each of the cluster). One
            worker needs no process of its own.

    Raises:
        SnnPerceptionError: for an unknown name, fewer workers than one, or if Ray is not installed.
    """
    if name not in EXECUTORS:
        raise SnnPerceptionError(f"unknown executor '{name}'; known: {', '.join(EXECUTORS)}")
    if workers is not None and workers < 1:
        raise SnnPerceptionError(f"expected at least 1 worker, got {workers}")
    if name == "serial" or is_worker():
        return SerialExecutor()
    if name == "ray":
        from snn_perception.work.on_ray import RayExecutor

        return RayExecutor(workers)
    workers = workers or processors_at_hand()
    if workers == 1:
        return SerialExecutor()
    from snn_perception.work.processes import ProcessExecutor

    return ProcessExecutor(workers)


def processors_at_hand() -> int:
    """Return how many processors this process may use: of those it is bound to, as many as its container grants."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _CPU_QUOTA.read_text("ascii").split()
        granted = math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no container, or "max": no limit
        return bound
    return max(1, min(bound, granted))


def count_of(units: Iterable[object]) -> int:
    """Return how many units there are, 0 where only taking them tells."""
    try:
        return len(units)  # type: ignore[arg-type]
    except TypeError:
        return 0


def is_worker() -> bool:
    """Return whether this process is somebody's worker, which must not have workers of its own."""
    return multiprocessing.current_process().daemon or _marked


_marked = False


def mark_as_worker() -> None:
    """Note that this process is a worker of an executor that does not start its processes itself."""
    global _marked  # noqa: PLW0603  # a fact about the process
    _marked = True
