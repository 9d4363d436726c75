"""The authors' checkpoints of SpikeYOLO: pickled modules and bare weights, which neuron they get, what is refused.

No published file is at hand. The files here are written with stand-in classes of the names that such files hold.
"""

import sys
import types
from dataclasses import replace

import pytest
import torch
from snn_perception_plugins.spikeyolo import importer as importer_module
from snn_perception_plugins.spikeyolo.keys import authors_neuron, authors_tensor
from snn_perception_plugins.spikeyolo.neuron import COCO_LEAK, GEN1_LEAK, ILIF
from snn_perception_plugins.spikeyolo.probing import check_firing
from torch import nn

from snn_perception import build_preset
from snn_perception.checkpoint import load_weights
from snn_perception.detector import Detector
from snn_perception.errors import CheckpointError
from snn_perception.importing import import_weights
from snn_perception.nn import FromMemoryModule
from snn_perception.spec import ComponentRef

PRESETS = {"COCO": "spikeyolo_s_coco", "GEN1": "spikeyolo_s_gen1"}
SHAPE = {"width_factor": 0.125, "depth_factor": 0.17, "network_size": [96, 96]}
BLOCKS = "ultralytics.nn.modules.yolo_spikformer"


@pytest.fixture(scope="module")
def ours(registry):
    """Return by tree a narrow detector whose weights half precision can hold."""
    found = {}
    for tree, preset in PRESETS.items():
        detector = build_preset(preset, registry=registry, classes=["cat", "dog", "owl"], **SHAPE)
        generator = torch.Generator().manual_seed(3)
        for norm in (m for m in detector.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.weight.data.uniform_(1.0, 2.0, generator=generator)
            norm.bias.data.uniform_(-0.2, 0.8, generator=generator)
            norm.running_mean.uniform_(-0.1, 0.1, generator=generator)
        found[tree] = detector.half().float()
    return found


def theirs(detector):
    """Return a detector's weights under the authors' names."""
    repeats = detector.spec.backbone.options["repeats"]
    named = {f"model.{authors_tensor(name, repeats)}": value for name, value in detector.state_dict().items()}
    return {
        name: value.view(1, 16, 1, 1) if name.endswith("dfl.conv.weight") else value for name, value in named.items()
    }


@pytest.fixture
def stand_in(monkeypatch):
    """Return a function that makes a class of any dotted name, importable until the test ends."""

    def make(full, base=nn.Module):
        package, _, name = full.rpartition(".")
        for end in range(1, package.count(".") + 2):
            part = ".".join(package.split(".")[:end])
            if part not in sys.modules:
                monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
        module = sys.modules[package]
        if not hasattr(module, name):
            made = type(name, (base,), {"__module__": package, "__qualname__": name})
            monkeypatch.setattr(module, name, made, raising=False)
        return getattr(module, name)

    return make


def pickled_module(detector, tree, stand_in, most=4, eps=1e-3):
    """Return the authors' module with a detector's weights, as their code builds it."""
    root = stand_in("ultralytics.nn.tasks.DetectionModel")()
    root.names, root.nc, root.stride = dict(enumerate(detector.spec.classes)), 3, torch.tensor([8.0, 16.0, 32.0])
    root.args = stand_in("ultralytics.utils.IterableSimpleNamespace", object)()
    root.args.imgsz = 96
    root.add_module("model", nn.Sequential())
    get_t = stand_in(f"{BLOCKS}.MS_GetT")()
    get_t.T = detector.spec.representation.options["steps"]
    root.model.add_module("0", get_t)
    tensors = theirs(detector)
    for name in tensors:
        parent = inner(root, name.split(".")[:-2], stand_in)
        leaf = name.split(".")[-2]
        if leaf not in parent._modules:
            parent.add_module(leaf, weighted(tensors, name.rpartition(".")[0], eps))
    for name, _ in ((n, m) for n, m in detector.named_modules() if isinstance(m, ILIF)):
        path = f"model.{authors_neuron(name, detector.spec.backbone.options['repeats'])}".split(".")
        inner(root, path[:-1], stand_in).add_module(path[-1], neuron(tree, stand_in, most))
    root.model._modules["26"].anchors = torch.empty(0)
    incompatible = root.load_state_dict(tensors, strict=True)
    assert not incompatible.missing_keys and len(root.state_dict()) == len(tensors)
    return root.half()


def inner(module, path, stand_in):
    for part in path:
        if part not in module._modules:
            module.add_module(part, stand_in(f"{BLOCKS}.MS_AllConvBlock")())
        module = module._modules[part]
    return module


def weighted(tensors, name, eps):
    weight = tensors[f"{name}.weight"]
    if f"{name}.running_var" in tensors:
        return nn.BatchNorm2d(len(weight), eps=eps, momentum=0.03)
    out_channels, per_group, *sides = weight.shape
    return nn.Conv2d(per_group, out_channels, tuple(sides), bias=f"{name}.bias" in tensors)


def neuron(tree, stand_in, most):
    if tree == "COCO":
        made = stand_in(f"{BLOCKS}.mem_update")()
        made.qtrick = stand_in(f"{BLOCKS}.MultiSpike{most}")()
        return made
    made = stand_in("spikingjelly.clock_driven.neuron.MultiStepLIFNode")()
    made.tau, made.decay_input, made.v_threshold, made.v_reset = 2.0, True, 1.0, None
    made.surrogate_function = stand_in("spikingjelly.clock_driven.surrogate.Sigmoid")()
    return made


def save(path, module, **more):
    stored = {"epoch": -1, "best_fitness": None, "model": module, "ema": None, "updates": None, "optimizer": None}
    torch.save({**stored, "train_args": {"imgsz": 96, "data": "x.yaml"}, "version": "8.0.197", **more}, path)
    return path


def probe_image(detector):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(detector.representation.steps, 1, 3, 96, 96, generator=generator)


@torch.no_grad()
def outputs(detector):
    return detector(probe_image(detector), None)[0]


@pytest.mark.parametrize("tree", PRESETS)
def test_a_pickled_module_comes_back_as_the_same_network(tree, ours, stand_in, registry, tmp_path):
    path = save(tmp_path / "best.pt", pickled_module(ours[tree], tree, stand_in))
    imported = import_weights(path, registry)
    detector, report = imported.detector, imported.report
    assert detector.spec.neuron.options == {**(COCO_LEAK if tree == "COCO" else GEN1_LEAK), "max_spikes": 4}
    assert detector.spec.classes == ("cat", "dog", "owl") and detector.spec.state_policy == "per_window"
    assert detector.spec.representation.options == ours[tree].spec.representation.options
    assert next(detector.parameters()).dtype == torch.float32 and report.matched == len(theirs(detector))
    assert {"tree", "classes", "network_size"}.isdisjoint(report.defaults)
    assert any(f"I-LIF of the {tree} tree" in note for note in report.notes)
    assert any("makes neurons fire up to" in note for note in report.notes)
    for one, two in zip(outputs(ours[tree]), outputs(detector), strict=True):
        assert torch.equal(one, two)
    check_firing(detector, 4)  # not silent, not binary: the outputs above say something


def test_the_averaged_weights_are_taken_where_a_file_has_both(ours, stand_in, registry, tmp_path):
    averaged = pickled_module(ours["COCO"], "COCO", stand_in)
    plain = pickled_module(ours["COCO"], "COCO", stand_in)
    plain.model._modules["1"].encode_conv.weight.data.mul_(2)
    path = save(tmp_path / "last.pt", plain, ema=averaged, updates=7)
    detector = import_weights(path, registry).detector
    assert torch.equal(
        detector.backbone.layers["1"].current.conv.weight, ours["COCO"].backbone.layers["1"].current.conv.weight
    )


def test_the_neurons_tell_how_many_spikes(ours, stand_in, registry, tmp_path):
    path = save(tmp_path / "d8.pt", pickled_module(ours["COCO"], "COCO", stand_in, most=8))
    assert import_weights(path, registry).detector.spec.neuron.options["max_spikes"] == 8


def test_norms_of_another_eps_are_refused(ours, stand_in, registry, tmp_path):
    path = save(tmp_path / "eps.pt", pickled_module(ours["COCO"], "COCO", stand_in, eps=1e-5))
    with pytest.raises(CheckpointError, match=r"eps\.pt: importer 'spikeyolo': norms: expected eps 0\.001, got 1e-05"):
        import_weights(path, registry)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class": "spikingjelly.clock_driven.neuron.MultiStepIFNode"}, "expected those of the COCO tree"),
        ({"class": "elsewhere.MultiStepLIFNode"}, "expected those of the COCO tree"),
        ({"v_reset": 0.0}, "expected v_reset=None, as the GEN1 tree has it, got 0.0"),
        ({"tau": 4.0}, "expected tau=2.0, as the GEN1 tree has it, got 4.0"),
    ],
)
def test_neurons_of_neither_tree_are_refused(change, message, ours, registry):
    own = {"class": "spikingjelly.clock_driven.neuron.MultiStepLIFNode", "tau": 2.0, "v_reset": None} | change
    with pytest.raises(CheckpointError, match=message):
        registry.build("checkpoint_importer", "spikeyolo")(
            theirs(ours["GEN1"]), {"modules": {"model.2.Conv.lif1": own}}
        )


