"""The inference thread: the only owner of stream states. It takes jobs, advances one stream, and hands results on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from snn_perception.ros.queue import JobQueue, ResetJob, WindowJob
from snn_perception.runtime.pipeline import DetectionPipeline
from snn_perception.runtime.stream import StreamState
from snn_perception.types import Detections

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WindowResult:
    """What came of one window, and how long it took: waiting in the queue and in inference, in nanoseconds."""

    job: WindowJob
    detections: Detections
    stream: StreamState
    waited_ns: int
    inference_ns: int


class InferenceThread:
    """Runs jobs from `queue` until it is closed.

    Args:
        on_result: called in this thread after each window; it publishes.
        on_error: called in this thread with the job, what went wrong, and whether the window itself failed, so that its
            camera starts again from rest, or only `on_result`.
    """

    def __init__(
        self,
        pipeline: DetectionPipeline,
        queue: JobQueue,
        on_result: Callable[[WindowResult], None],
        on_error: Callable[[WindowJob, Exception, bool], None],
    ) -> None:
        self._pipeline, self._queue = pipeline, queue
        self._on_result, self._on_error = on_result, on_error
        self._streams: dict[str, StreamState] = {}
        self._abandoned = False
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)

    def start(self) -> None:
        """Start the thread; every camera begins at rest."""
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether the thread is still at work."""
        return self._thread.is_alive()

    def stop(self, timeout_s: float) -> int | None:
        """Finish the queued jobs and end the thread.

        Returns None when all is done. After `timeout_s` it returns how many queued windows were thrown away; the step
        in hand may go on for a while (see `is_running`), but its result goes nowhere.
        """
        self._queue.close()
        self._thread.join(timeout_s)
        if not self.is_running:
            return None
        self._abandoned = True
        return self._queue.discard()

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            if isinstance(job, ResetJob):
                self._reset(job.camera)
            else:
                self._infer(job)

    def _reset(self, camera: str) -> None:
        # The time stays, so that a gap just after the reset is still seen; only the membranes go to rest.
        old = self._streams.get(camera, StreamState())
        self._streams[camera] = replace(old, model=None, resets=old.resets + 1)

    def _infer(self, job: WindowJob) -> None:
        stream = self._streams.get(job.camera, StreamState())
        begin_ns = time.monotonic_ns()
        try:
            detections, stream = self._pipeline.step(job.window, stream)
        except Exception as error:  # a node must outlive one bad window, whatever a plugin raised
            self._fail(job, error, True)
            self._reset(job.camera)
            return
        end_ns = time.monotonic_ns()
        self._streams[job.camera] = stream
        if self._abandoned:
            return
        try:
            self._on_result(WindowResult(job, detections, stream, begin_ns - job.closed_ns, end_ns - begin_ns))
        except Exception as error:  # a message that could not go out says nothing about the state
            self._fail(job, error, False)

    def _fail(self, job: WindowJob, error: Exception, in_step: bool) -> None:
        log.debug("window [%d, %d) us failed", job.window.t_start_us, job.window.t_end_us, exc_info=error)
        if not self._abandoned:
            self._on_error(job, error, in_step)
