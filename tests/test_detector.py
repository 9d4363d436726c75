"""A detector from its spec: resolved options, one pure step, seeds, and what is refused."""

import logging
from dataclasses import replace

import pytest
import torch

from snn_perception import build_preset, load_registry
from snn_perception.detector import Detector, resolve
from snn_perception.errors import PluginError, SpecError
from snn_perception.registry import Component, Registered, Registry
from snn_perception.spec import ComponentRef, ModelSpec
from snn_perception.state import named_leaves
from snn_perception.testing import event_window
from snn_perception.types import SensorSize, Targets
from tests.paths import ROOT


@pytest.fixture(scope="module")
def plugin() -> Registry:
    return load_registry([ROOT / "tests" / "plugins" / "good.py"], installed=False, environment=False)


@pytest.fixture(scope="module")
def detector(plugin) -> Detector:
    return build_preset("good_model", registry=plugin)


def windows(detector, count):
    return [
        detector.represent(event_window(detector.spec.sensor_size, length_us=10_000, count=150, seed=seed))
        for seed in range(count)
    ]


def with_version(plugin: Registry, version: int) -> Registry:
    """Return the same components with another version of the neuron."""
    entries = [entry for kind in ("representation", "backbone", "head", "preset") for entry in plugin.entries(kind)]
    neuron = plugin.find("neuron", "good_if")
    return Registry([*entries, replace(neuron, component=replace(neuron.component, version=version))], [])


def test_the_spec_is_resolved(detector, plugin):
    given = plugin.build("preset", "good_model")
    spec = detector.spec
    assert spec.neuron == ComponentRef("good_if", {"v_threshold": 1.0}, version=3)
    assert spec.backbone == ComponentRef("good_pool", {"side": 8}, version=1)
    assert spec.representation == ComponentRef("good_count", {"limit": 255}, version=1)
    assert (
        replace(spec, **{role: getattr(given, role) for role in ("representation", "neuron", "backbone", "head")})
        == given
    )
    assert resolve(spec, plugin) == spec, "resolving twice changes nothing"
    assert ModelSpec.from_json(spec.to_json()) == spec


def test_a_window_becomes_an_input(detector):
    x = detector.represent(event_window(detector.spec.sensor_size))
    assert x.shape == (1, 1, 1, 16, 24) and x.dtype == torch.float32
    with pytest.raises(IndexError):
        detector.represent(event_window(SensorSize(100, 100)))


def test_inference_is_the_step_and_its_decoding(detector):
    first, second, third = windows(detector, 3)
    raw, state = detector(first, None)
    found, same_state = detector.infer(first, None)
    assert found == detector.decode(raw) and torch.equal(state["backbone"], same_state["backbone"])
    assert not same_state["backbone"].requires_grad
    assert [name for name, _ in named_leaves(state)] == ["backbone"], "the head keeps none"
    _, state = detector.infer(second, state)
    (carried,), _ = detector.infer(third, state)
    (fresh,), _ = detector.infer(third, None)
    assert carried.score[0] > fresh.score[0], "the windows before are remembered"


def test_two_streams_share_the_weights_and_nothing_else(detector):
    inputs = windows(detector, 4)
    alone = []
    state = None
    for x in inputs:
        found, state = detector.infer(x, state)
        alone += found
    one = other = None
    for x, expected in zip(inputs, alone, strict=True):
        (found,), one = detector.infer(x, one)
        _, other = detector.infer(1 - x, other)
        assert found == expected
    assert any(found.score[0] > 0 for found in alone)


def test_a_state_from_inference_goes_on_into_training(detector):
    first, second = windows(detector, 2)
    _, state = detector.infer(first, None)
    detector.train()
    raw, _ = detector(second.requires_grad_(), state)
    nobody: list[Targets | None] = [None]
    sum(detector.head.loss(raw, nobody, detector.spec.sensor_size).values()).backward()
    assert second.grad.any()
    detector.eval()


@pytest.mark.parametrize(
    ("state", "got"),
    [((None, None), "a tuple"), ({"backbone": None}, r"a dict of \['backbone'\]"), (torch.zeros(1), "a Tensor")],
)
def test_a_state_of_another_model_is_refused(detector, state, got):
    (x,) = windows(detector, 1)
    with pytest.raises(ValueError, match=f"expected a dict of 'backbone' and 'head', got {got}"):
        detector(x, state)


