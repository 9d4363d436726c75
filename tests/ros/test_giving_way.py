"""Cameras that send too much do not take their messages while a window is in hand."""

import threading
import time

import pytest

from snn_perception.ros import giving_way
from snn_perception.ros.giving_way import GivingWay
from snn_perception.ros.queue import JobQueue
from tests.ros.test_queue import job
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


def test_it_waits_no_longer_than_is_said_and_then_for_as_long_for_nobody(way, monkeypatch):
    monkeypatch.setattr(giving_way, "HOLD_S", 0.05)
    way.begin()
    waited = []
    for _ in range(3):
        began = time.monotonic()
        way.wait("right")
        waited.append(time.monotonic() - began >= 0.05)
    assert waited[0], "it waits"
    way._free_until_s["right"] = time.monotonic() + TIMEOUT_S
    began = time.monotonic()
    for _ in range(1000):
        way.wait("right")
    assert time.monotonic() - began < 1000 * 0.05, "nor does it wait at each"
    other = Caller(lambda: way.wait("rear"))
    assert other.comes_back()


def test_what_can_be_done_later_waits_for_the_end_of_a_window_and_nobody_waits_for_it(way, patient):
    way.wait_for_a_moment()
    way.begin()
    waiting = Caller(way.wait_for_a_moment)
    assert waiting.is_waiting()
    way.end()
    assert waiting.comes_back()
    with way._changed:
        way.let_take(lambda: False, TIMEOUT_S)


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
    with way._changed:
        way.let_take(lambda: True, TIMEOUT_S)
        way.let_take(lambda: False, 0.0)
        way.let_take(lambda: False, -1.0)
        way.let_take(lambda: False, 0.01)


def test_only_one_that_sends_too_much_gives_way(monkeypatch, patient):
    queue = JobQueue(8, "drop_oldest")
    flooded(Clock(monkeypatch), queue)
    assert queue.get().camera
    queue.give_way("left")  # sends in real time
    crowded = Caller(lambda: queue.give_way("right"))
    assert crowded.is_waiting()
    with queue._changed:
        queue._jobs.clear()
    next_one = Caller(queue.get)
    assert crowded.comes_back(), "the inference thread has nothing in hand"
    queue.close()
    assert next_one.comes_back()


def test_nobody_gives_way_where_all_send_too_much(patient):
    queue = JobQueue(8, "drop_oldest")
    for k in range(8):
        queue.put(job(k, "right"))
    queue.get()
    queue.give_way("right")


def test_with_a_policy_that_drops_nothing_nobody_gives_way(monkeypatch, patient):
    queue = JobQueue(8, "drop_oldest")
    flooded(Clock(monkeypatch), queue)
    queue.get()
    queue.policy = "block"
    queue.give_way("right")
