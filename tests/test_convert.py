import argparse
import hashlib
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from snn_perception.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from snn_perception.cli.convert import main
from snn_perception.data.shapes import moving_shapes
from snn_perception.errors import CheckpointError
from snn_perception.events.dat_writer import write_dat
from snn_perception.importing import import_weights
from snn_perception.registry import Component, Registered, Registry
from snn_perception.runtime.replay import replay
from tests.golden_support.vectors import Vector, filled_state
from tests.paths import ROOT
from tests.runtime_support import SIZE, TINY, random_windows, tiny_detector, tiny_pipeline, tiny_registry

REGISTRY = tiny_registry()


def command(*arguments):
    """Return the exit code of ``convert`` with these arguments."""
    return main(["--plugin", str(TINY), *map(str, arguments)])


def refused(capsys, *arguments):
    """Return the one line of error that the command gives."""
    assert command(*arguments) == 1
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and err.startswith("error: ")
    return err.strip()


def foreign(detector, ending=""):
    return {f"tiny.{name}{ending}": tensor.clone() for name, tensor in detector.state_dict().items()}


@pytest.fixture
def source(tmp_path):
    """Return a detector and a file that holds its weights under foreign names."""
    detector = tiny_detector(seed=5, channels=4)
    path = tmp_path / "theirs.pt"
    torch.save({"state_dict": foreign(detector), "epoch": 49}, path)
    return detector, path


def test_weights_come_over_and_the_model_sees_the_same(source, tmp_path, capsys):
    detector, path = source
    output = tmp_path / "ours.safetensors"
    assert command(path, "-o", output, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    converted = load_checkpoint(output, registry=REGISTRY)
    assert converted.spec == detector.spec
    windows = random_windows(4)
    expected, found = (
        [step.detections for step in replay(iter(windows), tiny_pipeline(each))] for each in (detector, converted)
    )
    assert all(map(len, expected)) and expected == found
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert told["importer"] == "tiny_names" and told["matched"] == len(detector.state_dict())
    assert told["missing"] == told["unexpected"] == []
    assert told["sha256"] == sha256 and told["notes"] == ["epoch 49"]
    assert told["parameters"] == sum(parameter.numel() for parameter in detector.parameters())
    assert told["spec_hash"] == detector.spec.hash()
    run = read_checkpoint(output).run
    assert run["imported_from"] == {"file": "theirs.pt", "sha256": sha256, "importer": "tiny_names"}
    assert run["report"]["defaults"] == {"window_us": "10000 (tests)"}


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".pth", ".safetensors"])
def test_the_content_tells_the_format(suffix, tmp_path):
    path, tensors = tmp_path / f"theirs{suffix}", foreign(tiny_detector())
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    assert command(path, "-o", tmp_path / "ours.safetensors") == 0


def test_the_table_shows_the_report(source, tmp_path, capsys):
    assert command(source[1], "-o", tmp_path / "ours.safetensors") == 0
    table = capsys.readouterr().out
    for text in ("tiny_names", "default: window_us", "10000 (tests)", "epoch 49", "missing", "unexpected", "none"):
        assert text in table


