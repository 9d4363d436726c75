"""More windows than a model can take, and then no more: what the node's queue and inference make of that.

They are the node's own, driven by a clock that is made up: a window takes the model as long as is said here, whatever
it took, so that a run is the same on every machine. Nothing in here needs ROS.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from snn_perception.registry import Registry
from snn_perception.ros.jobs import WindowJob
from snn_perception.ros.queue import JobQueue, OverloadPolicy
from snn_perception.ros.results import Told, WindowResult
from snn_perception.ros.worker import InferenceThread
from snn_perception.runtime.pipeline import DetectionPipeline
from snn_perception.runtime.serving import Serving
from snn_perception.runtime.soak import MAX_GROWTH, MAX_GROWTH_MIB, Look, SceneCamera, look_now
from snn_perception.types import Detections, EventWindow

STEADY_LOAD = 0.5  # share of its time that the model is busy then
MAX_RECOVERY_S = 1.0


@dataclass(frozen=True)
class OverloadReport:
    """What became of every window, and how it ended.

    Attributes:
        times: how much faster windows came than the model took them. overload_s: for how long, stream time.
        windows: that came. published, caught_up, dropped, failed, waiting: what became of them; the last, at the end.
        published_in_overload: of `published`, while they came too fast.
        most_waiting: in the queue at any time; queue_size: its bound.
        recovery_s: stream time from when the rate fell to when no window waited; None if that never was.
        compared, differing: of the detections after the last window that was dropped, how many were compared with those
            of a stream that began behind it, and how many were not the same; 0 compared unless a gap is a reset.
        looks: before, during and after the overload.
    """

    times: float
    overload_s: float
    windows: int
    published: int
    caught_up: int
    dropped: int
    failed: int
    waiting: int
    published_in_overload: int
    detections: int
    most_waiting: int
    queue_size: int
    recovery_s: float | None
    compared: int
    differing: int
    looks: tuple[Look, ...]

    @property
    def growth_mib(self) -> float:
        """Growth of the resident memory from the first look in the overload to the last of all."""
        return self.looks[-1].resident_mib - self.looks[1].resident_mib

    def summary(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        figures = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "looks"}
        resident = [round(look.resident_mib, 1) for look in (self.looks[1], self.looks[-1])]
        return {**figures, "resident_mib": resident, "growth_mib": round(self.growth_mib, 2)}

    def faults(self) -> list[str]:
        """Return what went wrong, in words; none if nothing did."""
        found, told = [], self.published + self.caught_up + self.dropped + self.failed + self.waiting
        if told != self.windows:
            found.append(f"{self.windows} windows came and {told} were accounted for")
        if not self.dropped:
            found.append("no window was dropped: that was no overload")
        if self.most_waiting > self.queue_size:
            found.append(f"{self.most_waiting} windows waited in a queue for {self.queue_size}")
        if self.recovery_s is None or self.recovery_s > MAX_RECOVERY_S:
            took = "never" if self.recovery_s is None else f"after {self.recovery_s:.2f} s"
            found.append(f"windows waited no more {took}, at most {MAX_RECOVERY_S:g} s are allowed")
        limit = min(MAX_GROWTH_MIB, MAX_GROWTH * self.looks[1].resident_mib)
        if self.growth_mib > limit:
            found.append(f"resident memory grew by {self.growth_mib:.1f} MiB, at most {limit:.1f} is allowed")
        if self.differing:
            found.append(f"{self.differing} of {self.compared} windows after it differ from those of a new stream")
        if not self.detections:
            found.append("nothing was detected: that proves little")
        if not self.published_in_overload:
            found.append("nothing was published during the overload")
        return found


def overload(
    pipeline: DetectionPipeline,
    registry: Registry,
    *,
    times: float,
    duration_s: float,
    calm_s: float = 10.0,
    queue_size: int = 8,
    policy: OverloadPolicy = "catch_up",
    looks: int = 40,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> OverloadReport:
    """Let windows come `times` as fast as a model takes them for so much stream time, and return what became of them.

    Before and after they come at a rate that it can take, for `calm_s` each.

    Args:
        pipeline: of a model that fires on shapes. looks: how often to look at memory meanwhile.
    """
    run = _Run(pipeline, registry, queue_size, policy)
    window_s = pipeline.spec.stride_us / 1e6
    cost_s = STEADY_LOAD * window_s
    steady, rushed, after = (round(seconds / window_s) for seconds in (calm_s, duration_s, calm_s))
    total, every = steady + rushed + after, max(1, rushed // looks)
    for number in range(total):
        is_rushed = steady <= number < steady + rushed
        if number == steady:
            run.look()
        if number == steady + rushed:
            run.end_rush()
        run.next(cost_s / times if is_rushed else window_s, cost_s, is_rushed=is_rushed)
        if is_rushed and (number - steady) % every == 0:
            run.look()
            on_progress(number + 1, total)
    on_progress(total, total)
    return run.report(times, rushed * window_s)


class _Run:
    """One camera, the node's queue and its inference, and the made-up time."""

    def __init__(
        self, pipeline: DetectionPipeline, registry: Registry, queue_size: int, policy: OverloadPolicy
    ) -> None:
        self._pipeline, self._window_s = pipeline, pipeline.spec.stride_us / 1e6
        self._camera = SceneCamera(registry, pipeline, 0)
        self._queue, self._size = JobQueue(queue_size, policy), queue_size
        told = Told(
            self._published, self._caught_up, self._failed, lambda *_: None, lambda *_: None
        )  # no swap, no saved state
        self._inference = InferenceThread(Serving(pipeline), self._queue, told)
        self._now_s = self._free_s = 0.0
        self._counts: Counter[str] = Counter()
        self._latest: deque[EventWindow] = deque(maxlen=queue_size + 1)
        self._after: list[EventWindow] | None = None  # since the rate fell, and those that waited then
        self._results: dict[int, Detections] = {}  # published since then, by time
        self._last_dropped = 0  # number of the window, from 1
        self._fell_at: int | None = None
        self._recovery_s: float | None = None
        self._is_rushed = False
        self._most_waiting = 0
        self._looks: list[Look] = []
        self._began_s = time.monotonic()

    def next(self, after_s: float, cost_s: float, *, is_rushed: bool) -> None:
        """Let the next window come so much later, and each that is run until then take `cost_s`."""
        self._is_rushed = is_rushed
        self._now_s += after_s
        self._work(cost_s)
        window = next(self._camera.windows)
        self._counts["windows"] += 1
        (self._latest if self._after is None else self._after).append(window)
        if dropped := self._queue.put(WindowJob(self._camera.name, window, window.t_end_us * 1000, "", 0)):
            self._counts["dropped"] += dropped
            self._last_dropped = self._counts["windows"] - self._size  # the one before those that wait
        self._most_waiting = max(self._most_waiting, len(self._queue))
        if self._free_s <= self._now_s:
            self._free_s = self._now_s
            self._take(cost_s)
        if self._fell_at is not None and self._recovery_s is None and not len(self._queue):
            self._recovery_s = (self._counts["windows"] - self._fell_at) * self._window_s

    def end_rush(self) -> None:
        """Note that windows come no more too fast from here on."""
        self._fell_at, self._after = self._counts["windows"], list(self._latest)
        self.look()

    def look(self) -> None:
        """Note how things stand."""
        counts = self._counts
        wall_s = time.monotonic() - self._began_s
        self._looks.append(
            look_now(counts["windows"] * self._window_s, counts["windows"], counts["detections"], wall_s)
        )

    def report(self, times: float, overload_s: float) -> OverloadReport:
        """Return what became of every window."""
        counts = self._counts
        compared, differing = self._compare()
        self._after, self._results = None, {}
        self.look()
        return OverloadReport(
            times=times,
            overload_s=overload_s,
            **{name: counts[name] for name in ("windows", "published", "caught_up", "dropped", "failed")},
            waiting=len(self._queue),
            published_in_overload=counts["published in overload"],
            detections=counts["detections"],
            most_waiting=self._most_waiting,
            queue_size=self._size,
            recovery_s=self._recovery_s,
            compared=compared,
            differing=differing,
            looks=tuple(self._looks),
        )

    def _work(self, cost_s: float) -> None:
        """Run what the model has the time for until now."""
        while len(self._queue) and self._free_s <= self._now_s:
            self._take(cost_s)

    def _take(self, cost_s: float) -> None:
        job = self._queue.get()
        assert job is not None
        self._inference.do(job)
        self._free_s += cost_s

    def _compare(self) -> tuple[int, int]:
        """Return how many detections after the last dropped window were compared with those of a new stream, and how
        many differed."""
        if not _comes_anew(self._pipeline) or self._after is None:
            return 0, 0
        new, compared, differing = Serving(self._pipeline), 0, 0
        behind = self._last_dropped - self._counts["windows"]  # counted from the end
        for window in self._after[behind:]:
            expected, found = new.window("", window), self._results.get(window.t_end_us)
            if found is not None:
                compared += 1
                differing += not _same(found, expected)
        return compared, differing

    def _published(self, result: WindowResult) -> None:
        self._counts["published"] += 1
        self._counts["published in overload"] += self._is_rushed
        self._counts["detections"] += len(result.detections)
        if self._after is not None:
            self._results[result.job.window.t_end_us] = result.detections

    def _caught_up(self, job: WindowJob) -> None:
        self._counts["caught_up"] += 1

    def _failed(self, job: WindowJob, error: Exception, in_step: bool) -> None:
        self._counts["failed"] += 1


def _comes_anew(pipeline: DetectionPipeline) -> bool:
    """Return whether a stream behind dropped windows is to be a new one."""
    return pipeline.gap_policy == "reset"


def _same(one: Detections, other: Detections) -> bool:
    """Return whether detections are equal, bit for bit."""
    columns = ((one.xyxy, other.xyxy), (one.score, other.score), (one.class_id, other.class_id))
    return one.t_us == other.t_us and all(mine.tobytes() == theirs.tobytes() for mine, theirs in columns)
