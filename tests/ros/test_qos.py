"""QoS overrides by ROS's own parameters: what the peers on DDS see of them, and what is refused."""

import pytest
from rclpy.parameter import Parameter
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

from snn_perception.checkpoint import save_checkpoint
from tests.image_support import small_detector
from tests.ros.process_support import observer, spin_until, started
from tests.ros.test_detector_node import boxes, packets, play, refusal
from tests.ros.test_exceptional_messages import record_errors

BEST_EFFORT, RELIABLE = QoSReliabilityPolicy.BEST_EFFORT, QoSReliabilityPolicy.RELIABLE


def subscription_of(b, topic):
    b.spin_until(lambda: b.peer.get_subscriptions_info_by_topic(topic))
    [info] = b.peer.get_subscriptions_info_by_topic(topic)
    return info.qos_profile


def publisher_of(b, topic):
    b.spin_until(lambda: b.peer.get_publishers_info_by_topic(topic))
    [info] = b.peer.get_publishers_info_by_topic(topic)
    return info.qos_profile


def test_without_overrides_the_parameters_and_plain_defaults_hold(bench):
    b = bench(qos_reliability="best_effort", qos_depth=77)
    b.start()
    assert subscription_of(b, "/events").reliability == BEST_EFFORT
    assert publisher_of(b, "/detections").reliability == RELIABLE
    values = {
        name: b.detector.get_parameter(f"qos_overrides.{name}").value
        for name in ("/events.subscription.depth", "/events.subscription.reliability", "/detections.publisher.depth")
    }
    assert list(values.values()) == [77, "best_effort", 10], "they can be looked up"


def test_an_override_takes_effect_on_dds_and_the_rest_stays_as_it_was(bench):
    overrides = {
        "qos_overrides./events.subscription.reliability": "reliable",
        "qos_overrides./detections.publisher.reliability": "best_effort",
        "qos_overrides./detections.publisher.durability": "transient_local",
    }
    b = bench(qos_reliability="best_effort", **overrides)
    found = b.listen(Detection2DArray, "detections", QoSProfile(depth=100, reliability=BEST_EFFORT))
    deaf = []
    b.peer.create_subscription(Detection2DArray, "detections", deaf.append, QoSProfile(depth=100, reliability=RELIABLE))
    for _ in range(2):
        b.start()  # again after a clean-up: the parameters are there already
        heard = subscription_of(b, "/events")
        told = publisher_of(b, "/detections")
        assert (heard.reliability, heard.durability) == (RELIABLE, QoSDurabilityPolicy.VOLATILE)
        assert (told.reliability, told.durability) == (BEST_EFFORT, QoSDurabilityPolicy.TRANSIENT_LOCAL)
        assert publisher_of(b, "/detections/timing").reliability == RELIABLE
        b.detector.trigger_deactivate()
        b.detector.trigger_cleanup()
        b.spin_until(lambda: not b.peer.get_publishers_info_by_topic("/detections"))
    b.start()
    play(b, b.publisher(), packets())
    b.spin_until(lambda: len(found) >= 9)
    assert any(map(boxes, found)) and not deaf, "a reliable subscription does not hear a best-effort publisher"


def test_each_camera_has_its_own(bench):
    b = bench(cameras=["left", "right"], **{"qos_overrides./left/events.subscription.reliability": "best_effort"})
    b.start()
    assert subscription_of(b, "/left/events").reliability == BEST_EFFORT
    assert subscription_of(b, "/right/events").reliability == RELIABLE


def test_images_have_them_too(bench, tmp_path, registry):
    path = tmp_path / "images.safetensors"
    save_checkpoint(path, small_detector(registry, state_policy="per_window"))
    override = {"qos_overrides./image.subscription.reliability": "best_effort"}
    b = bench(checkpoint=str(path), input_type="image", **override)
    b.start()
    assert subscription_of(b, "/image").reliability == BEST_EFFORT
    assert b.peer.create_publisher(Image, "image", 1)


@pytest.mark.parametrize(
    ("policy", "value", "words"),
    [
        ("reliability", "relaible", "`reliability`: `relaible`"),
        ("reliability", "unknown", "reliability must be known"),
        ("history", "", "`history`: ``"),
        ("depth", -1, "-1"),
        ("depth", 10**6, "depth must be 0..100000, got 1000000"),
        ("depth", "deep", "depth"),
        ("durability", 3, "durability"),
    ],
)
def test_an_invalid_override_is_one_clear_error_and_nothing_is_left_behind(bench, policy, value, words):
    b = bench(**{f"qos_overrides./detections.publisher.{policy}": value})
    told = refusal(b, b.detector.trigger_configure)
    assert told.startswith("cannot configure: qos_overrides./detections.publisher: ") and words in told, told
    assert not b.peer.get_publishers_info_by_topic("/detections")
    assert not list(b.detector.publishers) or "/detections" not in [p.topic_name for p in b.detector.publishers]


def test_an_invalid_override_of_a_subscription_leaves_the_node_inactive(bench):
    b = bench(cameras=["left", "right"], **{"qos_overrides./right/events.subscription.reliability": "often"})
    assert b.detector.trigger_configure().name == "SUCCESS"
    told = refusal(b, b.detector.trigger_activate)
    assert "cannot activate: qos_overrides./right/events.subscription: " in told and "`often`" in told
    assert b.detector._state_machine.current_state[1] == "inactive" and not b.detector._cameras
    assert not [s for s in b.detector.subscriptions if s.topic_name.endswith("/events")]


def test_overrides_come_from_a_parameter_file_of_a_process_too(checkpoint, tmp_path):
    parameters = {
        "checkpoint": str(checkpoint),
        "autostart": True,
        "qos_overrides": {"/front/events": {"subscription": {"reliability": "reliable", "depth": 5}}},
    }
    node = {
        "executable": "detector_node", "name": "detector", "namespace": "/front",
        "parameters": [parameters], "remappings": [],
    }  # fmt: skip
    with observer("qos_observer") as (peer, executor), started(node, tmp_path):
        spin_until(executor, lambda: peer.get_subscriptions_info_by_topic("/front/events"))
        [info] = peer.get_subscriptions_info_by_topic("/front/events")
        assert info.qos_profile.reliability == RELIABLE


def test_a_camera_that_joins_with_an_invalid_override_is_refused_and_the_others_go_on(bench):
    b = bench(cameras=["left"], **{"qos_overrides./right/events.subscription.history": "some"})
    found, said = b.listen(Detection2DArray, "left/detections"), record_errors(b.detector)
    b.start()
    assert b.detector.set_parameters([Parameter("cameras", value=["left", "right"])])[0].successful
    assert len(said) == 1 and "cannot listen to camera 'right': qos_overrides./right/events.subscription" in said[0]
    play(b, b.publisher("left/events"), packets())
    b.spin_until(lambda: len(found) >= 9)
    assert set(b.detector._cameras) == {"left"}


def test_an_override_of_a_topic_that_is_not_there_is_told(bench):
    misspelt = {"qos_overrides./evnts.subscription.depth": 5, "qos_overrides./events.subscription.dept": 5}
    b = bench(**misspelt, **{"qos_overrides./events.subscription.depth": 7})
    said, real = [], b.detector.get_logger()

    class Log:
        def warning(self, text, **_):
            said.append(text)

        def __getattr__(self, name):
            return getattr(real, name)

    b.detector.get_logger = Log
    b.start()
    [text] = [text for text in said if "without effect" in text]
    assert text.startswith(", ".join(sorted(misspelt)))
    assert "/events.subscription" in text and "/detections.publisher" in text
