"""One camera's latency in the node: alone, and beside another one that sends ten times as much."""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from snn_perception.types import SensorSize
from tools.node_support import LOOP_US, RunningNode, messages, send

INTERVAL_US = 10_000
SETTLE_S = 2.0


@dataclass(frozen=True)
class CameraLatency:
    """What a camera's windows took, from their end's arrival to their detections' being out.

    Attributes:
        size: of the sensor. engine: what ran the network.
        beside: how many times as fast as real time the other camera sent; 0: there was none.
        dropped: windows of this camera; other_windows, other_dropped: of the other one.
        cpu_s, wall_s: of the node's process meanwhile.
    """

    size: str
    engine: str
    beside: float
    windows: int
    p50_ms: float
    p99_ms: float
    dropped: int
    other_windows: int
    other_dropped: int
    cpu_s: float
    wall_s: float


def measure_camera(
    path: Path, size: SensorSize, rate_hz: float, engine: str, beside: float, seconds: float, domain: int
) -> CameraLatency:
    """Return the latency of a camera that sends in real time, with the node's default parameters but for the engine."""
    spawn = multiprocessing.get_context("spawn")
    rates = {"left": 1.0, **({"right": beside} if beside else {})}
    latencies: dict[str, list[int]] = {"left": [], "right": []}
    with RunningNode(domain, checkpoint=str(path), cameras=["left", "right"], engine=engine) as running:
        node = running.node
        node._worker._told = _listening(node._worker._told, latencies)
        senders = [
            spawn.Process(target=_sender, args=(domain, name, size, rate_hz, rate, seconds + 2 * SETTLE_S))
            for name, rate in rates.items()
        ]
        for sender in senders:
            sender.start()
        figures = {name: camera.figures for name, camera in node._cameras.items()}
        while any(not figures[name].published + figures[name].caught_up_windows for name in rates):
            running.spin(0.1)
        running.spin(SETTLE_S)
        for times in latencies.values():
            times.clear()
        begun, begun_cpu = time.monotonic(), time.process_time()
        running.spin(seconds - SETTLE_S)
        wall_s, cpu_s = time.monotonic() - begun, time.process_time() - begun_cpu
        found_ms = np.array(latencies["left"]) / 1e6
        other = node._cameras["right"].packets.windower
        result = CameraLatency(
            str(size),
            engine,
            beside,
            len(found_ms),
            *(float(value) for value in np.percentile(found_ms, [50, 99])),
            figures["left"].dropped_windows,
            other.windows if other else 0,
            figures["right"].dropped_windows,
            cpu_s,
            wall_s,
        )
        for sender in senders:
            sender.join()
    return result


def _listening(told: Any, latencies: dict[str, list[int]]) -> Any:
    def result(found: Any) -> None:
        told.result(found)
        latencies[found.job.camera].append(time.monotonic_ns() - found.job.closed_ns)

    return replace(told, result=result)


def _sender(domain: int, camera: str, size: SensorSize, rate_hz: float, times: float, seconds: float) -> None:
    sent = messages(size, rate_hz, INTERVAL_US, LOOP_US, seed=len(camera))
    send(domain, f"{camera}/events", sent, times * 1_000_000 / INTERVAL_US, seconds)
