"""The authors' checkpoints of ResCat-SNN+SSD: what is read from them, what is assumed, and what is refused."""

import random

import pytest
import torch

from snn_perception import build_preset
from snn_perception.checkpoint import load_weights
from snn_perception.detector import Detector
from snn_perception.errors import CheckpointError
from snn_perception.importing import import_weights
from tests.golden_support.vectors import Vector, filled_state
from tests.no_reset_reference import shapes_of
from tests.paths import ROOT

GOLDEN = ROOT / "tests" / "golden" / "st_vgg_rescat" / "ResCat-SNN-16+SSD.json"
CFG = [16, 32, 32, 64, 64]
DROP = object()


@pytest.fixture(scope="module")
def importer(registry):
    return registry.build("checkpoint_importer", "no_reset_ssd")


@pytest.fixture(scope="module")
def golden_state():
    return filled_state(Vector(GOLDEN))


@pytest.fixture
def state(golden_state):
    return dict(golden_state)


def hints(**options):
    return {"hyper_parameters": {"args": options}}


@pytest.mark.parametrize("options", [{}, {"cfg": CFG, "model": "rescat", "sample_size": 50_000}])
def test_it_gives_the_published_preset(importer, registry, state, options):
    spec, weights, report = importer(state, hints(**options))
    detector = Detector(spec, registry)
    load_weights(detector, weights, "test")
    assert detector.spec == build_preset("rescat_ssd_16", registry=registry).spec
    assert report.matched == len(state) == 176 and "strides" not in report.defaults
    assert ("window_us" in report.defaults) == (not options)
    assert {"classes", "sensor_size", "neuron", "state_policy", "aspect_ratios"} <= report.defaults.keys()


def test_values_are_taken_over_unchanged(importer, state):
    _, weights, _ = importer(state, {})
    theirs = "backbone.model.features.2.0"
    assert torch.equal(
        weights["backbone.stages.3.transition.current.conv.weight"], state[f"{theirs}.conv_trans.weight"]
    )
    assert torch.equal(weights["backbone.stages.3.second.current.norm.bias"], state[f"{theirs}.norm2.bias"])
    assert torch.equal(weights["backbone.stages.3.first.neuron.w"], state[f"{theirs}.act1.w"])
    assert torch.equal(weights["backbone.stages.0.neuron.w"], state["backbone.model.features.0.2.w"])


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.removeprefix("backbone.model.").removeprefix("backbone."),
        lambda name: f"model.{name}",
        lambda name: f"module.{name}",
    ],
    ids=["bare", "wrapped", "data parallel"],
)
def test_prefixes(importer, state, rename):
    spec, weights, _ = importer({rename(name): value for name, value in state.items()}, {})
    expected_spec, expected, _ = importer(state, {})
    assert spec == expected_spec and weights.keys() == expected.keys()
    assert all(weights[name] is expected[name] for name in weights)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("backbone.model.features.3.0.act_trans.w", DROP, "missing 'features.3.0.act_trans.w'"),
        ("backbone.model.features.3.0.conv2.weight", DROP, "a feature map from each of 2 blocks, got heads for 3"),
        ("backbone.model.features.0.3.conv.weight", DROP, "missing 'features.0.3.conv.weight'"),
        ("backbone.model.features.1.0.conv1.weight", torch.zeros(16, 32, 3, 3), r"\[32, 32, 3, 3\], got \[16, 32"),
        ("backbone.model.features.3.0.conv_trans.weight", torch.zeros(64, 96, 1, 1), r"\[32, 96, 1, 1\], got \[64"),
        ("backbone.model.classifier.conv_classif.weight", DROP, "missing 'classifier.conv_classif.weight'"),
        ("head.regression_head.module_list.5.2.weight", DROP, "5 box and 6 class"),
        ("head.connections.0.weight", torch.zeros(3), "unexpected 'head.connections.0.weight'"),
        ("backbone.model.features.0.1.bias", torch.zeros(16), "folded into the convolutions"),
        ("backbone.model.features.0.0.weight", torch.zeros(16, 2, 4, 4), "folded into the convolutions"),
    ],
)
def test_a_tensor_that_is_missing_unexpected_or_of_another_shape_is_named(importer, state, name, value, message):
    if value is DROP:
        del state[name]
    else:
        state[name] = value
    with pytest.raises(CheckpointError, match=message):
        importer(state, {})


@pytest.mark.parametrize("cfg", [[16, 32, 32, 64], [16, 32, 32, 64, "64s2"], "16", [10**5000] * 5, {"a": 1}])
def test_a_stored_layer_list_that_does_not_fit_is_refused(importer, state, cfg):
    with pytest.raises(CheckpointError, match="option 'cfg'"):
        importer(state, hints(cfg=cfg))


@pytest.mark.parametrize("seed", range(30))
def test_any_damage_gives_a_clear_error(importer, state, seed):
    rng = random.Random(seed)
    for _ in range(rng.randrange(1, 4)):
        name = rng.choice(list(state))
        match rng.randrange(4):
            case 0:
                del state[name]
            case 1:
                state[name.replace(str(rng.randrange(8)), str(rng.randrange(10**6)), 1)] = state.pop(name)
            case 2:
                state[name] = torch.zeros([rng.randrange(20) for _ in range(rng.randrange(6))])
            case 3:
                state[name.removeprefix("backbone.") + rng.choice(["", ".0"])] = state[name]
    try:
        result = importer(state, hints(cfg=rng.choice([CFG, CFG[: rng.randrange(6)]])))
    except CheckpointError as error:
        assert "no_reset_ssd" in str(error) and len(str(error)) < 800
    else:
        assert result is None or result[2].matched == len(state)


@pytest.mark.parametrize("one_one", [False, True])
def test_a_file_goes_the_whole_way(registry, tmp_path, one_one):
    """Through the confined reader and the search among all importers, 1x1 extras included."""
    shapes = shapes_of([8, 12, 16, 24, 32], extras=[16, 8, 24], one_one_extras=one_one)
    torch.manual_seed(0)
    state = {
        f"backbone.{'' if name.startswith('extras') else 'model.'}{name}" if not name.startswith("head") else name: (
            torch.zeros(shape, dtype=torch.int64) if name.endswith("tracked") else torch.rand(shape)
        )
        for name, shape in shapes.items()
    }
    torch.save({"state_dict": state, "hyper_parameters": {"one_one_extras": one_one}}, tmp_path / "gen1.ckpt")
    imported = import_weights(tmp_path / "gen1.ckpt", registry)
    backbone = imported.detector.spec.backbone
    assert backbone.name == "rescat" and backbone.options["layers"] == [8, 12, 16, 24, 32]
    assert backbone.options["extras"] == [16, 8, 24] and backbone.options["one_one_extras"] is one_one
    assert imported.report.matched == len(state) and imported.report.importer == "no_reset_ssd"
    (found,), _ = imported.detector.infer(torch.ones(1, 1, 2, 240, 304))
    assert len(found)
