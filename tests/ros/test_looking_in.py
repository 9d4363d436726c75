"""Looking into a running node over DDS: Autoware's figures, pictures of windows, and the network's activity."""

import re

import numpy as np
import pytest
import torch
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

from snn_perception.checkpoint import save_checkpoint
from snn_perception.ros import debug_images
from snn_perception.ros.camera import event_qos
from snn_perception.ros.image_messages import image_message_from
from snn_perception.ros.jobs import ResetJob
from snn_perception.runtime.activity_watch import SILENT_LOOKS
from snn_perception.runtime.render import draw_window
from tests.image_support import raw_image, scene, small_detector
from tests.ros.test_detector_node import boxes, packets, play


class Reports:
    """Statuses as they come, by the end of their names."""

    def __init__(self, bench):
        self._messages = bench.listen(DiagnosticArray, "/diagnostics")

    def of(self, ending):
        return [status for msg in self._messages for status in msg.status if status.name.endswith(ending)]

    def last(self, ending=": camera"):
        return self.of(ending)[-1]


def values_of(status):
    return {value.key: value.value for value in status.values}


def test_autowares_figures_come_also_from_a_node_that_is_silent(bench):
    b = bench(max_acceptable_consecutive_delay_ms=300.0, max_allowed_processing_time_ms=60_000.0)
    reports = Reports(b)
    b.start()
    b.spin_until(lambda: reports.of(": camera"))
    before = reports.last()
    assert values_of(before)["processing_time_ms"] == values_of(before)["cyclic_time_ms"] == "n/a"
    assert before.level == DiagnosticStatus.OK, "nothing is late before the first window"
    found = b.listen(Detection2DArray, "detections")
    play(b, b.publisher(), packets())
    b.spin_until(lambda: len(found) >= 9)
    b.spin_until(lambda: values_of(reports.last())["cyclic_time_ms"] != "n/a")
    figures = values_of(reports.last())
    assert 0 < float(figures["processing_time_ms"]) < 60_000 and float(figures["cyclic_time_ms"]) > 0
    assert figures["is_processing_time_ms_in_expected_range"] == "True"
    b.spin_until(lambda: reports.last().level == DiagnosticStatus.ERROR)
    assert "no result in time for" in reports.last().message
    assert values_of(reports.last())["is_consecutive_processing_delay_in_range"] == "False"
    assert float(values_of(reports.last())["consecutive_processing_delay_ms"]) > 300


def test_slow_windows_warn_as_soon_as_they_are_not_allowed(bench):
    b = bench()
    reports, found = Reports(b), b.listen(Detection2DArray, "detections")
    b.start()
    publisher, messages = b.publisher(), packets(1_000_000)
    play(b, publisher, messages[:100])
    b.spin_until(lambda: len(found) >= 9)
    b.spin(0.3)
    assert not any("processing took" in status.message for status in reports.of(": camera"))
    change = Parameter("max_allowed_processing_time_ms", value=0.001)
    assert b.detector.set_parameters([change])[0].successful
    play(b, publisher, messages[100:])
    b.spin_until(lambda: any("processing took" in status.message for status in reports.of(": camera")))
    [first, *_] = [status for status in reports.of(": camera") if "processing took" in status.message]
    assert first.level == DiagnosticStatus.WARN and "max_allowed_processing_time_ms: 0.001" in first.message


