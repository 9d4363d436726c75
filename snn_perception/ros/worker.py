"""The inference thread: the only one that drives the served streams. It takes jobs and hands results on."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from snn_perception.ros.jobs import Job, LoadJob, ResetJob, SwapJob, WindowJob
from snn_perception.ros.queue import JobQueue
from snn_perception.ros.results import Told, WindowResult
from snn_perception.runtime.activity_watch import ActivityWatch
from snn_perception.runtime.pipeline import DetectionPipeline
from snn_perception.runtime.rates import camera_of
from snn_perception.runtime.serving import Serving
from snn_perception.runtime.state_file import SavedStream
from snn_perception.runtime.stream import StreamState
from snn_perception.spec import ModelSpec
from snn_perception.types import Detections

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batching:
    """How many windows of different cameras may run as one batch, and how long the first waits for the others."""

    most: int = 1
    slack_ns: int = 0

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Batching:
        """Return what the node's parameters say."""
        return cls(settings["batch_cameras"], round(settings["batch_slack_ms"] * 1e6))


class InferenceThread:
    """Runs jobs from `queue` until it is closed.

    Args:
        serving: the model and the streams. told: who hears of what comes of it.
        watch: looks into the network now and then.

    Attributes:
        max_age_ms: a window whose turn comes later after its end is run for its state alone; 0: never.
        batching: of windows of different cameras. Both may change at any time.
    """

    def __init__(self, serving: Serving, queue: JobQueue, told: Told, watch: ActivityWatch | None = None) -> None:
        self._serving, self._queue, self._told = serving, queue, told
        self.max_age_ms = 0
        self.batching = Batching()
        self._watch = watch or ActivityWatch(lambda: 0.0)
        self._waiting: dict[str, LoadJob] = {}  # states that are to be taken up, if the next window comes in time
        self._changes: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._stamps: dict[str, int] = {}
        self._in_a_row: Counter[str] = Counter()  # of each camera, windows that were caught up with
        self._failed = 0  # windows
        self._saved: dict[str, SavedStream] = {}
        self._saved_of = serving.pipeline.spec
        self._abandoned = False
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)

    def start(self) -> None:
        """Start the thread; every camera begins at rest."""
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether the thread is still at work."""
        return self._thread.is_alive()

    def change(self, settings: Mapping[str, Any]) -> None:
        """Change settings, all of them together, from the next window on; from any thread."""
        with self._lock:
            self._changes |= settings

    def streams(self) -> dict[str, SavedStream]:
        """Return each stream's state after its last window, with the stamp of its detections; from any thread."""
        return self.snapshot()[1]

    def snapshot(self) -> tuple[ModelSpec, dict[str, SavedStream]]:
        """Return the same, and the model whose states they are; from any thread."""
        with self._lock:
            return self._saved_of, dict(self._saved)

    def stop(self, timeout_s: float) -> int | None:
        """Finish the queued jobs and end the thread.

        Returns None when all is done. After `timeout_s` it returns how many queued windows were thrown away; the step
        in hand may go on for a while (see `is_running`), but its result goes nowhere.
        """
        self._queue.close()
        if self.is_running:  # it may never have been started
            self._thread.join(timeout_s)
        if not self.is_running:
            return None
        self._abandoned = True
        return self._queue.discard()

    def _run(self) -> None:
        while jobs := self._queue.get_batch(self._most(), self.batching.slack_ns):
            try:
                if len(jobs) > 1:
                    self.do_batch([job for job in jobs if isinstance(job, WindowJob)])  # none are of another kind
                else:
                    self.do(jobs[0])
            except Exception as error:  # without this thread the node would be there and do nothing
                log.error("%s: %s: %s; detection goes on", type(jobs[0]).__name__, type(error).__name__, error)
                log.debug("what went wrong", exc_info=error)

    def _most(self) -> int:
        """Return how many windows may run as one batch: under a deadline, and beside a new model, one."""
        is_alone = self._serving.pipeline.deadline_ms or self._serving.is_swapping
        return 1 if is_alone else self.batching.most

    def do(self, job: Job) -> None:
        """Do one job; the thread does so with every job that comes."""
        if isinstance(job, WindowJob):
            self._infer(job)
        elif isinstance(job, ResetJob):
            for name in self._streams_of(job.camera):
                self._waiting.pop(name, None)
                self._serving.reset(name)
                self._remember(name)
        elif isinstance(job, LoadJob):
            self._waiting[job.camera] = job
        elif job.pipeline is None:
            self._serving.give_up()
        else:
            self._swap(job, job.pipeline)

    def do_batch(self, jobs: Sequence[WindowJob]) -> None:
        """Run windows of different cameras as one batch, but for those that must run alone."""
        self._take_changes()
        together = [job for job in jobs if self._may_run_beside(job)] if self._most() > 1 else []
        error = self._infer_batch(together) if len(together) > 1 else None
        is_done = len(together) > 1 and error is None
        done, failed = {job.camera for job in together if is_done}, self._failed
        for job in jobs:
            if job.camera not in done:
                self._infer(job)
        if error is not None and self._failed == failed:  # no window is to blame
            self.batching = Batching()
            log.error(
                "a batch of %d windows failed, and none of them alone: %s: %s; windows are run one by one from now on",
                *(len(together), type(error).__name__, error),
            )

    def _may_run_beside(self, job: WindowJob) -> bool:
        waits = job.stream in self._waiting or self._watch.is_due(job.camera)
        return not waits and not self._is_late(job, time.monotonic_ns())

    def _infer_batch(self, jobs: Sequence[WindowJob]) -> Exception | None:
        """Run windows as one batch; return what went wrong, after which each of them is still to be run."""
        begin_ns = time.monotonic_ns()
        try:
            found = self._serving.batch([(job.stream, job.window) for job in jobs])
        except Exception as error:  # of one window, or of the batch itself: each alone will tell
            log.debug("a batch of %d windows failed", len(jobs), exc_info=error)
            return error
        end_ns = time.monotonic_ns()
        for job in jobs:
            self._in_a_row[job.camera] = 0
            self._stamps[job.stream] = job.stamp_ns
        self._remember(*(job.stream for job in jobs))
        for job, detections in zip(jobs, found, strict=True):
            self._tell(job, detections, begin_ns, end_ns, len(jobs))
        return None

    def _infer(self, job: WindowJob) -> None:
        self._take_changes()
        self._take_up(job)
        begin_ns = time.monotonic_ns()
        if self._is_late(job, begin_ns):
            self._catch_up(job)
            return
        self._in_a_row[job.camera] = 0
        try:
            with self._watch.around(job.camera, job.window, self._serving.pipeline.detector):
                detections = self._look(job)
        except Exception as error:  # a node must outlive one bad window, whatever a plugin raised
            self._fail(job, error, job.peek_at_us is None)
            self._remember(job.stream)
            return
        end_ns = time.monotonic_ns()
        if job.peek_at_us is None:
            self._stamps[job.stream] = job.stamp_ns
            self._remember(job.stream)
        self._tell(job, detections, begin_ns, end_ns)
        if not self._abandoned:
            self._follow(job)

    def _tell(self, job: WindowJob, detections: Detections, begin_ns: int, end_ns: int, batch: int = 1) -> None:
        """Hand on what is seen in a window."""
        if self._abandoned:
            return
        stream = self._serving.streams.get(job.stream, StreamState())
        waited_ns, inference_ns = begin_ns - job.closed_ns, end_ns - begin_ns
        spec = self._serving.pipeline.spec
        try:
            self._told.result(WindowResult(job, spec, detections, stream, waited_ns, inference_ns, batch))
        except Exception as error:  # a message that could not go out says nothing about the state
            self._fail(job, error, False)

    def _is_late(self, job: WindowJob, now_ns: int) -> bool:
        """Return whether a window is to be run for its state alone."""
        return self._is_behind(job) or 0 < self.max_age_ms * 1_000_000 < now_ns - job.closed_ns

    def _is_behind(self, job: WindowJob) -> bool:
        """Return whether a window should only be caught up with.

        As many in a row as a queue holds were of no use: more windows come than that can save, and for as long as they
        do nothing would come out. So the next one is looked at.
        """
        return self._queue.is_behind(job.camera) and self._in_a_row[job.camera] < self._queue.size

    def _look(self, job: WindowJob) -> Detections:
        if job.peek_at_us is None:
            return self._serving.window(job.stream, job.window, since_ns=job.closed_ns)
        return self._serving.peek(job.stream, job.window, job.peek_at_us, since_ns=job.closed_ns)

    def _catch_up(self, job: WindowJob) -> None:
        if job.peek_at_us is not None:
            self._queue.skipped_peeks[job.camera] += 1
            return
        try:
            self._serving.catch_up(job.stream, job.window)
        except Exception as error:
            self._fail(job, error, True)
            self._remember(job.stream)
            return
        self._in_a_row[job.camera] += 1
        self._stamps[job.stream] = job.stamp_ns
        self._remember(job.stream)
        if not self._abandoned:
            self._told.caught_up(job)
            self._follow(job)

    def _follow(self, job: WindowJob) -> None:
        """Let a model that is to take over see the window too, after its detections went out."""
        if self._serving.is_swapping and job.peek_at_us is None:
            error = self._serving.follow(job.stream, job.window)
            if not self._serving.is_swapping:
                self._remember(*self._serving.streams)
                self._told.swapped(self._serving.coming, self._serving.pipeline, error)

    def _swap(self, job: SwapJob, pipeline: DetectionPipeline) -> None:
        self._take_changes()  # what was asked for together with the model must not be held against it
        try:
            self._serving.swap(pipeline, job.warm_us, job.name)
        except Exception as error:
            self._told.swapped(job.name, self._serving.pipeline, error)

    def _take_changes(self) -> None:
        with self._lock:
            changes, self._changes = self._changes, {}
        for name, value in changes.items():
            try:
                refusal = self._serving.set(name, value)
            except Exception as error:  # it was asked of the model before, which has been followed by another one since
                log.error("%s stays %s: %s", name, getattr(self._serving.pipeline, name), error)
                continue
            if refusal is not None:
                self._told.swapped(self._serving.coming, self._serving.pipeline, refusal)

    def _take_up(self, job: WindowJob) -> None:
        """Go on from a saved state that was waiting for this camera's next window, if that does not come too late."""
        waiting = self._waiting.pop(job.stream, None)
        if waiting is None:
            return
        gap_ms = (job.stamp_ns - waiting.saved.stamp_ns) / 1e6
        if waiting.max_gap_ms is None or 0 < gap_ms <= waiting.max_gap_ms:
            self._serving.load(job.stream, waiting.saved.stream, waiting.file)
        else:
            self._told.refused(waiting, gap_ms)

    def _remember(self, *names: str) -> None:
        streams = self._serving.streams  # one that was only looked at so far is not there
        saved = {name: SavedStream(streams[name], self._stamps.get(name, 0)) for name in names if name in streams}
        with self._lock:
            self._saved |= saved
            self._saved_of = self._serving.pipeline.spec

    def _streams_of(self, camera: str) -> list[str]:
        """Return the names of a camera's states, its own and those of its phases."""
        known = (*self._serving.streams, *self._waiting)
        return sorted({camera, *(name for name in known if camera_of(name) == camera)})

    def _fail(self, job: WindowJob, error: Exception, in_step: bool) -> None:
        self._failed += in_step
        log.debug("window [%d, %d) us failed", job.window.t_start_us, job.window.t_end_us, exc_info=error)
        if not self._abandoned:
            self._told.failed(job, error, in_step)
