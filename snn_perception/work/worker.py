"""A worker process and the parent's handle on it.

The parent sends (function, unit), each pickled, the function only where it is another than before; the worker sends
what came of it, and log records in between. Either notices at once when the other is gone.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterable
from logging.handlers import QueueHandler
from multiprocessing import connection, resource_tracker
from typing import Any

from snn_perception.work.attempt import Done, Outcome, WorkerEnds, attempt, failed
from snn_perception.work.threads import one_thread_for_children

_GRACE_S = 5.0  # to remove what is half written
_LOGGER = "snn_perception"
_READY = "ready"

log = logging.getLogger(__name__)


class WorkerDied(Exception):
    """A worker is gone.

    Attributes:
        code: its exit code, minus the number of a signal. was_ready: whether it had come as far as asking for work.
    """

    def __init__(self, code: int, was_ready: bool) -> None:
        super().__init__(code)
        self.code, self.was_ready = code, was_ready


class WorkerHandle:
    """A worker process as its parent sees it.

    Attributes:
        pipe: readable when the worker has something to say, or is gone.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe: connection.Connection
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=serve, args=(theirs, logging.getLogger(_LOGGER).getEffectiveLevel()), daemon=True
        )
        self._function = 0
        self._is_ready = False
        # Ctrl-C reaches all processes of a terminal: it waits here, and is never heard by a worker.
        resource_tracker.ensure_running()  # started later, it would unblock the signal
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with one_thread_for_children():
                self._process.start()
        finally:
            theirs.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def start(self, function: tuple[int, bytes], unit: bytes) -> None:
        """Send a unit and what to do with it.

        Args:
            function: its number, and the function pickled.

        Raises:
            WorkerDied: if the worker is gone.
        """
        number, packed = function
        try:
            self.pipe.send_bytes(pickle.dumps((packed if number != self._function else None, unit)))
        except OSError:
            raise self._died() from None
        self._function = number

    def answer(self) -> Outcome | None:
        """Return what came of the unit; None after a log record, which is passed on, or if there is nothing yet.

        Raises:
            WorkerDied: if the worker is gone.
        """
        try:
            is_alive = self.is_alive()  # asked first: its last words may come before its end
            if not self.pipe.poll():
                if is_alive:
                    return None
                raise EOFError
            message = pickle.loads(self.pipe.recv_bytes())
        except (EOFError, OSError):
            raise self._died() from None
        if isinstance(message, logging.LogRecord):
            logger = logging.getLogger(message.name)
            if logger.isEnabledFor(message.levelno):
                logger.handle(message)
            return None
        if message == _READY:
            self._is_ready = True
            return None
        outcome: Outcome = message
        return outcome

    def is_alive(self) -> bool:
        """Return whether the process runs."""
        return self._process.is_alive()

    def terminate(self) -> None:
        """Ask the process to end now."""
        self._process.terminate()

    def end_by(self, deadline: float) -> None:
        """Close the pipe, which ends an idle worker, and wait for the end of the process, which comes in any case."""
        self.pipe.close()
        try:
            self._process.join(max(0.0, deadline - time.monotonic()))
        finally:
            self._process.kill()
            self._process.join()
            self._process.close()

    def _died(self) -> WorkerDied:
        self._process.join(_GRACE_S)
        code = self._process.exitcode
        return WorkerDied(0 if code is None else code, self._is_ready)


def end_workers(busy: Iterable[WorkerHandle], idle: Iterable[WorkerHandle] = ()) -> None:
    """End workers: those at work at once, with a moment to remove what is half written."""
    busy = list(busy)
    for worker in busy:
        worker.terminate()
    deadline = time.monotonic() + _GRACE_S
    ending = [*busy, *idle]
    while ending:
        try:
            ending[-1].end_by(deadline)
            ending.pop()
        except BaseException:  # a second Ctrl-C: wait no longer
            deadline = 0.0
            ending.pop()
            end_workers([], ending)
            raise


def serve(pipe: connection.Connection, level: int) -> None:
    """Do what the parent sends until the pipe closes; runs in the worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it and ends us
    signal.signal(signal.SIGTERM, _end)
    sys.unraisablehook = _end_again
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.dup2(2, 1)  # the parent's stdout is its own
    sending = threading.Lock()
    try:
        _forward_log(pipe, sending, level)
        threading.Thread(target=_end_with_parent, daemon=True).start()
        _send(pipe, sending, _READY)
        function = None
        while True:
            packed, unit = pickle.loads(pipe.recv_bytes())
            function = packed or function
            _send_outcome(pipe, sending, attempt(_call, (function, unit)))
    except (WorkerEnds, EOFError, OSError):  # the parent does not want more, or is gone
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _call(packed: tuple[bytes, bytes]) -> Any:
    function, unit = packed
    return pickle.loads(function)(pickle.loads(unit))


def _send_outcome(pipe: connection.Connection, sending: threading.Lock, outcome: Outcome) -> None:
    try:
        message = pickle.dumps(outcome, pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        kind = type(outcome.result).__name__ if isinstance(outcome, Done) else "error"
        message = pickle.dumps(failed(TypeError(f"a result of type {kind} cannot travel to the parent: {error}")))
    with sending:
        pipe.send_bytes(message)


def _send(pipe: connection.Connection, sending: threading.Lock, value: object) -> None:
    message = pickle.dumps(value)
    with sending:
        pipe.send_bytes(message)


class _ToParent(QueueHandler):
    """Sends log records to the parent, whose handlers know where they belong."""

    def __init__(self, pipe: connection.Connection, sending: threading.Lock) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self._pipe, self._sending = pipe, sending

    def enqueue(self, record: logging.LogRecord) -> None:
        _send(self._pipe, self._sending, record)


def _forward_log(pipe: connection.Connection, sending: threading.Lock, level: int) -> None:
    root = logging.getLogger(_LOGGER)
    root.handlers[:] = [_ToParent(pipe, sending)]
    root.propagate = False
    root.setLevel(level)


def _end(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
    raise WorkerEnds


def _end_again(lost: sys.UnraisableHookArgs) -> None:
    """Try anew a moment later where the end came inside a finalizer or weak reference's callback, which swallow it."""
    if not isinstance(lost.exc_value, WorkerEnds):
        sys.__unraisablehook__(lost)
        return
    signal.signal(signal.SIGTERM, _end)
    again = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGTERM))
    again.daemon = True
    again.start()


def _end_with_parent() -> None:
    """End this process soon after its parent, however that went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GRACE_S)
        sys.stderr.flush()
        os._exit(1)
