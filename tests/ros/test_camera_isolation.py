"""One camera sends ten times what is left for it: the other's detections are, byte for byte, those of it alone."""

import sys
import time

import pytest
from rclpy.lifecycle import TransitionCallbackReturn as Result
from vision_msgs.msg import Detection2DArray

from snn_perception import save_checkpoint
from snn_perception.ros.running import SWITCH_S, run_node
from tests.ros.small_support import SETTINGS, small_messages
from tests.ros.test_detector_node import Bench, play
from tests.ros.test_live_equals_offline import content
from tests.small_network import WINDOW_US, small_detector

WINDOWS, TIMES = 12, 10
PACE_S = 0.01  # between packets of the steady camera, of 5 ms of sensor time each
STEP_S = 0.03  # that a window takes at least: three tenths of the steady camera's time


@pytest.fixture
def node(registry, tmp_path):
    """Return a maker of nodes with the small network."""
    save_checkpoint(tmp_path / "small.safetensors", small_detector(registry))
    made = []

    def make(**settings):
        made.append(Bench(checkpoint=str(tmp_path / "small.safetensors"), **{**SETTINGS, **settings}))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


def slowed(bench):
    """Let every window take a while, also one that is only caught up with, whatever the machine is doing."""
    pipeline = bench.detector._model.pipeline

    def slowly(run):
        def slow(*arguments, **options):
            time.sleep(STEP_S)
            return run(*arguments, **options)

        return slow

    pipeline.step, pipeline.advance = slowly(pipeline.step), slowly(pipeline.advance)


def seen_alone(bench, messages):
    found = bench.listen(Detection2DArray, "left/detections")
    bench.start()
    play(bench, bench.publisher("left/events"), messages)
    bench.spin_until(lambda: len(found) >= WINDOWS)
    assert bench.detector.trigger_deactivate() == Result.SUCCESS
    bench.spin_until(lambda: len(found) > WINDOWS)
    bench.close()  # or it would answer on the same topic
    return [content(msg) for msg in found]


@pytest.mark.parametrize("policy", ["catch_up", "drop_oldest"])
def test_what_a_camera_sees_does_not_change_by_another_that_sends_too_much(policy, node):
    steady, flood = small_messages(WINDOWS, seed=3), small_messages(TIMES * WINDOWS, seed=4, interval_us=WINDOW_US)
    expected = seen_alone(node(cameras=["left"]), steady)
    both = node(cameras=["left", "right"], overload_policy=policy, queue_size=20)
    left, right = (both.listen(Detection2DArray, f"{name}/detections", 1000) for name in ("left", "right"))
    both.start()
    slowed(both)
    publishers = both.publisher("left/events"), both.publisher("right/events")
    both.spin_until(lambda: all(publisher.get_subscription_count() for publisher in publishers))
    for packet, others in zip(steady, flood, strict=True):
        publishers[0].publish(packet)
        publishers[1].publish(others)  # a whole window
        until = time.monotonic() + PACE_S
        while time.monotonic() < until:
            both.executor.spin_once(timeout_sec=0.001)
    both.spin_until(lambda: len(left) >= WINDOWS)
    cameras = both.detector._cameras
    both.spin_until(lambda: cameras["right"].received()["packets"] == len(flood))
    assert both.detector.trigger_deactivate() == Result.SUCCESS
    both.spin_until(lambda: len(left) > WINDOWS)
    assert cameras["left"].figures.dropped_windows == cameras["left"].figures.caught_up_windows == 0
    figures = cameras["right"].figures
    assert figures.dropped_windows >= 3 * WINDOWS, "the other camera must have sent too much"
    told = figures.published + figures.caught_up_windows + figures.dropped_windows + figures.failed_windows
    assert told == cameras["right"].received()["windows"] >= TIMES * WINDOWS
    assert sum(len(msg.detections) for msg in left) >= WINDOWS and right
    assert [content(msg) for msg in left] == expected


def test_a_node_process_lets_go_of_pythons_lock_soon():
    """The inference thread asks for it with every tensor operation, beside a subscription that may be busy."""
    seen, before = [], sys.getswitchinterval()

    def make():
        seen.append(sys.getswitchinterval())
        raise RuntimeError("that is enough")

    try:
        assert run_node(make, "detector_node", []) == 1
    finally:
        sys.setswitchinterval(before)
    assert seen == [pytest.approx(SWITCH_S)] and before > SWITCH_S
