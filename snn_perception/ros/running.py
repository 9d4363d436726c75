"""Runs the detector node as a process, until a signal asks it to end."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions

if TYPE_CHECKING:
    from snn_perception.ros.detector_node import DetectorNode

LOOK_S = 0.1  # how soon a signal is seen
# How long a thread may hold Python's lock while another one waits. The inference thread lets go of it with every tensor
# operation, and beside a busy subscription it would wait for Python's default of 5 ms each time to have it back: a
# camera beside one that sent ten times as much lost most of its windows.
SWITCH_S = 1e-4


def run_node(make: Callable[[], DetectorNode], name: str, arguments: list[str]) -> int:
    """Make a node and run it until SIGINT or SIGTERM; returns the exit code.

    What is under way is still published after the signal, for a moment; a second signal gives that up.
    """
    sys.setswitchinterval(SWITCH_S)
    # Our own handlers: rclpy's would invalidate the context before anything could be published.
    rclpy.init(args=[name, *arguments], signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = make()
    except Exception as error:  # a parameter of the wrong type or out of range
        sys.stderr.write(f"{name}: {' '.join(str(error).split())}\n")
        rclpy.try_shutdown()
        return 1
    signals = 0

    def on_signal(number: int, frame: object) -> None:
        nonlocal signals
        signals += 1
        node.hurry(give_up=signals > 1)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    if node.get_parameter("autostart").value:
        started = node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        if not (started and node.trigger_activate() == TransitionCallbackReturn.SUCCESS):
            node.get_logger().error("not started; mend what is said above and configure the node again")
    try:
        while not signals and rclpy.ok():
            executor.spin_once(timeout_sec=LOOK_S)
    except ExternalShutdownException:
        pass
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown()
    return 0
