"""What rclpy itself takes for event packets between two processes, without any work on them."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import rclpy
from event_camera_msgs.msg import EventPacket
from rclpy.context import Context
from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.node import Node

from snn_perception.ros.camera import event_qos
from snn_perception.ros.executing import make_executor
from snn_perception.ros.messages import stamp_to_ns
from snn_perception.types import SensorSize
from tools.node_support import messages, send


@dataclass(frozen=True)
class Transport:
    """What came of the packets that were sent, and what a packet took: microseconds of CPU time on both sides."""

    name: str
    per_second: int
    packet_bytes: float
    sent: int
    received: int
    receive_cpu_us: float
    send_cpu_us: float
    latency_ms: float | None  # median from the sender's stamp; None where the message is not looked into


@dataclass(frozen=True)
class Way:
    """How messages are received: by which executor, as raw bytes or not, and what is done with one."""

    executor: Callable[[Context], Executor] = make_executor
    raw: bool = False
    take: Callable[[Any], object] = lambda msg: None


WAYS: dict[str, Way] = {
    "message, empty callback": Way(),
    "message, its payload viewed": Way(take=lambda msg: np.frombuffer(msg.events, np.uint8)),
    "message, empty callback, rclpy's SingleThreadedExecutor": Way(lambda c: SingleThreadedExecutor(context=c)),
    "raw bytes, empty callback": Way(raw=True),
}


def measure_transport(
    way: str, size: SensorSize, rate_hz: float, per_second: int, seconds: float, domain: int
) -> Transport:
    """Return what came of packets that are received in one of the `WAYS`."""
    received_as = WAYS[way]
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    context = Context()
    rclpy.init(args=[], context=context, domain_id=domain)
    node, latencies, received = Node("receiver", context=context), [], 0

    def on_message(msg: Any) -> None:
        nonlocal received
        received += 1
        received_as.take(msg)
        if not received_as.raw and received % 16 == 0:
            latencies.append(time.time_ns() - stamp_to_ns(msg.header.stamp))

    node.create_subscription(EventPacket, "events", on_message, event_qos(1000, "best_effort"), raw=received_as.raw)
    executor = received_as.executor(context)
    executor.add_node(node)
    spawn = multiprocessing.get_context("spawn")
    results: Any = spawn.Queue()
    sender = spawn.Process(target=_sender, args=(results, domain, size, rate_hz, per_second, seconds))
    sender.start()
    while not received and sender.is_alive():
        executor.spin_once(timeout_sec=0.1)
    begun, first = time.process_time(), received
    while sender.is_alive():
        executor.spin_once(timeout_sec=0.1)
    cpu_us = (time.process_time() - begun) / max(1, received - first) * 1e6
    sent, send_cpu_s, size_bytes = results.get(timeout=10)
    sender.join()
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown(context=context)
    latency_ms = statistics.median(latencies) / 1e6 if latencies else None
    return Transport(way, per_second, size_bytes, sent, received, cpu_us, send_cpu_s / sent * 1e6, latency_ms)


def _sender(results: Any, domain: int, size: SensorSize, rate_hz: float, per_second: int, seconds: float) -> None:
    sent = messages(size, rate_hz, 1_000_000 // per_second, 2_000_000)
    published, cpu_s = send(domain, "events", sent, per_second, seconds)
    results.put((published, cpu_s, statistics.fmean(len(msg.events) for msg in sent)))
