"""The node on camera images, in its own process and over real DDS: what it publishes equals an offline replay."""

from dataclasses import replace

import numpy as np
import pytest
from rclpy.lifecycle import TransitionCallbackReturn as Result
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray

from snn_perception import DetectionPipeline, load_checkpoint
from snn_perception.checkpoint import save_checkpoint
from snn_perception.images.messages import parse_image, serialize_image
from snn_perception.images.recording import ImageSource, open_images
from snn_perception.ros.camera import event_qos
from snn_perception.ros.image_messages import image_message_from, raw_image_from
from snn_perception.ros.live import LiveRun
from snn_perception.ros.messages import ns_to_stamp, to_detection2d_array
from snn_perception.runtime.replay import replay
from tests.image_support import PERIOD_NS, drive, image_bag, raw_image, scene, small_detector
from tests.ros.test_detector_node import Bench, refusal
from tests.ros.test_live_equals_offline import content

KINDS = [(60, 80, "rgb8", 0), (90, 64, "bgr8", 6), (48, 100, "mono8", 4), (60, 80, "bgra8", 0)]
GOOD = drive(5, KINDS)
HOSTILE = [
    replace(GOOD[0], step=7),
    replace(GOOD[0], data=GOOD[0].data[:100]),
    replace(GOOD[0], width=0),
    replace(GOOD[0], height=2**32 - 1, width=2**32 - 1, step=2**32 - 1),
    replace(GOOD[0], data=np.zeros(0, np.uint8)),
    replace(GOOD[0], encoding="bayer_grbg8"),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory, registry):
    """Return checkpoints of a small woken model that carries nothing, and one that carries its state."""
    folder = tmp_path_factory.mktemp("models")
    paths = {}
    for policy in ("per_window", "carry"):
        paths[policy] = folder / f"{policy}.safetensors"
        save_checkpoint(paths[policy], small_detector(registry, state_policy=policy))
    return paths


def offline(checkpoint, bag, registry):
    """Return the contents of the messages that an offline replay makes, under the images' own stamps, and its steps."""
    pipeline = DetectionPipeline(load_checkpoint(checkpoint, registry=registry), registry=registry)
    steps = list(replay(ImageSource(open_images(bag), pipeline.spec.window_us), pipeline))
    headers = [Header(stamp=ns_to_stamp(raw.stamp_ns), frame_id=raw.frame_id) for raw in GOOD]
    messages = [
        content(to_detection2d_array(step.detections, header, pipeline.spec.classes))
        for step, header in zip(steps, headers, strict=True)
    ]
    return messages, steps


def live(checkpoint, bag, tmp_path):
    parameters = {
        "checkpoint": str(checkpoint),
        "input_type": "image",
        "image_qos_depth": 0,
        "score_threshold": 0.0,
        "max_detections": 10_000,
    }
    with LiveRun(parameters, tmp_path / "live.log") as run:
        run.activate()
        return run.play(bag, rate=0.0)


@pytest.mark.parametrize("policy", [pytest.param("per_window", marks=pytest.mark.slow), "carry"])
def test_live_equals_offline(policy, models, registry, tmp_path):
    """Sizes, encodings and padding change on the way, and hostile messages lie between, which both pass over."""
    bag = image_bag(tmp_path / "images.db3", [*GOOD[:8], *HOSTILE, *GOOD[8:]])
    expected, steps = offline(models[policy], bag, registry)
    result = live(models[policy], bag, tmp_path)
    assert result.published == len(GOOD) + len(HOSTILE)
    assert int(result.diagnostics["packets"]) == len(result.messages) == len(GOOD)
    assert int(result.diagnostics["bad packets"]) == len(HOSTILE)
    for key in ("dropped windows", "failed windows", "failed messages"):
        assert result.diagnostics[key] == "0", key
    assert steps[-1].stream.resets == 3, "each change of size"
    decoded = result.decoded()
    assert min(len(msg.detections) for msg in decoded) > 5, "a detector that sees nothing proves nothing"
    assert len({tuple(d.bbox.center.position.x for d in msg.detections) for msg in decoded}) >= 15
    assert [content(msg) for msg in decoded] == expected
    text = (tmp_path / "live.log").read_text()
    assert "Traceback" not in text and 1 <= text.count("with a step of 7 bytes") <= 2, "throttled, and said"


