"""The node in this process: lifecycle, parameters, refusals, resets, two cameras, damaged messages."""

import threading
import time

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from event_camera_msgs.msg import EventPacket
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn as Result
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger
from vision_msgs.msg import Detection2DArray, LabelInfo, VisionInfo

from snn_perception.data.shapes import moving_shapes
from snn_perception.events.evt3_encode import packetize
from snn_perception.ros.camera import event_qos
from snn_perception.ros.detector_node import DetectorNode
from snn_perception.ros.messages import event_packet_from
from snn_perception.ros.outlet import LATCHED
from snn_perception.ros.parameters import SETTINGS
from snn_perception.types import SensorSize
from tests.ros.test_live_equals_offline import content

SIZE = SensorSize(240, 304)
STILL_NS = 50_000_000


class Bench:
    """A detector node and a node of the test's own, spun together in one context."""

    def __init__(self, **parameters):
        self.context = Context()
        rclpy.init(context=self.context)
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        self.detector = DetectorNode(context=self.context, parameter_overrides=overrides)
        self.peer = Node("peer", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.detector)
        self.executor.add_node(self.peer)
        self.received = {}

    def listen(self, message_type, topic, qos=100):
        messages = self.received.setdefault(topic, [])
        self.peer.create_subscription(message_type, topic, messages.append, qos)
        return messages

    def publisher(self, topic="events"):
        return self.peer.create_publisher(EventPacket, topic, event_qos(0, "reliable"))

    def spin_until(self, done, timeout_s=30.0):
        deadline = time.monotonic() + timeout_s
        while not done():
            assert time.monotonic() < deadline, "nothing came of it"
            self.executor.spin_once(timeout_sec=0.02)

    def spin(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.02)

    def start(self):
        assert self.detector.trigger_configure() == Result.SUCCESS
        assert self.detector.trigger_activate() == Result.SUCCESS

    def close(self):
        if not self.context.ok():
            return
        self.executor.shutdown()
        self.detector.destroy_node()
        self.peer.destroy_node()
        rclpy.shutdown(context=self.context)


def packets(duration_us=500_000, seed=3):
    return [
        event_packet_from(p) for p in packetize(moving_shapes(SIZE, duration_us, seed=seed), SIZE, interval_us=5_000)
    ]


def play(bench, publisher, messages):
    bench.spin_until(lambda: publisher.get_subscription_count() > 0)
    for msg in messages:
        publisher.publish(msg)
        bench.executor.spin_once(timeout_sec=0)
    began_ns = time.monotonic_ns()  # until all of it is taken, or its camera waits for room
    heard = [camera.figures for camera in bench.detector._cameras.values() if camera.topic == publisher.topic_name]
    bench.spin_until(
        lambda: all(time.monotonic_ns() - max(began_ns, figures.last_packet_ns) > STILL_NS for figures in heard)
    )


def boxes(msg):
    return [(d.bbox.center.position.x, d.bbox.center.position.y, d.bbox.size_x, d.bbox.size_y) for d in msg.detections]


def test_configure_activate_deactivate_cleanup_and_again(bench):
    b = bench()
    found = b.listen(Detection2DArray, "detections")
    labels, vision = b.listen(LabelInfo, "label_info", LATCHED), b.listen(VisionInfo, "vision_info", LATCHED)
    publisher = b.publisher()
    runs = []
    for _ in range(2):
        found.clear()
        b.start()
        play(b, publisher, packets())
        b.spin_until(lambda: len(found) >= 9)
        assert b.detector.trigger_deactivate() == Result.SUCCESS
        b.spin_until(lambda: len(found) >= 10)
        assert b.detector.trigger_cleanup() == Result.SUCCESS
        runs.append([boxes(m) for m in found])
    assert runs[0] == runs[1], "each activation starts from rest"
    assert any(runs[0])
    assert [c.class_name for c in labels[-1].class_map] == ["car", "pedestrian"]
    assert vision[-1].database_location == "/detector/model.classes"
    assert all(m.header.stamp.sec > 0 or m.header.stamp.nanosec > 0 for m in found)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such checkpoint"),
        (b"", "not a readable safetensors file"),
        (b"PK\x03\x04 not weights", "not a readable safetensors file"),
    ],
)
def test_a_bad_checkpoint_leaves_the_node_unconfigured_with_the_reason(bench, tmp_path, content, reason):
    path = tmp_path / "model.safetensors"
    if content is not None:
        path.write_bytes(content)
    b = bench(checkpoint=str(path))
    said = []
    b.detector.get_logger = type("Log", (), {"error": lambda self, text, **_: said.append(text)})
    assert b.detector.trigger_configure() == Result.FAILURE
    assert b.detector._state_machine.current_state[1] == "unconfigured"
    assert len(said) == 1 and reason in said[0] and str(path) in said[0] and "\n" not in said[0]


