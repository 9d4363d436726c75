import json
import random
import stat
import struct

import pytest
import torch
from safetensors.torch import save_file

from snn_perception import tensor_file
from snn_perception.checkpoint import load_checkpoint, load_weights, read_checkpoint, save_checkpoint
from snn_perception.detector import build_preset
from snn_perception.errors import CheckpointError, PluginError, SnnPerceptionError
from snn_perception.runtime.replay import replay
from tests.runtime_support import file_size_limit, random_windows, tiny_detector, tiny_pipeline, tiny_registry

REGISTRY = tiny_registry()
RUN = {"training": "none", "seed": 3, "nested": {"lr": 1e-3, "names": ["a", "b"]}}


@pytest.fixture
def saved(tmp_path):
    """Return a detector and the path it was saved to."""
    detector = tiny_detector(seed=3)
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, detector, run=RUN)
    return detector, path


def equal_weights(one, other):
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def rewrite(path, weights=None, **metadata):
    """Write the file anew with other weights or metadata and a digest that fits; None takes an entry out."""
    found = read_checkpoint(path)
    with open(path, "rb") as file:
        stored = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))["__metadata__"]
    weights = found.weights if weights is None else weights
    stored = {key: value for key, value in {**stored, **metadata}.items() if value is not None}
    stored["sha256"] = tensor_file._digest(weights, stored)
    save_file({name: tensor.clone() for name, tensor in weights.items()}, path, stored)


@pytest.mark.parametrize("preset", ["tiny", "st_vgg_ssd_16"])
def test_weights_spec_and_run_come_back_as_they_were(preset, tmp_path):
    detector = build_preset(preset, registry=REGISTRY, seed=3)
    path = tmp_path / "made" / "on the way" / "model.safetensors"
    save_checkpoint(path, detector, run=RUN)
    loaded = load_checkpoint(path, registry=REGISTRY)
    assert equal_weights(detector.state_dict(), loaded.state_dict())
    assert loaded.spec == detector.spec
    assert loaded.spec.hash() == detector.spec.hash()
    assert not loaded.training
    assert read_checkpoint(path).run == RUN


def test_a_loaded_model_sees_the_same_bit_for_bit(saved):
    detector, path = saved
    windows = random_windows(5)
    before = [step.detections for step in replay(iter(windows), tiny_pipeline(detector))]
    after = [step.detections for step in replay(iter(windows), tiny_pipeline(load_checkpoint(path, registry=REGISTRY)))]
    assert all(len(found) for found in before)
    assert before == after


def test_every_option_is_in_the_file(saved):
    spec = read_checkpoint(saved[1]).spec
    assert spec.neuron.options["tau"] == 2.0, "a default that the preset does not name"
    assert spec.head.options == {"threshold": 0.3}
    assert all(ref.version >= 1 for ref in (spec.representation, spec.neuron, spec.backbone, spec.head))


def test_a_model_of_other_options_keeps_them(tmp_path):
    detector = build_preset("tiny", registry=REGISTRY, channels=3, state_policy="per_window", window_us=7_000)
    save_checkpoint(tmp_path / "other.safetensors", detector)
    spec = load_checkpoint(tmp_path / "other.safetensors", registry=REGISTRY).spec
    assert (spec.backbone.options["channels"], spec.state_policy, spec.window_us) == (3, "per_window", 7_000)


def test_saving_replaces_an_older_file_and_leaves_nothing_beside_it(saved):
    _, path = saved
    other = tiny_detector(seed=4)
    save_checkpoint(path, other)
    assert equal_weights(load_checkpoint(path, registry=REGISTRY).state_dict(), other.state_dict())
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_the_file_has_the_permissions_of_any_new_file(saved):
    plain = saved[1].parent / "plain"
    plain.touch()
    assert stat.S_IMODE(saved[1].stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_a_failure_in_the_middle_leaves_the_old_file(saved, monkeypatch):
    _, path = saved
    before = path.read_bytes()

    def full_disk(weights, name, metadata):
        with open(name, "wb") as file:
            file.write(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_file, "save_file", full_disk)
    with pytest.raises(CheckpointError, match=r"cannot be written: .*No space left"):
        save_checkpoint(path, tiny_detector())
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_full_disk_leaves_the_old_file(saved):
    _, path = saved
    before = path.read_bytes()
    with file_size_limit(2048), pytest.raises(CheckpointError, match=f"{path}: cannot be written"):
        save_checkpoint(path, tiny_detector())
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_checkpoint(tmp_path / "file" / "model.safetensors", tiny_detector())
    with pytest.raises(CheckpointError, match="is a folder"):
        save_checkpoint(tmp_path, tiny_detector())


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(CheckpointError, match=f"{path}: no such checkpoint"):
            load_checkpoint(path, registry=REGISTRY)


def test_a_folder_with_weights_names_them(saved):
    with pytest.raises(CheckpointError, match=f"such as {saved[1]}$"):
        load_checkpoint(saved[1].parent, registry=REGISTRY)


def test_foreign_safetensors_are_told_from_damaged_ones(tmp_path):
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="no model description; import foreign weights with 'convert"):
        load_checkpoint(path, registry=REGISTRY)


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"\x80\x02}q\x00.", b"\xff" * 100, b"{}", b"\x08" + b"\0" * 7 + b"{}      "]
)
def test_what_is_no_safetensors_file_is_refused(content, tmp_path):
    for name, remedy in (("model.pt", "go through 'convert'"), ("model.safetensors", "copy it again")):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{path}: (not a readable.*{remedy}|holds weights but)"):
            load_checkpoint(path, registry=REGISTRY)


