"""A camera that sends too much leaves room for the next window of one that does not."""

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from snn_perception.ros.cadence import FADE, FAR_NS, MOST_PASS, Cadence, Room
from snn_perception.ros.queue import CROWDED_TURNS, JobQueue
from tests.ros.test_queue import job
from tests.ros.test_queue_batches import Waiter

MS = 1_000_000
STEP_MS = 10


def room(step_ms=STEP_MS):
    made = Room()
    made.begin("left", 0)
    made.end(step_ms * MS)
    return made


def cadence(due_ms, step_us=50_000):
    first = Cadence().then(0, 0)
    return first.then(step_us, round(due_ms * MS) - 1000 * step_us)


@pytest.mark.parametrize(
    ("due_ms", "wait_ms"),
    [(100, 5), (104, 9), (109, 14), (110, 0), (150, 0), (96, 1), (95, 0), (40, 0)],
)
def test_it_waits_for_what_is_due_within_a_step_and_half_a_step_longer(due_ms, wait_ms):
    assert room().for_others_ns("right", [cadence(due_ms)], 100 * MS) == wait_ms * MS


def test_it_waits_for_the_first_of_several_and_for_none_of_which_nothing_is_known():
    others = [cadence(108), cadence(103), cadence(300)]
    assert room().for_others_ns("right", others, 100 * MS) == 8 * MS
    for unknown in ([], [Cadence()], [Cadence().then(0, 100 * MS)], [cadence(103, step_us=-50_000)]):
        assert room().for_others_ns("right", unknown, 100 * MS) == 0
    assert Room().for_others_ns("right", others, 100 * MS) == 0, "no step has been measured"


def test_each_turn_lets_some_pass_and_no_more():
    made = room()
    for _ in range(2):
        for _ in range(MOST_PASS):
            assert made.for_others_ns("right", [cadence(103)], 100 * MS)
            made.begin("left", 103 * MS)
        assert made.for_others_ns("right", [cadence(103)], 100 * MS) == 0
        assert made.for_others_ns("rear", [cadence(103)], 100 * MS), "which has let none pass"
        made.begin("right", 110 * MS)


def test_where_there_is_something_better_to_do_any_number_may_pass_whenever_they_are_due():
    made = room()
    for _ in range(3 * MOST_PASS):
        assert made.for_others_ns("right", [cadence(140)], 100 * MS, whatever_is_due=True) == 45 * MS
    assert made.for_others_ns("right", [cadence(140)], 100 * MS) == 0, "not due within a step"
    assert made.for_others_ns("right", [cadence(103)], 100 * MS), "of those that count it has let none pass"


def test_a_long_step_is_remembered_for_a_while():
    made = room(step_ms=20)
    for _ in range(3):
        made.begin("left", 0)
        made.end(1 * MS)
    known_ms = 20 * FADE**3
    assert made.for_others_ns("right", [cadence(100 + known_ms - 0.5)], 100 * MS)
    assert not made.for_others_ns("a", [cadence(100 + known_ms + 0.5)], 100 * MS)
    made.end(10_000 * MS)
    assert not made.for_others_ns("a", [cadence(100 + known_ms + 0.5)], 100 * MS), "nothing was under way"


@pytest.mark.parametrize(
    ("due_ms", "spare_ns"),
    [((112, 130), 2 * MS), ((130, 112), 2 * MS), ((105,), -5 * MS), ((95, 112), 2 * MS), ((95,), FAR_NS), ((), FAR_NS)],
)
def test_what_is_spare_before_the_next_window_of_another(due_ms, spare_ns):
    assert room().spare_ns([cadence(each) for each in due_ms], 100 * MS) == spare_ns


def paced(interval_ms, windows=50):
    made = Cadence()
    for k in range(windows):
        made = made.then(50_000 * k, round(interval_ms * MS * k))
    return made


@pytest.mark.parametrize(("one_ms", "other_ms", "is_faster"), [(5, 50, True), (25, 50, True), (26, 50, False)])
def test_which_of_two_sends_much_faster(one_ms, other_ms, is_faster):
    assert paced(one_ms).is_much_faster_than(paced(other_ms)) is is_faster
    assert not paced(other_ms).is_much_faster_than(paced(one_ms))


def test_nobody_is_faster_than_one_whose_pace_is_unknown():
    assert not paced(5).is_much_faster_than(paced(50, windows=1))
    assert not paced(5, windows=1).is_much_faster_than(paced(50))