def test_a_camera_that_comes_back_tells_of_what_is_new(bench):
    b = bench(cameras=["left", "right"])
    reports, found = Reports(b), b.listen(Detection2DArray, "right/detections")
    b.start()
    publisher = b.publisher("right/events")

    def windows():
        before = len(found)
        play(b, publisher, packets())
        b.spin_until(lambda: len(found) >= before + 9)
        seen = len(reports.of(": right"))
        b.spin_until(lambda: len(reports.of(": right")) >= seen + 2)

    def cameras(*names):
        assert b.detector.set_parameters([Parameter("cameras", value=list(names))])[0].successful

    windows()
    for _ in range(3):
        b.detector._queue.put(ResetJob("right"))
    windows()
    resets = int(values_of(reports.last(": right"))["state resets"])
    assert resets >= 3
    cameras("left")
    b.spin_until(lambda: publisher.get_subscription_count() == 0)
    told = len(reports.of(": right"))
    cameras("left", "right")
    windows()
    later = reports.of(": right")[told:]
    new = [int(n) for status in later for n in re.findall(r"(\d+) state resets", status.message)]
    assert sum(new) == int(values_of(later[-1])["state resets"]) - resets > 0, "its stream goes on counting"


@pytest.fixture
def draws(monkeypatch):
    """Return the windows that were drawn."""
    drawn = []

    def draw(window, *args, **options):
        drawn.append(window)
        return draw_window(window, *args, **options)

    monkeypatch.setattr(debug_images, "draw_window", draw)
    return drawn


def test_pictures_come_while_somebody_looks_under_the_stamps_of_the_detections(bench, draws):
    b = bench(debug_image_hz=120.0)
    found, pictures = b.listen(Detection2DArray, "detections"), b.listen(Image, "/detector/debug_image")
    b.start()
    b.spin_until(lambda: b.detector.count_subscribers("/detector/debug_image") > 0)
    play(b, b.publisher(), packets(1_000_000))
    b.spin_until(lambda: len(found) >= 19 and len(pictures) >= 1)
    b.spin(0.5)
    stamps = [(m.header.stamp.sec, m.header.stamp.nanosec) for m in found]
    assert 1 <= len(pictures) <= len(draws) <= len(found)
    for picture in pictures:
        assert (picture.header.stamp.sec, picture.header.stamp.nanosec) in stamps
        assert (picture.encoding, picture.step) == ("rgb8", 3 * picture.width)
        assert len(picture.data) == picture.step * picture.height
    last = np.frombuffer(pictures[-1].data, np.uint8).reshape(pictures[-1].height, pictures[-1].width, 3)
    at = stamps.index((pictures[-1].header.stamp.sec, pictures[-1].header.stamp.nanosec))
    assert found[at].detections and len(np.unique(last.reshape(-1, 3), axis=0)) > 5


def test_without_a_looker_nothing_is_drawn(bench, draws):
    b = bench(debug_image_hz=120.0)
    found = b.listen(Detection2DArray, "detections")
    b.start()
    play(b, b.publisher(), packets())
    b.spin_until(lambda: len(found) >= 9)
    b.spin(0.2)
    assert not draws


def test_pictures_are_no_more_than_was_asked_for(bench, draws):
    b = bench(debug_image_hz=0.01)
    found, _ = b.listen(Detection2DArray, "detections"), b.listen(Image, "/detector/debug_image")
    b.start()
    b.spin_until(lambda: b.detector.count_subscribers("/detector/debug_image") > 0)
    play(b, b.publisher(), packets())
    b.spin_until(lambda: len(found) >= 9 and draws)
    b.spin(0.3)
    assert len(draws) == 1