def test_a_refused_node_can_be_configured_once_the_reason_is_gone(bench, checkpoint):
    b = bench(checkpoint="")
    assert b.detector.trigger_configure() == Result.FAILURE
    assert b.detector.set_parameters([Parameter("checkpoint", value=str(checkpoint))])[0].successful
    b.start()


def test_parameters_say_when_they_may_change(bench):
    b = bench()
    b.start()

    def attempt(name, value):
        return b.detector.set_parameters([Parameter(name, value=value)])[0]

    assert attempt("score_threshold", 0.9).successful
    publisher = b.publisher()
    play(b, publisher, packets(200_000))
    b.spin_until(lambda: b.detector._model.pipeline.score_threshold == 0.9)
    refused = attempt("queue_size", 4)
    assert not refused.successful and "clean the node up first" in refused.reason
    assert not attempt("score_threshold", 1.5).successful
    assert not attempt("class_id_format", "roman").successful
    with pytest.raises(Exception, match=r"read.only"):
        result = attempt("input_type", "image")
        raise RuntimeError(result.reason)
    assert b.detector.get_parameter("model.window_us").value == 50_000
    assert list(b.detector.get_parameter("model.classes").value) == ["car", "pedestrian"]


def test_reset_state_puts_the_membranes_to_rest(bench):
    b = bench(score_threshold=0.0, max_detections=20)
    found = b.listen(Detection2DArray, "detections")
    client, publisher = b.peer.create_client(Trigger, "/detector/reset_state"), b.publisher()
    msgs = packets(400_000)
    windows = [msgs[10 * k : 10 * (k + 1)] for k in range(8)]  # 50 ms each
    b.start()

    play(b, publisher, windows[0] + windows[1] + windows[2])
    b.spin_until(lambda: len(found) >= 2)
    carried = boxes(found[1])
    b.detector.trigger_deactivate()
    b.spin_until(lambda: len(found) >= 3)
    found.clear()
    b.detector.trigger_activate()
    play(b, publisher, windows[0] + windows[1][:1])
    b.spin_until(lambda: len(found) >= 1)
    answer = client.call_async(Trigger.Request())
    b.spin_until(answer.done)
    assert answer.result().success
    play(b, publisher, windows[1][1:] + windows[2])
    b.spin_until(lambda: len(found) >= 2)
    after_reset = boxes(found[1])
    assert carried and after_reset != carried, "without its past the same window must look different"
    b.spin_until(lambda: b.detector._cameras[""].figures.resets == 1)  # it is noted after the message is out


def test_two_cameras_share_weights_and_nothing_else(bench):
    alone = bench(cameras=["left"])
    seen_alone = alone.listen(Detection2DArray, "left/detections")
    alone.start()
    play(alone, alone.publisher("left/events"), packets(seed=3))
    alone.spin_until(lambda: len(seen_alone) >= 9)
    expected = [boxes(m) for m in seen_alone[:9]]
    alone.close()  # or it would answer on the same topic
    both = bench(cameras=["left", "right"])
    left, right = both.listen(Detection2DArray, "left/detections"), both.listen(Detection2DArray, "right/detections")
    both.start()
    publishers = both.publisher("left/events"), both.publisher("right/events")
    both.spin_until(lambda: all(p.get_subscription_count() > 0 for p in publishers))
    for a, c in zip(packets(seed=3), packets(seed=8), strict=True):
        publishers[0].publish(a)
        publishers[1].publish(c)
        both.executor.spin_once(timeout_sec=0)
    both.spin_until(lambda: len(left) >= 9 and len(right) >= 9)
    assert [boxes(m) for m in left[:9]] == expected
    assert any(expected) and [boxes(m) for m in right[:9]] != expected


