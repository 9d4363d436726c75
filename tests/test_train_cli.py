"""The command ``train``: what it says, what it refuses, how it is interrupted, and that it goes on exactly."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from snn_perception.checkpoint import load_checkpoint, read_checkpoint
from snn_perception.cli.common import duration
from snn_perception.cli.train import main
from snn_perception.cli.train_observers import Interrupts, Several, ToSink
from snn_perception.cli.train_progress import Drawing, Figures, Lines
from snn_perception.training.metrics import read_metrics
from snn_perception.training.reports import RunInfo, Silent, StepReport, ValidationReport
from snn_perception.training.run_file import dump_run, load_run
from tests.paths import ROOT
from tests.training_support import moving_boxes, small_run

INFO = RunInfo(Path("run"), 1000, 20, 5, 300, 100, 0, 400)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("boxes")
    moving_boxes(root, "train", recordings=2, length_us=[1_000_000, 750_000])
    moving_boxes(root, "val", recordings=1, length_us=500_000, seed=3)
    return root


@pytest.fixture(scope="module")
def run_file(data, tmp_path_factory):
    """Return a run file for the set; it does not say where the set is."""
    config = small_run(data, epochs=2)
    path = tmp_path_factory.mktemp("run") / "small.yaml"
    path.write_text(dump_run(replace(config, data=replace(config.data, train=""))))
    return path


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Default folders appear in the test's own; threads are as before."""
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def command(*arguments):
    return main([str(argument) for argument in arguments])


def told(capsys, *arguments):
    code = command(*arguments, "--json")
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out), err


def refused(capsys, *arguments):
    assert command(*arguments) == 1
    out, err = capsys.readouterr()
    assert not out and err.startswith("error: ") and err.count("\n") == 1, err
    return err


def process(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "snn_perception", "train", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def same_weights(a: Path, b: Path) -> bool:
    one, other = read_checkpoint(a), read_checkpoint(b)
    return (one.run, one.spec) == (other.run, other.spec) and all(
        torch.equal(tensor, other.weights[name]) for name, tensor in one.weights.items()
    )


# Without a run


def test_without_arguments_it_says_how_to_begin(capsys, registry):
    assert command() == 2
    out, err = capsys.readouterr()
    assert not out
    assert "python -m snn_perception synth -o data/synthetic --size small" in err
    found = re.search(r"train (\S+) --data gen1:data/synthetic -o runs/first", err)
    assert found, err
    config = load_run(ROOT / "recipes" / f"{found[1]}.yaml")
    assert config.train.mode == "lanes", "the set has recordings with boxes"
    for path in (ROOT / "recipes").glob("*.yaml"):
        assert f"  {path.stem} " in err
    introduction = err.partition("Recipes:")[0]
    assert introduction.count("\n") <= 12


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["absent.yaml"], ["absent.yaml: no such run file, and no recipe of that name", "recipes: "]),
        (["st_vgg_ssd_16_gem1"], ["did you mean 'st_vgg_ssd_16_gen1'?"]),
        (["--preset", "st_vgg_ssd_17"], ["unknown preset 'st_vgg_ssd_17'", "did you mean"]),
        (["--preset", "st_vgg_ssd_16"], ["data.train: expected a data set such as gen1:PATH", "--data"]),
        (["--data", "gen1:absent"], ["model.preset"]),
        (["--preset", "st_vgg_ssd_16", "--data", "gen1:absent"], ["absent"]),
        (["--preset", "st_vgg_ssd_16", "--data", "gen2:absent"], ["unknown dataset 'gen2'", "did you mean"]),
        (["--preset", "st_vgg_ssd_16", "--set", "train.lr"], ["--set train.lr: expected KEY=VALUE"]),
        (["--preset", "st_vgg_ssd_16", "--set", "train.lr=x"], ["train.lr: expected a number, got 'x'"]),
        (["--preset", "st_vgg_ssd_16", "--device", "cuda:99"], ["device 'cuda:99' cannot be used"]),
        (["--resume"], ["runs/run: nothing to resume (no run.yaml)", "-o"]),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(arguments, parts, capsys, tmp_path):
    error = refused(capsys, *arguments)
    for part in parts:
        assert part in error
    assert list(tmp_path.iterdir()) == [], "and nothing is left behind"