@pytest.mark.parametrize("prefix", ["model.", "", "module.model.", "model.model."])
def test_bare_weights_by_any_prefix(prefix, ours, registry):
    tensors = {prefix + name.removeprefix("model."): value for name, value in theirs(ours["COCO"]).items()}
    spec, weights, report = registry.build("checkpoint_importer", "spikeyolo")(tensors, {})
    detector = Detector(spec, registry).eval()
    load_weights(detector, weights, "test")
    assert torch.equal(outputs(detector)[0], outputs(ours["COCO"])[0])
    assert report.defaults["tree"].startswith("COCO (3 classes, which neither tree was published with;")
    assert "3, numbered" in report.defaults["classes"]


@pytest.mark.parametrize(("classes", "tree"), [(2, "GEN1"), (80, "COCO"), (7, "COCO")])
def test_without_neurons_the_likeliest_tree_is_chosen_and_shown(classes, tree, registry):
    names = [f"c{i}" for i in range(classes)]
    detector = build_preset("spikeyolo_s_coco", registry=registry, classes=names, **SHAPE)
    spec, _, report = registry.build("checkpoint_importer", "spikeyolo")(theirs(detector), {})
    assert spec.neuron.options["decay"] == (0.25 if tree == "COCO" else 0.5)
    assert report.defaults["tree"].startswith(f"{tree} ({classes} classes")
    assert report.windows == ({} if tree == "COCO" else {"windows": "label"})
    assert {"max_spikes", "steps", "network_size", "sensor_size", "thresholds"} <= report.defaults.keys()