def test_exceptional_messages_do_not_stop_the_node(bench):
    b = bench()
    found = b.listen(Detection2DArray, "detections")
    b.start()
    publisher, good = b.publisher(), packets()
    rng = np.random.default_rng(0)
    bad = [
        EventPacket(height=0, width=0, encoding="evt3"),
        EventPacket(height=240, width=304, encoding="morse"),
        EventPacket(height=2**31, width=2**31, encoding="evt3"),
        EventPacket(height=240, width=304, encoding="evt3", seq=1),
    ]
    noise = EventPacket(height=240, width=304, encoding="evt3", seq=2)
    noise.events.frombytes(rng.bytes(5001))
    play(b, publisher, [*bad, noise, *good])
    b.spin_until(lambda: len(found) >= 9)
    figures, counts = b.detector._cameras[""].figures, b.detector._cameras[""].packets.stream.counts
    assert figures.bad_packets == 3
    assert counts.losses.total > 0
    assert any(boxes(m) for m in found)


def test_diagnostics_warn_of_loss_and_of_silence(bench):
    b = bench(silence_warning_s=0.3)
    from diagnostic_msgs.msg import DiagnosticArray

    reports = b.listen(DiagnosticArray, "/diagnostics")
    b.start()
    publisher, msgs = b.publisher(), packets()
    play(b, publisher, msgs[:30] + msgs[40:])

    def statuses():
        return [s for r in reports for s in r.status]

    b.spin_until(lambda: any("lost packets" in s.message for s in statuses()))
    values = {v.key: v.value for v in statuses()[-1].values}
    assert values["lost packets"] == "10" and values["sequence gaps"] == "1"
    b.spin_until(lambda: any("no packet on" in s.message and s.level == DiagnosticStatus.WARN for s in statuses()))


def test_the_shipped_parameter_file_names_real_parameters():
    import yaml

    from snn_perception.ros.parameters import BY_NAME
    from tests.paths import ROOT

    values = yaml.safe_load((ROOT / "launch" / "detector.yaml").read_text())["detector"]["ros__parameters"]
    assert values and not values.keys() - BY_NAME.keys()
    for name, value in values.items():
        assert type(value) is type(BY_NAME[name].default), name
        assert value == BY_NAME[name].default, f"{name}: the file and the node disagree on the default"


def test_every_parameter_is_described():
    from snn_perception.ros.parameters import SETTINGS

    for setting in SETTINGS:
        descriptor = setting.descriptor()
        assert len(descriptor.description) > 15
        if isinstance(setting.default, (int, float)) and not isinstance(setting.default, bool):
            assert descriptor.integer_range or descriptor.floating_point_range, setting.name


def refusal(b, transition):
    """Return the one line that the node logs when it refuses a transition."""
    said = []
    log = type("Log", (), {"error": lambda self, text, **_: said.append(text), "info": lambda self, text, **_: None})
    b.detector.get_logger = log
    assert transition() == Result.FAILURE
    assert len(said) == 1 and "\n" not in said[0], said
    return said[0]


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s.choices], ids=lambda setting: setting.name)
def test_a_misspelt_choice_at_start_up_is_refused_by_name(bench, setting):
    b = bench(**{setting.name: "misspelt"})
    text = refusal(b, b.detector.trigger_configure)
    assert f"{setting.name} must be one of {', '.join(setting.choices)}, got 'misspelt'" in text


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"device": "cuda:77"}, "device 'cuda:77' cannot be used"),
        ({"cameras": ["left", "left"]}, "cameras must have distinct names"),
        ({"cameras": ["left cam"]}, "left cam"),
        ({"plugin_paths": ["no/such_plugin.py"]}, "no/such_plugin.py"),
    ],
)
def test_what_cannot_be_configured_is_said_in_one_line(bench, parameters, words):
    b = bench(**parameters)
    assert words in refusal(b, b.detector.trigger_configure)


def test_the_checkpoint_overrules_parameters_of_its_own(bench):
    b = bench(**{"model.window_us": 3})
    b.start()
    assert b.detector.get_parameter("model.window_us").value == 50_000


def test_label_info_follows_the_threshold(bench):
    b = bench()
    labels = b.listen(LabelInfo, "label_info", LATCHED)
    b.start()
    b.spin_until(lambda: labels and labels[-1].threshold == pytest.approx(0.5))
    b.detector.set_parameters([Parameter("score_threshold", value=0.75)])
    b.spin_until(lambda: labels[-1].threshold == pytest.approx(0.75))


