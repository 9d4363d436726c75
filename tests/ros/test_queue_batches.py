"""Windows of several cameras out of the queue together: which join, in what order, and who is waited for."""

import threading
import time
from dataclasses import replace

import pytest

from snn_perception.ros.jobs import LoadJob, ResetJob, SwapJob
from snn_perception.ros.queue import JobQueue
from snn_perception.runtime.state_file import SavedStream
from snn_perception.runtime.stream import StreamState
from tests.ros.test_queue import after_gap, job, name, peek

LONG_NS = 10**12  # of slack: whoever is waited for in vain hangs


def queue_of(*jobs, size=8, policy="drop_oldest"):
    queue = JobQueue(size, policy)
    for item in jobs:
        queue.put(item)
    return queue


def turn(queue, most=16):
    return [name(item) for item in queue.get_batch(most)]


def closed_now(item):
    return replace(item, closed_ns=time.monotonic_ns())


def cameras(k, *names):
    return [job(k, camera) for camera in names]


def test_one_window_of_each_camera_joins_and_each_keeps_its_order():
    queue = queue_of(job(0), job(1), job(2), *cameras(5, "right", "rear"), job(6, "rear"))
    assert turn(queue) == ["left 0", "right 5", "rear 5"]
    assert turn(queue) == ["left 1", "rear 6"]
    assert turn(queue) == ["left 2"]
    assert len(queue) == 0


def test_no_more_than_asked_for_join_and_cameras_take_turns():
    queue = queue_of(*(job(k, camera) for k in range(2) for camera in ("a", "b", "c")))
    assert turn(queue, 2) == ["a 0", "b 0"]
    assert turn(queue, 2) == ["c 0", "a 1"], "that which has been served longest ago comes first"
    assert turn(queue, 1) == ["b 1"]
    assert turn(queue, 2) == ["c 1"]


def test_other_jobs_run_alone_and_nothing_overtakes_them():
    load = LoadJob("rear", SavedStream(StreamState()))
    queue = queue_of(job(0), ResetJob("right"), job(0, "right"), load, job(0, "rear"))
    assert turn(queue) == ["left 0"]
    assert turn(queue) == ["right reset"]
    assert queue.get_batch(16) == [load]
    assert turn(queue) == ["right 0", "rear 0"]


def test_looks_at_parts_run_alone():
    look = peek(1, 2)
    queue = queue_of(job(0, "right"), look, job(1, "right"))
    assert turn(queue) == ["right 0"]
    assert queue.get_batch(16) == [look] and turn(queue) == ["right 1"]


def test_phases_of_different_cameras_join_but_not_those_of_one():
    queue = queue_of(job(0), replace(job(1), phase=1), replace(job(1, "right"), phase=1))
    assert turn(queue) == ["left 0", "right 1"] and turn(queue) == ["left 1"]


def test_a_camera_that_is_behind_is_caught_up_with_alone():
    queue = queue_of(job(0, "right"), *(job(k) for k in range(4)), size=4, policy="catch_up")
    assert turn(queue) == ["right 0"], "with 3 more behind it, left's first is not run as a whole"
    assert turn(queue) == ["left 0"]
    queue.put(job(1, "right"))
    assert turn(queue) == ["right 1", "left 1"], "with 2 it is"


def test_a_swap_goes_first_and_alone():
    queue = queue_of(*cameras(0, "left", "right"), SwapJob(None))
    assert isinstance(queue.get_batch(16)[0], SwapJob)
    assert turn(queue) == ["left 0", "right 0"]


def test_an_interruption_is_told_in_a_batch_too():
    queue = queue_of(job(0, "right"), after_gap(job(0)), job(1), job(2), size=2)
    found = queue.get_batch(16)
    assert [(name(item), item.window.after_gap) for item in found] == [("right 0", False), ("left 1", True)]
    assert not queue.get().window.after_gap


def test_room_is_made_for_each_that_joins():
    queue = queue_of(*cameras(0, "left", "right"), size=1, policy="block")
    blocked = threading.Thread(target=lambda: queue.put(job(1, "right")))
    blocked.start()
    assert turn(queue) == ["left 0", "right 0"]
    blocked.join(10)
    assert not blocked.is_alive() and turn(queue) == ["right 1"]


def test_a_closed_queue_hands_out_what_is_left():
    queue = queue_of(*cameras(0, "left", "right"))
    queue.close()
    assert turn(queue) == ["left 0", "right 0"] and queue.get_batch(16) == []


# Waiting


def in_step(*others):
    """Return a queue whose cameras have had two windows each, of the same times."""
    queue = queue_of(*(job(k, camera) for k in range(2) for camera in ("left", *others)))
    while len(queue):
        queue.get()
    return queue


