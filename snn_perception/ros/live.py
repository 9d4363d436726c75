"""A whole live run, for the demo and the tests: detector and player in processes of their own, met over DDS."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from std_srvs.srv import Trigger
from vision_msgs.msg import Detection2DArray

from snn_perception.errors import SnnPerceptionError
from snn_perception.ros.domain import local_domain
from snn_perception.runtime.monitoring import ACTIVITY

START_TIMEOUT_S = 60.0
CALL_TIMEOUT_S = 60.0
STALL_S = 20.0  # nothing moved for so long: what has not come will not come

_runs = count()


@dataclass(frozen=True)
class LiveResult:
    """What went out and came back over DDS: packets published, serialized detection messages in order, and the node's
    last diagnostics."""

    published: int
    messages: tuple[bytes, ...]
    diagnostics: dict[str, str]

    def decoded(self) -> list[Detection2DArray]:
        """Return the messages."""
        return [deserialize_message(raw, Detection2DArray) for raw in self.messages]


class LiveRun:
    """Starts the detector node, listens to it, and plays recordings to it. Use as a context manager.

    Every run has a namespace of its own, so that another detector, also one that is just going, cannot answer for it.

    Args:
        parameters: of the detector node; inference is never outrun unless they say so.
        log: file for what the two processes print.
    """

    def __init__(self, parameters: Mapping[str, Any], log: Path) -> None:
        self._parameters = {
            "overload_policy": "block",
            "qos_reliability": "reliable",
            "qos_depth": 0,
            "stamp_source": "sensor",
            "diagnostics_period_s": 0.2,
            **parameters,
        }
        self._log_path = log
        self._namespace = f"/live_{os.getpid()}_{next(_runs)}"
        self._messages: list[bytes] = []
        self._player: subprocess.Popen[bytes] | None = None
        self._diagnostics: dict[str, str] = {}

    def __enter__(self) -> LiveRun:
        self._log = self._log_path.open("ab")
        self._detector = self._start("snn_perception.ros.detector_node", self._parameters)
        try:
            self._context = Context()
            rclpy.init(context=self._context)
            self._node = Node("live_run", namespace=self._namespace, context=self._context)
            self._executor = SingleThreadedExecutor(context=self._context)
            self._executor.add_node(self._node)
            keep_all = QoSProfile(depth=10_000)
            self._node.create_subscription(Detection2DArray, "detections", self._messages.append, keep_all, raw=True)
            self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, keep_all)
            self._change: Any = self._node.create_client(ChangeState, "detector/change_state")
            self._get: Any = self._node.create_client(GetState, "detector/get_state")
            self._set: Any = self._node.create_client(SetParameters, "detector/set_parameters")
            self._wait(self._set.service_is_ready, START_TIMEOUT_S, "the detector node did not start")
            self._wait(self._change.service_is_ready, START_TIMEOUT_S, "the detector node did not start")
            self._wait(self._get.service_is_ready, START_TIMEOUT_S, "the detector node did not start")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "_executor"):
            self._executor.shutdown()
            self._node.destroy_node()
            rclpy.shutdown(context=self._context)
        _end(self._detector)
        if self._player is not None:
            _end(self._player)
        self._log.close()

    def transition(self, transition: int) -> bool:
        """Ask the detector for a lifecycle transition (`lifecycle_msgs.msg.Transition`); return whether it was made."""
        request = ChangeState.Request(transition=Transition(id=transition))
        return bool(self._call(self._change, request).success)

    def state(self) -> int:
        """Return the detector's lifecycle state (`lifecycle_msgs.msg.State`)."""
        return int(self._call(self._get, GetState.Request()).current_state.id)

    def activate(self) -> None:
        """Configure and activate the detector.

        Raises:
            SnnPerceptionError: with the node's own words, if it refuses.
        """
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            if not self.transition(transition):
                raise SnnPerceptionError(f"the detector node refused to start: {self.last_error()}")

    def last_error(self) -> str:
        """Return the last error line that the processes logged."""
        lines = self._log_path.read_text(errors="replace").splitlines()
        return next((line for line in reversed(lines) if "ERROR" in line or "rror:" in line), "nothing was logged")

    def play(self, recording: Path, on_wait: Callable[[int], None] | None = None, **parameters: Any) -> LiveResult:
        """Play a recording to the active detector and return what it published, after it has let go of its streams.

        Args:
            on_wait: called with the number of detection messages so far.
            parameters: of the player node.

        Raises:
            SnnPerceptionError: if the player or the detector fails.
        """
        begin = len(self._messages)
        player = self._start(
            "snn_perception.ros.player_node",
            {"recording": str(recording), "reliability": "reliable", **parameters},
            stdout=subprocess.PIPE,
        )
        try:
            since, seen = time.monotonic(), None
            while player.poll() is None:
                self._executor.spin_once(timeout_sec=0.05)
                self._require_detector()
                if on_wait:
                    on_wait(len(self._messages) - begin)
                if (now := (len(self._messages), self._received())) != seen:
                    since, seen = time.monotonic(), now
                if time.monotonic() - since > CALL_TIMEOUT_S:
                    raise SnnPerceptionError(f"nothing has moved for {CALL_TIMEOUT_S:g} s: {self.last_error()}")
        finally:
            _end(player)
        if player.returncode:
            raise SnnPerceptionError(f"the player ended with {player.returncode}: {self.last_error()}")
        assert player.stdout is not None
        published = int(json.loads(player.stdout.read().splitlines()[-1])["published"])
        self._until_still(STALL_S, enough=lambda: self._received() >= published)
        if not self.transition(Transition.TRANSITION_DEACTIVATE):
            raise SnnPerceptionError(f"the detector node did not deactivate: {self.last_error()}")
        self._until_still(1.0)
        return LiveResult(published, tuple(bytes(raw) for raw in self._messages[begin:]), dict(self._diagnostics))

    def play_until(self, recording: Path, messages: int, **parameters: Any) -> None:
        """Play a recording until so many detection messages have come, and let the player go on."""
        self._player = self._start(
            "snn_perception.ros.player_node", {"recording": str(recording), "reliability": "reliable", **parameters}
        )
        self._wait(lambda: len(self._messages) >= messages, CALL_TIMEOUT_S, "the detector did not publish")

    def listen(self, message_type: Any, topic: str) -> list[Any]:
        """Return a list to which the messages of a topic, relative to the detector's, are added from now on."""
        messages: list[Any] = []
        self._node.create_subscription(message_type, topic, messages.append, QoSProfile(depth=10_000))
        return messages

    def set(self, name: str, value: Any) -> str:
        """Set a parameter of the detector; return the reason if it refuses, empty if not."""
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        (result,) = self._call(self._set, request).results
        return "" if result.successful else str(result.reason)

    def trigger(self, service: str) -> tuple[bool, str]:
        """Call a service of the detector that takes nothing, such as ``reset_state``; return success and message."""
        client: Any = self._node.create_client(Trigger, f"detector/{service}")
        self._wait(client.service_is_ready, CALL_TIMEOUT_S, f"the detector node has no service {service}")
        answer = self._call(client, Trigger.Request())
        self._node.destroy_client(client)
        return bool(answer.success), str(answer.message)

    def send(self, number: int) -> None:
        """Send a signal to the detector."""
        self._detector.send_signal(number)

    def wait(self, timeout_s: float) -> int:
        """Return the detector's exit code, once it has ended."""
        return self._detector.wait(timeout_s)

    def _received(self) -> int:
        counted = ("packets", "lost packets", "bad packets", "duplicate packets")
        return sum(int(self._diagnostics.get(key, 0)) for key in counted)

    def _until_still(self, still_s: float, enough: Callable[[], bool] = lambda: False) -> None:
        """Spin until `enough`, or until neither packets nor detections have moved for `still_s`."""
        since, seen = time.monotonic(), None
        while not enough() and time.monotonic() - since < still_s:
            self._executor.spin_once(timeout_sec=0.05)
            self._require_detector()
            now = (len(self._messages), self._received())
            if now != seen:
                since, seen = time.monotonic(), now

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        for status in msg.status:
            if status.name.startswith(f"{self._namespace}/") and not status.name.endswith(ACTIVITY):
                self._diagnostics = {value.key: value.value for value in status.values} | {"message": status.message}

    def _call(self, client: Any, request: Any) -> Any:
        future = client.call_async(request)
        self._wait(future.done, CALL_TIMEOUT_S, f"the detector node did not answer {type(request).__name__}")
        return future.result()

    def _wait(self, ready: Callable[[], bool], timeout_s: float, problem: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not ready():
            self._require_detector()
            if time.monotonic() > deadline:
                raise SnnPerceptionError(f"{problem} within {timeout_s:g} s: {self.last_error()}")
            self._executor.spin_once(timeout_sec=0.05)

    def _require_detector(self) -> None:
        if self._detector.poll() is not None:
            raise SnnPerceptionError(f"the detector node ended with {self._detector.returncode}: {self.last_error()}")

    def _start(self, module: str, parameters: Mapping[str, Any], stdout: Any = None) -> subprocess.Popen[bytes]:
        arguments = [part for name, value in parameters.items() for part in ("-p", f"{name}:={_yaml(value)}")]
        command = [sys.executable, "-m", module, "--ros-args", "-r", f"__ns:={self._namespace}", *arguments]
        return subprocess.Popen(command, stdout=stdout or self._log, stderr=self._log)


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}'" if isinstance(value, str) else str(value)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a process as Ctrl-C would, and be sure that it is gone."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


__all__ = ["LiveResult", "LiveRun", "State", "Transition", "local_domain"]
