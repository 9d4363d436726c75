"""The bounded queue: order, what it drops, how it waits, and that no camera crowds out another."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from snn_perception.ros.jobs import LoadJob, ResetJob, SwapJob, WindowJob
from snn_perception.ros.queue import JobQueue
from snn_perception.runtime.state_file import SavedStream
from snn_perception.runtime.stream import StreamState
from snn_perception.types import EventArray, EventWindow, SensorSize

SIZE = SensorSize(8, 8)


def job(k: int, camera: str = "left") -> WindowJob:
    return WindowJob(camera, EventWindow(EventArray.empty(SIZE), k * 10, (k + 1) * 10, camera), 0, "", 0)


def name(item) -> str:
    """Return what tells a job apart from the others."""
    return f"{item.camera} reset" if isinstance(item, ResetJob) else f"{item.camera} {item.window.t_start_us // 10}"


def taken(queue: JobQueue) -> list[str]:
    queue.close()
    found = []
    while (item := queue.get()) is not None:
        found.append(name(item))
    return found


def test_jobs_come_out_in_order():
    queue = JobQueue(10, "drop_oldest")
    jobs = [job(0), job(1), ResetJob("left"), job(2)]
    assert [queue.put(item) for item in jobs] == [0, 0, 0, 0]
    assert taken(queue) == [name(item) for item in jobs]


def test_a_full_queue_drops_its_oldest_window_and_says_so():
    queue = JobQueue(2, "drop_oldest")
    assert [queue.put(job(k)) for k in range(5)] == [0, 0, 1, 1, 1]
    assert taken(queue) == ["left 3", "left 4"]


def test_one_camera_does_not_crowd_out_another():
    queue = JobQueue(2, "drop_oldest")
    queue.put(job(0, "right"))
    for k in range(50):
        queue.put(job(k, "left"))
    assert taken(queue) == ["right 0", "left 48", "left 49"]


def test_cameras_take_turns():
    """One that sends too much keeps another waiting for the one window that is under way."""
    queue, now_ns = JobQueue(8, "drop_oldest"), time.monotonic_ns()
    for k in range(2):
        queue.put(replace(job(k, "right"), closed_ns=now_ns + 50_000_000 * (k - 1)))
        queue.get()
    for k in range(8):
        queue.put(replace(job(k, "left"), closed_ns=now_ns + 1_000_000 * k))
    queue.put(job(0, "right"))
    assert [name(queue.get()) for _ in range(3)] == ["left 0", "right 0", "left 1"]
    queue.put(job(1, "right"))
    queue.put(job(2, "right"))
    assert [name(queue.get()) for _ in range(4)] == ["right 1", "right 2", "left 2", "left 3"]
    assert taken(queue) == [f"left {k}" for k in range(4, 8)], "each camera's own order holds"


def test_a_swap_does_not_wait_for_any_camera():
    queue = JobQueue(8, "drop_oldest")
    queue.put(job(0))
    queue.put(SwapJob(None, 0, "new"))
    assert isinstance(queue.get(), SwapJob) and name(queue.get()) == "left 0"


def test_one_that_sends_too_much_gets_on_however_busy_the_others_are():
    queue = JobQueue(8, "drop_oldest")
    for k in range(8):
        queue.put(job(k, "left"))
    turns = []
    for k in range(12):
        for camera in ("right", "rear"):
            queue.put(job(k, camera))
        turns.append(queue.get().camera)
    assert 3 <= turns.count("left") <= 4 and abs(turns.count("right") - turns.count("rear")) <= 1


def peek(k, part):
    window = job(k).window
    return WindowJob("left", window, 0, "", 0, peek_at_us=window.t_start_us + part)


def test_a_look_at_a_part_gives_way_to_the_next_window():
    queue = JobQueue(8, "catch_up")
    for item in (job(0), peek(1, 2), peek(1, 4), job(1), peek(2, 2)):
        assert queue.put(item) == 0
    assert [(item.window.t_start_us, item.peek_at_us) for item in (queue.get() for _ in range(3))] == [
        (0, None), (10, None), (20, 22)]  # fmt: skip
    assert queue.skipped_peeks == {"left": 2} and len(queue) == 0
    lossless = JobQueue(8, "block")
    for item in (peek(1, 2), peek(1, 4), job(1)):
        lossless.put(item)
    assert len(lossless) == 3


def test_a_camera_is_behind_when_more_than_half_a_queue_waits():
    queue = JobQueue(4, "catch_up")
    for k in range(3):
        queue.put(job(k))
    assert queue.is_behind("left") and not queue.is_behind("right")
    queue.policy = "drop_oldest"
    assert not queue.is_behind("left")
    queue.policy = "catch_up"
    queue.get()
    assert not queue.is_behind("left")


def test_a_reset_is_never_dropped():
    queue = JobQueue(1, "drop_oldest")
    queue.put(ResetJob("left"))
    for k in range(5):
        queue.put(job(k))
    assert taken(queue) == ["left reset", "left 4"]


def after_gap(item: WindowJob) -> WindowJob:
    return replace(item, window=replace(item.window, after_gap=True))


@pytest.mark.parametrize("policy", ["drop_oldest", "catch_up"])
def test_an_interruption_is_told_by_the_next_window_when_its_first_one_is_dropped(policy):
    queue = JobQueue(2, policy)
    for item in (job(0, "right"), job(0), after_gap(job(1)), job(2), job(3), job(4)):
        queue.put(item)
    found = [queue.get() for _ in range(3)]
    assert [(name(item), item.window.after_gap) for item in found] == [
        ("right 0", False), ("left 3", True), ("left 4", False)]  # fmt: skip


def test_looks_tell_of_an_interruption_too_until_a_window_does():
    queue = JobQueue(1, "drop_oldest")
    queue.put(after_gap(job(0)))
    assert queue.put(peek(1, 2)) == 1
    look = queue.get()
    assert look.window.after_gap and look.peek_at_us == 12
    for k, tells in ((1, True), (2, False)):
        queue.put(job(k))
        assert queue.get().window.after_gap == tells


def test_a_phase_tells_of_its_own_interruption_alone():
    queue = JobQueue(1, "drop_oldest")
    for item in (replace(after_gap(job(0)), phase=1), job(1)):
        queue.put(item)
    assert not queue.get().window.after_gap
    queue.put(replace(job(2), phase=1))
    assert queue.get().window.after_gap


def test_a_state_of_a_phase_waits_for_the_windows_before_it():
    queue = JobQueue(4, "drop_oldest")
    load = LoadJob("left@1", SavedStream(StreamState()))
    for item in (job(0), job(1), ResetJob("left"), load):
        queue.put(item)
    assert [name(queue.get()) for _ in range(3)] == ["left 0", "left 1", "left reset"]
    assert queue.get() is load


def test_block_waits_for_room_and_loses_nothing():
    queue, found = JobQueue(2, "block"), []

    def consume():
        while (item := queue.get()) is not None:
            found.append(name(item))

    consumer = threading.Thread(target=consume)
    filler = threading.Thread(target=lambda: [queue.put(job(k)) for k in range(200)])
    filler.start()
    filler.join(0.2)
    assert filler.is_alive(), "with nobody taking, the third put must wait"
    consumer.start()
    filler.join(10)
    queue.close()
    consumer.join(10)
    assert found == [f"left {k}" for k in range(200)]


def test_closing_lets_a_blocked_caller_go():
    queue = JobQueue(1, "block")
    queue.put(job(0))
    blocked = threading.Thread(target=lambda: queue.put(job(1)))
    blocked.start()
    queue.close()
    blocked.join(10)
    assert not blocked.is_alive()
    assert taken(queue) == ["left 0"], "what was queued is still handed out"


def test_blocking_with_a_limit_drops_the_oldest_after_all():
    queue = JobQueue(1, "block")
    queue.put(job(0))
    assert queue.put(job(1), timeout_s=0.05) == 1
    assert taken(queue) == ["left 1"]


def test_discarding_says_how_many_windows_are_lost():
    queue = JobQueue(5, "drop_oldest")
    for item in (job(0), ResetJob("left"), job(1)):
        queue.put(item)
    assert queue.discard() == 2
    assert queue.get() is None
    assert queue.put(job(2)) == 1, "a closed queue takes nothing, and says so"


def test_events_are_handed_on_untouched():
    events = EventArray(*(np.ones(3, t) for t in (np.uint16, np.uint16, np.uint8, np.int64)), SIZE)
    queue = JobQueue(1, "drop_oldest")
    queue.put(WindowJob("", EventWindow(events, 0, 10), 5, "frame", 7))
    assert queue.get().window.events is events
