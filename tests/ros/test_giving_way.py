"""Cameras that send too much do not take their messages while a window is in hand."""

import threading
import time

import pytest

from snn_perception.ros import giving_way
from snn_perception.ros.giving_way import GivingWay
from snn_perception.ros.queue import JobQueue
from tests.ros.test_queue_room import Clock, flooded

TIMEOUT_S = 20.0


@pytest.fixture
def way():
    return GivingWay(threading.Condition())


@pytest.fixture
def patient(monkeypatch):
    """Let nobody's patience run out."""
    monkeypatch.setattr(giving_way, "HOLD_S", TIMEOUT_S)
    monkeypatch.setattr(giving_way, "SLICE_S", TIMEOUT_S)
    monkeypatch.setattr(giving_way, "MOMENT_S", TIMEOUT_S)


class Caller:
    """Calls something in a thread of its own."""

    def __init__(self, call):
        self._thread = threading.Thread(target=call, daemon=True)
        self._thread.start()

    def is_waiting(self):
        self._thread.join(0.1)
        return self._thread.is_alive()

    def comes_back(self):
        self._thread.join(TIMEOUT_S / 2)
        return not self._thread.is_alive()


def test_a_message_waits_for_the_end_of_what_is_in_hand(way, patient):
    way.wait("right")  # nothing is in hand
    way.begin()
    waiting = Caller(lambda: way.wait("right"))
    assert waiting.is_waiting()
    way.end()
    assert waiting.comes_back()


def test_it_waits_as_long_as_is_said_and_then_for_as_long_for_nobody(way, monkeypatch):
    monkeypatch.setattr(giving_way, "HOLD_S", 0.2)
    monkeypatch.setattr(giving_way, "FREE_S", 0.2)
    way.begin()
    waited = []
    for _ in range(4):
        began = time.monotonic()
        way.wait("right")
        waited.append(time.monotonic() - began >= 0.2)
    assert waited == [True, False, False, False]


def test_windows_that_follow_closely_do_not_make_each_message_wait_anew(way, monkeypatch):
    monkeypatch.setattr(giving_way, "HOLD_S", 0.1)
    ends, taken = threading.Event(), []

    def receive():
        while not ends.is_set():
            way.wait("right")
            taken.append(time.monotonic())
            time.sleep(0.001)

    receiver = Caller(receive)
    for _ in range(30):
        way.begin()
        time.sleep(0.02)  # never as long as anyone waits
        way.end()
    ends.set()
    assert receiver.comes_back()
    assert len(taken) > 3 * 30, "more than a few between two windows"


def test_what_can_be_done_later_waits_for_the_end_of_a_window_and_nobody_waits_for_it(way, patient):
    way.wait_for_a_moment()
    way.begin()
    waiting = Caller(way.wait_for_a_moment)
    assert waiting.is_waiting()
    way.end()
    assert waiting.comes_back()
    with way._changed:
        assert way.let_take(lambda: False, TIMEOUT_S)


def test_what_had_to_wait_is_taken_before_the_next_window(way, patient):
    changed = way._changed

    def let_take(enough):
        with changed:
            way.let_take(enough, TIMEOUT_S)

    way.begin()
    receiver = Caller(lambda: way.wait("right"))
    assert receiver.is_waiting()
    way.end()
    assert receiver.comes_back()
    inference = Caller(lambda: let_take(lambda: False))
    assert inference.is_waiting()
    way.is_done("rear")
    assert inference.is_waiting(), "that had nothing to take"
    way.is_done("right")
    assert inference.comes_back()
    let_take(lambda: False)  # none is behind


def test_it_waits_for_nobody_where_there_is_something_better_or_no_time(way, patient):
    way.begin()
    receiver = Caller(lambda: way.wait("right"))
    assert receiver.is_waiting()
    way.end()

    def let_take(enough, most_s):
        with way._changed:
            way.let_take(lambda: enough, most_s)

    for enough, most_s in ((True, TIMEOUT_S), (False, 0.0), (False, -1.0), (False, 0.01)):
        assert Caller(lambda: let_take(enough, most_s)).comes_back()  # noqa: B023


def test_only_one_that_sends_too_much_gives_way(monkeypatch, patient):
    queue = JobQueue(8, "drop_oldest")
    flooded(Clock(monkeypatch), queue)
    assert queue.get().camera
    assert Caller(lambda: queue.give_way("left")).comes_back(), "it sends in real time"
    crowded = Caller(lambda: queue.give_way("right"))
    assert crowded.is_waiting()
    with queue._changed:
        queue._jobs.clear()
    next_one = Caller(queue.get)
    assert crowded.comes_back(), "the inference thread has nothing in hand"
    queue.close()
    assert next_one.comes_back()


def test_nobody_gives_way_where_all_send_alike(monkeypatch, patient):
    queue = JobQueue(8, "drop_oldest")
    flooded(Clock(monkeypatch), queue, times=1)
    assert queue.get() and queue.was_behind("right") and queue.was_behind("left")
    for camera in ("left", "right"):
        assert Caller(lambda: queue.give_way(camera)).comes_back()  # noqa: B023


def test_with_a_policy_that_drops_nothing_nobody_gives_way(monkeypatch, patient):
    queue = JobQueue(8, "drop_oldest")
    flooded(Clock(monkeypatch), queue)
    queue.get()
    queue.policy = "block"
    assert Caller(lambda: queue.give_way("right")).comes_back()
