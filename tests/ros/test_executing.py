"""What runs a node's callbacks: the executor, and callbacks that want to know how a message came."""

import faulthandler
import inspect

import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import String

from snn_perception.ros import executing
from snn_perception.ros.executing import WithInfo, make_executor


@pytest.fixture
def context():
    made = Context()
    rclpy.init(context=made)
    yield made
    made.try_shutdown()


def sent_and_received(context, executor):
    """Return what a callback of an executor got of three messages."""
    node, got = Node("ears", context=context), []
    executor.add_node(node)
    node.create_subscription(String, "words", WithInfo(lambda msg, info: got.append((msg.data, dict(info)))), 10)
    publisher = node.create_publisher(String, "words", 10)
    for word in ("one", "two", "three"):
        publisher.publish(String(data=word))
        for _ in range(100):
            executor.spin_once(timeout_sec=0.1)
            if got and got[-1][0] == word:
                break
    executor.shutdown()
    node.destroy_node()
    return got


@pytest.mark.parametrize("make", [make_executor, lambda context: SingleThreadedExecutor(context=context)])
def test_a_callback_is_told_when_a_message_was_received(context, make):
    got = sent_and_received(context, make(context))
    assert [word for word, _ in got] == ["one", "two", "three"]
    assert all(info["received_timestamp"] >= info["source_timestamp"] > 0 for _, info in got)


def test_a_callback_takes_both_in_either_form():
    got = []
    callback = WithInfo(lambda msg, info: got.append((msg, info)))
    callback("a", "b")
    callback(("a", "b"))
    assert got == [("a", "b")] * 2
    with pytest.raises(TypeError):
        inspect.signature(callback).bind(object())
    assert inspect.signature(callback).bind(object(), object())


def test_rclpy_without_an_executor_of_events_has_the_other_one(context, monkeypatch):
    monkeypatch.setattr(executing, "EventsExecutor", None)
    executor = make_executor(context)
    assert isinstance(executor, SingleThreadedExecutor)
    executor.shutdown()


def test_a_process_without_stderr_has_the_other_one(context, monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    executor = make_executor(context)
    assert isinstance(executor, SingleThreadedExecutor)
    executor.shutdown()


def test_what_it_does_to_the_process_is_undone(context):
    was = faulthandler.is_enabled()
    for enabled in (True, False):
        (faulthandler.enable if enabled else faulthandler.disable)()
        make_executor(context).shutdown()
        assert faulthandler.is_enabled() == enabled
    if was:
        faulthandler.enable()
