"""Every hook has a test here, with a product that honours its contract, and a heading in docs/plugins.md."""

import functools
import inspect
import re

import numpy as np
import pytest
import torch

from snn_perception import hookspecs, load_registry
from snn_perception.detector import Detector
from snn_perception.errors import EventDataError
from snn_perception.events.recording import open_recording
from snn_perception.registry import HOST_ARGUMENTS, KINDS
from snn_perception.testing import (
    check_dataset,
    check_head,
    check_neuron,
    check_representation,
    event_window,
    sparse_input,
)
from snn_perception.types import FeatureInfo, Packet, SensorSize
from tests.paths import ROOT

HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("snn_"))
DOCUMENT = ROOT / "docs" / "plugins.md"


@pytest.fixture(scope="module")
def plugin():
    """The core and a plugin with something for every hook."""
    return load_registry([ROOT / "tests" / "plugins" / "good.py"], installed=False, environment=False)


def test_each_kind_of_component_has_a_hook():
    assert sorted(f"snn_{kind}s" for kind in KINDS) == HOOKS


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_test(hook):
    assert f"test_{hook}" in globals(), f"{hook} has no test in tests/test_hooks.py"


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_described(hook):
    assert inspect.signature(getattr(hookspecs, hook)).parameters == {}, "hooks take no arguments"
    assert inspect.getdoc(getattr(hookspecs, hook)), "say what it is for and what the product must do"
    section = re.search(rf"^### `{hook}`\n(.+?)(?=^#|\Z)", DOCUMENT.read_text("utf-8"), re.M | re.S)
    assert section, f"docs/plugins.md has no heading ### `{hook}`"
    kind = hook.removeprefix("snn_").removesuffix("s")
    call = re.search(r"`factory\(([^)]*)\)", section[1])
    assert call, f"the section of {hook} must show the factory's call"
    named = [argument.strip() for argument in call[1].split(",")]
    given = [argument for argument in named if argument not in ("", "*", "options")]
    assert tuple(given) == HOST_ARGUMENTS[kind], "the document and the host must agree on the arguments"


def test_snn_neurons(plugin):
    check_neuron(plugin.factory("neuron", "good_if", v_threshold=0.8))


def test_snn_backbones(plugin):
    backbone = plugin.build("backbone", "good_pool", 2, plugin.factory("neuron", "good_if", v_threshold=0.5), side=2)
    assert backbone.features == FeatureInfo((2,), (2,))
    maps, state = backbone(sparse_input(3, 2, 2, 8, 12, density=0.5), None)
    assert [list(fmap.shape) for fmap in maps] == [[3, 2, 2, 4, 6]] and maps[0].any() and state.shape == (2, 2, 4, 6)


def test_snn_heads(plugin):
    check_head(
        lambda features, classes: plugin.build(
            "head", "good_mean", features, classes, plugin.factory("neuron", "good_if")
        ),
        features=FeatureInfo((2,), (8,)),
    )


def test_snn_representations(plugin):
    check_representation(plugin.factory("representation", "good_count"))


def test_snn_presets(plugin):
    detector = Detector(plugin.build("preset", "good_model", classes=3), plugin).eval()
    assert detector.spec.classes == ("class0", "class1", "class2")
    window = event_window(detector.spec.sensor_size, length_us=detector.spec.window_us, count=400)
    (found,), state = detector.infer(detector.represent(window))
    assert found.xyxy.tolist() == [[0, 0, 24, 16]] and 0 < found.score[0] < 1
    (again,), _ = detector.infer(detector.represent(window), state)
    assert again.score[0] > found.score[0], "the membranes of the first window count in the second"


def test_snn_checkpoint_importers(plugin):
    read = plugin.build("checkpoint_importer", "good_weights")
    assert read({"other.gain": torch.ones(2)}, {}) is None, "not of its family"
    spec, weights, report = read({"good.head.gain": torch.full((2,), 0.5)}, {"classes": 2})
    detector = Detector(spec, plugin)
    detector.load_state_dict(weights)
    assert detector.head.gain.tolist() == [0.5, 0.5] and report.matched == 1


def test_snn_event_readers(plugin, tmp_path):
    path = tmp_path / "drive.good"
    path.write_text("10 1 2 0\n20 3 4 1\n")
    (events,) = open_recording(path, plugin, width=32).chunks()
    assert events.t.tolist() == [10, 20] and events.x.tolist() == [1, 3] and events.size == SensorSize(32, 32)
    (tmp_path / "drive.odd").write_text("10 1 2 0\n")
    with pytest.raises(EventDataError, match=r"not a recording that is known here; readers: .*good_file"):
        open_recording(tmp_path / "drive.odd", plugin)


def test_snn_event_decoders(plugin):
    decoder = plugin.build("event_decoder", "good_words")
    packet = Packet(np.array([5, 7], np.uint8), "good_words", SensorSize(4, 8), time_base=100)
    events = decoder.decode(packet)
    assert events.x.tolist() == [5, 7] and events.t.tolist() == [100, 101]
    decoder.resync()
    assert plugin.build("event_decoder", "good_words") is not decoder, "one decoder for each stream"


def test_snn_datasets(plugin, tmp_path):
    (tmp_path / "train").mkdir()
    for name, text in (("one", "10 1 2 0\n"), ("two", "20 3 4 1\n"), ("three", "")):
        (tmp_path / "train" / f"{name}.good").write_text(text)
    make = functools.partial(plugin.build, "dataset", "good_set")
    dataset = check_dataset(make, tmp_path, registry=plugin)
    assert [recording.name for recording in dataset] == ["one.good", "two.good"]
    assert len(dataset.report.faulty) == 1 and "three.good: is empty" in dataset.report.faulty[0]
    assert len(make(tmp_path, "train", suffix=".other")) == 0
