"""Training as a whole: it goes on exactly where it stopped, whatever stopped it, and says what is wrong."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from snn_perception.checkpoint import load_checkpoint, read_checkpoint
from snn_perception.errors import CheckpointError, EventDataError, SnnPerceptionError, SpecError
from snn_perception.held_folder import held_folder
from snn_perception.tensor_file import read_tensors
from snn_perception.training.loop import train
from snn_perception.training.reports import Silent, StepReport, TrainResult
from snn_perception.training.run_state import PREVIOUS_FILE, STATE_FILE, load_run_state
from tests.paths import ROOT
from tests.runtime_support import file_size_limit
from tests.training_support import moving_boxes, small_run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("boxes")
    moving_boxes(root, "train", recordings=3, length_us=[1_000_000, 750_000, 1_250_000])
    moving_boxes(root, "val", recordings=1, length_us=500_000, seed=3)
    return root


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class StopAt(Silent):
    def __init__(self, step: int):
        self.at, self.seen = step, []

    def on_step(self, report: StepReport) -> None:
        self.seen.append(report)

    def should_stop(self) -> bool:
        return self.seen[-1].step >= self.at


def same_run(a: Path, b: Path) -> None:
    """Every tensor of weights, optimizer, average, membranes and generators, the best checkpoint, and every figure."""
    for name in (STATE_FILE, "best.safetensors", "last.safetensors"):
        (one, texts), (other, other_texts) = read_tensors(a / name), read_tensors(b / name)
        assert texts == other_texts
        assert one.keys() == other.keys()
        for key, tensor in one.items():
            assert torch.equal(tensor, other[key]), f"{name}: {key}"
    assert (a / "metrics.jsonl").read_text() == (b / "metrics.jsonl").read_text()


MODES = [
    {"ema": 0.9, "augment_flip": 0.5, "amp": "bf16"},
    {"update": "chunk", "chunk_windows": 4, "prefetch": 0},
    {"mode": "windows", "lanes": 1, "epochs": 3, "schedule_by": "step", "warmup_epochs": 0.5},
]


def run_of(data: Path, **options):
    flip = options.pop("augment_flip", 0.0)
    config = small_run(data, **options)
    return replace(config, train=replace(config.train, augment=replace(config.train.augment, flip=flip)))


@pytest.mark.parametrize(
    "options",
    [MODES[0], *(pytest.param(mode, marks=pytest.mark.slow) for mode in MODES[1:])],
    ids=["lanes", "chunks", "windows"],
)
def test_stopping_and_going_on_changes_nothing(data, registry, tmp_path, options):
    config = run_of(data, **options)
    whole = train(config, registry, tmp_path / "whole")
    assert not whole.stopped and whole.steps > 20
    stops = []
    result = train(config, registry, tmp_path / "parts", observer=StopAt(5))
    while result.stopped:
        stops.append(result.steps)
        result = train(config, registry, tmp_path / "parts", resume=True, observer=StopAt(result.steps + 8))
    assert len(stops) >= 2
    assert replace(result, folder=whole.folder, best_checkpoint=None, last_checkpoint=None) == replace(
        whole, best_checkpoint=None, last_checkpoint=None
    )
    same_run(tmp_path / "whole", tmp_path / "parts")


def test_the_network_learns_and_fires(data, registry, tmp_path):
    """The steps above would be equal for a dead network too."""
    losses = StopAt(10**9)
    result = train(small_run(data, epochs=12, lr=5e-3), registry, tmp_path / "run", observer=losses)
    updates = [sum(report.losses.values()) for report in losses.seen if report.losses]
    assert sum(updates[-8:]) < 0.3 * sum(updates[:8])
    state = load_run_state(result.folder)
    spiking = list(state.membranes["backbone"])
    assert all((leaf != 0).any() for leaf in spiking)
    detector = load_checkpoint(result.last_checkpoint, registry=registry)
    moved = [m.w for m in detector.modules() if hasattr(m, "w")]
    assert all(float(w.detach()) != 0.0 for w in moved), "leaks learn too"


def test_what_a_checkpoint_says_of_its_run(data, registry, tmp_path):
    result = train(small_run(data), registry, tmp_path / "run")
    record = read_checkpoint(result.best_checkpoint).run
    assert record["config"]["train"]["lanes"] == 2
    assert record["data"]["data_set"] == "gen1" and record["data"]["train_recordings"] == 3
    assert set(record["validation"]) >= {"AP", "AP50"}
    lines = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines].count("validation") == 2
    assert all(line["losses"].keys() == {"box", "class"} for line in lines if line["kind"] == "train")


KILLER = """
import os, signal, sys
sys.path.insert(0, {root!r})
calls, at = 0, int(sys.argv[3])
def fatal(name):
    original = getattr(os, name)
    def call(*arguments, **options):
        global calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)
    setattr(os, name, call)
