"""An executor with processes of this machine.

Workers are spawned, never forked: numba, torch and ROS do not survive a fork of a process that has threads. Each has a
pipe of its own and one unit at a time, so that a worker that dies is known by the unit it was at.
"""

from __future__ import annotations

import pickle
import signal
from collections.abc import Callable, Iterator
from multiprocessing import connection
from typing import Any

from snn_perception.errors import SnnPerceptionError
from snn_perception.work.attempt import Outcome
from snn_perception.work.bounded import BoundedExecutor, Numbered
from snn_perception.work.worker import WorkerDied, WorkerHandle, end_workers

_LOOK_S = 1.0  # how often workers are looked at that neither answer nor close their pipe
_ALONE = "try it alone, with the executor 'serial'"
_LIKELY = {
    "SIGKILL": "most likely memory ran out: use fewer workers (--workers)",
    "SIGSEGV": f"a library crashed, most likely on this input: {_ALONE}",
    "SIGBUS": f"a file shrank while it was read, or a library crashed: {_ALONE}",
    "SIGABRT": f"a library gave up, most likely on this input: {_ALONE}",
    "SIGTERM": "someone ended it; run again",
}


class ProcessExecutor(BoundedExecutor):
    """Runs units in worker processes, which are started as units need them and stay for later calls of `map`.

    Attributes:
        workers: how many at most.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._idle: list[WorkerHandle] = []
        self._busy: dict[WorkerHandle, Numbered] = {}
        self._functions = 0

    def close(self) -> None:
        """End the workers. Units under way are cancelled."""
        busy, idle = list(self._busy), self._idle
        self._busy, self._idle = {}, []
        end_workers(busy, idle)

    def _prepared(self, function: Callable[[Any], Any]) -> tuple[int, bytes]:
        self._functions += 1
        return self._functions, _packed(function, "the function")

    def _start(self, prepared: tuple[int, bytes], numbered: Numbered) -> None:
        packed = _packed(numbered.unit, numbered.name)
        worker = self._idle.pop() if self._idle else WorkerHandle()
        self._busy[worker] = numbered
        try:
            worker.start(prepared, packed)
        except WorkerDied as died:
            raise _told_of(died, numbered) from None

    def _answers(self) -> Iterator[tuple[Numbered, Outcome]]:
        speaking = connection.wait([worker.pipe for worker in self._busy], _LOOK_S)
        for worker, numbered in list(self._busy.items()):
            if worker.pipe not in speaking and worker.is_alive():
                continue
            try:
                outcome = worker.answer()
            except WorkerDied as died:
                raise _told_of(died, numbered) from None
            if outcome is not None:
                del self._busy[worker]
                self._idle.append(worker)
                yield numbered, outcome

    def _cancel(self) -> None:
        busy, self._busy = list(self._busy), {}
        end_workers(busy)


def _told_of(died: WorkerDied, numbered: Numbered) -> SnnPerceptionError:
    """Return the error to raise when a worker has died."""
    if not died.was_ready:
        return SnnPerceptionError(
            f"{numbered.name}: a worker process could not start (exit code {died.code}); what it wrote above says why. "
            "A script that uses workers needs its main part under: if __name__ == '__main__'"
        )
    if died.code >= 0:
        return SnnPerceptionError(f"{numbered.name}: its worker process ended by itself, with exit code {died.code}")
    try:
        what = signal.Signals(-died.code).name
    except ValueError:
        what = f"signal {-died.code}"
    return SnnPerceptionError(f"{numbered.name}: its worker process was ended by {what}; {_LIKELY.get(what, _ALONE)}")


def _packed(value: object, name: str) -> bytes:
    """Return what a worker can unpack. Plain pickle: torch's own would pass tensors through shared memory."""
    try:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        raise TypeError(
            f"{name} cannot travel to a worker process: {error}; use a function of a module, or functools.partial of "
            "one, and units of plain values"
        ) from error
