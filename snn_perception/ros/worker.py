"""The inference thread: the only owner of stream states. It takes jobs, advances one stream, and hands results on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

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
        on_error: called in this thread when a window failed; that camera then starts again from rest.
    """

    def __init__(
        self,
        pipeline: DetectionPipeline,
        queue: JobQueue,
        on_result: Callable[[WindowResult], None],
        on_error: Callable[[WindowJob, Exception], None],
    ) -> None:
        self._pipeline, self._queue = pipeline, queue
        self._on_result, self._on_error = on_result, on_error
        self._streams: dict[str, StreamState] = {}
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)

    def start(self) -> None:
        """Start the thread; every camera begins at rest."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Finish the queued jobs and end the thread; return False if it is still busy after `timeout_s`."""
        self._queue.close()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            try:
                if isinstance(job, ResetJob):
                    self._reset(job.camera)
                else:
                    self._infer(job)
            finally:
                self._queue.done()

    def _reset(self, camera: str) -> None:
        old = self._streams.get(camera, StreamState())
        # The time stays, so that a gap just after the reset is still seen; only the membranes go to rest.
        self._streams[camera] = StreamState(None, old.t_end_us, old.windows, old.gaps, old.resets + 1, old.size)

    def _infer(self, job: WindowJob) -> None:
        stream = self._streams.get(job.camera, StreamState())
        begin_ns = time.monotonic_ns()
        try:
            detections, self._streams[job.camera] = self._pipeline.step(job.window, stream)
            end_ns = time.monotonic_ns()
            self._on_result(
                WindowResult(job, detections, self._streams[job.camera], begin_ns - job.closed_ns, end_ns - begin_ns)
            )
        except Exception as error:  # a node must outlive one bad window, whatever a plugin raised
            log.debug("window [%d, %d) us failed", job.window.t_start_us, job.window.t_end_us, exc_info=True)
            self._reset(job.camera)
            self._on_error(job, error)
