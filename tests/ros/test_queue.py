"""The bounded queue: order, what it drops, how it waits, and that no camera crowds out another."""

import threading

import numpy as np

from snn_perception.ros.queue import JobQueue, ResetJob, WindowJob
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


def test_a_reset_is_never_dropped():
    queue = JobQueue(1, "drop_oldest")
    queue.put(ResetJob("left"))
    for k in range(5):
        queue.put(job(k))
    assert taken(queue) == ["left reset", "left 4"]


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