def test_a_newer_format_says_upgrade(saved):
    rewrite(saved[1], snn_perception="2")
    with pytest.raises(CheckpointError, match="checkpoint format '2', this version reads '1'; upgrade"):
        load_checkpoint(saved[1], registry=REGISTRY)


def test_damage_never_loads_as_something_else(saved):
    """Flipped bits at 250 random places and 150 random truncations: refused clearly, or nothing has changed."""
    detector, path = saved
    data, rng = path.read_bytes(), random.Random(0)
    refused = 0
    for trial in range(400):
        if trial < 250:
            at = rng.randrange(len(data))
            damaged = data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
        else:
            damaged = data[: rng.randrange(len(data))]
        path.write_bytes(damaged)
        try:
            loaded = load_checkpoint(path, registry=REGISTRY)
        except CheckpointError as error:
            assert str(path) in str(error)
            refused += 1
        else:
            assert equal_weights(loaded.state_dict(), detector.state_dict())
            assert loaded.spec == detector.spec
    assert refused > 350


def test_every_single_byte_of_the_header_counts(saved):
    """The header is where damage could change the meaning: each of its bytes, zeroed and flipped."""
    detector, path = saved
    data = path.read_bytes()
    end = 8 + struct.unpack("<Q", data[:8])[0]
    for at in range(0, end, 3):
        for value in (0, data[at] ^ 1, data[at] ^ 0x20):
            path.write_bytes(data[:at] + bytes([value]) + data[at + 1 :])
            try:
                loaded = load_checkpoint(path, registry=REGISTRY)
            except CheckpointError:
                continue
            assert equal_weights(loaded.state_dict(), detector.state_dict()) and loaded.spec == detector.spec


def test_weights_of_another_shape_are_named(saved):
    detector, path = saved
    weights = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    weights["head.convs.0.bias"] = torch.zeros(7)
    rewrite(path, weights)
    with pytest.raises(
        CheckpointError, match=r"tensor 'head.convs.0.bias': expected torch.float32 \[2\], got .* \[7\]"
    ):
        load_checkpoint(path, registry=REGISTRY)


def test_missing_and_unexpected_weights_are_named(saved):
    detector, path = saved
    weights = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    weights["head.extra"] = weights.pop("head.convs.0.bias")
    rewrite(path, weights)
    with pytest.raises(CheckpointError, match=r"missing 'head.convs.0.bias', unexpected 'head.extra'"):
        load_checkpoint(path, registry=REGISTRY)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(saved, value):
    detector, path = saved
    weights = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    weights["backbone.convs.0.weight"][0, 0, 0, 0] = value
    rewrite(path, weights)
    with pytest.raises(CheckpointError, match=r"'backbone.convs.0.weight' holds values that are not finite"):
        load_checkpoint(path, registry=REGISTRY)


def test_a_refused_load_changes_no_weight():
    detector = tiny_detector(seed=3)
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    broken = {name: tensor + 1 for name, tensor in before.items()}
    broken["head.convs.1.bias"] = torch.zeros(9)
    with pytest.raises(CheckpointError):
        load_weights(detector, broken, "test")
    assert equal_weights(before, detector.state_dict())


def test_a_component_that_is_not_installed_is_named(saved):
    from snn_perception import load_registry

    with pytest.raises(PluginError, match=rf"{saved[1].name}: unknown backbone 'tiny'"):
        load_checkpoint(saved[1], registry=load_registry(environment=False))


@pytest.mark.parametrize(
    "place", ["", "backbone", "head", "neuron", "sensor_size", "classes", "window_us", "state_policy"]
)
@pytest.mark.parametrize(
    "value", [None, -1, 1.5, "text", [], [1], {}, {"name": "tiny"}, {"name": "tiny", "options": {"channels": -2}}]
)
def test_a_description_that_is_nonsense_is_refused(saved, place, value):
    """Not damage, which the digest finds, but a file that was made to mislead."""
    _, path = saved
    spec = json.loads(read_checkpoint(path).spec.to_json())
    if place:
        spec[place] = value
    else:
        spec = value
    rewrite(path, spec=json.dumps(spec))
    try:
        loaded = load_checkpoint(path, registry=REGISTRY)
    except SnnPerceptionError as error:
        assert str(path) in str(error)
    else:
        assert place in ("backbone", "head") and value == {"name": "tiny"}, "only that still describes this model"
        assert loaded.spec.backbone.name == "tiny"


def test_a_run_record_that_is_no_object_is_left_out(saved):
    rewrite(saved[1], run="[1, 2]")
    assert read_checkpoint(saved[1]).run == {}
    rewrite(saved[1], run="{not json")
    with pytest.raises(CheckpointError):
        read_checkpoint(saved[1])
