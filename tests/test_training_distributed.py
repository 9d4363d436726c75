"""Two processes train as one would with all the rows: torchrun, gloo, real recordings, lanes of differing length."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from snn_perception.tensor_file import read_tensors, read_texts
from snn_perception.training.run_state import STATE_FILE
from tests.paths import ROOT
from tests.training_support import moving_boxes

SCRIPT = """
import sys
sys.path.insert(0, {root!r})
import json, os
from pathlib import Path
import torch
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)  # in float32 the order of sums flips a spike now and then
from snn_perception import load_registry
from snn_perception.training.loop import train
from snn_perception.training.reports import Silent
from tests.training_support import small_run

options = {{"epochs": 1, **json.loads(sys.argv[3])}}
stop, stop_rank = options.pop("stop", None), options.pop("stop_rank", None)
told = stop_rank is None or os.environ.get("RANK") == str(stop_rank)  # a signal may come to one process alone

class Losses(Silent):
    def __init__(self):
        self.seen = []
        self.asked = 0
    def should_stop(self):
        self.asked += 1
        return stop is not None and told and self.asked >= stop
    def on_step(self, report):
        if report.losses:
            self.seen.append([report.step, report.grad_norm, *report.losses.values()])

root, folder = Path(sys.argv[1]), Path(sys.argv[2])
losses = Losses()
config = small_run(root, lanes=4, ema=0.9, **options)
resume = (folder / "training.safetensors").exists()
train(config, load_registry(environment=False), folder, observer=losses, resume=resume)
if losses.seen:
    (folder / "losses.json").write_text(json.dumps(losses.seen))
"""


def run(data: Path, folder: Path, processes: int, options: str = "{}", text: str = SCRIPT) -> None:
    folder.mkdir(exist_ok=True)
    script = folder.parent / "script.py"
    script.write_text(text.format(root=str(ROOT)))
    launch = [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launch, str(script), str(data), str(folder), options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("boxes")
    moving_boxes(root, "train", recordings=5, length_us=[1_000_000, 500_000, 750_000, 1_250_000, 600_000])
    return moving_boxes(root, "val", recordings=2, length_us=500_000, seed=3)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "options",
    ["{}", pytest.param('{"update": "chunk", "chunk_windows": 5}', marks=pytest.mark.slow)],
    ids=["windows", "chunks"],
)
def test_two_processes_equal_one(data, tmp_path, options):
    run(data, tmp_path / "one", 1, options)
    run(data, tmp_path / "two", 2, options)
    (one, _), (two, _) = (read_tensors(tmp_path / name / STATE_FILE) for name in ("one", "two"))
    shared = [name for name in one if not name.startswith("generator.")]
    assert set(shared) == {name for name in two if not name.startswith("generator.")}
    assert any(name.startswith("membrane.") for name in shared)
    for name in shared:
        assert torch.allclose(one[name].double(), two[name].double(), rtol=0, atol=1e-6), name
    losses = [torch.tensor(json.loads((tmp_path / name / "losses.json").read_text())) for name in ("one", "two")]
    assert len(losses[0]) >= 4 and (losses[0][:, 2:] > 0).all()
    assert torch.allclose(*losses, rtol=1e-6, atol=1e-6)
    spiking = [one[name] for name in shared if name.startswith("membrane.")]
    assert all((membrane != 0).any() for membrane in spiking)


UNEQUAL = """
import sys
sys.path.insert(0, {root!r})
from dataclasses import replace
from pathlib import Path
import torch
torch.set_num_threads(1)
from snn_perception import load_registry
from snn_perception.evaluation import classification
from snn_perception.training.loop import train
from tests.test_learning import classification as run_of

windows = classification.SampleReader.windows

def unequal(self, recording, change=None):
    made = windows(self, recording, change)
    return made[: 1 + sum(map(ord, recording.name)) % len(made)]

classification.SampleReader.windows = unequal
train(run_of(Path(sys.argv[1]), "st_vgg_classifier_16", epochs=1), load_registry(environment=False), Path(sys.argv[2]))
"""


def steps_done(folder: Path) -> int:
    return json.loads(read_texts(folder / STATE_FILE)["content"])["progress"]["step"]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("told", ["", ', "stop_rank": 1'], ids=["both told", "one told"])
def test_a_run_goes_on_with_another_number_of_processes(data, tmp_path, told):
    options = '{"epochs": 2}'
    run(data, tmp_path / "one", 1, options)
    run(data, tmp_path / "both", 2, '{"epochs": 2, "stop": 4' + told + "}")
    whole, stopped = (steps_done(tmp_path / name) for name in ("one", "both"))
    assert 0 < stopped < whole
    run(data, tmp_path / "both", 1, options)
    (one, _), (both, _) = (read_tensors(tmp_path / name / STATE_FILE) for name in ("one", "both"))
    for name in (name for name in one if not name.startswith("generator.")):
        assert torch.allclose(one[name].double(), both[name].double(), rtol=0, atol=1e-6), name


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_samples_of_unequal_length_keep_processes_in_step(data, tmp_path):
    run(data, tmp_path / "two", 2, "{}", UNEQUAL)
    assert (tmp_path / "two" / "best.safetensors").exists()


def test_rows_that_cannot_be_dealt_out_are_refused():
    from snn_perception.errors import SnnPerceptionError
    from snn_perception.training.distributed import Ranks

    assert [list(Ranks(rank, 2).own_rows(4)) for rank in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(SnnPerceptionError, match="5 rows cannot be dealt to 2 processes; choose a multiple of 2"):
        Ranks(0, 2).own_rows(5)
