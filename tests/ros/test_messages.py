"""ROS messages to our values and back."""

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from event_camera_msgs.msg import EventPacket
from rclpy.serialization import deserialize_message, serialize_message
from std_msgs.msg import Header

from snn_perception.errors import EventDataError
from snn_perception.events.bag_messages import EVENT_PACKET, parse_message
from snn_perception.ros.messages import (
    event_packet_from,
    ns_to_stamp,
    stamp_to_ns,
    to_detection2d_array,
    to_label_info,
)
from snn_perception.types import Detections, Packet, SensorSize


def detections() -> Detections:
    xyxy = np.array([[10, 20, 40, 80], [0.5, 0, 8, 4]], np.float32)
    return Detections(xyxy, np.array([0.9, 0.25], np.float32), np.array([1, 0], np.int64), 50_000)


def header() -> Header:
    return Header(stamp=Time(sec=3, nanosec=7), frame_id="camera_link")


def test_detections_keep_header_box_score_and_class():
    msg = to_detection2d_array(detections(), header(), ("car", "pedestrian"))
    first, second = msg.detections
    assert msg.header == first.header == second.header == header()
    assert (first.bbox.center.position.x, first.bbox.center.position.y) == (25.0, 50.0)
    assert (first.bbox.size_x, first.bbox.size_y) == (30.0, 60.0)
    assert [r.hypothesis.class_id for d in msg.detections for r in d.results] == ["1", "0"]
    assert first.results[0].hypothesis.score == pytest.approx(0.9)
    assert deserialize_message(serialize_message(msg), type(msg)) == msg


def test_class_names_instead_of_numbers():
    msg = to_detection2d_array(detections(), header(), ("car", "pedestrian"), class_names=True)
    assert [d.results[0].hypothesis.class_id for d in msg.detections] == ["pedestrian", "car"]


def test_no_detections_is_a_message_too():
    assert len(to_detection2d_array(Detections.empty(), header(), ("car",)).detections) == 0


def test_label_info_numbers_the_classes():
    msg = to_label_info(("car", "pedestrian"), header(), 0.5)
    assert [(c.class_id, c.class_name) for c in msg.class_map] == [(0, "car"), (1, "pedestrian")]


@pytest.mark.parametrize("ns", [0, 1, 999_999_999, 1_700_000_000_123_456_789])
def test_stamps_round_trip(ns):
    assert stamp_to_ns(ns_to_stamp(ns)) == ns


def test_stamps_beyond_the_message_are_held_to_it():
    assert ns_to_stamp(-5) == Time()
    assert ns_to_stamp(10**19).sec == 2**31 - 1


def test_packets_round_trip_without_copying_the_payload():
    packet = Packet(
        np.arange(200, dtype=np.uint8),
        "evt3",
        SensorSize(480, 640),
        seq=9,
        time_base=4,
        stamp_ns=12_000_000_034,
        frame_id="cam",
    )
    raw = serialize_message(event_packet_from(packet))
    back = parse_message(raw, EVENT_PACKET)
    assert bytes(back.data) == bytes(packet.data)
    assert np.shares_memory(back.data, np.frombuffer(raw, np.uint8))
    for name in ("encoding", "size", "seq", "time_base", "stamp_ns", "frame_id", "is_bigendian"):
        assert getattr(back, name) == getattr(packet, name)


@pytest.mark.parametrize(("height", "width"), [(0, 640), (480, 0), (480, 2**31)])
def test_an_absurd_sensor_size_is_refused(height, width):
    with pytest.raises(EventDataError, match="must be 1"):
        parse_message(serialize_message(EventPacket(height=height, width=width, encoding="evt3")), EVENT_PACKET)
