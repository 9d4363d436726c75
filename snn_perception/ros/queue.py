"""A bounded queue between the subscriptions and the inference thread; what it drops is counted."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Literal

from snn_perception.types import EventWindow

OverloadPolicy = Literal["drop_oldest", "block"]


@dataclass(frozen=True)
class WindowJob:
    """One window to infer, with what its message needs: stamp, frame, and when it was closed (monotonic, ns)."""

    camera: str
    window: EventWindow
    stamp_ns: int
    frame_id: str
    closed_ns: int


@dataclass(frozen=True)
class ResetJob:
    """Put one camera's membranes to rest, after the windows queued before it."""

    camera: str


Job = WindowJob | ResetJob


class JobQueue:
    """Jobs in order. At most `size` windows of each camera wait, so that one camera cannot crowd out another."""

    def __init__(self, size: int, policy: OverloadPolicy) -> None:
        self._size, self._policy = size, policy
        self._jobs: deque[Job] = deque()
        self._waiting: dict[str, int] = {}
        self._changed = threading.Condition()
        self._closed = False

    def put(self, job: Job, timeout_s: float | None = None) -> int:
        """Add a job; return how many windows were dropped for it, itself included once the queue is closed.

        Under ``block`` it waits for room; where a `timeout_s` runs out first, the oldest window is dropped after all.
        """
        dropped = 0
        with self._changed:
            if isinstance(job, WindowJob):
                if self._policy == "block":
                    self._changed.wait_for(lambda: self._closed or self._count(job.camera) < self._size, timeout_s)
                if self._closed:
                    return 1
                while self._count(job.camera) >= self._size:
                    self._drop_oldest(job.camera)
                    dropped += 1
                self._waiting[job.camera] = self._count(job.camera) + 1
            self._jobs.append(job)
            self._changed.notify_all()
        return dropped

    def get(self) -> Job | None:
        """Return the next job when there is one, None once the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._jobs))
            if not self._jobs:
                return None
            job = self._jobs.popleft()
            if isinstance(job, WindowJob):
                self._waiting[job.camera] -= 1
            self._changed.notify_all()
            return job

    def discard(self) -> int:
        """Close the queue and throw away what is in it; return how many windows that were."""
        with self._changed:
            self._closed = True
            lost = sum(isinstance(job, WindowJob) for job in self._jobs)
            self._jobs.clear()
            self._waiting.clear()
            self._changed.notify_all()
            return lost

    def close(self) -> None:
        """Let waiting callers go; jobs still queued are handed out, new ones are not taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __len__(self) -> int:
        return len(self._jobs)

    def _count(self, camera: str) -> int:
        return self._waiting.get(camera, 0)

    def _drop_oldest(self, camera: str) -> None:
        for index, job in enumerate(self._jobs):
            if isinstance(job, WindowJob) and job.camera == camera:
                del self._jobs[index]
                self._waiting[camera] -= 1
                return
