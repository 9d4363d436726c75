"""The ROS 2 part, in processes of its own: versions, message types, DDS, and the small drive through the real node."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from typing import Any

from snn_perception.doctor.finding import Bench, Finding, Skip
from snn_perception.doctor.model import MAX_GAP_MS
from snn_perception.errors import SnnPerceptionError

MODULE = "snn_perception.ros.checkup"
TRIED_RMW = ("rmw_fastrtps_cpp",)
TIMEOUT_S = 300
NETWORK = "allow UDP and shared memory on the loopback interface; see 'ros2 doctor --report' of a ROS installation"


def ros(bench: Bench) -> Finding:
    """Which ROS 2 there is, and whether its messages are those that other nodes speak."""
    found = _child("environment")
    told = f"{found['distro'] or 'unknown distribution'}, rclpy {found['rclpy']}, {found['rmw']}"
    if found["missing"]:
        remedy = "run 'make setup', or apt install ros-$ROS_DISTRO-vision-msgs ros-$ROS_DISTRO-event-camera-msgs"
        return Finding("failed", f"{told}; missing: {', '.join(found['missing'])}", remedy, found)
    if found["other_types"]:
        remedy = "nodes with the released messages will not hear this one; install the released packages"
        return Finding("warning", f"{told}; of another type: {', '.join(found['other_types'])}", remedy, found)
    if found["rmw"] not in TRIED_RMW:
        return Finding("warning", f"{told}: not the RMW that is tried", f"RMW_IMPLEMENTATION={TRIED_RMW[0]}", found)
    return Finding("ok", f"{told}; {len(found['type_hashes'])} message types as released", facts=found)


def dds(bench: Bench) -> Finding:
    """Whether two processes hear each other."""
    found = _child("loopback")
    if not found["received"]:
        return Finding("failed", f"no message came from another process within {found['waited_s']:g} s", NETWORK, found)
    return Finding("ok", f"a message from another process after {found['waited_s']:.1f} s", facts=found)


def live(bench: Bench) -> Finding:
    """Whether the node publishes, of the small drive, what was computed without ROS."""
    subject, drive, detections = bench.need("subject"), bench.need("drive"), bench.need("detections")
    order = {
        "checkpoint": str(subject.checkpoint),
        "recording": str(drive.drive.events),
        "detections": str(detections),
        "log": str(bench.folder / "node.log"),
        "score_threshold": subject.score_threshold,
        "max_detections": subject.max_detections,
        "max_gap_ms": MAX_GAP_MS,
        "plugin_paths": list(bench.plugins),
    }
    found = _child("node", json.dumps(order))
    told = f"{found['published']} packets, {found['messages']} messages"
    lost = {name: found[name] for name in ("lost packets", "dropped windows", "failed windows") if found[name]}
    if found["received"] != found["published"] or lost:
        losses = ", ".join(f"{count} {name}" for name, count in lost.items())
        told = f"{told}, {found['received']} packets received" + (f", {losses}" if losses else "")
        return Finding("failed", told, NETWORK, found)
    if not found["equal"]:
        return Finding("failed", f"{told}: not what was computed without ROS", "report this with the JSON", found)
    return Finding("ok", f"{told}: the same as without ROS, number for number", facts=found)


def _child(*arguments: str) -> dict[str, Any]:
    """Return what a process with ROS tells of itself.

    Raises:
        Skip: without ROS. SnnPerceptionError: if the process fails.
    """
    if importlib.util.find_spec("rclpy") is None:
        raise Skip("ROS 2 is not installed: the node cannot run; everything else works without it")
    try:
        ended = subprocess.run(
            [sys.executable, "-m", MODULE, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise SnnPerceptionError(f"the process with ROS did not end within {TIMEOUT_S} s") from None
    if ended.returncode:
        lines = [line for line in ended.stderr.splitlines() if line.strip()] or ["nothing was said"]
        raise SnnPerceptionError(f"the process with ROS ended with {ended.returncode}: {lines[-1]}")
    answer: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return answer
