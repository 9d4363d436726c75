"""What the launch files for bags and for two cameras start, run as processes with exactly their arguments."""

import os
import time

import pytest
from event_camera_msgs.msg import EventPacket

from snn_perception.data.shapes import MovingShapes
from snn_perception.events.evt3_encode import packetize
from snn_perception.events.rosbag2 import write_bag
from snn_perception.ros.camera import event_qos
from snn_perception.ros.launching import (
    DETECTOR_ARGUMENTS,
    PLAYER_ARGUMENTS,
    TWO_CAMERA_ARGUMENTS,
    player_node,
    two_camera_node,
    typed,
)
from snn_perception.ros.messages import stamp_to_ns
from snn_perception.ros.parameters import BY_NAME
from snn_perception.types import SensorSize
from tests.paths import ROOT
from tests.ros.process_support import observer, spin_until, started

SIZE = SensorSize(48, 64)
EPOCH_NS = 1_700_000_000_000_000_000
PACKET_NS = 5_000_000
BAG_PACKETS = 40
DEFAULTS = {name: default for name, (default, _) in {**DETECTOR_ARGUMENTS, **PLAYER_ARGUMENTS}.items()}
TWO_CAMERAS = {name: default for name, (default, _) in TWO_CAMERA_ARGUMENTS.items()}


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    path = tmp_path_factory.mktemp("bag") / "drive"
    packets = list(packetize(MovingShapes(SIZE, 220_000, seed=1), SIZE, interval_us=5_000, stamp_offset_ns=EPOCH_NS))
    write_bag(path, packets[:BAG_PACKETS], topic="/cam/events")
    return path


def test_the_player_is_told_of_a_bags_topic_only_where_one_is_named():
    assert "topic" not in player_node(typed({**DEFAULTS, "recording": "bag"}))["parameters"][0]
    node = player_node(typed({**DEFAULTS, "recording": "bag", "topic": "/cam/events", "rate": "0"}))
    assert node["parameters"] == [{"recording": "bag", "rate": 0.0, "loop": False, "topic": "/cam/events"}]


def test_a_bag_plays_in_a_loop_at_its_rate(bag, tmp_path):
    values = typed({**DEFAULTS, "recording": str(bag), "topic": "/cam/events", "rate": "4", "loop": "true"})
    values.update(events=f"/looped_{os.getpid()}/events", namespace="")
    came, when = [], []

    def keep(msg):
        came.append(stamp_to_ns(msg.header.stamp) - EPOCH_NS)
        when.append(time.monotonic())

    with observer("loop_observer") as (node, executor):
        node.create_subscription(EventPacket, values["events"], keep, event_qos(1000, "best_effort"))
        with started(player_node(values), tmp_path) as process:

            def enough():
                assert process.poll() is None, (tmp_path / "player.log").read_text()
                return len(came) >= 3 * BAG_PACKETS

            spin_until(executor, enough)
    once = [PACKET_NS * number for number in range(BAG_PACKETS)]
    assert came[: 3 * BAG_PACKETS] == [stamp + came[0] for stamp in once] * 3, "front to back, three times"
    # Not faster than asked for; how much slower is the machine's affair.
    assert when[BAG_PACKETS - 1] - when[0] > 0.5 * (BAG_PACKETS - 1) * PACKET_NS / 4 / 1e9


def test_two_cameras_are_two_streams_of_one_node():
    values = typed({**TWO_CAMERAS, "checkpoint": "m.safetensors", "right_events": "/b/events"})
    node = two_camera_node(values, "detector.yaml")
    file, overrides = node["parameters"]
    assert file == "detector.yaml"
    assert overrides == {"checkpoint": "m.safetensors", "autostart": True, "cameras": ["left", "right"]}
    assert overrides.keys() <= BY_NAME.keys()
    assert node["remappings"] == [
        ("left/events", "/event_cam_0/events"),
        ("left/detections", "left/detections"),
        ("right/events", "/b/events"),
        ("right/detections", "right/detections"),
    ]


def test_the_two_camera_node_listens_to_both_drivers(checkpoint, tmp_path):
    namespace = f"/two_{os.getpid()}"
    drivers = {side: f"{namespace}/event_cam_{number}/events" for number, side in enumerate(("left", "right"))}
    values = {**TWO_CAMERAS, "checkpoint": str(checkpoint), "namespace": namespace}
    values.update(left_events=drivers["left"], right_events=drivers["right"])
    arguments = two_camera_node(typed(values), str(ROOT / "launch" / "detector.yaml"))
    with observer("two_observer") as (node, executor), started(arguments, tmp_path) as process:

        def listens():
            assert process.poll() is None, (tmp_path / "detector.log").read_text()
            return all(node.count_subscribers(topic) == 1 for topic in drivers.values())

        spin_until(executor, listens)
        for side in drivers:
            spin_until(executor, lambda topic=f"{namespace}/{side}/detections": node.count_publishers(topic) == 1)


@pytest.mark.parametrize("name", ["two_cameras.launch.py", "replay.launch.py"])
def test_the_launch_file_runs(name):
    pytest.importorskip("launch", reason="ROS's launch is in no wheel; needs a ROS installation")
    pytest.importorskip("launch_ros", reason="ROS's launch is in no wheel; needs a ROS installation")
    import importlib.util

    from launch import LaunchContext

    spec = importlib.util.spec_from_file_location("launch_file", ROOT / "launch" / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    context = LaunchContext()
    assert [part for entity in module.generate_launch_description().entities for part in entity.visit(context) or []]
