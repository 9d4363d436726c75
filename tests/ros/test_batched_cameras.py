"""Two cameras of a node whose windows run as one batch, over DDS: what is published, told, and repeated offline."""

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.lifecycle import TransitionCallbackReturn as Result
from rclpy.parameter import Parameter
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray

from snn_perception import save_checkpoint
from snn_perception.cli.replay import main as replay_command
from snn_perception.events.bag_messages import EVENT_PACKET, serialize_event_packet
from snn_perception.ros.messages import event_packet_from, ns_to_stamp, to_detection2d_array
from snn_perception.runtime.detections_file import read_detections
from snn_perception.runtime.journal import read_journal, windows_in
from tests.bag_support import sqlite_file
from tests.batch_support import correspond
from tests.ros.small_support import SETTINGS
from tests.ros.test_detector_node import Bench
from tests.ros.test_live_equals_offline import content
from tests.ros.test_looking_in import Reports, values_of
from tests.small_network import small_detector, small_packets

CAMERAS, WINDOWS = ("left", "right"), 10
PACKETS = {"left": small_packets(WINDOWS, seed=3), "right": small_packets(WINDOWS, seed=4)}
TOGETHER = {"batch_cameras": 2, "batch_slack_ms": 1000.0}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, registry):
    path = tmp_path_factory.mktemp("models") / "small.safetensors"
    save_checkpoint(path, small_detector(registry))
    return path


@pytest.fixture
def node(checkpoint):
    made = []

    def make(**settings):
        made.append(Bench(checkpoint=str(checkpoint), cameras=list(CAMERAS), **{**SETTINGS, **settings}))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


class Play:
    """A node's two cameras side by side, packet by packet, and what it publishes."""

    def __init__(self, bench):
        self.bench = bench
        self.found = {name: bench.listen(Detection2DArray, f"{name}/detections", 1000) for name in CAMERAS}
        self.timing = {name: bench.listen(DiagnosticArray, f"{name}/detections/timing", 1000) for name in CAMERAS}
        bench.start()
        self.publishers = {name: bench.publisher(f"{name}/events") for name in CAMERAS}
        bench.spin_until(lambda: all(one.get_subscription_count() for one in self.publishers.values()))
        topics = [f"/{name}/detections/timing" for name in CAMERAS]
        bench.spin_until(lambda: all(bench.detector.count_subscribers(topic) for topic in topics))

    def send(self, begin=0, end=None, cameras=CAMERAS):
        for packets in zip(*(PACKETS[name][begin:end] for name in cameras), strict=True):
            for name, packet in zip(cameras, packets, strict=True):
                self.publishers[name].publish(event_packet_from(packet))
                self.bench.executor.spin_once(timeout_sec=0)

    def send_window_by_window(self):
        """Let no window come before those in front of it are out: none is kept waiting by anything but the other's."""
        for last in range(1, WINDOWS + 1):
            self.send(10 * last - 9 if last > 1 else 0, 10 * last + 1)
            self.wait_for(last)

    def wait_for(self, windows, cameras=CAMERAS):
        self.bench.spin_until(lambda: all(len(self.found[name]) >= windows for name in cameras))

    def end(self):
        served = self.bench.detector._cameras
        assert self.bench.detector.trigger_deactivate() == Result.SUCCESS
        self.wait_for(WINDOWS + 1)
        self.bench.spin_until(lambda: all(len(timing) > WINDOWS for timing in self.timing.values()))
        return {name: camera.figures for name, camera in served.items()}

    def batches(self, name):
        return [int(values_of(msg.status[0])["batch"]) for msg in self.timing[name]]


def messages_of(found, detector):
    headers = (Header(stamp=ns_to_stamp(one.t_us * 1000)) for one in found)
    arrays = (
        to_detection2d_array(one, header, detector.spec.classes) for one, header in zip(found, headers, strict=True)
    )
    return [content(msg) for msg in arrays]


def bag_of_both(tmp_path):
    rows = [(f"/{name}/events", p.stamp_ns, serialize_event_packet(p)) for name in CAMERAS for p in PACKETS[name]]
    topics = {f"/{name}/events": EVENT_PACKET for name in CAMERAS}
    return sqlite_file(tmp_path / "drive.db3", topics, sorted(rows))


