"""Where each window's time went, told live beside its detections: the stages add up, and each shows its own delay."""

import math
import time
from dataclasses import replace

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

from snn_perception.checkpoint import save_checkpoint
from snn_perception.data.shapes import moving_shapes
from snn_perception.events.evt3_encode import packetize
from snn_perception.ros.camera import event_qos
from snn_perception.ros.image_messages import image_message_from
from snn_perception.ros.messages import event_packet_from, stamp_to_ns
from snn_perception.runtime.stages import STAGES
from tests.image_support import raw_image, scene, small_detector
from tests.ros.test_detector_node import SIZE, packets, play
from tests.ros.test_looking_in import Reports, values_of

ROUNDING_MS = 0.0005 * (len(STAGES) + 1)


def told(timings):
    return [{pair.key: float(pair.value) for pair in msg.status[0].values} for msg in timings]


def parts_of(one):
    return [one[f"{name}_ms"] for name in STAGES if not math.isnan(one[f"{name}_ms"])]


def stamped_now(duration_us):
    """Yield packets as a camera on this machine would send them: each when its time has passed, with its stamp."""
    sent = list(packetize(moving_shapes(SIZE, duration_us, seed=3), SIZE, interval_us=5_000))
    begin_ns = time.time_ns()
    for packet in sent:
        due_ns = begin_ns + packet.stamp_ns + 5_000_000
        time.sleep(max(0.0, (due_ns - time.time_ns()) / 1e9))
        yield event_packet_from(replace(packet, stamp_ns=time.time_ns()))


@pytest.mark.parametrize("stamp_source", ["header", "sensor"])
def test_the_stages_of_a_live_camera_add_up_to_the_whole(bench, stamp_source):
    b = bench(stamp_source=stamp_source)
    timings, found = b.listen(DiagnosticArray, "detections/timing"), b.listen(Detection2DArray, "detections")
    seen_ns = []
    b.peer.create_subscription(Detection2DArray, "detections", lambda msg: seen_ns.append(time.time_ns()), 100)
    reports = Reports(b)
    b.start()
    b.spin_until(lambda: b.detector.count_subscribers("/detections/timing") > 0)
    play(b, b.publisher(), stamped_now(700_000))
    b.spin_until(lambda: len(timings) >= 13 and len(seen_ns) >= 13)
    for one in told(timings):
        assert len(parts_of(one)) == len(STAGES), "every stage of a camera of this host is known"
        assert min(parts_of(one)[1:]) >= 0, "the first may be below, by what a packet lasts"
        assert one["inference_ms"] > 0 and one["publish_ms"] > 0 and one["decode_ms"] > 0
        assert one["total_ms"] == pytest.approx(sum(parts_of(one)), abs=ROUNDING_MS)
        assert one["latency_ms"] == pytest.approx(one["waiting_ms"] + one["inference_ms"], abs=0.002)
    assert [msg.header.stamp for msg in timings] == [msg.header.stamp for msg in found]
    if stamp_source == "header":  # what a listener sees for itself is the whole, and its own way to it
        for msg, at_ns, one in zip(found, seen_ns, told(timings), strict=True):
            on_the_way_ms = (at_ns - stamp_to_ns(msg.header.stamp)) / 1e6 - one["total_ms"]
            assert on_the_way_ms > -one["publish_ms"] - 1, "it may be here before `publish` has returned"
    b.spin_until(lambda: "stage total p50 ms" in values_of(reports.last()))
    figures = values_of(reports.last())
    for name in (*STAGES, "total"):
        assert float(figures[f"stage {name} p50 ms"]) <= float(figures[f"stage {name} p95 ms"])


def test_a_message_that_waits_behind_another_shows_in_the_hosts_stage(bench):
    b = bench()
    timings = b.listen(DiagnosticArray, "detections/timing")
    b.start()
    camera, waits = b.detector._cameras[""], [0.3]  # for the first message alone
    windows_of = camera._windows_of

    def slow(msg):
        time.sleep(waits.pop() if waits else 0.0)
        return windows_of(msg)

    camera._windows_of = slow
    b.spin_until(lambda: b.detector.count_subscribers("/detections/timing") > 0)
    play(b, b.publisher(), packets(300_000)[:12])  # they close the first window
    b.spin_until(lambda: len(timings) >= 1)
    first = told(timings)[0]
    assert first["host_ms"] > 200 and first["total_ms"] > 200


def test_a_window_that_waits_for_its_turn_shows_in_waiting(bench):
    b = bench(queue_size=100)
    timings = b.listen(DiagnosticArray, "detections/timing")
    b.start()
    step = b.detector._model.pipeline.step

    def slow(window, stream, **options):
        time.sleep(0.05)
        return step(window, stream, **options)

    b.detector._model.pipeline.step = slow
    b.spin_until(lambda: b.detector.count_subscribers("/detections/timing") > 0)
    play(b, b.publisher(), packets())
    b.spin_until(lambda: len(timings) >= 9)
    told_of = told(timings)
    assert min(one["inference_ms"] for one in told_of) > 49
    assert told_of[8]["waiting_ms"] > 7 * 50 > told_of[0]["waiting_ms"]


def test_a_recording_of_another_day_has_no_sensor_stage_and_still_adds_up(bench):
    b = bench()
    timings = b.listen(DiagnosticArray, "detections/timing")
    b.start()
    b.spin_until(lambda: b.detector.count_subscribers("/detections/timing") > 0)
    play(b, b.publisher(), packets(525_000))
    b.spin_until(lambda: len(timings) >= 9)
    b.spin(0.2)
    complete = len(timings)
    b.detector.trigger_deactivate()  # the last, partial window comes with no message
    b.spin_until(lambda: len(timings) > complete)
    for one in told(timings):
        assert math.isnan(one["sensor_ms"])
        assert one["total_ms"] == pytest.approx(sum(parts_of(one)), abs=ROUNDING_MS)
    assert math.isnan(told(timings)[-1]["host_ms"]) and not any(math.isnan(o["host_ms"]) for o in told(timings)[:-1])


def test_images_have_the_same_stages(bench, tmp_path, registry):
    path = tmp_path / "images.safetensors"
    save_checkpoint(path, small_detector(registry, state_policy="per_window"))
    b = bench(checkpoint=str(path), input_type="image", image_qos_depth=0)
    timings = b.listen(DiagnosticArray, "detections/timing")
    b.start()
    publisher = b.peer.create_publisher(Image, "image", event_qos(0, "reliable"))
    b.spin_until(lambda: publisher.get_subscription_count() > 0)
    b.spin_until(lambda: b.detector.count_subscribers("/detections/timing") > 0)
    publisher.publish(image_message_from(raw_image(scene(60, 80, 1), stamp_ns=time.time_ns() - 70_000_000)))
    b.spin_until(lambda: timings)
    [one] = told(timings)
    assert len(parts_of(one)) == len(STAGES) and one["sensor_ms"] >= 70 and one["decode_ms"] > 0
    assert one["total_ms"] == pytest.approx(sum(parts_of(one)), abs=ROUNDING_MS)
