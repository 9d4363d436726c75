"""The demo as a user runs it: processes, DDS, table, video; and its refusals."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from snn_perception.data.shapes import moving_shapes
from snn_perception.errors import SnnPerceptionError
from snn_perception.events.evt3_encode import packetize
from snn_perception.events.rosbag2 import write_bag
from snn_perception.ros import demo as demo_module
from snn_perception.ros.demo import require_success
from snn_perception.runtime.video import count_distinct_frames
from snn_perception.types import SensorSize


def demo(tmp_path, *arguments):
    command = [sys.executable, "-m", "snn_perception.ros.demo", "-o", str(tmp_path / "demo"), "--json"]
    command += ["--model", "st_vgg_ssd_16", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def test_the_demo_plays_a_bag_through_the_node_and_draws_it(tmp_path):
    size = SensorSize(240, 304)
    packets = packetize(moving_shapes(size, 1_500_000, seed=2), size, interval_us=2_000)
    write_bag(tmp_path / "bag", packets, storage="mcap")
    ended = demo(tmp_path, "--recording", str(tmp_path / "bag"), "--rate", "1.0")
    assert ended.returncode == 0, ended.stderr
    summary = json.loads(ended.stdout)
    assert summary["live_equals_offline"] is True
    assert summary["packets_received"] == summary["packets_published"] >= 700
    assert summary["messages_received"] == summary["windows"] == 30
    assert summary["detections"] > 0 and summary["windows_dropped"] == 0
    assert summary["distinct_frames"] >= 50
    assert count_distinct_frames(tmp_path / "demo" / "demo.mp4") >= 50


@pytest.fixture
def short_drive(monkeypatch):
    """The demo's own drive, of which the first 1.6 s are enough."""
    monkeypatch.setattr(demo_module, "DEMO_DRIVE", replace(demo_module.DEMO_DRIVE, duration_us=1_600_000))


def test_without_a_recording_a_synthetic_drive_is_played_and_scored(tmp_path, short_drive, capfd):
    arguments = ["--model", "no_such_weights", "--fallback", "st_vgg_ssd_16", "-o", str(tmp_path), "--json"]
    assert demo_module.main(arguments) == 0
    captured = capfd.readouterr()
    summary = json.loads(captured.out)
    assert summary["live_equals_offline"] is True and summary["windows"] == 32
    assert summary["data"].startswith("synthetic-gen1/") and "in no training set" in summary["data"]
    assert summary["protocol"].startswith("gen1") and summary["labelled_boxes"] > 0
    assert 0 <= summary["AP"] <= summary["AP50"] < 0.5, "untrained"
    said = " ".join(captured.err.split())
    assert "no weights 'no_such_weights' come with this version" in said and "untrained weights" in said
    assert "the drive is synthetic" in said
    # The second run finds the drive, and runs a checkpoint as it stands.
    made = [path.stat().st_mtime_ns for path in sorted((tmp_path / "drive").rglob("*_td.dat"))]
    checkpoint = str(tmp_path / "st_vgg_ssd_16_untrained.safetensors")
    assert demo_module.main(["--model", checkpoint, "-o", str(tmp_path), "--json"]) == 0
    captured = capfd.readouterr()
    again = json.loads(captured.out)
    assert made == [path.stat().st_mtime_ns for path in sorted((tmp_path / "drive").rglob("*_td.dat"))]
    assert again["detections"] > summary["detections"] == 5 * 32
    assert "mean nothing" not in captured.err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [(["--recording", "no/such.dat"], "no such file"), (["--model", "no/such.safetensors"], "no such checkpoint")],
)
def test_the_demo_refuses_in_one_line(tmp_path, arguments, reason):
    ended = demo(tmp_path, *arguments)
    assert ended.returncode == 1
    lines = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and reason in lines[0]


GOOD = {
    "packets_published": 700,
    "packets_received": 700,
    "packets_lost": 0,
    "windows_dropped": 0,
    "windows_failed": 0,
    "live_equals_offline": True,
    "distinct_frames": 60,
}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"packets_received": 699}, "700 packets were published, 699 received"),
        ({"packets_lost": 1}, "packets lost: 1"),
        ({"windows_dropped": 2}, "windows dropped: 2"),
        ({"windows_failed": 2}, "windows failed: 2"),
        ({"live_equals_offline": False}, "something else than an offline replay"),
        ({"distinct_frames": 49}, "49 distinct frames"),
    ],
)
def test_the_demo_fails_when_anything_is_amiss(change, reason):
    require_success(GOOD)
    with pytest.raises(SnnPerceptionError, match=reason):
        require_success({**GOOD, **change})
