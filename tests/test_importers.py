"""The authors' checkpoints of ST-VGG+SSD: what is read from them, what is assumed, and what is refused."""

import argparse
import random
from dataclasses import replace

import pytest
import torch
from snn_perception_plugins.no_reset.layout import Network, tensor_table

from snn_perception import build_preset, load_checkpoint, save_checkpoint
from snn_perception.checkpoint import load_weights
from snn_perception.detector import Detector
from snn_perception.errors import CheckpointError
from snn_perception.foreign import read_foreign
from snn_perception.spec import ComponentRef
from snn_perception.types import SensorSize
from tests.golden_support.vectors import Vector, filled_state
from tests.paths import ROOT

GOLDEN = ROOT / "tests" / "golden" / "st_vgg_rescat"
CFG = [16, 32, 32, "32s2", 32, "64s2", 64, "64s2"]
DROP = object()


@pytest.fixture(scope="module")
def importer(registry):
    return registry.build("checkpoint_importer", "no_reset_ssd")


@pytest.fixture(scope="module")
def golden_state():
    return filled_state(Vector(GOLDEN / "16-ST-VGG+SSD.json"))


@pytest.fixture
def state(golden_state):
    return dict(golden_state)


def hints(**options):
    return {"hyper_parameters": {"args": options}, "epoch": 3}


def test_stored_options_give_the_published_preset(importer, registry, state):
    spec, weights, report = importer(state, hints(cfg=CFG, extras=[128] * 3, model="vgg", sample_size=50_000))
    detector = Detector(spec, registry)
    assert detector.spec == build_preset("st_vgg_ssd_16", registry=registry).spec
    load_weights(detector, weights, "test")
    assert report.importer == "no_reset_ssd" and report.matched == len(state) == 155
    assert (
        not {"strides", "window_us"} & report.defaults.keys() and {"classes", "sensor_size"} <= report.defaults.keys()
    )


def test_what_the_file_lacks_comes_from_the_published_networks_and_is_named(importer, registry, state):
    spec, _, report = importer(state, {})
    assert Detector(spec, registry).spec == build_preset("st_vgg_ssd_16", registry=registry).spec
    assert {"strides", "window_us", "classes", "sensor_size", "neuron", "aspect_ratios"} <= report.defaults.keys()
    assert "3, 5 and 7" in report.defaults["strides"] and "50000" in report.defaults["window_us"]


def test_stored_options_decide_over_defaults(importer, state):
    spec, _, report = importer(state, hints(cfg=CFG, sample_size=20_000, min_ratio=0.1, max_ratio=0.9))
    assert spec.window_us == 20_000 and spec.head.options["min_ratio"] == 0.1 and spec.head.options["max_ratio"] == 0.9
    assert not {"window_us", "scales"} & report.defaults.keys()


def test_values_are_taken_over_unchanged(importer, state):
    _, weights, _ = importer(state, {})
    stem = "backbone.model.features.0"
    assert torch.equal(weights["backbone.stages.0.current.conv.weight"], state[f"{stem}.conv.weight"])
    assert torch.equal(weights["backbone.stages.0.neuron.w"], state[f"{stem}.act.w"])
    boxes, classes = (f"head.{kind}_head.module_list.5" for kind in ("regression", "classification"))
    assert torch.equal(weights["head.boxes.5.conv.weight"], state[f"{boxes}.2.weight"])
    assert torch.equal(weights["head.classes.5.norm.running_var"], state[f"{classes}.1.running_var"])


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.removeprefix("backbone.model.").removeprefix("backbone."),
        lambda name: name.removeprefix("backbone."),
        lambda name: f"model.{name}",
        lambda name: f"module.{name}",
    ],
    ids=["bare", "model", "wrapped", "data parallel"],
)
def test_prefixes(importer, state, rename):
    renamed = {rename(name): value for name, value in state.items()}
    spec, weights, _ = importer(renamed, {})
    expected_spec, expected, _ = importer(state, {})
    assert spec == expected_spec and weights.keys() == expected.keys()
    assert all(weights[name] is expected[name] for name in weights)


