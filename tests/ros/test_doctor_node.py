"""The part of `doctor` that needs ROS, and shipped weights in the node: with real processes and messages."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import rclpy
from rclpy.context import Context
from rclpy.lifecycle import TransitionCallbackReturn as Result
from rclpy.parameter import Parameter

from snn_perception import zoo
from snn_perception.doctor import model, node
from snn_perception.doctor.finding import Bench
from snn_perception.ros import checkup
from snn_perception.ros.detector_node import DetectorNode
from snn_perception.runtime.labelled_drive import CHECK_DRIVE, labelled_drive


@pytest.fixture(scope="module")
def bench(tmp_path_factory, registry, checkpoint):
    folder = tmp_path_factory.mktemp("bench")
    road = labelled_drive(folder / "drive", replace(CHECK_DRIVE, duration_us=600_000), registry)
    bench = Bench(folder, str(checkpoint), registry=registry, drive=road)
    assert model.offline(bench).status == "ok"
    return bench


def test_ros_is_described_and_its_messages_are_the_released_ones(bench):
    found = node.ros(bench)
    assert found.status == "ok", found
    assert found.facts["rmw"] and found.facts["distro"] and found.facts["rclpy"][0].isdigit()
    assert found.facts["type_hashes"] == checkup.RELEASED


def test_two_processes_hear_each_other(bench):
    found = node.dds(bench)
    assert found.status == "ok" and found.facts["received"], found


def test_processes_that_cannot_hear_each_other_fail(bench, monkeypatch):
    """The speaker is sent to another domain."""
    real = subprocess.Popen
    monkeypatch.setattr(
        checkup.subprocess, "Popen", lambda command, **options: real(["env", "ROS_DOMAIN_ID=101", *command], **options)
    )
    monkeypatch.setenv("ROS_DOMAIN_ID", "100")
    answer = checkup.loopback(timeout_s=1.0)
    assert answer["received"] is False
    monkeypatch.setattr(node, "_child", lambda question: answer)
    found = node.dds(bench)
    assert found.status == "failed" and found.remedy


def test_messages_of_another_definition_are_told(bench, monkeypatch):
    facts = node._child("environment")
    facts["other_types"] = ["vision_msgs/LabelInfo"]
    monkeypatch.setattr(node, "_child", lambda question: facts)
    assert node.ros(bench).status == "warning"
    facts["missing"] = ["vision_msgs/LabelInfo"]
    assert node.ros(bench).status == "failed"


def test_the_node_publishes_what_was_computed_without_ros(bench):
    found = node.live(bench)
    assert found.status == "ok", found
    assert found.facts["detections"] == sum(len(window.detections) for window in bench.seen) > 20


@pytest.mark.slow
def test_a_node_that_publishes_something_else_fails(bench, tmp_path):
    lines = bench.detections.read_text().splitlines()
    number = next(i for i, line in enumerate(lines) if json.loads(line)["score"])
    window = json.loads(lines[number])
    window["xyxy"][0][0] -= 0.25
    lines[number] = json.dumps(window)
    (tmp_path / "altered.jsonl").write_text("\n".join(lines) + "\n")
    found = node.live(replace(bench, detections=tmp_path / "altered.jsonl"))
    assert found.status == "failed" and "not what was computed" in found.told


def test_a_node_that_refuses_is_told(bench, tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    from snn_perception.doctor.finding import examine

    subject = replace(bench.subject, checkpoint=tmp_path / "bad.safetensors")
    (found,) = examine({"node": node.live}, replace(bench, subject=subject))
    assert found.status == "failed" and "not a readable safetensors file" in found.told


@pytest.mark.slow
def test_the_command_goes_through_with_the_node(bench, tmp_path):
    command = [sys.executable, "-m", "snn_perception", "doctor", "--model", str(bench.subject.checkpoint)]
    ended = subprocess.run(
        [*command, "-o", str(tmp_path / "report.json")], capture_output=True, text=True, timeout=290, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    status = {check["check"]: check["status"] for check in report["checks"]}
    assert {status[name] for name in ("ROS 2", "DDS", "node", "model", "drive", "kernels")} == {"ok"}


def configured(name: str) -> tuple[Result, str]:
    """Return what configuring a node with a checkpoint parameter gives, and the error that it logged."""
    context = Context()
    rclpy.init(context=context)
    detector = DetectorNode(context=context, parameter_overrides=[Parameter("checkpoint", value=name)])
    said = []
    detector._refuse = lambda transition, error: said.append(str(error))
    try:
        return detector.trigger_configure(), " ".join(said)
    finally:
        detector.destroy_node()
        rclpy.shutdown(context=context)


def test_the_node_takes_shipped_weights_by_name(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    result, said = configured("night_drive")
    assert result == Result.FAILURE and "this version ships none" in said
    (tmp_path / "night_drive.safetensors").write_bytes(Path(checkpoint).read_bytes())
    assert configured("night_drive") == (Result.SUCCESS, "")
    result, said = configured("night_driv")
    assert result == Result.FAILURE and "did you mean 'night_drive'" in said
