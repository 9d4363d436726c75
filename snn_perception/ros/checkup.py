"""The part of `doctor` that needs ROS: one question in, one JSON object on stdout.

``python -m snn_perception.ros.checkup environment | loopback | node ORDER``; a process of its own, so that nothing that
hangs or crashes in a middleware takes `doctor` with it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import rclpy
from rclpy.node import Node
from std_msgs.msg import String

from snn_perception.errors import SnnPerceptionError
from snn_perception.ros.domain import local_domain

LOOPBACK_S = 15.0
RELEASED = {
    "event_camera_msgs/EventPacket": "RIHS01_d6fa176260b1f37e5a40845305315e150a0f18191241eb64f407442aa29844aa",
    "vision_msgs/Detection2DArray": "RIHS01_214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968",
    "vision_msgs/VisionInfo": "RIHS01_95d3116a17484ad91c9a2686e1d54890bbfc3ff6c6a2de137738c4950d45d284",
    "vision_msgs/LabelInfo": "RIHS01_3d37df4015cdf660cc851c51897f2acd957e1ca6205ba0a99aebffb9406b0783",
}


def environment() -> dict[str, Any]:
    """Return distribution, versions, middleware and the type hashes that the messages have on the wire."""
    missing, hashes = [], {}
    rclpy.init()
    node = Node(f"checkup_{os.getpid()}")
    try:
        for name in RELEASED:
            package, _, kind = name.partition("/")
            try:
                message = getattr(importlib.import_module(f"{package}.msg"), kind)
            except (ImportError, AttributeError):
                missing.append(name)
                continue
            topic = f"/checkup_{os.getpid()}/{kind.lower()}"
            publisher = node.create_publisher(message, topic, 1)
            hashes[name] = _hash_of(node, topic)
            node.destroy_publisher(publisher)
    finally:
        node.destroy_node()
        rclpy.shutdown()
    return {
        "distro": _distro(),
        "rclpy": _version("rclpy", "ros-rclpy"),
        "rmw": rclpy.get_rmw_implementation_identifier(),
        "type_hashes": hashes,
        "missing": missing,
        "other_types": [name for name, text in hashes.items() if text and text != RELEASED[name]],
    }


def _hash_of(node: Node, topic: str) -> str:
    """Return the type hash of our own publisher as the graph tells it; empty where a distribution has none (Humble)."""
    for _ in range(50):
        for info in node.get_publishers_info_by_topic(topic):
            found = getattr(info, "topic_type_hash", None)
            return str(found) if found is not None else ""
        time.sleep(0.02)
    return ""


def _distro() -> str:
    """Return the distribution that is sourced, or whose wheels are installed."""
    if os.environ.get("ROS_DISTRO"):
        return os.environ["ROS_DISTRO"]
    names = (str(one.metadata["Name"]) for one in metadata.distributions())
    found = sorted(match[1] for name in names if (match := re.fullmatch(r"ros-([a-z]+)-rclpy", name)))
    return f"{found[0]} (wheels)" if found else ""


def _version(*names: str) -> str:
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "of unknown version"


def loopback(timeout_s: float = LOOPBACK_S) -> dict[str, Any]:
    """Return whether a message of another process arrives, and how long after that process began to send."""
    topic = f"/checkup_{os.getpid()}/words"
    heard: list[String] = []
    rclpy.init()
    node = Node(f"checkup_{os.getpid()}")
    node.create_subscription(String, topic, heard.append, 10)
    command = [sys.executable, "-m", "snn_perception.ros.checkup", "speak", topic]
    other = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert other.stdout is not None
    try:
        other.stdout.readline()  # it speaks, or has ended
        began = time.monotonic()
        while not heard and time.monotonic() - began < timeout_s:
            rclpy.spin_once(node, timeout_sec=0.1)
        waited_s = time.monotonic() - began
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
        node.destroy_node()
        rclpy.shutdown()
    return {"received": bool(heard), "waited_s": round(waited_s, 2)}


def speak(topic: str) -> dict[str, Any]:
    """Publish ten times a second until the listener ends this process, or for longer than it would wait."""
    rclpy.init()
    node = Node(f"speaker_{os.getpid()}")
    publisher = node.create_publisher(String, topic, 10)
    print("speaking", flush=True)
    end = time.monotonic() + 2 * LOOPBACK_S
    while time.monotonic() < end:
        publisher.publish(String(data="heard?"))
        time.sleep(0.1)
    return {}


def through_node(order: dict[str, Any]) -> dict[str, Any]:
    """Return what came of playing a recording to the node, beside what was computed without it.

    Args:
        order: `checkpoint`, `recording`, `detections` (file of `detections_file`), `log`, and parameters of the node.
    """
    # Late: messages that are not installed are a finding of `environment`, and the speaker shall start quickly.
    from snn_perception.checkpoint import read_checkpoint
    from snn_perception.ros.live import LiveRun
    from snn_perception.ros.messages import same_messages
    from snn_perception.runtime.detections_file import read_detections

    files = {name: order.pop(name) for name in ("recording", "detections", "log")}
    plugin_paths = order.pop("plugin_paths")
    parameters = {**order, **({"plugin_paths": plugin_paths} if plugin_paths else {})}
    with LiveRun(parameters, Path(files["log"])) as run:
        run.activate()
        result = run.play(Path(files["recording"]))
    messages = result.decoded()
    expected = [window.detections for window in read_detections(files["detections"])]
    classes = read_checkpoint(order["checkpoint"]).spec.classes
    figures = result.diagnostics
    return {
        "published": result.published,
        "received": int(figures.get("packets", 0)),
        "messages": len(messages),
        "detections": sum(len(message.detections) for message in messages),
        **{name: int(figures.get(name, 0)) for name in ("lost packets", "dropped windows", "failed windows")},
        "equal": same_messages(expected, messages, classes),
        "processing_ms_p50": float(figures.get("processing time p50 ms", "nan")),
    }


def main(argv: list[str] | None = None) -> int:
    """Answer one question; returns the exit code."""
    parser = argparse.ArgumentParser("python -m snn_perception.ros.checkup", description=__doc__)
    parser.add_argument("question", choices=("environment", "loopback", "speak", "node"))
    parser.add_argument("argument", nargs="?", help="of 'node': the order as JSON; of 'speak': the topic")
    arguments = parser.parse_args(argv)
    local_domain()
    try:
        if arguments.question == "node":
            answer = through_node(json.loads(arguments.argument))
        elif arguments.question == "speak":
            answer = speak(arguments.argument)
        else:
            answer = environment() if arguments.question == "environment" else loopback()
    except SnnPerceptionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
