"""A detector process that is given a bad checkpoint: one clear line in its log, and it stays there, unconfigured."""

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
