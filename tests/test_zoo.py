"""The shipped weights: found by name, opened by every command, listed, installed with the package."""

import json
import os
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from snn_perception import zoo
from snn_perception.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from snn_perception.cli import plugins as plugins_command
from snn_perception.cli import replay as replay_command
from snn_perception.data.shapes import moving_shapes
from snn_perception.detector import build_preset
from snn_perception.doctor.expected import file_sha256, read_expected
from snn_perception.errors import CheckpointError, PluginError
from snn_perception.events.dat_writer import write_dat
from snn_perception.runtime.models import open_model
from snn_perception.types import SensorSize
from tests.doctor_support import PRESET, woken_checkpoint
from tests.paths import ROOT

MOST_BYTES = 4_000_000
REAL = zoo.shipped()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder in place of the package's."""
    folder = tmp_path / "weights"
    monkeypatch.setattr(zoo, "FOLDER", folder)
    return folder


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    path = tmp_path_factory.mktemp("recordings") / "shapes.dat"
    size = SensorSize(240, 304)
    write_dat(path, moving_shapes(size, 500_000, seed=3), size)
    return path


@pytest.fixture
def one(folder, shapes, registry):
    folder.mkdir()
    return woken_checkpoint(folder / "night_drive.safetensors", shapes, registry)


@pytest.mark.parametrize("name", REAL)
def test_what_is_shipped_is_small_whole_and_described(name, registry):
    path = zoo.shipped_path(name)
    assert path.stat().st_size < MOST_BYTES
    load_checkpoint(path, registry=registry)
    record = read_checkpoint(path).run
    assert record["data"]["data_set"].startswith("synthetic-")
    assert not re.search(r'[":](/|~)', json.dumps(record)), "a folder of the machine that trained them"
    card = zoo.card_path(name).read_text("utf-8")
    assert name in card and "synthetic" in card.lower() and "licen" in card.lower()
    expected = read_expected(zoo.expected_path(name))
    assert expected.weights_sha256 == file_sha256(path)
    assert sum(int((found.score >= expected.tolerance.min_score).sum()) for found in expected.windows.values()) > 20


def test_every_file_in_the_folder_is_installed():
    (patterns,) = re.findall(r'package_data=\{"snn_perception": (\[.*?\])\}', (ROOT / "setup.py").read_text())
    found = list((ROOT / "snn_perception" / "weights").glob("*"))
    for path in found:
        name = str(path.relative_to(ROOT / "snn_perception"))
        assert any(fnmatch(name, pattern) for pattern in json.loads(patterns)), name
    assert "weights/*" in patterns


def test_nothing_is_shipped_where_the_folder_is_missing(folder, registry):
    assert zoo.shipped() == ()
    assert zoo.find_checkpoint("night_drive") is None
    with pytest.raises(
        CheckpointError, match="no weights 'night_drive' come with this package; this version ships none"
    ):
        zoo.shipped_path("night_drive")


def test_a_wrong_name_is_answered_with_the_right_one(one, registry):
    with pytest.raises(CheckpointError, match="did you mean 'night_drive'"):
        zoo.checkpoint_path("night_driv")
    with pytest.raises(PluginError, match="no such file, and unknown preset 'day'.*; shipped weights: night_drive"):
        open_model("day", registry)


def test_a_path_comes_first_then_shipped_weights_then_a_preset(folder, registry, tmp_path, monkeypatch):
    """All three under one name; each has a weight of its own."""
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    for number, path in enumerate((folder / f"{PRESET}.safetensors", tmp_path / PRESET)):
        detector = build_preset(PRESET, registry=registry)
        next(detector.parameters()).data.fill_(number + 2.0)
        save_checkpoint(tmp_path / "made.safetensors", detector)
        os.replace(tmp_path / "made.safetensors", path)

    def opened():
        model = open_model(PRESET, registry)
        return model.is_preset, float(next(model.detector.parameters()).detach().flatten()[0])

    assert opened() == (False, 3.0)
    (tmp_path / PRESET).unlink()
    assert opened() == (False, 2.0)
    (folder / f"{PRESET}.safetensors").unlink()
    is_preset, value = opened()
    assert is_preset and value not in (2.0, 3.0)


def test_replay_takes_the_name(one, shapes, capsys, tmp_path):
    lines = tmp_path / "found.jsonl"
    assert replay_command.main(["night_drive", str(shapes), "--json", "--detections", str(lines)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["model"] | {"spec_hash": ""} == {
        "name": "night_drive",
        "trained": True,
        "note": "",
        "spec_hash": "",
        "window_us": 50_000,
        "state_policy": "carry",
    }
    assert sum(told["detections"].values()) > 0
    by_path = tmp_path / "by_path.jsonl"
    assert replay_command.main([str(one), str(shapes), "--json", "--detections", str(by_path)]) == 0
    assert lines.read_text() == by_path.read_text()


def test_plugins_lists_and_counts_them(one, capsys):
    assert plugins_command.main(["--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)["weights"]
    assert (listed["name"], listed["preset"], listed["data"]) == ("night_drive", PRESET, "synthetic-gen1/1")
    assert listed["card"] is None and listed["error"] is None
    assert plugins_command.main(["night_drive", "--json"]) == 0
    counted = json.loads(capsys.readouterr().out)
    assert plugins_command.main([PRESET, "--json"]) == 0
    assert counted == json.loads(capsys.readouterr().out)
    assert plugins_command.main(["night_drive"]) == 0
    assert "weights: night_drive" in capsys.readouterr().out


def test_plugins_tells_of_a_damaged_file(one, capsys):
    one.write_bytes(b"not weights")
    assert plugins_command.main([]) == 0
    assert "not a readable safetensors file" in capsys.readouterr().out


def test_a_path_may_begin_at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert zoo.find_checkpoint("~/a.safetensors") == tmp_path / "a.safetensors"
    assert zoo.find_checkpoint("runs/last") == Path("runs/last")