def test_a_dry_run_tells_everything_and_makes_nothing(run_file, data, capsys, tmp_path):
    arguments = [run_file, "--data", f"gen1:{data}", "--set", "train.lr=3e-4", "--dry-run"]
    result, _ = told(capsys, *arguments)
    assert result["run"]["train"]["lr"] == 3e-4 and result["run"]["data"]["train"] == f"gen1:{data}"
    assert result["data"]["recordings"] == 2 and result["data"]["validation_recordings"] == 1
    assert result["data"]["labelled_windows"] == 4 + 3
    assert result["steps_per_epoch"] == 18 and result["total_steps"] == 36  # 20 + 15 windows in two lanes
    assert result["model"]["parameters"] > 1000 and result["model"]["spec"]["backbone"]["name"] == "st_vgg"
    memory = result["memory_bytes"]
    assert memory["windows"] == 11 and memory["total"] > memory["activations"] > 11 * 2 * 60 * 76 * 2 * 4
    assert result["metric"] == "AP" and result["folder"] == "runs/small"
    assert command(*arguments) == 0
    out, _ = capsys.readouterr()
    stored, _, rows = out.partition("\n\n")
    (tmp_path / "resolved.yaml").write_text(stored)
    assert load_run(tmp_path / "resolved.yaml").train.lr == 3e-4, "what it prints is a run file"
    assert "recordings, 7 labelled windows" in rows and "steps: 18 an epoch, 36 in all" in rows
    assert not (tmp_path / "runs").exists()


# A run, its end, and going on


