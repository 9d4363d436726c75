"""What the node says about itself on /diagnostics: one status for each camera, and one for the network's activity."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from snn_perception.ros.camera import Camera
from snn_perception.runtime.activity_watch import ActivityReport
from snn_perception.runtime.monitoring import ACTIVITY
from snn_perception.runtime.pace import PaceLimits, PaceReport
from snn_perception.runtime.stages import stage_summary

LEVELS = (DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR)


def statuses(
    node_name: str, cameras: Mapping[str, Camera], looks: Mapping[str, ActivityReport], queued: int, limits: PaceLimits
) -> list[DiagnosticStatus]:
    """Return how things stand: one status for each camera, and one for each look into the network on its windows.

    Args:
        queued: windows in the queue. limits: of results' times.
    """
    now_ns = time.monotonic_ns()
    of_cameras = [
        camera_status(node_name, camera, queued, camera.figures.pace.report(now_ns, limits))
        for camera in cameras.values()
    ]
    return of_cameras + [activity_status(node_name, name, look) for name, look in looks.items() if name in cameras]


def camera_status(node_name: str, camera: Camera, queued: int, pace: PaceReport) -> DiagnosticStatus:
    """Return the state of one camera, and note what it has lost by now.

    The figures of `pace` bear the names that Autoware's nodes use.
    """
    figures, previous = camera.figures, camera.figures.reported
    lost = note_losses(camera)
    fresh = [f"{n - previous.get(name, 0)} {name}" for name, n in lost.items() if n > previous.get(name, 0)]
    complaints = [(pace.level, pace.message)] if pace.level else []
    if fresh:
        complaints.append((1, f"since the last report: {', '.join(fresh)}"))
    if camera.is_silent:
        complaints.append((1, f"no packet on '{camera.topic}'; is the camera running, does the QoS match?"))
    if figures.failed_windows and not figures.published:
        complaints.append((2, "every window failed, see the log"))
    complaints.sort(key=lambda complaint: -complaint[0])
    values = {
        "topic": camera.topic,
        **camera.received(),
        "windows published": figures.published,
        "detections": figures.detections,
        "windows waiting": queued,
        "batched windows": figures.batched_windows,
        **lost,
        **_latencies("processing time", figures.inference_ns),
        **_latencies("latency", figures.latency_ns),
        **stage_summary(list(figures.stages)),
        **_steps(figures.network_steps),
        **pace.values,
    }
    return DiagnosticStatus(
        level=LEVELS[complaints[0][0]] if complaints else DiagnosticStatus.OK,
        name=_name(node_name, camera.name),
        message="; ".join(text for _, text in complaints) or "detecting",
        hardware_id=camera.name,
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )


def note_losses(camera: Camera) -> dict[str, int]:
    """Return what a camera has lost so far, by name, and keep it for the next report."""
    figures = camera.figures
    figures.reported = {
        "dropped windows": figures.dropped_windows,
        "failed windows": figures.failed_windows,
        "failed messages": figures.failed_messages,
        "bad packets": figures.bad_packets,
        **camera.losses(),
        "state resets": figures.resets,
        "late windows": figures.late_windows,
        "caught up windows": figures.caught_up_windows,
    }
    return figures.reported


def activity_status(node_name: str, camera: str, report: ActivityReport) -> DiagnosticStatus:
    """Return what the network does on one camera's windows."""
    return DiagnosticStatus(
        level=LEVELS[report.level],
        name=f"{_name(node_name, camera)}{ACTIVITY}",
        message=report.message,
        hardware_id=camera,
        values=[KeyValue(key=key, value=value) for key, value in report.values.items()],
    )


def _name(node_name: str, camera: str) -> str:
    return f"{node_name}: {camera or 'camera'}"


def _steps(samples: Iterable[int]) -> dict[str, str]:
    """Return the mean number of network steps of recent windows, of a model that stopped where its deadline said."""
    samples = list(samples)
    return {"network steps mean": f"{np.mean(samples):.2f}"} if samples else {}


def _latencies(name: str, samples_ns: Iterable[int]) -> dict[str, str]:
    """Return median and 95th percentile over recent windows, in ms; none before the first."""
    samples = np.fromiter(list(samples_ns), np.float64)
    if not len(samples):
        return {}
    median, p95 = np.percentile(samples / 1e6, [50, 95])
    return {f"{name} p50 ms": f"{median:.2f}", f"{name} p95 ms": f"{p95:.2f}"}