def repeated(checkpoint, bag, tmp_path):
    """Return what the command computes from the journal, by camera."""
    inputs = [str(checkpoint), str(bag), "--journal", str(tmp_path / "run.jsonl")]
    assert replay_command([*inputs, "--detections", str(tmp_path / "again.jsonl")]) == 0
    return {name: [line.detections for line in read_detections(tmp_path / f"again.{name}.jsonl")] for name in CAMERAS}


def each_alone(checkpoint, bag, tmp_path):
    """Return what the command sees in each camera's windows, one by one."""
    found = {}
    for name in CAMERAS:
        inputs = [str(checkpoint), str(bag), "--topic", f"/{name}/events", "--score-threshold", "0"]
        assert replay_command([*inputs, "--max-detections", "10", "--detections", str(tmp_path / f"{name}.jsonl")]) == 0
        found[name] = [line.detections for line in read_detections(tmp_path / f"{name}.jsonl")]
    return found


def test_windows_that_close_together_run_as_one_and_the_run_is_repeated_byte_for_byte(
    node, checkpoint, registry, tmp_path
):
    play = Play(node(journal=str(tmp_path / "run.jsonl"), **TOGETHER))
    play.send_window_by_window()
    reports = Reports(play.bench)
    play.bench.spin_until(lambda: reports.of(": left") and reports.of(": right"))
    figures = play.end()
    entries = list(read_journal(tmp_path / "run.jsonl"))
    batches = [windows_in(entry) for entry in entries if entry.kind == "batch"]
    assert len(batches) >= WINDOWS // 2, "from the third window on each knows when the other's ends"
    for rows in batches:
        assert {row.camera for row in rows} == set(CAMERAS)
    assert sum(rows[0].values["t_us"] == rows[1].values["t_us"] for rows in batches) >= WINDOWS // 4
    for name in CAMERAS:
        assert figures[name].batched_windows == len(batches) == play.batches(name).count(2)
        assert figures[name].published == len(play.found[name]) == WINDOWS + 1
        assert int(values_of(reports.last(f": {name}"))["batched windows"]) >= WINDOWS // 2 - 1
    bag, detector = bag_of_both(tmp_path), small_detector(registry)
    again, alone = repeated(checkpoint, bag, tmp_path), each_alone(checkpoint, bag, tmp_path)
    for name in CAMERAS:
        assert messages_of(again[name], detector) == [content(msg) for msg in play.found[name]]
        assert min(map(len, again[name])) > 0
        same = sum(map(correspond, again[name], alone[name]))
        assert same >= WINDOWS // 2, "rounding may decide about a spike, and that about the windows behind it"


def test_batches_begin_and_end_with_the_parameter(node, tmp_path):
    play = Play(node())
    play.send(0, 41)
    play.wait_for(4)
    assert set(play.batches("left") + play.batches("right")) == {1}
    for value, begin, end, windows in ((2, 41, 71, 7), (1, 71, None, WINDOWS)):
        detector = play.bench.detector
        wanted = [Parameter("batch_cameras", value=value), Parameter("batch_slack_ms", value=1000.0)]
        assert all(result.successful for result in detector.set_parameters(wanted))
        play.send(begin, end)
        play.wait_for(windows)
        play.bench.spin_until(lambda least=windows: len(play.batches("left")) >= least)
        seen = play.batches("left")[windows - 3 :]
        assert seen == [1] * 3 if value == 1 else 2 in seen
    assert not play.bench.detector.set_parameters([Parameter("batch_cameras", value=17)])[0].successful


def test_a_camera_that_falls_silent_holds_nobody_up(node):
    play = Play(node(batch_cameras=2, batch_slack_ms=1000.0))
    play.send(0, 41)
    play.wait_for(4)
    for k in range(5, 9):
        play.send(10 * k - 9, 10 * k + 1, cameras=["left"])
        play.wait_for(k, cameras=["left"])
    play.bench.spin_until(lambda: len(play.timing["left"]) == 8)
    waited_ms = [float(values_of(msg.status[0])["waiting_ms"]) for msg in play.timing["left"]]
    assert set(play.batches("left")[4:]) == {1} and 2 in play.batches("left")
    assert waited_ms[4] >= 999 and max(waited_ms[5:]) < 999, "it is waited for once"
