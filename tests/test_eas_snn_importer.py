"""The authors' checkpoints of EAS-SNN: what is read from names and shapes, what is assumed, and what is refused."""

import itertools
import json

import numpy as np
import pytest
import torch
from snn_perception_plugins.eas_snn.keys import Network, plain_name, tensor_table
from snn_perception_plugins.eas_snn.presets import MODES, SIZES

from snn_perception import load_checkpoint
from snn_perception.checkpoint import load_weights, read_run_record
from snn_perception.cli import convert as convert_command
from snn_perception.data.window_rule import WindowRule
from snn_perception.detector import Detector, resolve
from snn_perception.errors import CheckpointError
from snn_perception.evaluation.window_choice import OF_IMPORT, ChosenRule, choose_rule
from snn_perception.importing import import_weights
from snn_perception.testing import sparse_input

MAIN = {"branch": "main", "sampler": "arsnn", "ksize": 5, "sampler_depth": 2, "norm": False}
REP = {"branch": "ncaltech-rep", "sampler": "arsnn", "ksize": 7, "sampler_depth": 1, "norm": False}
SMALL = {"width_factor": 0.125, "depth_factor": 0.33}
SAMPLERS = {
    "published": {},
    "deep": {"sampler_depth": 3, "ksize": 3},
    "norm": {"norm": True},
    "rsnn": {"sampler": "rsnn", "sampler_depth": 1},
    "snn": {"sampler": "snn", "sampler_depth": 1},
    "count": {"sampler": "count"},
}


@pytest.fixture(scope="module")
def importer(registry):
    return registry.build("checkpoint_importer", "eas_snn")


def authors_state(network, registry, *, device=None):
    """Return a state_dict by the authors' names, and our detector with the same weights."""
    reach, spiking_head = MODES[network.mode]
    spec = registry.build("preset", "eas_snn_s_use_spike", classes=[f"c{i}" for i in range(network.num_classes)])
    spec.backbone.options.update(network.options, spiking=reach)
    spec.head.options.update(spiking=spiking_head)
    spec.neuron.options.update(surrogate="patan" if network.learned_alpha else "atan")
    torch.manual_seed(0)
    with torch.device(device or "cpu"):
        detector = Detector(spec, registry).eval()
    for value in detector.state_dict().values():
        if device is None and value.is_floating_point():  # nothing stays at its start
            value.add_(0.1 * (torch.randn_like(value) if value.dim() > 1 else torch.rand_like(value)))
    ours = detector.state_dict()
    return {theirs: ours[entry.ours] for theirs, entry in tensor_table(network).items()}, detector


def small(mode="use_spike", num_classes=2, *, learned_alpha=False, branch=MAIN, **options):
    return Network(mode, num_classes, {**branch, **SMALL, **options}, learned_alpha)


@pytest.fixture(scope="module")
def published(registry):
    return authors_state(small(), registry)[0]


@pytest.fixture
def state(published):
    return dict(published)


def frames():
    return sparse_input(4, 1, 2, 64, 64, dtype=torch.float32)


