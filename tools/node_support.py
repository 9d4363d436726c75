"""What the measurements of the node share: a checkpoint that fires, packets of a stated rate, a node, a sender."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import rclpy
import torch
from event_camera_msgs.msg import EventPacket
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter

from snn_perception import build_preset, load_registry, save_checkpoint
from snn_perception.data.shapes import MovingShapes
from snn_perception.detector import Detector
from snn_perception.events.evt3_encode import packetize
from snn_perception.events.stream import PacketWindows
from snn_perception.ros.camera import event_qos
from snn_perception.ros.detector_node import DetectorNode
from snn_perception.ros.messages import event_packet_from
from snn_perception.ros.parameters import BY_NAME
from snn_perception.ros.running import SWITCH_S
from snn_perception.testing import wake
from snn_perception.types import SensorSize

LOOP_US = 1 << 24  # the clock of EVT3 turns over: such a scene can be sent for ever
WAKE_WINDOWS = 6
THRESHOLD = float(BY_NAME["score_threshold"].default)  # of the node


def scene(size: SensorSize, rate_hz: float, seed: int = 0, duration_us: int = LOOP_US) -> MovingShapes:
    """Return moving shapes and, over the whole sensor, as much noise as makes up so many events per second."""
    shapes = MovingShapes(size, min(duration_us, 1_000_000), seed, noise_hz=0.0, pause=None)
    moving_hz = sum(map(len, shapes)) / shapes.duration_us * 1e6
    noise_hz = max(0.0, rate_hz - moving_hz) / (size.width * size.height)
    return MovingShapes(size, duration_us, seed, noise_hz=noise_hz, pause=None)


def messages(size: SensorSize, rate_hz: float, interval_us: int, duration_us: int, seed: int = 0) -> list[EventPacket]:
    """Return a scene as EventPackets (EVT3) of so much sensor time each."""
    chunks = scene(size, rate_hz, seed, duration_us)
    return [event_packet_from(packet) for packet in packetize(chunks, size, interval_us=interval_us)]


def checkpoint(
    preset: str,
    path: Path,
    rate_hz: float,
    detections: int | None = None,
    *,
    selective: bool = False,
    **size_px: int,
) -> SensorSize:
    """Write untrained weights of a preset that fire in every layer on such a scene; returns the sensor's size.

    Args:
        detections: shift the scores so that about so many of a window pass the node's default threshold, as those of a
            trained network do; None leaves them, and most pass.
        selective: let the head itself keep to that threshold, before it suppresses boxes. size_px: of the preset.
    """
    registry = load_registry()
    detector = build_preset(preset, registry=registry, **size_px)
    options = dict(detector.spec.head.options)
    if detections is not None:
        options["class_prior"] = 0.5
    if selective:
        options["score_threshold"] = THRESHOLD
    torch.manual_seed(0)
    detector = Detector(replace(detector.spec, head=replace(detector.spec.head, options=options)), registry)
    size, window_us = detector.spec.sensor_size, detector.spec.window_us
    cut = PacketWindows(registry, window_us, max_gap_us=None)
    packets = packetize(scene(size, rate_hz, 0, (WAKE_WINDOWS + 1) * window_us), size, interval_us=10_000)
    windows = [window for packet in packets for window in cut.push(packet)]
    inputs = [detector.represent(window) for window in windows[:WAKE_WINDOWS]]
    wake(detector, inputs)
    if detections is not None:
        _shift_scores(detector, inputs, detections)
    save_checkpoint(path, detector)
    return size


def _shift_scores(detector: Any, inputs: list[torch.Tensor], detections: int) -> None:
    """Lower the scores until at most so many detections of a window, in the mean, pass the node's threshold."""
    for _ in range(400):
        state, passed = None, 0
        for x in inputs:
            (found,), state = detector.infer(x, state)
            passed += int((found.score >= THRESHOLD).sum())
        if passed <= detections * len(inputs):
            return
        with torch.no_grad():
            for bias in detector.head.class_biases:
                bias.sub_(0.25)
    raise RuntimeError(f"more than {detections} detections of a window whatever is taken from their scores")


class RunningNode:
    """The detector node in this process, active; use as a context manager, and `spin` it."""

    def __init__(self, domain: int, **parameters: object) -> None:
        torch.set_num_threads(1)
        self._switch_s = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_S)  # as in a process of its own
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        self.context = Context()
        rclpy.init(args=["--ros-args", "--log-level", "error"], context=self.context, domain_id=domain)
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        self.node = DetectorNode(context=self.context, parameter_overrides=overrides)
        self._executor = SingleThreadedExecutor(context=self.context)

    def __enter__(self) -> RunningNode:
        self._executor.add_node(self.node)
        for transition in (self.node.trigger_configure, self.node.trigger_activate):
            if transition() != TransitionCallbackReturn.SUCCESS:
                raise RuntimeError("the node did not start; its log says why")
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)
        sys.setswitchinterval(self._switch_s)

    def spin(self, seconds: float) -> None:
        """Run the node's callbacks for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=min(left, 0.1))


def send(domain: int, topic: str, sent: list[EventPacket], per_second: float, seconds: float) -> tuple[int, float]:
    """Publish messages over and over at a pace, best effort; returns how many, and the CPU seconds that took."""
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    context = Context()
    rclpy.init(args=[], context=context, domain_id=domain)
    node = Node(f"sender_{os.getpid()}", context=context)
    publisher = node.create_publisher(EventPacket, topic, event_qos(1000, "best_effort"))
    deadline = time.monotonic() + 30.0
    while not publisher.get_subscription_count() and time.monotonic() < deadline:
        time.sleep(0.01)
    began, begun_cpu = time.monotonic(), time.process_time()
    for number in _due(began, per_second, seconds):
        msg = sent[number % len(sent)]
        msg.seq = number
        now_ns = time.time_ns()
        msg.header.stamp.sec, msg.header.stamp.nanosec = divmod(now_ns, 10**9)
        publisher.publish(msg)
    cpu_s = time.process_time() - begun_cpu
    time.sleep(0.5)
    node.destroy_node()
    rclpy.shutdown(context=context)
    return number + 1, cpu_s


def _due(began: float, per_second: float, seconds: float) -> Iterator[int]:
    """Yield numbers from 0, each when it is due."""
    for number in count():
        due = began + number / per_second
        if due > began + seconds:
            return
        time.sleep(max(0.0, due - time.monotonic()))
        yield number