def test_a_stuck_inference_does_not_hold_the_node(bench):
    b = bench(queue_size=1)
    b.start()
    release, entered = threading.Event(), threading.Event()
    step = b.detector._model.pipeline.step

    def stuck(window, stream, **_):
        entered.set()
        release.wait(30)
        return step(window, stream)

    b.detector._model.pipeline.step = stuck
    publisher = b.publisher()
    b.spin_until(lambda: publisher.get_subscription_count() > 0)
    for msg in packets(75_000):  # one window, and the beginning of the next
        publisher.publish(msg)
    b.spin_until(entered.is_set)
    b.detector._budget_s = 0.2
    assert b.detector.trigger_deactivate() == Result.SUCCESS
    assert "still at work" in refusal(b, b.detector.trigger_activate)
    release.set()
    del b.detector.get_logger
    deadline = time.monotonic() + 20
    while b.detector._worker is not None and b.detector._worker.is_running and time.monotonic() < deadline:
        time.sleep(0.01)
    assert b.detector.trigger_activate() == Result.SUCCESS


def test_a_message_that_cannot_go_out_leaves_the_state_alone(bench):
    b = bench()
    b.start()
    publisher = b.publisher()

    def refuse(msg):
        raise RuntimeError("cannot publish data")

    b.detector._outlet._detections[""].publish = refuse
    play(b, publisher, packets())
    figures = b.detector._cameras[""].figures
    b.spin_until(lambda: figures.failed_messages >= 9)
    assert figures.failed_windows == 0
    assert b.detector._worker.streams()[""].stream.resets == 0
    assert b.detector._worker.streams()[""].stream.windows >= 9


def test_a_deadline_is_refused_while_the_model_cannot_stop_early(bench):
    bench = bench()
    [before] = bench.detector.set_parameters([Parameter("deadline_ms", value=20.0)])
    assert before.successful, "which model it will be is not known yet"
    bench.detector.set_parameters([Parameter("deadline_ms", value=0.0)])
    bench.start()
    [after] = bench.detector.set_parameters([Parameter("deadline_ms", value=20.0)])
    assert not after.successful and "leave deadline_ms out" in after.reason
    [off] = bench.detector.set_parameters([Parameter("deadline_ms", value=0.0)])
    assert off.successful


def test_cameras_join_and_leave_while_it_runs(bench):
    """What the others see does not change by it: byte for byte as alone."""
    alone = bench(cameras=["left"], stamp_source="sensor")
    expected = alone.listen(Detection2DArray, "left/detections")
    alone.start()
    play(alone, alone.publisher("left/events"), packets(1_000_000))
    alone.spin_until(lambda: len(expected) >= 19)
    alone.close()

    b = bench(cameras=["left"], stamp_source="sensor")
    found = {name: b.listen(Detection2DArray, f"{name}/detections") for name in ("left", "right")}
    b.start()
    left, right = b.publisher("left/events"), b.publisher("right/events")
    both = packets(1_000_000)
    play(b, left, both[:60])

    def cameras(*names):
        [change] = b.detector.set_parameters([Parameter("cameras", value=list(names))])
        return change

    assert cameras("left", "right").successful
    play(b, right, packets(seed=4))
    play(b, left, both[60:120])
    b.spin_until(lambda: len(found["right"]) >= 9)
    assert cameras("left").successful and set(b.detector._cameras) == {"left"}
    b.spin_until(lambda: right.get_subscription_count() == 0)
    assert cameras("left").reason == ""
    refused = cameras("left", "left")
    assert not refused.successful and "distinct names" in refused.reason
    refused = cameras("left", "right side")
    assert not refused.successful and "'right side' is no name in ROS" in refused.reason
    play(b, left, both[120:])
    b.spin_until(lambda: len(found["left"]) >= len(expected))
    assert [content(msg) for msg in found["left"]] == [content(msg) for msg in expected]
    assert cameras("left", "right").successful, "and back again"
    before = len(found["right"])
    play(b, right, packets(seed=5))
    b.spin_until(lambda: len(found["right"]) >= before + 9)
    assert sum(len(msg.detections) for msg in found["right"]) > 0
