"""Point clouds and images as they should not be, in the middle of good ones, over DDS: the node goes on as without."""

import array
import copy

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import Image, PointCloud2, PointField
from vision_msgs.msg import Detection2DArray

from snn_perception.checkpoint import save_checkpoint
from snn_perception.events.point_layout import fields_of
from snn_perception.events.point_packets import cloud_packets
from snn_perception.ros.camera import event_qos
from snn_perception.ros.image_messages import image_message_from
from snn_perception.ros.messages import ns_to_stamp
from tests.image_support import raw_image, scene, small_detector
from tests.ros.test_exceptional_messages import record_errors
from tests.ros.test_looking_in import Reports, values_of
from tests.ros.test_time import SIZE, content
from tests.ros.test_time import scene as shapes

PERIOD_NS = 50_000_000
START_NS = 1_700_000_000 * 10**9


def cloud_message(packet):
    layout = packet.layout
    msg = PointCloud2(
        height=1,
        width=layout.width,
        fields=[PointField(name=n, offset=o, datatype=d, count=c) for n, o, d, c in fields_of(layout)],
        is_bigendian=False,
        point_step=layout.dtype.itemsize,
        row_step=layout.row_step,
        data=array.array("B", packet.data.tobytes()),
    )
    msg.header.stamp = ns_to_stamp(packet.stamp_ns)
    return msg


def changed(msg, **fields):
    """Return a copy of a message with some fields replaced; `payload` is its bytes."""
    other = copy.deepcopy(msg)
    if (payload := fields.pop("payload", None)) is not None:
        other.data = array.array("B", payload)
    for name, value in fields.items():
        setattr(other, name, value)
    return other


def clouds():
    return [cloud_message(packet) for packet in cloud_packets([shapes()], SIZE, stamp_offset_ns=START_NS)]


def images(count=8):
    return [image_message_from(raw_image(scene(60, 80, k), stamp_ns=START_NS + k * PERIOD_NS)) for k in range(count)]


CLOUD, IMAGE = clouds()[60], images()[4]
BAD_CLOUDS = {
    "no fields": (changed(CLOUD, fields=[]), "x"),
    "a field of no type": (changed(CLOUD, fields=[PointField(name="x", datatype=99, count=1)]), "datatype in 1..8"),
    "a field outside its point": (
        changed(CLOUD, fields=[PointField(name="x", offset=2**31, datatype=7, count=1)]),
        "leaves the point",
    ),
    "points of no bytes": (changed(CLOUD, point_step=0), "point_step"),
    "rows that are too short": (changed(CLOUD, height=2, row_step=1), "row_step"),
}
BAD_IMAGES = {
    "no size": (changed(IMAGE, width=0, height=0), ""),
    "an absurd size": (changed(IMAGE, width=2**32 - 1, height=2**32 - 1), ""),
    "an unknown encoding": (changed(IMAGE, encoding="smell8"), "smell8"),
    "no bytes": (changed(IMAGE, payload=b""), ""),
    "rows that are too short": (changed(IMAGE, step=1), "step"),
}


def run(b, message_type, topic, messages, count):
    """Play messages, `count` good ones among them; return what came out, the errors, and the last report."""
    said, reports = record_errors(b.detector), Reports(b)
    found = b.listen(Detection2DArray, "detections")
    b.start()
    publisher = b.peer.create_publisher(message_type, topic, event_qos(0, "reliable"))
    b.spin_until(lambda: publisher.get_subscription_count() > 0)
    for msg in messages:
        publisher.publish(msg)
        b.executor.spin_once(timeout_sec=0)
    b.spin_until(lambda: reports.of(": camera") and values_of(reports.last())["packets"] == str(count))
    camera = b.detector._cameras[""]
    b.spin_until(lambda: len(found) == camera.figures.published == int(camera.received()["windows"]))
    b.spin(0.25)
    values, level = values_of(reports.last()), max(status.level for status in reports.of(": camera"))
    b.close()
    return [content(msg) for msg in found], said, values, level


def among(good, bad):
    """Return the good messages with a bad one after each of some of them."""
    mixed, step = list(good), len(good) // (len(bad) + 1)
    for number, msg in reversed(list(enumerate(bad, start=1))):
        mixed.insert(number * step, msg)
    return mixed


@pytest.fixture(scope="module")
def image_checkpoint(tmp_path_factory, registry):
    path = tmp_path_factory.mktemp("models") / "images.safetensors"
    save_checkpoint(path, small_detector(registry))
    return path


def check(make, message_type, topic, good, kinds):
    """Check that bad messages among good ones are as if they had not come, but for what is told of each."""
    expected, said, values, _ = run(make(), message_type, topic, good, len(good))
    assert not said and values["bad packets"] == "0" and sum(map(len, expected)) > 5
    bad = [msg for msg, _ in kinds.values()]
    seen, said, values, level = run(make(), message_type, topic, among(good, bad), len(good))
    assert seen == expected
    for reason, text in zip((reason for _, reason in kinds.values()), said, strict=True):
        assert text.startswith("topic '/") and reason in text
    assert (values["bad packets"], values["state resets"], level) == (str(len(bad)), "0", DiagnosticStatus.WARN)


def test_bad_clouds(bench):
    settings = {"input_type": "pointcloud2", "sensor_width": SIZE.width, "sensor_height": SIZE.height}
    check(lambda: bench(**settings), PointCloud2, "events", clouds(), BAD_CLOUDS)


def test_bad_images(bench, image_checkpoint):
    settings = {
        "checkpoint": str(image_checkpoint), "input_type": "image", "image_qos_depth": 0, "score_threshold": 0.0,
        "max_detections": 5,
    }  # fmt: skip
    check(lambda: bench(**settings), Image, "image", images(), BAD_IMAGES)
