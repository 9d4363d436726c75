"""A node that is configured, activated, deactivated and cleaned up over and over holds no more than at first."""

import pytest
from rclpy.lifecycle import TransitionCallbackReturn as Result
from vision_msgs.msg import Detection2DArray

from snn_perception import save_checkpoint
from snn_perception.runtime.soak import MAX_GROWTH
from tests.ros.small_support import SETTINGS, small_messages
from tests.ros.test_detector_node import Bench, play
from tests.ros.test_live_equals_offline import content
from tests.small_network import held, small_detector

WINDOWS = 3
WARM_UP = 6  # cycles in which kernels, discovery and allocators settle


@pytest.fixture
def small_node(registry, tmp_path):
    """Return a node with a small network that is not configured yet, and a test node beside it."""
    save_checkpoint(tmp_path / "small.safetensors", small_detector(registry))
    bench = Bench(checkpoint=str(tmp_path / "small.safetensors"), **SETTINGS)
    yield bench
    bench.close()


def cycle(node, messages, publisher, found):
    """Lead the node through its life once and return what it published."""
    node.start()
    found.clear()
    if messages:
        play(node, publisher, messages)
        node.spin_until(lambda: len(found) >= WINDOWS)
    assert node.detector.trigger_deactivate() == Result.SUCCESS
    if messages:
        node.spin_until(lambda: len(found) == WINDOWS + 1)  # and what is left of the last window
    assert node.detector.trigger_cleanup() == Result.SUCCESS
    return [content(msg) for msg in found]


@pytest.mark.parametrize(
    ("cycles", "played_every"),
    [
        pytest.param(20, 2, id="20"),
        pytest.param(1000, 10, id="1000", marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
)
def test_cycles_leave_nothing_behind(small_node, cycles, played_every):
    messages, found = small_messages(WINDOWS), small_node.listen(Detection2DArray, "detections")
    publisher = small_node.publisher()
    first = cycle(small_node, messages, publisher, found)
    assert sum(len(msg.detections) for msg in found) >= WINDOWS, "a node that sees nothing proves nothing"
    for _ in range(WARM_UP):
        cycle(small_node, messages, publisher, found)
    before, group = held(), small_node.detector.default_callback_group
    listed = len(group.entities)
    for number in range(1, cycles):
        plays = number % played_every == 0
        published = cycle(small_node, messages if plays else [], publisher, found)
        assert published == (first if plays else [])
    assert cycle(small_node, messages, publisher, found) == first, "the last one works as the first"
    after = held()
    print(f"{cycles} cycles: {before} to {after}")
    assert after.threads <= before.threads and after.files <= before.files
    assert after.resident_mib < (1 + MAX_GROWTH) * before.resident_mib, "one kept model a cycle would be beyond it"
    assert len(group.entities) < listed + 10, "rclpy lists what a node destroys, five a cycle, for ever"