def test_blocks_tell_the_tree_of_the_larger_scales(registry):
    options = {**SHAPE, "depth_factor": 0.5, "classes": ["a", "b"]}
    for preset, tree, why in (
        ("spikeyolo_l_coco", "COCO", "2 blocks in layer 8"),
        ("spikeyolo_s_gen1", "GEN1", "a single block in layer 8 beside 3 in layer 4"),
    ):
        detector = build_preset(preset, registry=registry, **options)
        _, _, report = registry.build("checkpoint_importer", "spikeyolo")(theirs(detector), {})
        assert report.defaults["tree"].startswith(f"{tree} ({why};")


def test_other_weights_are_for_other_importers(registry):
    read = registry.build("checkpoint_importer", "spikeyolo")
    assert read({"model.0.conv.weight": torch.zeros(1)}, {}) is None
    assert not read.inert("os.system") and not read.inert("torchvision.ops.Nms")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.4.Conv.bn2.weight"), "missing '4.Conv.bn2.weight'"),
        (lambda t: t.update({"model.9.cv3.conv.weight": torch.zeros(1)}), "unexpected '9.cv3.conv.weight'"),
        (
            lambda t: t.update({"model.10.conv.weight": torch.zeros(8, 1, 1, 1)}),
            r"tensor 'model.10.conv.weight': expected shape \[64, 128, 1, 1\], got \[8, 1, 1, 1\]",
        ),
        (
            lambda t: t.update({"model.1.encode_conv.weight": torch.zeros(16, 2, 7, 7)}),
            "expected 3 input channels, got 2",
        ),
        (lambda t: t.update({"model.25.conv1.body.2.1.weight": torch.zeros(5, 128, 1, 1)}), "layer 25"),
        (lambda t: t.pop("model.8.Conv.pwconv1.weight"), "layer 8: expected 1 to 64 blocks, got 0"),
        (lambda t: t.update({"10.conv.weight": torch.zeros(1)}), "prefix of their names only"),
    ],
    ids=["missing", "unexpected", "shape", "channels", "ratio", "blocks", "twice"],
)
def test_weights_that_do_not_fit_are_refused(change, message, ours, registry):
    tensors = theirs(ours["COCO"])
    change(tensors)
    with pytest.raises(CheckpointError, match=f"importer 'spikeyolo': .*{message}"):
        registry.build("checkpoint_importer", "spikeyolo")(tensors, {})