def test_names_that_differ_by_prefix_only_are_refused(importer, state):
    state["features.0.conv.weight"] = state["backbone.model.features.0.conv.weight"]
    with pytest.raises(CheckpointError, match="by their prefix only"):
        importer(state, {})


@pytest.mark.parametrize("last", [64, "64"])
def test_the_layer_list_that_the_authors_code_mutates_is_restored(importer, state, last):
    spec, _, report = importer(state, hints(cfg=[*CFG[:-1], last]))
    assert spec == importer(state, hints(cfg=CFG))[0]
    assert any("64s2" in note for note in report.notes)


@pytest.mark.parametrize(
    "cfg",
    [
        [16, 32, 32, 32, 32, "64s2", 64, "64s2"],
        [16, 32, 32, "32s2", 32, "64s2", 64],
        [16, 32, 32, "32s2", 32, "64s2", 64, "65s2"],
        ["16s2", *CFG[1:]],
        [*CFG[:-1], "64x2"],
        [*CFG[:-1], {"s2": 64}],
        [*CFG[:-1], 10**5000],
        [],
        "16,32",
        {"a": 1},
        3.5,
        10**5000,
    ],
    ids=range(12),
)
def test_a_stored_layer_list_that_does_not_fit_is_refused(importer, state, cfg):
    with pytest.raises(CheckpointError, match="option 'cfg'"):
        importer(state, hints(cfg=cfg))


@pytest.mark.parametrize(
    "odd",
    [
        {"hyper_parameters": None},
        {"hyper_parameters": [1, 2]},
        {"hyper_parameters": {"args": "text"}},
        {"hyper_parameters": {"args": {"sample_size": "50", "min_ratio": "x", "max_ratio": float("nan")}}},
        {"hyper_parameters": {"args": {"sample_size": True, "min_ratio": -1.0}}},
        {"hyper_parameters": {"args": {"sample_size": -5}}},
    ],
)
def test_options_of_no_use_are_passed_over(importer, state, odd):
    spec, _, report = importer(state, odd)
    assert spec == importer(state, {})[0] and "window_us" in report.defaults


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("backbone.model.features.3.act.w", DROP, "missing 'features.3.act.w'"),
        ("backbone.model.classifier.norm_classif.bias", DROP, "missing 'classifier.norm_classif.bias'"),
        ("backbone.model.features.4.conv.weight", DROP, "strides are not in the file"),
        ("backbone.model.classifier.conv_classif.weight", DROP, "missing 'classifier.conv_classif.weight'"),
        ("backbone.extras.1.0.bn_conv_neuron.2.weight", DROP, "strides are not in the file"),
        ("head.regression_head.module_list.5.2.weight", DROP, "5 box and 6 class"),
        ("head.extra.weight", torch.zeros(3), "unexpected 'head.extra.weight'"),
        ("backbone.model.features.2.norm.bias", torch.zeros(31), r"expected shape \[32\], got \[31\]"),
        ("backbone.model.features.2.act.w", torch.zeros(1), r"expected shape \[\], got \[1\]"),
        ("backbone.model.features.2.conv.weight", torch.zeros(32, 32, 5, 5), r"\[32, 32, 3, 3\], got \[32, 32, 5, 5\]"),
        ("backbone.model.features.0.conv.weight", torch.zeros(16), "expected a kernel"),
        ("backbone.model.features.0.conv.weight", torch.zeros(16, 0, 4, 4), "expected a kernel"),
        ("backbone.model.features.0.conv.weight", torch.zeros(16, 3, 4, 4), r"expected shape \[3\], got \[2\]"),
        ("head.regression_head.module_list.2.2.weight", torch.zeros(20, 64, 3, 3), "expected shape"),
    ],
)
def test_a_tensor_that_is_missing_unexpected_or_of_another_shape_is_named(importer, state, name, value, message):
    if value is DROP:
        del state[name]
    else:
        state[name] = value
    with pytest.raises(CheckpointError, match=message):
        importer(state, {})


