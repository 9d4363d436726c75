"""Lost packets and an hour's jumps, over DDS: the node counts them and sees what an offline run of the rest sees."""

import pytest
from rclpy.lifecycle import TransitionCallbackReturn as Result
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray

from snn_perception import DetectionPipeline, save_checkpoint
from snn_perception.ros.messages import event_packet_from, ns_to_stamp, to_detection2d_array
from tests.ros.small_support import SETTINGS
from tests.ros.test_detector_node import Bench, play
from tests.ros.test_live_equals_offline import content
from tests.small_network import small_detector
from tests.test_loss_sweeps import MAX_GAP_US, STARTS_US, Stream, evt2, evt3, lossy, sections


@pytest.mark.parametrize(("words_of", "share"), [(evt3, 0.05), (evt2, 0.2)])
def test_a_lossy_live_stream_is_counted_and_sees_what_is_left(words_of, share, registry, tmp_path):
    detector = small_detector(registry)
    save_checkpoint(tmp_path / "small.safetensors", detector)
    parts = sections(STARTS_US["+1 h, -1 h"], words_of)
    arrived, _ = lossy(parts, share, seed=7)
    offline = Stream(registry, DetectionPipeline(detector, max_gap_us=MAX_GAP_US, max_detections=10))
    for window in offline.rest(arrived):
        offline.take(window)
    bench = Bench(checkpoint=str(tmp_path / "small.safetensors"), max_gap_ms=MAX_GAP_US // 1000, **SETTINGS)
    try:
        found = bench.listen(Detection2DArray, "detections", 1000)
        bench.start()
        camera = bench.detector._cameras[""]
        play(bench, bench.publisher(), [event_packet_from(packet) for packet in arrived])
        bench.spin_until(lambda: camera.received()["packets"] == len(arrived))
        assert bench.detector.trigger_deactivate() == Result.SUCCESS
        bench.spin_until(lambda: len(found) >= len(offline.found))
    finally:
        bench.close()
    losses, figures = camera.losses(), camera.figures
    assert losses["lost packets"] == sum(map(len, parts)) - len(arrived)
    assert losses["stream gaps"] == figures.resets == 2 and losses["late packets"] == losses["duplicate packets"] == 0
    assert figures.dropped_windows == figures.failed_windows == figures.bad_packets == 0
    classes, headers = detector.spec.classes, (Header(stamp=ns_to_stamp(one.t_us * 1000)) for one in offline.found)
    expected = [to_detection2d_array(one, header, classes) for one, header in zip(offline.found, headers, strict=True)]
    assert sum(len(msg.detections) for msg in expected) >= len(expected)
    assert [content(msg) for msg in found] == [content(msg) for msg in expected]
