"""A bounded queue between the subscriptions and the inference thread; what it drops is counted."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Literal

from snn_perception.ros.cadence import Cadence, Room
from snn_perception.ros.crowding import Crowding
from snn_perception.ros.giving_way import GivingWay
from snn_perception.ros.jobs import Job, SwapJob, WindowJob
from snn_perception.runtime.rates import camera_of
from snn_perception.runtime.stream import CarriedGaps

CROWDED_TURNS = 4
OverloadPolicy = Literal["catch_up", "drop_oldest", "block"]


class JobQueue:
    """Jobs of each camera in order, cameras in turn.

    At most `size` windows of each camera wait, and the camera that was served longest ago comes next. One that sends
    too much, with more than half as many in line of late and windows much faster than those of another, comes after
    `CROWDED_TURNS` turns of others if there are any, lets a window pass that is due within a step (`Room`), and takes
    no messages meanwhile (`GivingWay`). Where a dropped window was the first after an interruption, the next one of its
    stream tells of that.

    Attributes:
        size: as given. policy: what happens when more come; it may change at any time.
        skipped_peeks: of each camera, the looks at parts of windows that the next window overtook.
    """

    def __init__(self, size: int, policy: OverloadPolicy) -> None:
        self.size = size
        self.skipped_peeks: Counter[str] = Counter()
        self.policy = policy
        self._jobs: deque[Job] = deque()
        self._waiting: dict[str, int] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._turn = CROWDED_TURNS  # nobody has been served for as long
        self._served: dict[str, int] = {}  # camera -> its last turn
        self._cadences: dict[str, Cadence] = {}  # of each camera, dropped windows too
        self._room, self._way = Room(), GivingWay(self._changed)
        self._crowding = Crowding()
        self._gaps = CarriedGaps()

    def put(self, job: Job, timeout_s: float | None = None) -> int:
        """Add a job; return how many windows were dropped for it, itself included once the queue is closed.

        Under ``block`` it waits for room; where a `timeout_s` runs out first, the oldest window is dropped after all.
        """
        dropped = 0
        with self._changed:
            if isinstance(job, WindowJob):
                if self.policy != "block":
                    self._drop_peek(job.camera)
                if self.policy == "block":
                    self._changed.wait_for(lambda: self._closed or self._count(job.camera) < self.size, timeout_s)
                if self._closed:
                    return 1
                while self._count(job.camera) >= self.size:
                    self._drop_oldest(job.camera)
                    dropped += 1
                self._waiting[job.camera] = self._count(job.camera) + 1
                if job.peek_at_us is None:
                    cadence = self._cadences.get(job.camera, Cadence())
                    self._cadences[job.camera] = cadence.then(job.window.t_end_us, job.closed_ns)
                if 2 * self._count(job.camera) > self.size:
                    self._crowding.note(job.camera, self._cadences)
            self._jobs.append(job)
            self._changed.notify_all()
        return dropped

    def get(self) -> Job | None:
        """Return the next job when there is one, None once the queue is closed and empty."""
        return next(iter(self.get_batch(1)), None)

    def get_batch(self, most: int, slack_ns: int = 0) -> list[Job]:
        """Return the next job when there is one, and beside a window those of other cameras; [] at the end, as `get`.

        Of each other camera that is the window that stands first in its line, unless it is only to be looked at or
        caught up with. Those come first whose camera was served longest ago.

        Args:
            most: windows at most.
            slack_ns: so long after the window was closed those of other cameras are waited for whose next one ends at
                the same time, give or take as much: nobody waits for a camera whose window of that time has been, or
                that has fallen silent, nor with more jobs of the window's own camera in line.
        """
        with self._changed:
            self._room.end(time.monotonic_ns())
            self._way.end()
            self._changed.wait_for(lambda: self._closed or bool(self._jobs))
            self._leave_room()
            if not self._jobs:
                return []
            first = self._take(self._next())
            jobs = [first]
            if most > 1 and isinstance(first, WindowJob) and self._may_run_beside(first):
                self._wait_for_others(first, most, slack_ns)
                cameras = {first.camera}
                while len(jobs) < most and (index := self._next_beside(cameras)) is not None:
                    jobs.append(self._take(index))
                    cameras.add(jobs[-1].camera)  # type: ignore[union-attr]  # it is a window
            self._changed.notify_all()
            self._room.begin(first.camera if isinstance(first, WindowJob) else None, time.monotonic_ns())
            if self._crowding.sends_well(self._cadences):
                self._way.begin()
            return jobs

    def _take(self, index: int) -> Job:
        """Take a job out of the line."""
        job = self._jobs[index]
        del self._jobs[index]
        self._turn += 1
        if not isinstance(job, SwapJob):
            self._served[camera_of(job.camera)] = self._turn
        if isinstance(job, WindowJob):
            self._waiting[job.camera] -= 1
            window = self._gaps.tell(job.stream, job.window, is_peek=job.peek_at_us is not None)
            job = job if window is job.window else replace(job, window=window)
        return job

    def is_behind(self, camera: str) -> bool:
        """Return whether so many windows of a camera wait that those in front should only be caught up with."""
        return self._would_be_behind(self._count(camera))

    def is_crowded(self, camera: str) -> bool:
        """Return whether a camera is behind of late and sends more than others (`Crowding`); from any thread."""
        return self.policy != "block" and self._crowding.sends_too_much(camera)

    def was_behind(self, camera: str) -> bool:
        """Return whether more windows of a camera were in line of late than half of what is kept; from any thread."""
        return self.policy != "block" and self._crowding.is_behind(camera)

    def give_way(self, camera: str) -> None:
        """Wait a little, if a camera sends too much and others do not, while a window is in hand.

        From the thread that takes the camera's messages, before each of them; after the last `has_taken`.
        """
        if self.is_crowded(camera):
            self._way.wait(camera)

    def wait_for_a_moment(self) -> None:
        """Wait a little while a window is in hand: for work that can be done then or later. From any thread."""
        self._way.wait_for_a_moment()

    def has_taken(self, camera: str) -> None:
        """Note that all is taken that has come of a camera, from the same thread."""
        self._way.is_done(camera)

    def _would_be_behind(self, waiting: int) -> bool:
        return self.policy == "catch_up" and 2 * waiting > self.size

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

    def _next(self) -> int:
        """Return the place of the first job of the camera that was served longest ago; a swap goes first."""
        for index, job in enumerate(self._jobs):
            if isinstance(job, SwapJob):
                return index
        return self._longest_ago(self._heads_in_turn())

    def _heads_in_turn(self) -> dict[str, int]:
        """Return the places of the first jobs of those cameras whose turn it may be: all, but those that send too much
        only every few turns while there are others."""
        heads = self._heads()
        steady = {
            camera: index
            for camera, index in heads.items()
            if not self.is_crowded(camera) or self._turn - self._served.get(camera, 0) >= CROWDED_TURNS
        }
        return steady or heads

    def _heads(self) -> dict[str, int]:
        """Return the place of each camera's first job; a swap concerns them all, so that none has one before it."""
        found: dict[str, int] = {}
        for index, job in enumerate(self._jobs):
            if isinstance(job, SwapJob):
                return {}
            found.setdefault(camera_of(job.camera), index)  # a state may be of a phase
        return found

    def _longest_ago(self, places: Mapping[str, int]) -> int:
        return min(places.items(), key=lambda one: self._served.get(one[0], 0))[1]

    def _beside(self, cameras: Collection[str]) -> dict[str, int]:
        """Return the places of windows that may run beside those of some cameras."""
        found = {}
        for camera, index in self._heads().items():
            job = self._jobs[index]
            if camera not in cameras and isinstance(job, WindowJob) and self._may_run_beside(job, queued=1):
                found[camera] = index
        return found

    def _next_beside(self, cameras: Collection[str]) -> int | None:
        places = self._beside(cameras)
        return self._longest_ago(places) if places else None

    def _may_run_beside(self, job: WindowJob, queued: int = 0) -> bool:
        """Return whether a window, which is itself among those `queued`, is to be run as a whole."""
        return job.peek_at_us is None and not self._would_be_behind(self._count(job.camera) - queued)

    def _leave_room(self) -> None:
        """Let a camera that sends too much wait for another's window that is about to come: it would be in the way."""
        if self._closed or not self._jobs:
            return
        job = self._jobs[self._next()]
        if isinstance(job, WindowJob) and self.is_crowded(job.camera) and not self._has_other_than(job.camera):
            in_line = {camera_of(one.camera) for one in self._jobs if not isinstance(one, SwapJob)}
            others = [cadence for camera, cadence in self._cadences.items() if camera not in in_line]
            spare_ns = self._room.spare_ns(others, time.monotonic_ns())
            has_taken = self._way.let_take(lambda: self._has_other_than(job.camera), spare_ns / 1e9)
            wait_ns = self._room.for_others_ns(job.camera, others, time.monotonic_ns(), whatever_is_due=not has_taken)
            if wait_ns:
                self._turn += 1
                self._served[job.camera] = self._turn  # it lets the other one pass
                self._changed.wait_for(lambda: self._has_other_than(job.camera), wait_ns / 1e9)

    def _has_other_than(self, camera: str) -> bool:
        """Return whether there is something to do besides windows of a camera, or nothing more to wait for."""
        return self._closed or any(not isinstance(job, WindowJob) or job.camera != camera for job in self._jobs)

    def _wait_for_others(self, first: WindowJob, most: int, slack_ns: int) -> None:
        left_ns = first.closed_ns + slack_ns - time.monotonic_ns()
        if left_ns > 0:
            self._changed.wait_for(lambda: not self._others_are_due(first, most, slack_ns), left_ns / 1e9)

    def _others_are_due(self, first: WindowJob, most: int, slack_ns: int) -> bool:
        """Return whether there is a window to wait for that may run beside `first`."""
        in_line = {camera_of(job.camera) for job in self._jobs if not isinstance(job, SwapJob)}
        is_swap_in_line = any(isinstance(job, SwapJob) for job in self._jobs)
        if self._closed or is_swap_in_line or first.camera in in_line or len(self._beside({first.camera})) >= most - 1:
            return False
        return any(
            cadence.next_is_at(first.window.t_end_us, slack_ns // 1000)
            for camera, cadence in self._cadences.items()
            if camera != first.camera and camera not in in_line
        )

    def _drop_peek(self, camera: str) -> None:
        """Drop a look at a part of a window that waits at the end of a camera's jobs: a later one says more."""
        for index in reversed(range(len(self._jobs))):
            job = self._jobs[index]
            if isinstance(job, WindowJob) and job.camera == camera:
                if job.peek_at_us is not None:
                    self._leave_out(index, job)
                    self.skipped_peeks[camera] += 1
                return

    def _drop_oldest(self, camera: str) -> None:
        for index, job in enumerate(self._jobs):
            if isinstance(job, WindowJob) and job.camera == camera:
                self._leave_out(index, job)
                return

    def _leave_out(self, index: int, job: WindowJob) -> None:
        del self._jobs[index]
        self._waiting[job.camera] -= 1
        self._gaps.leave_out(job.stream, job.window)