class Waiter(threading.Thread):
    """Asks for a batch; `found` is what came."""

    def __init__(self, queue, most=16, slack_ns=LONG_NS):
        super().__init__(daemon=True)
        self._queue, self._most, self._slack_ns = queue, most, slack_ns
        self.found = None
        self.start()

    def run(self):
        self.found = [name(item) for item in self._queue.get_batch(self._most, self._slack_ns)]

    def result(self):
        self.join(20)
        assert not self.is_alive(), "it waits for nobody"
        return self.found

    def is_idle(self):
        """Return whether it goes on waiting without a window."""
        self.join(0.1)
        return self.is_alive()

    def is_waiting(self):
        """Return whether it has taken its window and goes on waiting."""
        until = time.monotonic() + 20
        while len(self._queue) and time.monotonic() < until:
            time.sleep(0.001)
        self.join(0.05)
        return self.is_alive() and not len(self._queue)


@pytest.fixture
def queue():
    queue = in_step("right")
    queue.put(closed_now(job(2)))
    return queue


def test_a_window_that_ends_at_the_same_time_is_waited_for(queue):
    waiter = Waiter(queue)
    assert waiter.is_waiting()
    queue.put(job(2, "right"))
    assert waiter.result() == ["left 2", "right 2"]


def test_waiting_ends_when_as_many_are_there_as_may_run_together():
    queue = in_step("right", "rear")
    queue.put(closed_now(job(2)))
    waiter = Waiter(queue, most=2)
    assert waiter.is_waiting()
    queue.put(job(2, "rear"))
    assert waiter.result() == ["left 2", "rear 2"]


def test_waiting_ends_with_the_slack(queue):
    assert Waiter(queue, slack_ns=1_000_000).result() == ["left 2"]


def test_a_window_that_has_waited_for_its_turn_waits_no_more():
    queue = in_step("right")
    queue.put(replace(job(2), closed_ns=time.monotonic_ns() - 2 * 10**9))
    assert Waiter(queue, slack_ns=10**9).result() == ["left 2"]


def test_waiting_ends_when_the_queue_is_closed(queue):
    waiter = Waiter(queue)
    assert waiter.is_waiting()
    queue.close()
    assert waiter.result() == ["left 2"]


@pytest.mark.parametrize("other", [ResetJob("left"), SwapJob(None), closed_now(job(3))])
def test_waiting_ends_when_another_job_would_wait_too(other, queue):
    waiter = Waiter(queue)
    assert waiter.is_waiting()
    queue.put(other)
    assert waiter.result() == ["left 2"] and len(queue) == 1


def test_a_camera_with_another_job_in_line_is_not_waited_for(queue):
    queue.put(ResetJob("right"))
    assert Waiter(queue).result() == ["left 2"]


def test_nobody_is_waited_for_by_an_only_camera_or_one_whose_turn_is_alone():
    queue = in_step()
    queue.put(closed_now(job(2)))
    assert Waiter(queue).result() == ["left 2"]
    queue = in_step("right")
    queue.put(closed_now(job(2)))
    assert Waiter(queue, most=1).result() == ["left 2"]


@pytest.mark.parametrize(
    ("last", "waited_for"),
    [
        ((0, 1), True),  # its next window ends with left's third
        ((1, 2), False),  # has been
        ((3, 4), False),  # another clock, ahead
        ((-3, -2), False),  # silent, or another clock, behind
        ((1,), False),  # nobody knows when its next one comes
        ((1, 0), False),  # its time ran back
        ((0.2, 1.2), True),  # within the slack
        ((-0.2, 0.8), True),
        ((0.4, 1.4), False),  # too far off
        ((-0.4, 0.6), False),
    ],
)
def test_whose_window_is_waited_for(last, waited_for):
    """Windows of 100 s and a slack of 30 s."""
    queue = queue_of(long_job(0), long_job(1), *(long_job(k, "right") for k in last))
    while len(queue):
        queue.get()
    queue.put(closed_now(long_job(2)))
    waiter = Waiter(queue, slack_ns=30 * 10**9)
    assert waiter.is_waiting() == waited_for
    queue.close()
    assert waiter.result() is not None


def test_however_long_the_slack_a_camera_is_waited_for_in_one_window(queue):
    waiter = Waiter(queue)
    assert waiter.is_waiting()
    queue.put(closed_now(job(3)))  # so that it ends
    assert waiter.result() == ["left 2"]
    assert Waiter(queue).result() == ["left 3"], "right's third window is late by one"


def long_job(k, camera="left"):
    item = job(0, camera)
    window = replace(item.window, t_start_us=round(k * 1e8), t_end_us=round((k + 1) * 1e8))
    return replace(item, window=window)