def test_counters_may_be_missing(importer, registry, state):
    bare = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    spec, weights, report = importer(bare, {})
    load_weights(Detector(spec, registry), weights, "test")
    assert any("num_batches_tracked" in note for note in report.notes) and report.matched == len(bare)


@pytest.mark.parametrize("seed", range(40))
def test_any_damage_gives_a_clear_error(importer, state, seed):
    """Drop, rename, reshape or duplicate a few tensors at random, with odd options: our error, or a whole model."""
    rng = random.Random(seed)
    options = rng.choice([{}, {"cfg": CFG}, {"cfg": CFG[: rng.randrange(9)]}, {"cfg": [rng.randrange(-2, 70)] * 8}])
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
        result = importer(state, hints(**options))
    except CheckpointError as error:
        assert "no_reset_ssd" in str(error) and len(str(error)) < 800
    else:
        assert result is None or result[2].matched == len(state)


class TestOtherNetworks:
    """Detectors built here and renamed to the authors' names: other widths, channels, classes and extras."""

    def exported(self, registry, backbone, head=None, classes=2, tbin=1):
        names = [f"c{i}" for i in range(classes)]
        preset = registry.build("preset", "st_vgg_ssd_16", classes=names, tbin=tbin)
        spec = replace(preset, backbone=ComponentRef("st_vgg", backbone), head=ComponentRef("ssd", head or {}))
        detector = Detector(spec, registry)
        ours = detector.state_dict()
        network = self.network(detector)
        table = tensor_table(network)
        prefix = {"features": "backbone.model.", "classifier": "backbone.model.", "extras": "backbone."}
        state = {prefix.get(theirs.split(".")[0], "") + theirs: ours[name] for theirs, (name, _) in table.items()}
        assert {name for name, _ in table.values()} == ours.keys()
        return detector, state

    @staticmethod
    def network(detector):
        options = detector.spec.backbone.options
        backbone, head = detector.backbone, detector.head
        return Network(
            backbone="st_vgg",
            in_channels=backbone.stages[0].current.conv.in_channels,
            widths=tuple(stage.current.conv.out_channels for stage in backbone.stages),
            extras=tuple(options["extras"]),
            one_one_extras=options["one_one_extras"],
            classifier_outputs=options["classifier_outputs"],
            map_channels=backbone.features.channels,
            per_cell=head.shapes.per_cell,
            num_classes=head.num_classes,
        )

    @pytest.mark.parametrize(
        ("backbone", "head", "classes", "tbin"),
        [
            ({"width": 64}, None, 2, 1),
            ({"width": 8, "extras": [32, 16, 24], "classifier_outputs": 5}, None, 3, 2),
            ({"width": 8, "extras": [32, 16, 24], "one_one_extras": True}, None, 1, 1),
            (
                {"width": 8, "layers": [8, "16s2", 24, "32s2"], "extras": [16]},
                {"aspect_ratios": [[2, 3], [], [2]]},
                2,
                1,
            ),
        ],
        ids=["wide", "other classes", "1x1 extras", "short"],
    )
    def test_a_network_comes_back_as_it_was(self, importer, registry, backbone, head, classes, tbin):
        detector, state = self.exported(registry, backbone, head, classes, tbin)
        options = detector.spec.backbone.options
        cfg = options["layers"]
        spec, weights, report = importer(state, hints(cfg=cfg) if cfg else {})
        again = Detector(spec, registry)
        load_weights(again, weights, "test")
        assert again.spec.backbone == detector.spec.backbone and again.spec.head == detector.spec.head
        layout = "bin_major" if tbin == 1 else "polarity_only"
        assert again.spec.representation.options == {"tbin": tbin, "layout": layout, "presence": True}
        assert len(spec.classes) == classes
        assert spec.classes == (("car", "pedestrian") if classes == 2 else tuple(f"class_{i}" for i in range(classes)))
        assert any("time bins" in note for note in report.notes) == (tbin > 1)
        for (name, one), (_, other) in zip(detector.state_dict().items(), again.state_dict().items(), strict=True):
            assert torch.equal(one, other), name

    def test_strides_of_another_network_need_its_layer_list(self, importer, registry):
        _, state = self.exported(
            registry, {"width": 8, "layers": [8, "16s2", "32s2"], "extras": [16]}, {"aspect_ratios": [[2], [2], [2]]}
        )
        with pytest.raises(CheckpointError, match="strides are not in the file"):
            importer(state, {})

    def test_default_boxes_of_an_unknown_kind_are_refused(self, importer, registry):
        _, state = self.exported(
            registry, {"width": 8}, {"aspect_ratios": [[2, 3, 4], [2, 3], [2, 3], [2, 3], [2], [2]]}
        )
        with pytest.raises(CheckpointError, match="feature map 0: expected 2, 4 or 6 default boxes per cell, got 8"):
            importer(state, {})