def test_a_picture_that_fails_costs_no_detections_and_the_thread_ends_with_the_node(bench, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("no font")

    monkeypatch.setattr(debug_images, "draw_window", fail)
    b = bench(cameras=["left"])
    found, pictures = b.listen(Detection2DArray, "left/detections"), b.listen(Image, "/detector/left/debug_image")
    b.start()
    thread = b.detector._outlet._debug_images._thread
    b.spin_until(lambda: b.detector.count_subscribers("/detector/left/debug_image") > 0)
    play(b, b.publisher("left/events"), packets())
    b.spin_until(lambda: len(found) >= 9)
    assert any(m.detections for m in found) and not pictures and thread.is_alive()
    b.detector.trigger_deactivate()
    b.detector.trigger_cleanup()
    assert not thread.is_alive()


def test_the_activity_of_a_healthy_network_is_reported_by_layer(bench):
    b = bench(activity_period_s=0.01)
    reports, found = Reports(b), b.listen(Detection2DArray, "detections")
    b.start()
    play(b, b.publisher(), packets())
    b.spin_until(lambda: len(found) >= 9 and reports.of(": activity"))
    b.spin_until(lambda: int(values_of(reports.last(": camera: activity")).get("looks", 0)) >= 9)
    status = reports.last(": activity")
    values = values_of(status)
    assert status.level == DiagnosticStatus.OK and status.message == "every layer fires"
    assert status.name == "/detector: camera: activity"
    rates = {key: float(value) for key, value in values.items() if key.startswith("firing rate ")}
    assert len(rates) == 11 and min(rates.values()) > 0
    assert 0 < int(values["synaptic operations"]) < int(values["dense operations"])
    assert min(rates.values()) <= float(values["firing rate"]) <= max(rates.values())


def test_a_layer_that_was_silenced_is_named(bench):
    b = bench()
    reports, found = Reports(b), b.listen(Detection2DArray, "detections")
    b.start()
    with torch.no_grad():
        b.detector._model.pipeline.detector.backbone.stages[4].current.conv.weight.zero_()
    assert b.detector.set_parameters([Parameter("activity_period_s", value=0.01)])[0].successful, "while it runs"
    play(b, b.publisher(), packets())
    b.spin_until(lambda: len(found) >= 9 and reports.of(": activity"))
    b.spin_until(lambda: reports.last(": activity").level == DiagnosticStatus.WARN)
    status = reports.last(": activity")
    assert status.message.startswith(f"silent in {SILENT_LOOKS} looks or more: backbone.stages.4.neuron")
    assert values_of(status)["firing rate backbone.stages.4.neuron"] == "0.0000"
    assert float(values_of(status)["firing rate backbone.stages.3.neuron"]) > 0


def test_looking_changes_no_detection(bench):
    runs = []
    for parameters in ({}, {"activity_period_s": 0.001, "debug_image_hz": 120.0}):
        b = bench(**parameters)
        found = b.listen(Detection2DArray, "detections")
        pictures = b.listen(Image, "/detector/debug_image") if parameters else []
        b.start()
        play(b, b.publisher(), packets())
        b.spin_until(lambda found=found: len(found) >= 9)
        if parameters:
            b.spin_until(lambda pictures=pictures: pictures)
        runs.append([boxes(msg) for msg in found[:9]])
        b.close()  # or it would answer on the same topic
    assert runs[0] == runs[1] and any(runs[0])


def test_images_are_drawn_as_they_are(bench, tmp_path, registry):
    path = tmp_path / "images.safetensors"
    save_checkpoint(path, small_detector(registry, state_policy="per_window"))
    b = bench(checkpoint=str(path), input_type="image", image_qos_depth=0, score_threshold=0.99)
    pictures, found = b.listen(Image, "/detector/debug_image"), b.listen(Detection2DArray, "detections")
    b.start()
    publisher = b.peer.create_publisher(Image, "image", event_qos(0, "reliable"))
    b.spin_until(lambda: b.detector.count_subscribers("/detector/debug_image") > 0)
    b.spin_until(lambda: publisher.get_subscription_count() > 0)
    pixels = scene(60, 80, 1)
    publisher.publish(image_message_from(raw_image(pixels, stamp_ns=5_000_000_007)))
    b.spin_until(lambda: pictures and found)
    assert not found[0].detections, "boxes would hide what is compared"
    [picture] = pictures
    assert (picture.header.stamp.sec, picture.header.stamp.nanosec) == (5, 7)
    shown = np.frombuffer(picture.data, np.uint8).reshape(picture.height, picture.width, 3)
    scale = picture.width // 80
    np.testing.assert_array_equal(shown[-60 * scale :: scale, ::scale], pixels)
