"""A subscription that is received from in a thread of its own."""

import logging
import threading
import time

import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from rclpy.serialization import deserialize_message
from std_msgs.msg import String

from snn_perception.ros import receiving
from snn_perception.ros.receiving import OwnThread, Receiver

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # its name in Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

TIMEOUT_S = 20.0


class Ears:
    """A node that hears words, sent by itself."""

    def __init__(self, context, take, raw=False, receive=None, **options):
        self.node, self.called = Node("ears", context=context), []
        qos = QoSProfile(depth=1000)
        self.subscription = self.node.create_subscription(
            String, "words", self.called.append, qos, raw=raw, callback_group=OwnThread(), **options
        )
        self.publisher = self.node.create_publisher(String, "words", qos)
        self.receiver = Receiver(self.node, self.subscription, take, **(receive or {}))
        self.receiver.start()
        until(self.publisher.get_subscription_count)

    def say(self, *words):
        for word in words:
            self.publisher.publish(String(data=word))


@pytest.fixture
def context():
    made = Context()
    rclpy.init(context=made)
    yield made
    made.try_shutdown()


@pytest.fixture
def ears(context):
    """Return a maker of nodes that hear; they stop at the end."""
    made = []

    def make(take, **options):
        made.append(Ears(context, take, **options))
        return made[-1]

    yield make
    for one in made:
        assert one.receiver.stop(TIMEOUT_S)
        one.node.destroy_node()


def until(done):
    end = time.monotonic() + TIMEOUT_S
    while not done():
        assert time.monotonic() < end, "nothing came of it"
        time.sleep(0.005)


@pytest.mark.parametrize("raw", [False, True])
def test_messages_come_in_order_with_the_time_they_came_and_not_by_the_executor(ears, context, raw):
    got, began_ns = [], time.time_ns()
    heard = ears(lambda msg, received_ns: got.append((msg, received_ns, threading.current_thread().name)), raw=raw)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(heard.node)
    words = [f"word {number}" for number in range(200)]
    heard.say(*words)
    end = time.monotonic() + TIMEOUT_S
    while len(got) < len(words) and time.monotonic() < end:
        executor.spin_once(timeout_sec=0.01)
    executor.shutdown()
    messages = [deserialize_message(msg, String) if raw else msg for msg, _, _ in got]
    assert [msg.data for msg in messages] == words and heard.called == []
    assert all(began_ns < received_ns <= time.time_ns() for _, received_ns, _ in got)
    assert {name for _, _, name in got} == {"receive /words"}


def test_one_that_is_asked_to_rests_before_it_takes_what_has_come(ears, monkeypatch):
    events, real_sleep = [], time.sleep

    def sleep(seconds):
        if threading.current_thread().name == "receive /words":
            events.append(seconds)
        real_sleep(seconds)

    monkeypatch.setattr(receiving.time, "sleep", sleep)
    heard = ears(lambda msg, received_ns: events.append(msg.data), receive={"rests": lambda: "one" in events})
    heard.say("one")
    until(lambda: events)
    heard.say("two")
    until(lambda: "two" in events)
    assert events == ["one", receiving.REST_S, "two"]


def test_it_gives_way_before_each_message_and_says_when_all_are_taken(ears):
    events, free = [], threading.Event()

    def give_way():
        events.append("gives way")
        free.wait(TIMEOUT_S)

    told = {"give_way": give_way, "has_taken": lambda: events.append("taken")}
    heard = ears(lambda msg, received_ns: events.append(msg.data), receive=told)
    heard.say("one", "two")
    until(lambda: events)
    assert events == ["gives way"]
    free.set()
    until(lambda: "taken" in events and "two" in events)
    messages = [event for event in events if event not in ("gives way", "taken")]
    assert messages == ["one", "two"]
    assert all(events[events.index(msg) - 1] == "gives way" for msg in messages)
    assert events[events.index("taken") - 1] == "gives way", "it looked whether there was another one"


def test_at_its_end_it_gives_way_no_more(ears):
    got, free = [], threading.Event()

    def take(msg, received_ns):
        got.append(msg.data)
        free.wait(TIMEOUT_S)

    asked = []
    heard = ears(take, receive={"give_way": lambda: asked.append(len(got))})
    heard.say(*map(str, range(5)))
    until(lambda: got)
    stopping = threading.Thread(target=heard.receiver.stop, args=(TIMEOUT_S,))
    stopping.start()
    until(lambda: heard.receiver._ends)
    free.set()
    stopping.join(TIMEOUT_S)
    assert got == list("01234") and asked == [0]


def test_what_a_message_does_does_not_end_it(ears, caplog):
    got = []

    def take(msg, received_ns):
        got.append(msg.data)
        if msg.data == "bad":
            raise ValueError("a bad word")

    with caplog.at_level(logging.ERROR, "snn_perception"):
        ears(take).say("good", "bad", "good again")
        until(lambda: len(got) == 3)
    assert got == ["good", "bad", "good again"]
    assert [record.getMessage() for record in caplog.records] == ["a message of '/words' is left out"]


@pytest.mark.parametrize(("last_s", "taken"), [(0.0, ["one"]), (TIMEOUT_S, ["one", "two"])])
def test_it_ends_while_it_waits_and_not_within_a_message(ears, monkeypatch, last_s, taken):
    monkeypatch.setattr(receiving, "LAST_S", last_s)
    free, got = threading.Event(), []

    def take(msg, received_ns):
        got.append(msg.data)
        free.wait(TIMEOUT_S)

    idle, busy = ears(lambda msg, received_ns: None), ears(take)
    busy.say("one", "two")
    until(lambda: got)
    assert idle.receiver.stop(TIMEOUT_S)
    assert not busy.receiver.stop(0.05)
    free.set()
    assert busy.receiver.stop(TIMEOUT_S)
    assert got == taken, "what has come by then is taken, as far as there is time"


def test_a_context_that_ends_ends_it(context):
    heard = Ears(context, lambda msg, received_ns: None)
    context.shutdown()
    until(lambda: not heard.receiver._thread.is_alive())


def test_events_of_its_quality_of_service_are_told(ears):
    told = []
    reliable = ears(
        lambda msg, received_ns: None, event_callbacks=SubscriptionEventCallbacks(incompatible_qos=told.append)
    )
    best_effort = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT)
    reliable.node.create_publisher(String, "words", best_effort)
    until(lambda: told)
    assert told[0].total_count == 1