def test_carrying_matters(models, registry, tmp_path):
    """Without that, the test above would say the same of both policies."""
    bag = image_bag(tmp_path / "images.db3", GOOD)
    alone, carried = (offline(models[policy], bag, registry)[0] for policy in ("per_window", "carry"))
    assert alone[0] == carried[0] and all(a != b for a, b in zip(alone[1:5], carried[1:5], strict=True))


class TestNode:
    """In this process."""

    @pytest.fixture
    def bench(self, models):
        benches = []

        def make(**parameters):
            settings = {
                "checkpoint": str(models["carry"]), "input_type": "image", "overload_policy": "block",
                "qos_reliability": "reliable", "image_qos_depth": 0, "score_threshold": 0.0,
                "diagnostics_period_s": 0.1,
            }  # fmt: skip
            benches.append(Bench(**{**settings, **parameters}))
            return benches[-1]

        yield make
        for made in benches:
            made.close()

    def play(self, bench, topic, images):
        publisher = bench.peer.create_publisher(Image, topic, event_qos(0, "reliable"))
        bench.spin_until(lambda: publisher.get_subscription_count() > 0)
        for image in images:
            publisher.publish(image_message_from(image))
            bench.executor.spin_once(timeout_sec=0)

    def test_an_image_model_is_not_fed_events(self, bench):
        b = bench(input_type="event_packet")
        text = refusal(b, b.detector.trigger_configure)
        assert "'input_type' is 'event_packet', and the checkpoint's model sees images" in text
        assert "input_type:=image" in text

    def test_a_model_of_events_is_not_fed_images(self, bench, checkpoint):
        b = bench(checkpoint=str(checkpoint))
        text = refusal(b, b.detector.trigger_configure)
        assert "'input_type' is 'image', and the checkpoint's model sees events" in text
        assert "input_type:=event_packet or pointcloud2" in text

    def test_two_cameras_have_topics_and_states_of_their_own(self, bench):
        b = bench(cameras=["left", "right"])
        found = {name: b.listen(Detection2DArray, f"{name}/detections") for name in ("left", "right")}
        b.start()
        self.play(b, "left/image", GOOD[:3])
        self.play(b, "right/image", GOOD[:2])
        b.spin_until(lambda: len(found["left"]) == 3 and len(found["right"]) == 2)
        assert list(map(content, found["left"][:2])) == list(map(content, found["right"]))
        assert len(found["left"][0].detections) > 5

    def test_gaps_and_jumps_of_the_stamp_are_resets(self, bench):
        b = bench(max_gap_ms=100)
        found = b.listen(Detection2DArray, "detections")
        b.start()
        numbers = [1, 2, 3, 9, 10, 4]  # a gap of 200 ms, and a jump back
        images = [raw_image(scene(60, 80, 1), stamp_ns=n * PERIOD_NS) for n in numbers]
        self.play(b, "image", images)
        b.spin_until(lambda: len(found) == len(images))
        figures = b.detector._cameras[""].figures
        assert (figures.gaps, figures.resets, figures.bad_packets) == (2, 2, 0)
        boxes = [[d.bbox.center.position.x for d in msg.detections] for msg in found]
        assert boxes[0] == boxes[3] == boxes[5] and boxes[1] == boxes[4] != boxes[0], "the same image from rest"
        assert [msg.header.stamp for msg in found] == [ns_to_stamp(n * PERIOD_NS) for n in numbers]

    def test_only_a_few_images_wait_in_the_subscription(self, bench):
        b = bench(image_qos_depth=5)
        assert b.detector.trigger_configure() == Result.SUCCESS
        assert b.detector.trigger_activate() == Result.SUCCESS
        (info,) = b.peer.get_subscriptions_info_by_topic("/image")
        assert info.topic_type == "sensor_msgs/msg/Image"
        assert b.detector.get_parameter("image_qos_depth").value == 5


def test_messages_and_bytes_are_the_same_image():
    raw = raw_image(scene(9, 7, 1), "bgr8", padding=2, stamp_ns=12_000_000_034)
    for back in (raw_image_from(image_message_from(raw)), parse_image(serialize_image(raw))):
        assert np.array_equal(back.data, raw.data)
        for name in ("encoding", "height", "width", "step", "stamp_ns", "frame_id"):
            assert getattr(back, name) == getattr(raw, name)
    msg = image_message_from(raw)
    assert np.shares_memory(raw_image_from(msg).data, np.frombuffer(msg.data, np.uint8))
    assert raw_image_from(Image()).data.size == 0
