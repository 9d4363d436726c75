"""Hears what running detector nodes say on /diagnostics, and asks for the states of their life cycles."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.srv import GetState
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from rclpy.signals import SignalHandlerOptions

from snn_perception.runtime.monitoring import Report

TOPIC = "/diagnostics"
ASK_S = 0.5  # between questions for a node's state
MOST_PENDING = 8  # questions without an answer, after which a state is not known any more
_GET_STATE, _RESET_STATE = "/get_state", "/reset_state"


class DiagnosticsListener:
    """Listens while it is entered. It never holds a node up: what does not come at once is done without.

    Args:
        take: called by `spin` with every report.
    """

    def __init__(self, take: Callable[[Report], None]) -> None:
        self._take = take
        self._asked: dict[str, _Question] = {}

    def __enter__(self) -> DiagnosticsListener:
        self._context = Context()
        # Ctrl-C belongs to the caller: rclpy's handler would end the context under it.
        rclpy.init(args=[], context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = Node(
            f"monitor_{os.getpid()}", context=self._context, enable_rosout=False, start_parameter_services=False
        )
        qos = QoSProfile(depth=100, reliability=QoSReliabilityPolicy.BEST_EFFORT)  # hears every publisher
        self._node.create_subscription(DiagnosticArray, TOPIC, self._on_diagnostics, qos)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)

    def spin(self, seconds: float) -> None:
        """Take what comes within so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=min(left, 0.1))

    def ask(self, nodes: Iterable[str]) -> None:
        """Ask nodes for their states; the answers come while spinning."""
        for name in nodes:
            if name not in self._asked:
                self._asked[name] = _Question(self._node.create_client(GetState, f"{name}{_GET_STATE}"))
            self._asked[name].ask(time.monotonic())

    def states(self) -> dict[str, str]:
        """Return the states of the nodes that answered, such as ``active``."""
        return {name: question.answer for name, question in self._asked.items() if question.answer}

    def detectors(self) -> list[str]:
        """Return the nodes that have a life cycle and a state to reset: configured detectors, active or not."""
        services = self._services()
        return [name for name in self.lifecycle_nodes() if f"{name}{_RESET_STATE}" in services]

    def lifecycle_nodes(self) -> list[str]:
        """Return the names of all nodes that have a life cycle, of any package."""
        kind = "lifecycle_msgs/srv/GetState"
        services = self._services().items()
        return sorted(
            name.removesuffix(_GET_STATE) for name, types in services if name.endswith(_GET_STATE) and kind in types
        )

    def _services(self) -> dict[str, list[str]]:
        return dict(self._node.get_service_names_and_types())

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        arrived_s = time.monotonic()
        for status in msg.status:
            self._take(_report(status, msg.header.stamp.sec + msg.header.stamp.nanosec / 1e9, arrived_s))


class _Question:
    """A question for one node's state, asked again and again.

    A first one may get lost, since the node can answer before it has found the one who asks, and a busy node answers
    late: so the next one does not wait for the last answer.
    """

    def __init__(self, client: Any) -> None:
        self._client, self._asked_s = client, 0.0
        self._pending: list[Any] = []
        self.answer = ""

    def ask(self, now_s: float) -> None:
        """Ask, unless that was done a moment ago."""
        if now_s - self._asked_s < ASK_S:
            return
        if not self._client.service_is_ready():
            self.answer = ""
            return
        if len(self._pending) >= MOST_PENDING:
            self.answer = ""
            self._client.remove_pending_request(self._pending.pop(0))
        future, self._asked_s = self._client.call_async(GetState.Request()), now_s
        self._pending.append(future)
        future.add_done_callback(self._on_answer)

    def _on_answer(self, future: Any) -> None:
        if future in self._pending:  # those before it will not be answered any more, or no later
            del self._pending[: self._pending.index(future) + 1]
            self.answer = future.result().current_state.label


def _report(status: DiagnosticStatus, stamp_s: float, arrived_s: float) -> Report:
    level = status.level[0] if isinstance(status.level, bytes) else int(status.level)
    values = {value.key: value.value for value in status.values}
    return Report(status.name, level, status.message, values, stamp_s, arrived_s)