@pytest.mark.parametrize(
    ("mode", "branch", "sampler"),
    [
        *itertools.product(MODES, ("main", "rep"), ("published",)),
        *itertools.product(("use_spike",), ("main",), [name for name in SAMPLERS if name != "published"]),
        *itertools.product(("full_spike_v2",), ("rep",), ("deep", "norm", "rsnn")),
    ],
)
def test_round_trip(mode, branch, sampler, importer, registry):
    network = small(mode, 3, branch={"main": MAIN, "rep": REP}[branch], **SAMPLERS[sampler])
    state, detector = authors_state(network, registry)
    spec, weights, report = importer(state, {})
    again = Detector(spec, registry).eval()
    load_weights(again, weights, "test")
    assert report.matched == len(state) and not report.missing and not report.unexpected
    ours, theirs = (one.spec.backbone.options for one in (detector, again))
    if sampler == "count":  # of which no option is in the file
        ours, theirs = ({k: v for k, v in o.items() if k not in ("ksize", "sampler_depth")} for o in (ours, theirs))
    assert theirs == ours and again.spec.head.options == detector.spec.head.options
    with torch.no_grad():
        expected, state_after = detector(frames())
        raw, after = again(frames())
    for one, two in zip(raw, expected, strict=True):
        assert torch.equal(one, two) and one.std() > 0
    torch.testing.assert_close(after, state_after, rtol=0, atol=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("classes", [2, 3, 100])
def test_published_shapes_give_the_published_presets(size, mode, classes, importer, registry):
    branch = REP if classes == 100 else MAIN
    state, _ = authors_state(Network(mode, classes, {**branch, **SIZES[size]}), registry, device="meta")
    spec, _, report = importer(state, {})
    preset = {2: "eas_snn_s_use_spike", 3: "eas_snn_m_1mpx", 100: "eas_snn_m_ncaltech"}[classes]
    expected = registry.build("preset", preset, mode=mode, **SIZES[size])
    assert resolve(spec, registry) == resolve(expected, registry)
    assert report.notes == (f"{size.upper()}, mode {mode}, branch {branch['branch']}, sampler arsnn",)
    windows = {2: {"windows": "label", "lookback": True}, 3: {"windows": "label"}, 100: {"windows": "recording"}}
    assert report.windows == windows[classes]


def test_names_of_other_modes_and_branches():
    def names(mode, branch=MAIN):
        return set(tensor_table(small(mode, branch=branch)))

    focus, spiking = "backbone.backbone.stem.0.conv.conv.weight", "backbone.backbone.stem.conv.0.weight"
    both = {"backbone.lateral_conv0.conv.weight", "head.stems.0.conv.weight", "head.cls_preds.0.weight"}
    assert {focus, "backbone.backbone.dark2.0.conv.0.weight", *both} <= names("use_spike")
    assert {focus, "backbone.lateral_conv0.conv.0.weight", "head.stems.0.conv.weight"} <= names("full_spike")
    wrapped = {
        "head.stems.0.conv.0.weight",
        "head.stems.0.act.w",
        "head.cls_preds.0.0.weight",
        "head.obj_preds.2.0.bias",
    }
    assert wrapped <= names("full_spike_v2")
    assert {spiking, "backbone.backbone.stem.act.w", *both} <= names("use_spike", REP)
    assert {"backbone.backbone.dark2.0.conv.weight", *both} <= names("none")
    assert not any(name.endswith(".act.w") or ".conv.0." in name for name in names("none"))


@pytest.mark.parametrize("wrapped", ["stem.0.conv.conv", "stem.conv.conv"])
def test_a_network_without_neurons_may_be_wrapped_or_bare(wrapped, importer, registry):
    state, _ = authors_state(small("none"), registry)
    renamed = {name.replace("stem.conv.conv", wrapped): value for name, value in state.items()}
    spec, weights, _ = importer(renamed, {})
    assert spec.backbone.options["spiking"] == "none"
    assert weights.keys() == importer(state, {})[1].keys()


def test_what_the_file_lacks_is_named(importer, state):
    spec, _, report = importer(state, {})
    assert {"classes", "sensor_size", "network_size", "window_us", "steps", "sampler", "neuron", "thresholds"} <= (
        report.defaults.keys()
    )
    assert "T 3, Tm 4, Ts 1" in report.defaults["steps"] and "car, pedestrian (GEN1)" in report.defaults["classes"]
    assert spec.state_policy == "per_window" and spec.window_us == 200_000
    assert (spec.backbone.options["steps"], spec.backbone.options["micro_steps"]) == (3, 4)
    assert spec.backbone.options["spike_attach"] and spec.backbone.options["write_zero"]


def test_other_numbers_of_classes_are_numbered(importer, registry):
    state, _ = authors_state(small(num_classes=7), registry)
    spec, _, report = importer(state, {})
    assert spec.classes == tuple(f"class_{i}" for i in range(7)) and "numbered" in report.defaults["classes"]
    assert report.windows == {}, "no data set, no rule"


def test_the_unused_stacks_of_the_option_split_are_left_out_visibly(importer, state):
    for stack in ("gate_conv_agg", "input_conv_agg"):
        state[f"embedding.{stack}.0.weight"] = torch.zeros(4, 2, 5, 5)
    _, weights, report = importer(state, {})
    assert report.matched == len(state) - 2 and len(weights) == len(state) - 2
    assert report.unexpected == ("embedding.gate_conv_agg.0.weight", "embedding.input_conv_agg.0.weight")
    assert any("'embedding.gate_conv_agg.0.weight'" in note and "split" in note for note in report.notes)


@pytest.mark.parametrize("name", ["act.alpha", "act.surrogate_function.alpha"])
def test_a_learned_steepness_is_taken_over(name, importer, registry):
    state, detector = authors_state(small(learned_alpha=True), registry)
    renamed = {theirs.replace("act.alpha", name): value for theirs, value in state.items()}
    spec, weights, _ = importer(renamed, {})
    assert spec.neuron.options["surrogate"] == "patan"
    assert sum(ours.endswith(".neuron.spike.surrogate.alpha") for ours in weights) == 34
    load_weights(Detector(spec, registry), weights, "test")
    assert detector.spec.neuron == resolve(spec, registry).neuron


def test_counters_of_the_norms_are_not_needed(importer, state, registry):
    kept = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    spec, weights, report = importer(kept, {})
    load_weights(Detector(spec, registry), weights, "test")
    assert report.matched == len(kept) < len(state)


class TestFiles:
    """The authors' files, from disk: nothing in them is executed, and numpy's numbers are read all the same."""

    @staticmethod
    def write(path, state, **changes):
        stored = {
            "start_epoch": 30,
            "model": state,
            "optimizer": {"state": {0: {"step": 3}}, "param_groups": [{"lr": 1e-3, "params": [0]}]},
            "best_ap": np.float64(0.4125),
            "curr_ap": None,
        }
        torch.save(stored | changes, path)
        return path

    @pytest.mark.parametrize("prefix", ["", "module."])
    def test_a_training_checkpoint(self, tmp_path, state, registry, prefix):
        path = self.write(tmp_path / "best_ckpt.pth", {prefix + name: value for name, value in state.items()})
        model = import_weights(path, registry)
        assert model.report.importer == "eas_snn" and model.report.matched == len(state)
        assert "trained for 30 epochs" in model.report.notes
        assert any(note == "best AP noted in the file: 0.4125" for note in model.report.notes)
        stem = model.detector.backbone.trunk.stem.unit.conv.weight
        assert torch.equal(stem, state["backbone.backbone.stem.0.conv.conv.weight"])

    def test_odd_figures_are_passed_over(self, tmp_path, state, registry):
        path = self.write(tmp_path / "latest_ckpt.pth", state, start_epoch="30", best_ap=None)
        assert len(import_weights(path, registry).report.notes) == 1

    def test_the_command(self, tmp_path, state, capsys):
        path = self.write(tmp_path / "best_ckpt.pth", state)
        assert convert_command.main([str(path), "-o", str(tmp_path / "eas.safetensors"), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert "eas_snn" in json.dumps(told) and "per_window (published)" in json.dumps(told)
        detector = load_checkpoint(tmp_path / "eas.safetensors")
        chosen = choose_rule(read_run_record(tmp_path / "eas.safetensors"), detector.spec.state_policy)
        assert chosen == ChosenRule(WindowRule("label", lookback=True), OF_IMPORT)
        assert torch.equal(detector.head.cls_preds[2].bias, state["head.cls_preds.2.bias"])


def without(name):
    return lambda state: state.pop(name)


def reshaped(name, *shape):
    return lambda state: state.update({name: torch.zeros(shape)})


def fold_first_norm(state):
    for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        del state[f"backbone.backbone.dark2.0.bn.{leaf}"]
    state["backbone.backbone.dark2.0.conv.bias"] = torch.zeros(16)


FAULTS = {
    "missing": (without("backbone.bu_conv2.bn.bias"), "missing 'backbone.bu_conv2.bn.bias'; unexpected none"),
    "missing leak": (
        without("backbone.backbone.dark4.1.conv3.act.w"),
        "missing 'backbone.backbone.dark4.1.conv3.act.w'",
    ),
    "unexpected": (reshaped("head.extra.weight", 3), "missing none; unexpected 'head.extra.weight'"),
    "shape": (
        reshaped("head.reg_preds.1.weight", 4, 32, 3, 3),
        r"'head.reg_preds.1.weight': expected shape \[4, 32, 1, 1\], got \[4, 32, 3, 3\]",
    ),
    "no kernel": (reshaped("head.cls_preds.0.weight", 2), r"expected a kernel \[out, in, height, width\], got \[2\]"),
    "images": (
        reshaped("backbone.backbone.stem.0.conv.conv.weight", 8, 12, 3, 3),
        r"expected \[8, 8, 3, 3\] for events of two polarities, got \[8, 12, 3, 3\]; a YOLOX for images",
    ),
    "no stem": (without("backbone.backbone.stem.0.conv.conv.weight"), "missing 'backbone.backbone.stem.conv.weight'"),
    "half a mode": (
        lambda state: state.update({"head.stems.0.act.w": torch.zeros(())}),
        "neurons in backbone and head alone: no mode of these networks has them so",
    ),
    "twice": (
        lambda state: state.update({"backbone.backbone.dark2.0.conv.weight": torch.zeros(16, 8, 3, 3)}),
        "is there twice, wrapped and bare",
    ),
    "neck": (
        lambda state: [state.pop(name) for name in list(state) if "C3_p4.m" in name],
        "missing 'backbone.C3_p4.m.0.conv1.conv.weight', .* and 6 more; unexpected none",
    ),
    "trunk": (
        without("backbone.backbone.dark2.1.m.0.conv1.conv.0.weight"),
        "missing 'backbone.backbone.dark2.1.m.0.conv1.conv.0.weight'; unexpected none",
    ),
    "folded": (fold_first_norm, r"norms are folded into the convolutions .*cannot be undone"),
    "odd sampler": (
        lambda state: [
            state.update({name.replace("gate_conv", "gates"): state.pop(name)})
            for name in list(state)
            if "gate_conv" in name
        ],
        r"the sampler is not known; expected one of .*'embedding.gate_conv.0.weight' \(arsnn\)",
    ),
    "even kernel": (
        lambda state: [
            state.update({name: torch.zeros(*value.shape[:2], 4, 4)})
            for name, value in list(state.items())
            if name.startswith("embedding.") and value.dim() == 4
        ],
        "ksize must be odd",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_refused_in_one_line(fault, importer, state):
    change, message = FAULTS[fault]
    change(state)
    with pytest.raises(CheckpointError, match=message) as caught:
        importer(state, {})
    assert str(caught.value).startswith("importer 'eas_snn': ") and "\n" not in str(caught.value)


def test_other_families_are_left_to_others(importer, state):
    assert importer({"features.0.conv.weight": torch.zeros(1)}, {}) is None
    assert importer({name: value for name, value in state.items() if "lateral_conv0" not in name}, {}) is None


def test_plain_names():
    assert plain_name("module.backbone.backbone.stem.0.conv.conv.weight") == "backbone.backbone.stem.conv.conv.weight"
    assert plain_name("head.obj_preds.1.0.bias") == "head.obj_preds.1.bias"
    assert plain_name("head.cls_convs.0.1.conv.0.weight") == "head.cls_convs.0.1.conv.weight"
    assert plain_name("embedding.gate_conv.0.weight") == "embedding.gate_conv.0.weight"
