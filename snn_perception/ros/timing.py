"""What each window's detections took, on a topic beside them."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from std_msgs.msg import Header

from snn_perception.ros.results import WindowResult
from snn_perception.runtime.stages import Stages, stage_texts


def timing_message(result: WindowResult, stages: Stages, header: Header) -> DiagnosticArray:
    """Return one status of what a window took, under the stamp of its detections.

    Keys: every stage (``sensor_ms``, ``host_ms``, ``decode_ms``, ``window_ms``, ``waiting_ms``, ``inference_ms``,
    ``publish_ms``; see `runtime.stages`), ``total_ms`` all of them, ``latency_ms`` from the window's close to its
    detections (``waiting_ms`` and ``inference_ms``), ``network_steps``, the steps that a model under a deadline had the
    time for (0: all), and ``batch``, the windows of different cameras that ran as one with it, itself among them.
    """
    values = {
        **stage_texts(stages),
        "latency_ms": f"{result.latency_ns / 1e6:.3f}",
        "network_steps": str(result.detections.steps or 0),
        "batch": str(result.batch),
    }
    status = DiagnosticStatus(
        level=DiagnosticStatus.OK,
        name="timing",
        hardware_id=result.job.camera,
        values=[KeyValue(key=key, value=value) for key, value in values.items()],
    )
    return DiagnosticArray(header=header, status=[status])