def test_a_state_of_another_batch_is_refused(detector):
    (x,) = windows(detector, 1)
    _, state = detector(x, None)
    with pytest.raises(ValueError, match="state does not fit the input"):
        detector(x.expand(-1, 3, -1, -1, -1), state)


def test_the_loss_reaches_the_first_window(detector):
    detector.train()
    first, second = (x.requires_grad_() for x in windows(detector, 2))
    _, state = detector(first, None)
    raw, _ = detector(second, state)
    nobody: list[Targets | None] = [None]
    sum(detector.head.loss(raw, nobody, detector.spec.sensor_size).values()).backward()
    assert first.grad.any() and second.grad.any() and detector.head.gain.grad.any()
    detector.eval()


def test_seeds_make_the_weights(registry):
    name = registry.names("preset")[0]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second = (build_preset(name, registry=registry) for _ in range(2))
    assert torch.equal(torch.rand(3), expected), "the caller's random numbers are not touched"
    assert not first.training
    one, two = first.state_dict(), second.state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)
    other = build_preset(name, registry=registry, seed=1).state_dict()
    assert any(not torch.equal(one[key], other[key]) for key in one)
    torch.manual_seed(7)
    free = build_preset(name, registry=registry, seed=None).state_dict()
    assert any(not torch.equal(one[key], free[key]) for key in one)
    torch.manual_seed(7)
    assert all(
        torch.equal(t, free[k]) for k, t in build_preset(name, registry=registry, seed=None).state_dict().items()
    )


def test_a_model_of_a_newer_component_is_refused(detector, plugin, caplog):
    with pytest.raises(SpecError, match="neuron 'good_if': the model needs version 3, here is 2; upgrade"):
        Detector(detector.spec, with_version(plugin, 2))
    with caplog.at_level(logging.WARNING):
        Detector(detector.spec, with_version(plugin, 4))
    assert "neuron 'good_if': made with version 3, numbers may differ in 4" in caplog.text


def test_options_that_no_checkpoint_can_hold_are_refused(plugin):
    def odd(*, function=print):
        return torch.nn.Identity()

    entries = [entry for kind in ("representation", "backbone", "head", "preset") for entry in plugin.entries(kind)]
    odd_registry = Registry([*entries, Registered("neuron", "odd", Component("good_if", odd))], [])
    with pytest.raises(SpecError, match="options must be finite numbers, texts or lists of these"):
        build_preset("good_model", registry=odd_registry)


def test_unknown_names_and_options_are_plugin_errors(plugin):
    with pytest.raises(PluginError, match="unknown preset 'god_model'; did you mean 'good_model'"):
        build_preset("god_model", registry=plugin)
    with pytest.raises(
        PluginError, match=r"unexpected keyword argument 'clases'; options: \(\*, classes=2\); did you mean"
    ):
        build_preset("good_model", registry=plugin, clases=3)
    spec = plugin.build("preset", "good_model")
    with pytest.raises(PluginError, match="unknown neuron 'quux'; known: good_if"):
        Detector(replace(spec, neuron=ComponentRef("quux")), plugin)
    with pytest.raises(PluginError, match="unexpected keyword argument 'sid'"):
        Detector(replace(spec, backbone=ComponentRef("good_pool", {"sid": 3})), plugin)


def test_every_preset_can_be_built_and_stored(registry):
    presets = registry.names("preset")
    assert presets, "no preset is registered"
    for name in presets:
        with torch.device("meta"):  # shapes without numbers
            detector = Detector(registry.build("preset", name), registry)
        assert sum(p.numel() for p in detector.parameters()) > 0
        assert ModelSpec.from_json(detector.spec.to_json()) == detector.spec
        with torch.device("meta"):
            again = Detector(ModelSpec.from_json(detector.spec.to_json()), registry)
        assert again.spec == detector.spec
        shapes = {key: value.shape for key, value in detector.state_dict().items()}
        assert {key: value.shape for key, value in again.state_dict().items()} == shapes
        assert (detector.device.type, detector.dtype) == ("meta", torch.float32)