import torch
torch.set_num_threads(1)
from pathlib import Path
from snn_perception import load_registry
from snn_perception.training.loop import train
from tests.training_support import small_run
for name in ("fsync", "link", "replace", "unlink"):
    fatal(name)
folder = Path(sys.argv[2])
config = small_run(Path(sys.argv[1]), ema=0.9, save_every_steps=1)
train(config, load_registry(environment=False), folder, resume=(folder / "training.safetensors").exists())
"""


def killed_run(data: Path, folder: Path, at: int) -> subprocess.Popen:
    script = KILLER.format(root=str(ROOT))
    return subprocess.Popen(
        [sys.executable, "-c", script, str(data), str(folder), str(at)], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_that_is_killed_while_it_writes_goes_on_exactly(data, registry, tmp_path):
    """SIGKILL inside the writing of files, before any of the calls that put them in place."""
    train(small_run(data, ema=0.9, save_every_steps=1), registry, tmp_path / "whole")
    killed = 0
    for at in (8, 9, 10, 12):  # in a round of link, fsync and renames, at another place each time
        process = killed_run(data, tmp_path / "killed", at)
        process.wait(120)
        killed += process.returncode == -signal.SIGKILL
    assert killed == 4
    assert killed_run(data, tmp_path / "killed", 10**9).wait(120) == 0
    same_run(tmp_path / "whole", tmp_path / "killed")
    assert not [path for path in (tmp_path / "killed").iterdir() if path.name.startswith((".", "fresh"))]


def state_of(folder: Path) -> tuple[int, int] | None:
    """Identity of the saved training state, None while there is none."""
    try:
        stat = (folder / STATE_FILE).stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_that_is_killed_at_random_instants_goes_on_exactly(data, registry, tmp_path):
    train(small_run(data, ema=0.9, save_every_steps=1), registry, tmp_path / "whole")
    rng, killed = random.Random(0), 0
    for _ in range(6):
        process, before = killed_run(data, tmp_path / "killed", 10**9), state_of(tmp_path / "killed")
        while process.poll() is None and state_of(tmp_path / "killed") == before:
            time.sleep(0.001)  # until it has gone on by a window at least, however fast the machine
        time.sleep(rng.uniform(0.0, 0.15))
        process.kill()
        killed += process.wait() == -signal.SIGKILL
    assert killed_run(data, tmp_path / "killed", 10**9).wait(600) == 0
    assert killed >= 2
    same_run(tmp_path / "whole", tmp_path / "killed")


def stopped_run(data, registry, folder) -> TrainResult:
    return train(small_run(data), registry, folder, observer=StopAt(12))


def test_a_damaged_state_is_told_and_the_one_before_is_used(data, registry, tmp_path, caplog):
    stopped_run(data, registry, tmp_path / "run")
    train(small_run(data), registry, tmp_path / "whole")
    path = tmp_path / "run" / STATE_FILE
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    train(small_run(data), registry, tmp_path / "run", resume=True)
    assert f"{path}: is damaged" in caplog.text and PREVIOUS_FILE in caplog.text
    same_run(tmp_path / "whole", tmp_path / "run")


def test_nothing_to_go_on_from(data, registry, tmp_path):
    stopped_run(data, registry, tmp_path / "run")
    for name in (STATE_FILE, PREVIOUS_FILE):
        (tmp_path / "run" / name).write_bytes(b"not a file of ours")
    with pytest.raises(CheckpointError, match=rf"{STATE_FILE}: not a readable.*{PREVIOUS_FILE}: not a readable"):
        train(small_run(data), registry, tmp_path / "run", resume=True)
    with pytest.raises(CheckpointError, match="nothing to resume"):
        train(small_run(data), registry, tmp_path / "elsewhere", resume=True)


def test_a_folder_with_a_run_is_not_overwritten(data, registry, tmp_path):
    stopped_run(data, registry, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(SnnPerceptionError, match="holds a run already.*--resume"):
        train(small_run(data), registry, tmp_path / "run")
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_another_configuration_does_not_go_on(data, registry, tmp_path):
    stopped_run(data, registry, tmp_path / "run")
    with pytest.raises(CheckpointError, match="another configuration"):
        train(small_run(data, lr=1e-4), registry, tmp_path / "run", resume=True)


def test_a_full_disk_leaves_the_last_good_state(data, registry, tmp_path):
    stopped = stopped_run(data, registry, tmp_path / "run")
    before = (tmp_path / "run" / STATE_FILE).read_bytes()
    with file_size_limit(20_000), pytest.raises(CheckpointError, match="cannot be written.*--resume"):
        train(small_run(data), registry, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / STATE_FILE).read_bytes() == before
    assert load_run_state(tmp_path / "run").progress.step == stopped.steps
    train(small_run(data), registry, tmp_path / "whole")
    train(small_run(data), registry, tmp_path / "run", resume=True)
    same_run(tmp_path / "whole", tmp_path / "run")


def test_a_full_disk_at_the_first_state_says_that_nothing_is_kept(data, registry, tmp_path):
    with file_size_limit(20_000), pytest.raises(CheckpointError, match="cannot be written.*nothing was saved yet"):
        train(small_run(data), registry, tmp_path / "run")


def test_a_folder_that_is_not_writable(data, registry, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path / "run")
    with pytest.raises(SnnPerceptionError, match="run.yaml: the folder .* is not writable"):
        train(small_run(data), registry, tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_a_folder_that_cannot_be_made(data, registry, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(SnnPerceptionError, match="cannot be made"):
        train(small_run(data), registry, tmp_path / "file" / "run")


def test_a_gradient_that_is_not_finite_ends_the_run_with_its_state(data, registry, tmp_path):
    config = small_run(data, lr=1e30, clip_norm=0)
    with pytest.raises(SnnPerceptionError, match="gradient is not finite.*lower train.lr"):
        train(config, registry, tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"mode": "windows"}, SpecError, "train.mode: windows does not fit.*state_policy"),
        ({"lanes": 0}, SpecError, "train.lanes: expected at least 1"),
        ({"amp": "fp16"}, SnnPerceptionError, "fp16 needs a GPU"),
        ({"freeze": ("*.nothing",)}, SnnPerceptionError, r"no parameter matches '\*.nothing'; names are such as"),
    ],
)
def test_settings_that_do_not_fit(data, registry, tmp_path, change, error, words):
    config = small_run(data)
    with pytest.raises(error, match=words):
        train(replace(config, train=replace(config.train, **change)), registry, tmp_path / "run")


def test_data_that_do_not_fit(data, registry, tmp_path):
    config = small_run(data)
    with pytest.raises(SpecError, match="has classes .*'car', 'pedestrian'.*the model"):
        options = {**config.model.options, "classes": ["bus"]}
        train(replace(config, model=replace(config.model, options=options)), registry, tmp_path / "run")
    with pytest.raises(EventDataError, match="nothing to use in split 'missing'"):
        train(replace(config, data=replace(config.data, train_split="missing")), registry, tmp_path / "run")
    with pytest.raises(EventDataError, match="split 'missing'.*not to validate: --set eval.every_epochs=0"):
        train(replace(config, data=replace(config.data, val_split="missing")), registry, tmp_path / "run")


def test_other_data_do_not_go_on(registry, tmp_path):
    data = moving_boxes(tmp_path / "boxes", "train", recordings=2, length_us=600_000)
    moving_boxes(data, "val", recordings=1, length_us=500_000, seed=3)
    train(small_run(data), registry, tmp_path / "run", observer=StopAt(5))
    moving_boxes(data, "train", recordings=3, length_us=600_000)
    with pytest.raises(CheckpointError, match="the data are not those that its run is trained on"):
        train(small_run(data), registry, tmp_path / "run", resume=True)


def test_one_run_at_a_time(data, registry, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with (
        held_folder(folder, "a test"),
        pytest.raises(SnnPerceptionError, match="another training run is at work in it"),
    ):
        train(small_run(data), registry, folder)


def test_a_stopped_run_leaves_a_checkpoint_to_look_at(data, registry, tmp_path):
    result = train(small_run(data), registry, tmp_path / "run", observer=StopAt(5))
    assert result.last_checkpoint is not None
    assert load_checkpoint(result.last_checkpoint, registry=registry).spec.state_policy == "carry"


def test_going_on_needs_the_first_weights_no_more(data, registry, tmp_path):
    first = train(small_run(data, epochs=1), registry, tmp_path / "first")
    config = small_run(data)
    config = replace(config, model=replace(config.model, checkpoint=str(first.last_checkpoint)))
    train(config, registry, tmp_path / "run", observer=StopAt(5))
    first.last_checkpoint.unlink()
    assert not train(config, registry, tmp_path / "run", resume=True).stopped


def test_frozen_parameters_stay(data, registry, tmp_path):
    config = small_run(data, epochs=1, freeze=("*.neuron.w",))
    result = train(config, registry, tmp_path / "run")
    detector = load_checkpoint(result.last_checkpoint, registry=registry)
    assert all(float(m.w.detach()) == 0.0 for m in detector.modules() if hasattr(m, "w"))


def test_denormal_gradients_cost_nothing_while_a_run_lasts(data, registry, tmp_path):
    tiny, seen = torch.full((1,), 1e-40), []

    class Looks(Silent):
        def on_step(self, report: StepReport) -> None:
            seen.append((tiny * 1).item())

    train(small_run(data), registry, tmp_path / "run", observer=Looks())
    assert seen and not any(seen)
    assert (tiny * 1).item() != 0