class TestRelatives:
    def test_other_families_are_not_claimed(self, importer):
        assert importer({}, {}) is None
        assert importer({"model.0.weight": torch.zeros(3, 3)}, {}) is None
        # torchvision's VGG and MobileNet also call their layers features
        assert (
            importer({"features.0.weight": torch.zeros(64, 3, 3, 3), "classifier.0.weight": torch.zeros(2, 2)}, {})
            is None
        )
        assert importer({"features.0.0.weight": torch.zeros(8), "features.0.1.weight": torch.zeros(8)}, {}) is None

    def test_a_folded_detector_is_refused(self, importer):
        state = {
            "head.regression_head.module_list.0.0.weight": torch.zeros(16, 32, 3, 3),
            "backbone.model.features.0.norm.weight": torch.zeros(16, 2, 4, 4),
            "backbone.model.features.0.norm.bias": torch.zeros(16),
            "backbone.model.features.0.act.w": torch.zeros(()),
            "backbone.model.features.1.pad.weight": torch.zeros(32, 16, 3, 3),
        }
        with pytest.raises(CheckpointError, match="folded into the convolutions"):
            importer(state, {})


def test_an_imported_detector_is_saved_and_loaded_as_any_other(importer, registry, state, tmp_path):
    spec, weights, report = importer(state, {})
    detector = Detector(spec, registry).eval()
    load_weights(detector, weights, "test")
    save_checkpoint(tmp_path / "a.safetensors", detector, run={"importer": report.importer})
    loaded = load_checkpoint(tmp_path / "a.safetensors", registry=registry)
    x = torch.ones(1, 1, 2, 240, 304)
    assert loaded.spec == detector.spec and loaded.spec.sensor_size == SensorSize(240, 304)
    assert loaded.infer(x)[0] == detector.infer(x)[0]


def test_a_lightning_file_goes_the_whole_way(importer, registry, state, tmp_path):
    """As the authors' training writes it: a pickle with a Namespace of options, the layer list mutated in place."""
    args = argparse.Namespace(cfg=[*CFG[:-1], 64], extras=[128] * 3, model="vgg", sample_size=50_000, T=1, tbin=1)
    content = {"state_dict": state, "hyper_parameters": {"args": args}, "epoch": 3, "optimizer_states": [{"state": {}}]}
    torch.save(content, tmp_path / "gen1-epoch=03.ckpt")
    foreign = read_foreign(tmp_path / "gen1-epoch=03.ckpt")
    spec, weights, report = importer(foreign.tensors, foreign.hints)
    detector = Detector(spec, registry)
    assert detector.spec == build_preset("st_vgg_ssd_16", registry=registry).spec
    load_weights(detector, weights, "test")
    assert "strides" not in report.defaults and any("64s2" in note for note in report.notes)
