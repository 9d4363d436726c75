"""The cameras of an active node: which there are, and what came of their windows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from rclpy.impl.rcutils_logger import RcutilsLogger

from snn_perception.ros.camera import Camera
from snn_perception.ros.diagnostics import note_losses
from snn_perception.ros.jobs import LoadJob, ResetJob, WindowJob
from snn_perception.ros.queue import JobQueue
from snn_perception.ros.results import WindowResult
from snn_perception.runtime.pace import PaceLimits
from snn_perception.runtime.pipeline import DetectionPipeline
from snn_perception.runtime.stages import Stages


class Cameras(Mapping[str, Camera]):
    """Cameras by name, of which a node's only one may have none.

    They join and leave in the executor's thread, which alone may go through them; `serve` is for any thread, and the
    inference thread tells what came of their windows.

    Args:
        make: returns a camera, which does not receive yet. queue: takes their windows.
    """

    def __init__(self, make: Callable[[str], Camera], queue: JobQueue, logger: RcutilsLogger) -> None:
        self._make, self._queue, self._logger = make, queue, logger
        self._known: dict[str, Camera] = {}
        self._left: dict[str, Camera] = {}  # of which windows may still be at work

    def __getitem__(self, name: str) -> Camera:
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    # Executor

    def join(self, name: str) -> None:
        """Listen to a camera."""
        camera = self._make(name)
        if (before := self._left.get(name)) is not None:  # its stream goes on counting
            camera.figures.gaps, camera.figures.resets = before.figures.gaps, before.figures.resets
            note_losses(camera)
        self._known[name] = camera  # before its first window
        camera.start()

    def leave(self, name: str, end_s: float) -> None:
        """Listen no more to a camera, whose state goes to rest after its last windows; `end_s` is of `Camera.stop`."""
        camera = self._left[name] = self._known[name]
        del self._known[name]
        camera.stop(end_s, 0.0)
        self._queue.put(ResetJob(name))

    def stop(self, budget_s: float) -> None:
        """Listen to none any more; their windows may wait for so long for room in the queue."""
        for camera in self.values():
            camera.stop(budget_s, budget_s)

    def warn_of_silence(self) -> None:
        """Say which cameras send nothing."""
        for camera in self.values():
            if camera.is_silent:
                self._logger.warning(
                    f"no packet on '{camera.topic}'; is the camera running, does its QoS match?",
                    throttle_duration_sec=10.0,
                )

    def serve(self, pipeline: DetectionPipeline) -> None:
        """Let all prepare windows for another model; from any thread."""
        for camera in list(self._known.values()):  # the executor may let one join or leave meanwhile
            camera.serve(pipeline)

    # Inference thread

    def note(self, result: WindowResult, stages: Stages, limits: PaceLimits, deadline_ms: float) -> None:
        """Count a window whose detections were published; `deadline_ms`: 0 for none."""
        figures = self._of(result.job).figures
        figures.stages.append(stages)
        figures.pace.published(time.monotonic_ns(), result.inference_ns / 1e6, limits)
        figures.published += 1
        figures.batched_windows += result.batch > 1
        figures.detections += len(result.detections)
        figures.gaps, figures.resets = result.stream.gaps, result.stream.resets
        figures.inference_ns.append(result.inference_ns)
        figures.latency_ns.append(result.latency_ns)
        if result.detections.steps is not None:
            figures.network_steps.append(result.detections.steps)
            figures.late_windows += result.latency_ns > deadline_ms * 1e6

    def note_caught_up(self, job: WindowJob) -> None:
        """Count a window that was run for its state alone."""
        self._of(job).figures.caught_up_windows += 1

    def note_failed(self, job: WindowJob, error: Exception, in_step: bool) -> None:
        """Count a window that failed (`in_step`), or whose message did, and say so."""
        camera = self._of(job)
        what, then = (
            ("failed", "the camera goes on from rest") if in_step else ("was not published", "its state is kept")
        )
        if in_step:
            camera.figures.failed_windows += 1
        else:
            camera.figures.failed_messages += 1
        self._logger.error(
            f"topic '{camera.topic}': window [{job.window.t_start_us}, {job.window.t_end_us}) us {what}: "
            f"{type(error).__name__}: {error}; {then}",
            throttle_duration_sec=2.0,
        )

    def note_refused(self, job: LoadJob, gap_ms: float) -> None:
        """Say that a saved state came too late."""
        self._logger.warning(
            f"camera '{job.camera}' starts from rest: its saved state is {gap_ms / 1000:.1f} s from the next window, "
            f"restore_max_gap_ms allows {job.max_gap_ms or 0} ms"
        )

    def _of(self, job: WindowJob) -> Camera:
        """Return the camera of a window, also one that has left while its last windows are at work."""
        return self._known.get(job.camera) or self._left[job.camera]  # a leaving one is in both for a moment