def test_missing_counters_are_zero_and_named(ours, registry):
    tensors = {name: value for name, value in theirs(ours["COCO"]).items() if not name.endswith("tracked")}
    _, weights, report = registry.build("checkpoint_importer", "spikeyolo")(tensors, {})
    assert weights.keys() == ours["COCO"].state_dict().keys()
    assert any("num_batches_tracked are not in the file" in note for note in report.notes)


# The neurons are the right ones


def test_a_stock_binary_neuron_under_gen1_weights_is_named(ours, registry):
    """What the stock library makes of the GEN1 tree: same decay, soft reset, but 0 and 1 alone."""
    detector = ours["GEN1"]
    check_firing(detector, 4)
    options = {"node": "LIFNode", "tau": 2.0, "decay_input": True, "v_reset": None}
    planted = Detector(replace(detector.spec, neuron=ComponentRef("spikingjelly", options)), registry).eval()
    planted.load_state_dict(detector.state_dict())
    with pytest.raises(CheckpointError, match=r"FromMemoryModule\(LIFNode\) fire 0 and 1 alone, as the stock neuron"):
        check_firing(planted, 4, steps=2)


def test_the_importer_itself_would_catch_it(ours, registry, monkeypatch):
    from spikingjelly.activation_based.neuron import LIFNode

    monkeypatch.setattr(importer_module, "ILIF", lambda **_: FromMemoryModule(LIFNode(tau=2.0, v_reset=None)))
    tensors = theirs(ours["GEN1"])
    with pytest.raises(CheckpointError, match=r"LIFNode\) fire 0 and 1 alone.*whole numbers of up to 4 spikes"):
        registry.build("checkpoint_importer", "spikeyolo")(tensors, {})


class HalfSpikes(ILIF):
    def forward(self, current, v=None):
        spikes, v = super().forward(current, v)
        return spikes / 4, v


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (HalfSpikes, "HalfSpikes '.*' does not fire whole numbers from 0"),
        (lambda: ILIF(max_spikes=8), "fire up to [5-8] at once"),
        (lambda: ILIF(max_spikes=1), "fire 0 and 1 alone"),
    ],
    ids=["divided", "too many", "one"],
)
def test_other_neurons_are_told_apart(make, message, ours):
    network = Detector.__new__(Detector)
    nn.Module.__init__(network)
    source = ours["COCO"]
    network.spec, network.representation = source.spec, source.representation
    network.backbone = type(source.backbone)(
        3, make, **{k: source.spec.backbone.options[k] for k in ("channels", "repeats", "last_ratio")}
    )
    network.head = type(source.head)(network.backbone.features, 3, make)
    network.load_state_dict(source.state_dict())
    with pytest.raises(CheckpointError, match=message):
        check_firing(network.eval(), 4)


def test_weights_that_silence_the_network_are_refused(ours, registry):
    tensors = theirs(ours["COCO"])
    for name in [n for n in tensors if "bn" in n.split(".")[-2] or ".body.2.2." in n]:
        tensors[name] = torch.zeros_like(tensors[name])
    with pytest.raises(CheckpointError, match="all 78 neurons .ILIF. are silent whatever"):
        registry.build("checkpoint_importer", "spikeyolo")(tensors, {})
