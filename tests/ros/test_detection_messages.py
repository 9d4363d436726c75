"""Detections written without ROS are what ROS makes of the node's message, byte for byte but for its filling."""

import numpy as np
import pytest

pytest.importorskip("rclpy")

from rclpy.serialization import deserialize_message, serialize_message
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray

from snn_perception.errors import SnnPerceptionError
from snn_perception.events.whole_bag import typestore
from snn_perception.ros import messages
from snn_perception.ros.messages import ns_to_stamp, require_layout, to_detection2d_array
from snn_perception.runtime.detection_messages import DETECTION_ARRAY, VISION_DEFINITIONS, serialize_detections
from snn_perception.types import Detections

CLASSES = ("car", "pedestrian", "two-wheeler")


def some(count: int, seed: int) -> Detections:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 200, (count, 4)).astype(np.float32)
    score = np.sort(rng.random(count).astype(np.float32))[::-1].copy()
    return Detections(corners, score, rng.integers(0, 3, count), 123_456_789 + seed)


def assert_same(ours: bytes, message: Detection2DArray) -> None:
    """The bytes are ROS's, except where ROS leaves what lay in memory: up to 7 bytes before an aligned number."""
    theirs = bytes(serialize_message(message))
    assert len(ours) == len(theirs)
    assert deserialize_message(ours, Detection2DArray) == message
    other = np.flatnonzero(np.frombuffer(ours, np.uint8) != np.frombuffer(theirs, np.uint8))
    assert not any(ours[at] for at in other), "we fill with zeros"
    runs = np.split(other, np.flatnonzero(np.diff(other) > 1) + 1)
    assert all(len(run) <= 7 for run in runs)
    filled = bytearray(ours)  # with other bytes in these places it is still the same message
    for at in other:
        filled[at] = 0xA5
    assert deserialize_message(bytes(filled), Detection2DArray) == message


@pytest.mark.parametrize("count", [0, 1, 2, 7, 100])
@pytest.mark.parametrize("frame_id", ["", "a", "front/camera_optical"])
@pytest.mark.parametrize("class_names", [False, True])
def test_the_bytes_are_the_nodes(count, frame_id, class_names):
    detections = some(count, seed=count)
    stamp_ns = detections.t_us * 1000
    header = Header(stamp=ns_to_stamp(stamp_ns), frame_id=frame_id)
    message = to_detection2d_array(detections, header, CLASSES, class_names=class_names)
    names = CLASSES if class_names else None
    assert_same(serialize_detections(detections, stamp_ns, frame_id=frame_id, class_names=names), message)


@pytest.mark.parametrize("stamp_ns", [-5, 0, 2**31 * 10**9 + 7])
def test_stamps_beyond_what_a_message_holds_are_held_to_it(stamp_ns):
    header = Header(stamp=ns_to_stamp(stamp_ns), frame_id="a")
    message = to_detection2d_array(some(1, 0), header, CLASSES)
    assert_same(serialize_detections(some(1, 0), stamp_ns, frame_id="a"), message)


@pytest.mark.parametrize("frame_id", ["", "ab", "caméra"])
def test_another_implementation_reads_the_same(frame_id):
    detections = some(9, seed=2)
    raw = serialize_detections(detections, 5_000_000_000, frame_id=frame_id, class_names=CLASSES)
    store = typestore(VISION_DEFINITIONS)
    message = store.deserialize_cdr(raw, DETECTION_ARRAY)
    assert bytes(store.serialize_cdr(message, DETECTION_ARRAY)) == raw
    assert [one.header.frame_id for one in message.detections] == 9 * [frame_id] and message.header.stamp.sec == 5
    assert [one.results[0].hypothesis.class_id for one in message.detections] == [
        CLASSES[k] for k in detections.class_id
    ]
    centres = [one.bbox.center.position.x for one in message.detections]
    np.testing.assert_array_equal(centres, detections.xyxy[:, ::2].astype(np.float64).mean(axis=1))


def test_other_fields_than_those_that_are_sent_are_refused(monkeypatch):
    require_layout()
    monkeypatch.setattr(messages, "serialize_detections", lambda *args, **options: serialize_detections(*args))
    with pytest.raises(SnnPerceptionError, match="another Detection2DArray than vision_msgs 4"):
        require_layout()
