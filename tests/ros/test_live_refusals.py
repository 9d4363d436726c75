"""A detector process that is given a bad checkpoint: one clear line in its log, and it stays there, unconfigured."""

import signal
import subprocess
import sys

import pytest
import torch
from lifecycle_msgs.msg import State
from safetensors.torch import save_file

from snn_perception.errors import SnnPerceptionError
from snn_perception.ros.live import LiveRun


@pytest.fixture(params=["missing", "corrupt", "foreign"])
def bad_checkpoint(request, tmp_path, checkpoint):
    path = tmp_path / "model.safetensors"
    if request.param == "corrupt":
        path.write_bytes(checkpoint.read_bytes()[:5000])
    elif request.param == "foreign":
        save_file({"weight": torch.zeros(3)}, path)
    reasons = {
        "missing": "no such checkpoint",
        "corrupt": "not a readable safetensors file",
        "foreign": "no model description",
    }
    return path, reasons[request.param]


def test_the_process_refuses_and_can_be_mended(bad_checkpoint, checkpoint, tmp_path):
    path, reason = bad_checkpoint
    log = tmp_path / "live.log"
    with LiveRun({"checkpoint": str(path)}, log) as run:
        with pytest.raises(SnnPerceptionError, match=reason):
            run.activate()
        assert run.state() == State.PRIMARY_STATE_UNCONFIGURED
        lines = [line for line in log.read_text().splitlines() if "cannot configure" in line]
        assert len(lines) == 1 and str(path) in lines[0]
        assert "Traceback" not in log.read_text()
        path.write_bytes(checkpoint.read_bytes())
        run.activate()
        assert run.state() == State.PRIMARY_STATE_ACTIVE
    assert "Traceback" not in log.read_text(), "an interrupted node ends without a traceback"


@pytest.mark.parametrize("value", ["threads:=two", "score_threshold:=3.0"])
def test_a_parameter_that_ros_refuses_ends_the_process_in_one_line(value):
    command = [sys.executable, "-m", "snn_perception.ros.detector_node", "--ros-args", "-p", value]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert value.split(":=")[0] in ended.stderr and "Traceback" not in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_busy_node_in_good_order(number, checkpoint, shapes_dat, tmp_path):
    log = tmp_path / "live.log"
    with LiveRun({"checkpoint": str(checkpoint), "queue_size": 1000}, log) as run:
        run.activate()
        run.play_until(shapes_dat, messages=3, rate=0.0)
        run.send(number)
        assert run.wait(30) == 0
    text = log.read_text()
    assert "Traceback" not in text and "RCLError" not in text and "was not published" not in text, text
