"""What rclpy itself takes for event packets between two processes, without any work on them."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import rclpy
from event_camera_msgs.msg import EventPacket
from rclpy.context import Context
from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.node import Node

from snn_perception.events.bag_messages import EVENT_PACKET, parse_message
from snn_perception.ros.camera import event_qos
from snn_perception.ros.messages import stamp_to_ns
from snn_perception.ros.receiving import OwnThread, Receiver
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


def _single_threaded(context: Context) -> Executor:
    return SingleThreadedExecutor(context=context)


def _of_events(context: Context) -> Executor:
    from rclpy.experimental.events_executor import EventsExecutor

    return EventsExecutor(context=context)


@dataclass(frozen=True)
class Way:
    """How messages are received: by an executor or by the node's `Receiver`, as raw bytes or not, and what is done."""

    make_executor: Callable[[Context], Executor] | None = None
    raw: bool = False
    take: Callable[[Any], object] = lambda msg: None


RAW = "own thread, raw bytes (the node's way)"
WAYS: dict[str, Way] = {
    RAW: Way(raw=True),
    "own thread, raw bytes, parsed": Way(raw=True, take=lambda msg: parse_message(msg, EVENT_PACKET)),
    "own thread, message": Way(),
    "SingleThreadedExecutor, message": Way(_single_threaded),
    "EventsExecutor (experimental), message": Way(_of_events),
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

    def on_message(msg: Any, received_ns: int = 0) -> None:
        nonlocal received
        received += 1
        received_as.take(msg)
        if not received_as.raw and received % 16 == 0:
            latencies.append(time.time_ns() - stamp_to_ns(msg.header.stamp))

    group = OwnThread() if received_as.make_executor is None else None
    qos, raw = event_qos(1000, "best_effort"), received_as.raw
    ears = node.create_subscription(EventPacket, "events", on_message, qos, raw=raw, callback_group=group)
    receiver = Receiver(node, ears, on_message)
    executor = (received_as.make_executor or _single_threaded)(context)
    executor.add_node(node)
    if group is not None:
        receiver.start()
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
    if group is not None:
        receiver.stop(10.0)
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown(context=context)
    latency_ms = statistics.median(latencies) / 1e6 if latencies else None
    return Transport(way, per_second, size_bytes, sent, received, cpu_us, send_cpu_s / sent * 1e6, latency_ms)


def _sender(results: Any, domain: int, size: SensorSize, rate_hz: float, per_second: int, seconds: float) -> None:
    sent = messages(size, rate_hz, 1_000_000 // per_second, 2_000_000)
    published, cpu_s = send(domain, "events", sent, per_second, seconds)
    results.put((published, cpu_s, statistics.fmean(len(msg.events) for msg in sent)))
