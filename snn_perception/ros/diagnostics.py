"""What the node says about itself on /diagnostics: one status for each camera."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from snn_perception.ros.camera import Camera


def camera_status(node_name: str, camera: Camera, queued: int, previous: dict[str, int]) -> DiagnosticStatus:
    """Return the state of one camera; `previous` holds the loss counts of the last report and is brought up to date."""
    figures, counts = camera.figures, camera.packets.stream.counts
    windower, duplicates = camera.packets.windower, camera.packets.duplicates
    lost = {
        "dropped windows": figures.dropped_windows,
        "failed windows": figures.failed_windows,
        "failed messages": figures.failed_messages,
        "bad packets": figures.bad_packets,
        "lost packets": counts.lost_packets,
        "late packets": counts.late_packets,
        "duplicate packets": counts.duplicates,
        "undecodable data": counts.losses.total,
        "stream gaps": windower.gaps if windower else 0,
        "state resets": figures.resets,
    }
    fresh = [f"{n - previous.get(name, 0)} {name}" for name, n in lost.items() if n > previous.get(name, 0)]
    previous.update(lost)
    level, message = DiagnosticStatus.OK, "detecting"
    if fresh:
        level, message = DiagnosticStatus.WARN, f"since the last report: {', '.join(fresh)}"
    if camera.is_silent:
        level, message = (
            DiagnosticStatus.WARN,
            f"no packet on '{camera.topic}'; is the camera running, does the QoS match?",
        )
    if figures.failed_windows and not figures.published:
        level, message = DiagnosticStatus.ERROR, "every window failed, see the log"
    values = {
        "topic": camera.topic,
        "packets": counts.packets,
        "events": counts.events,
        "sequence gaps": counts.sequence_gaps,
        "stream restarts": counts.restarts,
        "windows": windower.windows if windower else 0,
        "disordered events": windower.disordered if windower else 0,
        "duplicate events": duplicates.dropped if duplicates is not None else 0,
        "sensor clock drift ppm": f"{camera.packets.clock.drift_ppm:.1f}",
        "windows published": figures.published,
        "detections": figures.detections,
        "windows waiting": queued,
        **lost,
        **_latencies("processing time", figures.inference_ns),
        **_latencies("latency", figures.latency_ns),
    }
    return DiagnosticStatus(
        level=level,
        name=f"{node_name}: {camera.name or 'camera'}",
        message=message,
        hardware_id=camera.name,
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )


def _latencies(name: str, samples_ns: Iterable[int]) -> dict[str, str]:
    """Return median and 95th percentile over recent windows, in ms; none before the first."""
    samples = np.fromiter(list(samples_ns), np.float64)
    if not len(samples):
        return {}
    median, p95 = np.percentile(samples / 1e6, [50, 95])
    return {f"{name} p50 ms": f"{median:.2f}", f"{name} p95 ms": f"{p95:.2f}"}