def test_a_lightning_checkpoint_of_the_st_vgg_authors_comes_over(tmp_path, capsys):
    """A file as their training writes it: state dict, options as a namespace, and the state of the optimizer."""
    vector = Vector(ROOT / "tests" / "golden" / "st_vgg_rescat" / "16-ST-VGG+SSD.json")
    recipe, filled = vector.json, filled_state(vector)
    state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in filled.items()}
    options = argparse.Namespace(
        cfg=recipe["cfg"], extras=recipe["extras"], model="vgg", sample_size=50_000, tbin=1, lr=1e-3, path="data/gen1"
    )
    checkpoint = {
        "epoch": 49,
        "global_step": 12_345,
        "pytorch-lightning_version": "1.8.6",
        "state_dict": state,
        "optimizer_states": [{"state": {0: {"step": 3, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-3}]}],
        "hyper_parameters": {"args": options},
    }
    torch.save(checkpoint, tmp_path / "gen1-epoch=49-train_loss_epoch=2.1234.ckpt")
    source, output = next(tmp_path.iterdir()), tmp_path / "st_vgg.safetensors"
    assert command(source, "-o", output, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["matched"] == len(recipe["state"]) == 155
    assert told["parameters"] == recipe["num_params"] == 642_351
    assert told["missing"] == told["unexpected"] == []
    assert "window_us" not in told["defaults"], "the file says it"
    converted = load_checkpoint(output, registry=REGISTRY)
    assert sorted(tensor.double().sum().item() for tensor in converted.state_dict().values()) == sorted(
        tensor.double().sum().item() for tensor in state.values()
    )
    windows = random_windows(3, converted.spec.sensor_size, window_us=50_000, per_window=20_000)
    found = [step.detections for step in replay(iter(windows), tiny_pipeline(converted))]
    assert all(map(len, found))


# What it refuses


def test_unknown_weights_name_the_importers_and_some_tensors(tmp_path, capsys):
    torch.save({f"layer{i}.weight": torch.zeros(2) for i in range(9)}, tmp_path / "theirs.pt")
    error = refused(capsys, tmp_path / "theirs.pt", "-o", tmp_path / "ours.safetensors")
    for text in ("theirs.pt: not known to any of the importers", "tiny_names", "9 tensors: 'layer0.weight'", "plugin"):
        assert text in error
    assert not (tmp_path / "ours.safetensors").exists()


def test_weights_known_to_two_importers_need_a_choice(tmp_path, capsys):
    path, output = tmp_path / "theirs.pt", tmp_path / "ours.safetensors"
    torch.save(foreign(tiny_detector(), ending=".both"), path)
    error = refused(capsys, path, "-o", output)
    assert "known to the importers tiny_names and tiny_twice; choose one with --importer" in error
    assert command(path, "-o", output, "--importer", "tiny_twice") == 0


def test_a_named_importer_that_does_not_know_the_file_says_so(source, tmp_path, capsys):
    error = refused(capsys, source[1], "-o", tmp_path / "ours.safetensors", "--importer", "tiny_twice")
    assert "not known to the importer tiny_twice" in error
    error = refused(capsys, source[1], "-o", tmp_path / "ours.safetensors", "--importer", "tiny_name")
    assert "unknown checkpoint_importer 'tiny_name'; did you mean" in error


def test_a_file_of_the_family_that_lacks_a_tensor_is_refused(tmp_path, capsys):
    path, tensors = tmp_path / "theirs.pt", foreign(tiny_detector())
    del tensors["tiny.backbone.convs.0.weight"]
    torch.save(tensors, path)
    assert "importer 'tiny_names': missing" in refused(capsys, path, "-o", tmp_path / "ours.safetensors")
    tensors = foreign(tiny_detector())
    del tensors["tiny.head.convs.1.bias"]
    torch.save(tensors, path)
    assert "missing 'head.convs.1.bias'" in refused(capsys, path, "-o", tmp_path / "ours.safetensors")


def test_weights_that_are_not_finite_are_refused(source, tmp_path, capsys):
    tensors = foreign(source[0])
    tensors["tiny.head.convs.1.bias"][0] = np.nan
    torch.save(tensors, source[1])
    assert "theirs.pt" in refused(capsys, source[1], "-o", tmp_path / "ours.safetensors")


def test_a_checkpoint_of_ours_needs_no_conversion(tmp_path, capsys):
    save_checkpoint(tmp_path / "ours.safetensors", tiny_detector())
    error = refused(capsys, tmp_path / "ours.safetensors", "-o", tmp_path / "again.safetensors")
    assert "is a checkpoint of this project" in error


def test_a_recording_is_told_from_weights(source, tmp_path, capsys):
    write_dat(tmp_path / "shapes.dat", moving_shapes(SIZE, 20_000), SIZE)
    error = refused(capsys, tmp_path / "shapes.dat", "-o", tmp_path / "ours.safetensors")
    assert "shapes.dat: is a recording, not weights; DST is .dat, .h5 or .hdf5, .raw" in error
    assert "is a folder with one recording (shapes.dat): name it" in refused(
        capsys, tmp_path, "-o", tmp_path / "ours.safetensors"
    )
    error = refused(capsys, source[1], "-o", tmp_path / "ours.dat")
    assert "is no recording that is known here, but" in error and "ours.dat' is the name of one" in error
    error = refused(capsys, source[1], "-o", tmp_path / "ours.safetensors", "--event-type", "12")
    assert "--event-type is for recordings" in error


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("ours.pt", "ends in .safetensors, got '.pt'"),
        ("none/ours.safetensors", "does not exist"),
        ("", "got 'no suffix'"),
    ],
)
def test_what_cannot_be_written_is_told_first(output, message, tmp_path, capsys):
    (tmp_path / "theirs.pt").write_bytes(b"not read at all")
    assert message in refused(capsys, tmp_path / "theirs.pt", "-o", tmp_path / output)


def test_source_and_output_must_differ(tmp_path, capsys):
    path = tmp_path / "theirs.safetensors"
    save_file(foreign(tiny_detector()), path)
    before = path.read_bytes()
    assert "is the source itself" in refused(capsys, path, "-o", path)
    assert path.read_bytes() == before


def test_a_missing_source_and_a_missing_output_are_told(tmp_path, capsys):
    assert "no such file" in refused(capsys, tmp_path / "none.pt", "-o", tmp_path / "ours.safetensors")
    assert command(tmp_path / "none.pt") == 2


def broken_importer():
    def fails(tensors, hints):
        raise KeyError("surprise")

    return fails


def with_importer(name, factory):
    entries = [
        entry
        for kind in ("neuron", "backbone", "head", "representation", "preset", "checkpoint_importer")
        for entry in REGISTRY.entries(kind)
    ]
    return Registry([*entries, Registered("checkpoint_importer", "test", Component(name, factory))], [])


def test_a_broken_importer_does_not_stop_the_one_that_knows(source):
    imported = import_weights(source[1], with_importer("a_broken_one", broken_importer))
    assert imported.report.importer == "tiny_names"


def test_a_broken_importer_is_named_where_nobody_knows(tmp_path):
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "theirs.pt")
    with pytest.raises(CheckpointError, match=r"theirs.pt: importer 'a_broken_one' failed on it: KeyError: 'surprise'"):
        import_weights(tmp_path / "theirs.pt", with_importer("a_broken_one", broken_importer))