@pytest.fixture(scope="module")
def whole(run_file, data, tmp_path_factory):
    """Return (folder, JSON, log) of a run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = process(run_file, "--data", f"gen1:{data}", "-o", folder, "--json", "--progress-s", "1")
    out, err = done.communicate(timeout=240)
    assert done.returncode == 0, err
    return folder, json.loads(out), err


def test_a_run_ends_with_its_figures_and_what_to_do_next(whole, data, registry):
    folder, result, log = whole
    assert (result["stopped"], result["steps"], result["epochs"], result["metric"]) == (False, 36, 2, "AP")
    assert result["best"] >= result["last"] and result["seconds"] > 0
    assert set(result["files"]) == {"best", "last", "metrics", "run"}
    assert all(Path(path).is_file() for path in result["files"].values())
    best = result["files"]["best"]
    assert f"evaluate {best} --data gen1:{data} --split test" in result["commands"]["evaluate"]
    assert f"replay {best} RECORDING" in result["commands"]["replay"]
    assert load_checkpoint(best, registry=registry).spec.classes == ("car", "pedestrian")
    assert load_run(folder / "run.yaml").data.train == f"gen1:{data}"
    assert {line["kind"] for line in read_metrics(folder / "metrics.jsonl")} == {"train", "validation"}
    assert "on 2 recordings (7 labelled windows), validating on 1; 36 steps in all" in log
    assert "epoch 1/2  step 1/36" in log and log.count("after epoch ") == 2 and "Traceback" not in log


def test_a_folder_with_a_run_is_not_written_over(whole, run_file, data, capsys):
    folder, _, _ = whole
    before = (folder / "last.safetensors").read_bytes()
    error = refused(capsys, run_file, "--data", f"gen1:{data}", "-o", folder)
    assert "holds a run already" in error and "--resume" in error
    assert (folder / "last.safetensors").read_bytes() == before


def test_a_finished_run_resumed_is_finished(whole, capsys):
    folder, first, _ = whole
    result, _ = told(capsys, folder, "--resume")
    assert {**result, "seconds": 0} == {**first, "seconds": 0}


def test_a_run_is_resumed_as_it_is_or_not_at_all(whole, run_file, data, capsys):
    folder, _, _ = whole
    error = refused(capsys, "--resume", "-o", folder, "--set", "train.lr=1")
    assert "(there, asked for): train.lr: 0.002, 1.0; resume it as it is" in error
    result, _ = told(capsys, run_file, "--data", f"gen1:{data}", "--resume", "-o", folder, "--set", "train.prefetch=0")
    assert result["steps"] == 36


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl_c", "sigterm"])
def test_a_signal_stops_in_order_and_resuming_gives_the_same_run(number, code, whole, run_file, data, tmp_path, capsys):
    folder = tmp_path / "run"
    run = process(run_file, "--data", f"gen1:{data}", "-o", folder, "--set", "train.epochs=2")
    for line in run.stderr:
        if "step 1/36" in line:
            run.send_signal(number)
            break
    out, err = run.communicate(timeout=240)
    assert run.returncode == code, err
    assert "stopping after this step" in err
    asked = re.search(
        r"stopped after step (\d+); go on with: python -m snn_perception train (--resume -o \S+)$", err, re.M
    )
    assert asked, err
    assert int(asked[1]) < 36
    assert "stopped in" in out
    result, log = told(capsys, *asked[2].split())
    assert f"going on after step {asked[1]}" in log
    assert result["steps"] == 36 and not result["stopped"]
    for name in ("best.safetensors", "last.safetensors"):
        assert same_weights(folder / name, whole[0] / name)
    assert (folder / "metrics.jsonl").read_text() == (whole[0] / "metrics.jsonl").read_text()


def test_of_several_processes_one_speaks_and_writes(whole, run_file, data, tmp_path):
    folder = tmp_path / "run"
    arguments = [run_file, "--data", f"gen1:{data}", "-o", folder, "--json", "--set", "train.epochs=1"]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--log-dir", tmp_path]
        + ["-m", "snn_perception", "train", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["steps"] == 18 and Path(result["files"]["best"]).is_file()
    assert done.stderr.count("36 steps in all") + done.stderr.count("18 steps in all") == 1
    assert done.stderr.count("after epoch 1: AP") == 1


def test_a_missing_tensorboard_is_told_before_anything_is_made(run_file, data, capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    error = refused(capsys, run_file, "--data", f"gen1:{data}", "--tensorboard")
    assert "pip install tensorboard" in error
    assert list(tmp_path.iterdir()) == []


# What it shows meanwhile


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def step(number, losses=None, epoch=0):
    return StepReport(number, epoch, number, losses or {}, 1e-3, 0.5 if losses else None)


def validation(value, best):
    return ValidationReport(
        1, 100, "AP", value, best, value >= best, {"AP": value, "AP50": 0.5, "per_class": {"car": 1}}
    )


def test_figures_follow_a_run():
    clock = Clock()
    figures = Figures(rows=8, epochs=4, clock=clock)
    assert list(figures.parts()) == [] and figures.eta_s is None and figures.windows_per_s is None
    figures.start(INFO)
    clock.now += 30  # compiling
    figures.add(step(1, {"box": 2.0, "class": 1.0}))
    assert figures.losses == pytest.approx({"box": 2.0, "class": 1.0}), "the first step stands for itself"
    for number in range(2, 101):
        clock.now += 0.5
        figures.add(step(number, {"box": 1.0, "class": 1.0}))
    assert figures.windows_per_s == pytest.approx(16.0)
    assert figures.eta_s == pytest.approx(0.5 * 300)
    weights = [0.98**k for k in range(100)]
    assert figures.losses["box"] == pytest.approx((sum(weights) + weights[-1]) / sum(weights))
    clock.now += 50
    figures.add_validation(validation(0.25, 0.3))
    clock.now += 0.5
    figures.add(step(101, epoch=1))
    assert figures.windows_per_s == pytest.approx(16.0), "a validation is no slow step"
    assert figures.eta_s == pytest.approx((0.5 * 100 + 50) / 100 * 299), "but there will be more of them"
    assert list(figures.parts()) == [
        "epoch 2/4",
        "step 101/400",
        f"loss {sum(figures.losses.values()):.3f} (box {figures.losses['box']:.3f}, class 1.000)",
        "lr 1.00e-03",
        "AP 0.250 (best 0.300)",
        "16.0 windows/s",
        "0:04:59 left",
    ]


def test_a_resumed_run_begins_where_it_was():
    figures = Figures(rows=8, epochs=4, clock=Clock())
    figures.start(replace(INFO, start_step=250))
    assert list(figures.parts()) == ["epoch 3/4", "step 250/400"]


def test_lines_come_every_so_often(capsys):
    clock = Clock()
    lines = Lines(Figures(1, 4, clock), every_s=10, clock=clock)
    lines.on_start(replace(INFO, start_step=7, labelled_windows=None))
    for number in range(8, 48):
        clock.now += 1
        lines.on_step(step(number))
    lines.on_validation(validation(0.4, 0.4))
    lines.on_validation(validation(0.2, 0.4))
    out, err = capsys.readouterr()
    said = err.splitlines()
    assert not out
    assert said[0] == (
        "training 1,000 parameters on 20 recordings, validating on 5; 400 steps in all; going on after step 7"
    )
    assert [line.split("  ")[1] for line in said[1:5]] == ["step 8/400", "step 18/400", "step 28/400", "step 38/400"]
    assert said[5:] == ["after epoch 1: AP 0.400, the best so far", "after epoch 1: AP 0.200, best 0.400"]


def test_a_terminal_gets_a_bar_with_the_figures_under_it(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with Drawing(Figures(8, 4), stream) as drawing:
        drawing.on_start(INFO)
        drawing.on_step(step(200, {"box": 0.5}))
        drawing.on_validation(validation(0.2, 0.4))
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    assert "training 1,000 parameters on 20 recordings (300 labelled windows)" in shown
    assert "50%" in shown and "step 200/400  loss 0.500" in shown and "AP 0.200 (best 0.400)" in shown
    assert "after epoch 1: AP 0.200, best 0.400" in shown


def test_times_read_like_times():
    assert [duration(s) for s in (0, 59.6, 3723, 100_000)] == ["0:00:00", "0:01:00", "1:02:03", "27:46:40"]


def test_a_sink_gets_every_figure():
    got, opened = [], []

    class Sink:
        def scalars(self, at, values):
            got.append((at, dict(values)))

        def close(self):
            got.append("closed")

    def open_sink(first):
        opened.append(first)
        return Sink()

    with ToSink(open_sink) as observer:
        assert not opened, "nothing is made before the run begins"
        observer.on_start(replace(INFO, start_step=60))
        observer.on_step(step(61))
        observer.on_step(step(62, {"box": 1.0, "class": 0.5}))
        observer.on_validation(validation(0.25, 0.3))
    assert opened == [60]
    assert got == [
        (62, {"loss/box": 1.0, "loss/class": 0.5, "loss": 1.5, "grad_norm": 0.5, "lr": 1e-3}),
        (100, {"val/AP": 0.25, "val/AP50": 0.5}),
        "closed",
    ]


def test_the_first_signal_asks_and_the_second_ends(capsys):
    before = signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        several = Several([Silent(), interrupts])
        assert signal.getsignal(signal.SIGINT) is before, "until the run begins a signal ends the process as ever"
        several.on_start(INFO)
        assert not several.should_stop()
        signal.raise_signal(signal.SIGINT)
        assert several.should_stop() and not interrupts.was_terminated
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert "once more stops at once" in capsys.readouterr().err
