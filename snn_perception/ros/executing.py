"""What runs a node's callbacks."""

from __future__ import annotations

import faulthandler
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from rclpy.context import Context
from rclpy.executors import Executor, SingleThreadedExecutor

try:
    from rclpy.experimental.events_executor import EventsExecutor
except ImportError:  # rclpy of Jazzy and before
    EventsExecutor = None  # type: ignore[assignment]


def make_executor(context: Context | None = None) -> Executor:
    """Return an executor that runs callbacks one at a time, of the kind that costs least for each message.

    rclpy's executor of events, where there is one, does its waiting in C++. The other one asks every entity of the node
    about every message, in Python: at a thousand packets per second that held Python's lock for so long that a camera
    beside such a one lost most of its windows (docs/benchmarks/node.md).
    """
    if EventsExecutor is None:
        return SingleThreadedExecutor(context=context)
    was_enabled = faulthandler.is_enabled()
    try:
        executor: Executor = EventsExecutor(context=context)
    except (OSError, ValueError, RuntimeError, AttributeError):  # it insists on a stderr with a file, for tracebacks
        return SingleThreadedExecutor(context=context)
    if not was_enabled:  # it turns on the dumps of tracebacks for the whole process
        faulthandler.disable()
    return executor


class WithInfo:
    """A subscription's callback of a message and what the middleware knows of it, for either executor.

    The executor of events hands both over as one tuple, in versions of rclpy that decide by the signature all the same.
    """

    __signature__ = inspect.Signature(
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY) for name in ("msg", "info")]
    )

    def __init__(self, call: Callable[[Any, Mapping[str, int]], None]) -> None:
        self._call = call

    def __call__(self, *received: Any) -> None:
        self._call(*(received if len(received) == 2 else received[0]))
