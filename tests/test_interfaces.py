"""The messages of this environment are of the types that other ROS machines speak, and they can be sent."""

import importlib
import json
import os
import sys
from pathlib import Path

import pytest

# Identities of the released packages' types (REP 2011): they follow from the names, order and types of all fields,
# nested ones included. Two nodes whose hashes differ do not talk to each other.
TYPE_HASHES = {
    "event_camera_msgs/msg/EventPacket": "RIHS01_d6fa176260b1f37e5a40845305315e150a0f18191241eb64f407442aa29844aa",
    "vision_msgs/msg/Detection2DArray": "RIHS01_214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968",
    "vision_msgs/msg/Detection2D": "RIHS01_0d12b69df5c593b3455b7346fac8205437a7d4bcb09b9e0e0b2dde787ded38ea",
    "vision_msgs/msg/VisionInfo": "RIHS01_95d3116a17484ad91c9a2686e1d54890bbfc3ff6c6a2de137738c4950d45d284",
    "vision_msgs/msg/LabelInfo": "RIHS01_3d37df4015cdf660cc851c51897f2acd957e1ca6205ba0a99aebffb9406b0783",
}


def type_description(type_name: str) -> Path | None:
    """Return the JSON description that was installed with a type, or None where there is none."""
    package, _, name = type_name.split("/")
    # A sourced ROS installation names its prefixes; with the ROS wheels the environment is the prefix.
    prefixes = [*filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)), sys.prefix]
    paths = (Path(prefix, "share", package, "msg", f"{name}.json") for prefix in prefixes)
    return next((path for path in paths if path.exists()), None)


@pytest.mark.parametrize("type_name", TYPE_HASHES)
def test_type_hash_is_the_released_one(type_name):
    path = type_description(type_name)
    if path is None and os.environ.get("ROS_DISTRO") == "humble":
        pytest.skip("ROS 2 Humble has no type hashes")
    assert path is not None, f"{type_name} is not installed: run 'make setup', or install the ROS package"
    hashes = {entry["type_name"]: entry["hash_string"] for entry in json.loads(path.read_text())["type_hashes"]}
    assert hashes[type_name] == TYPE_HASHES[type_name]


@pytest.mark.parametrize("type_name", TYPE_HASHES)
def test_message_survives_serialization(type_name):
    serialization = pytest.importorskip("rclpy.serialization")
    package, _, name = type_name.split("/")
    message_type = getattr(importlib.import_module(f"{package}.msg"), name)
    message = message_type()
    if hasattr(message, "header"):
        message.header.stamp.sec = 12
        message.header.frame_id = "camera"
    assert serialization.deserialize_message(serialization.serialize_message(message), message_type) == message


def test_event_bytes_survive_serialization():
    serialization = pytest.importorskip("rclpy.serialization")
    from event_camera_msgs.msg import EventPacket

    packet = EventPacket(height=240, width=304, seq=2**40, time_base=2**41, encoding="evt3", events=bytes(range(256)))
    copy = serialization.deserialize_message(serialization.serialize_message(packet), EventPacket)
    assert copy == packet
    assert bytes(copy.events) == bytes(range(256))