def test_windows_that_come_in_bursts_are_as_fast_as_they_are_in_the_mean():
    made = Cadence()
    for k in range(400):  # five together, every 25 ms
        made = made.then(50_000 * k, k // 5 * 25 * MS)
    assert made.interval_ns == pytest.approx(5 * MS, rel=0.25)


def crowded(due_s, policy="drop_oldest", size=3):
    """Return a queue with more than half its room taken by `right`, where `left`'s next window is due so soon."""
    queue, now_ns = JobQueue(size, policy), time.monotonic_ns()
    for k in range(2):
        queue.put(replace(job(k), closed_ns=now_ns + round(due_s * 1e9)))  # its windows are of 10 us
        queue.get()
    queue._room.begin("right", 0)
    queue._room.end(10_000 * MS)
    for k in range(2):
        queue.put(job(k, "right"))
    return queue


@pytest.mark.parametrize("policy", ["drop_oldest", "catch_up"])
def test_a_window_that_comes_when_it_is_due_goes_first(policy):
    queue = crowded(due_s=9.0, policy=policy)
    waiter = Waiter(queue, most=1)
    assert waiter.is_idle()
    queue.put(job(2))
    assert waiter.result() == ["left 2"]
    assert Waiter(queue, most=1).result() == ["right 0"]


@pytest.mark.parametrize(("due_s", "policy"), [(-6.0, "drop_oldest"), (12.0, "drop_oldest"), (9.0, "block")])
def test_nothing_waits_for_what_is_not_due_or_where_nothing_is_dropped(due_s, policy):
    assert Waiter(crowded(due_s, policy), most=1).result() == ["right 0"]


def test_a_camera_with_few_windows_in_line_waits_for_nobody():
    assert Waiter(crowded(due_s=9.0, size=4), most=1).result() == ["right 0"]


class Clock:
    """A made-up monotonic clock for the queue."""

    def __init__(self, monkeypatch):
        self.ns = 10**18
        for module in ("queue", "crowding"):
            monkeypatch.setattr(f"snn_perception.ros.{module}.time", SimpleNamespace(monotonic_ns=lambda: self.ns))

    def put(self, queue, camera, k):
        queue.put(replace(job(k, camera), closed_ns=self.ns))


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def flooded(clock, queue, times=10, rounds=12):
    """Let `right` send so many windows for each of `left`, and nothing be done about any."""
    for k in range(rounds):
        clock.put(queue, "left", k)
        for each in range(times):
            clock.ns += 50 * MS // times
            clock.put(queue, "right", times * k + each)


def test_one_that_sends_in_real_time_is_not_to_blame_when_its_windows_pile_up(clock):
    """Were it, the two would take turns from then on, and neither would ever come out of it."""
    queue = JobQueue(8, "drop_oldest")
    flooded(clock, queue)
    assert queue.is_crowded("right") and not queue.is_crowded("left")
    turns = [queue.get().camera for _ in range(8)]
    assert turns.count("left") == 6 and turns[-1] == "left"


def test_of_cameras_that_send_alike_none_is_to_blame(clock):
    queue = JobQueue(8, "drop_oldest")
    flooded(clock, queue, times=1)
    assert not queue.is_crowded("right") and not queue.is_crowded("left")


def test_one_that_had_many_a_moment_ago_still_sends_too_much(clock):
    queue = JobQueue(8, "drop_oldest")
    flooded(clock, queue)
    while len(queue):
        queue.get()
    clock.ns += 900 * MS
    assert queue.is_crowded("right") and queue.was_behind("left")
    clock.ns += 200 * MS
    assert not queue.is_crowded("right") and not queue.was_behind("left")


def test_one_alone_or_beside_one_that_fell_silent_is_behind_and_not_to_blame(clock):
    queue = JobQueue(8, "drop_oldest")
    for k in range(8):
        clock.put(queue, "left", k)
        clock.ns += 50 * MS
    assert queue.was_behind("left") and not queue.is_crowded("left")
    clock.ns += 1100 * MS
    for k in range(40):
        clock.ns += 5 * MS
        clock.put(queue, "right", k)
    assert queue.was_behind("right") and not queue.is_crowded("right") and not queue.was_behind("left")


@pytest.mark.parametrize("pause_ms", [1500, 60_000])
def test_after_a_pause_of_another_one_nobody_is_to_blame(clock, pause_ms):
    """Both send in real time, before and after it."""
    queue = JobQueue(8, "drop_oldest")
    flooded(clock, queue, times=1)
    for k in range(pause_ms // 50):
        clock.ns += 50 * MS
        clock.put(queue, "right", 100 + k)
    for k in range(8):
        clock.ns += 50 * MS
        clock.put(queue, "left", 100 + k)
        clock.put(queue, "right", 10_000 + k)
        assert not queue.is_crowded("right") and not queue.is_crowded("left")
    assert queue.was_behind("right")


def test_long_windows_are_no_pauses():
    made = Cadence()
    for k in range(5):
        made = made.then(2_000_000 * k, 2000 * MS * k)
    assert made.interval_ns == 2000 * MS
    made = made.then(2_000_000 * 5, 30_000 * MS)
    assert made.interval_ns == 2000 * MS and made.closed_ns == 30_000 * MS


def test_its_turn_is_its_turn_when_others_are_in_line_and_one_more_is_due(clock):
    queue = JobQueue(8, "drop_oldest")
    flooded(clock, queue)
    queue._room.begin("right", 0)
    queue._room.end(10_000 * MS)
    turns = []
    for k in range(40):
        for camera in ("left", "rear"):
            clock.put(queue, camera, 100 + k)
        clock.put(queue, "right", 1000 + k)
        clock.ns += MS
        turns.append(queue.get().camera)
    assert turns.count("right") == 40 // (CROWDED_TURNS + 1)


def test_the_end_is_not_put_off():
    queue = crowded(due_s=9.0)
    waiter = Waiter(queue, most=1)
    assert waiter.is_idle()
    queue.close()
    assert waiter.result() == ["right 0"]
