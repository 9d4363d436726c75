"""EAS-SNN's network: published sizes, blocks against plain arithmetic, modes, pieces of a window, head and decoding."""

import copy
import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from snn_perception_plugins.datasets.ncaltech101 import CLASSES as NCALTECH_CLASSES
from snn_perception_plugins.eas_snn import classes as class_names
from snn_perception_plugins.eas_snn.backbone import EASBackbone
from snn_perception_plugins.eas_snn.layers import SPP, Bottleneck, Focus, FoldedUnit, Membranes, count_neurons
from snn_perception_plugins.eas_snn.presets import MODES, PLIF
from snn_perception_plugins.neurons import ParametricLIF
from torch import nn

from snn_perception.cli import plugins as plugins_command
from snn_perception.cost import cost_of
from snn_perception.detector import Detector
from snn_perception.errors import PluginError
from snn_perception.fold import fold_norms
from snn_perception.fusing import plain_operations
from snn_perception.state import named_leaves
from snn_perception.testing import FiringMeter, sparse_input, spiking_layers, wake
from snn_perception.types import SensorSize, Targets

SMALL = {"width_factor": 0.125, "height": 64, "width": 96, "network_size": None}
SIZE = SensorSize(64, 96)
BINS = 4
_AWAKE: dict[tuple, Detector] = {}
# Published presets: parameters, entries of the state_dict, neurons, and thop's count of the authors' network at
# 640x640 (twice the multiply-accumulates, in thousands of millions, some of the norms and no sampler).
PUBLISHED = {
    "eas_snn_s_use_spike": (8_938_167, 504, 34, 47.7),
    "eas_snn_s_full_spike": (8_938_191, 528, 58, 58.4),
    "eas_snn_s_full_spike_v2": (8_938_206, 543, 73, 78.9),
    "eas_snn_m_use_spike": (25_280_871, 664, 50, 139.3),
    "eas_snn_m_full_spike": (25_280_903, 696, 82, 172.7),
    "eas_snn_m_full_spike_v2": (25_280_918, 711, 97, 218.9),
    "eas_snn_m_1mpx": (25_281_450, 664, 50, 139.3),
    "eas_snn_m_ncaltech": (25_337_190, 661, 51, None),
}


def built(registry, preset="eas_snn_s_use_spike", **options) -> Detector:
    """Return a preset with few channels and for a small input, in float64."""
    torch.manual_seed(0)
    spec = registry.build("preset", preset, **SMALL | options)
    return Detector(spec, registry).double().eval()


def awake(registry, mode="use_spike", **backbone) -> Detector:
    """Return a small detector all of whose neurons fire at every input like `bins`."""
    key = (mode, *sorted(backbone.items()))
    if key not in _AWAKE:
        spec = registry.build("preset", "eas_snn_s_use_spike", mode=mode, **SMALL)
        spec.backbone.options.update(backbone)
        torch.manual_seed(0)
        _AWAKE[key] = Detector(spec, registry).double().eval()
        if mode != "none":
            wake(_AWAKE[key], [bins(seed=seed) for seed in range(3)])
    return copy.deepcopy(_AWAKE[key])


def bins(windows=1, batch=2, seed=0):
    return 2.0 * sparse_input(windows * BINS, batch, 2, SIZE.height, SIZE.width, seed=seed)


def rates_of(detector, x):
    with torch.no_grad(), FiringMeter(spiking_layers(detector, x)) as meter:
        detector(x, None)
    return meter.rates()


@pytest.mark.parametrize("preset", PUBLISHED)
def test_published_sizes(preset, registry):
    parameters, entries, neurons, _ = PUBLISHED[preset]
    with torch.device("meta"):  # shapes without numbers
        detector = Detector(registry.build("preset", preset), registry)
    assert sum(p.numel() for p in detector.parameters()) == parameters
    assert len(detector.state_dict()) == entries
    assert count_neurons(detector) == neurons
    assert detector.backbone.features.strides == (8, 16, 32)
    assert detector.spec.state_policy == "per_window" and detector.representation.steps == BINS


@pytest.mark.parametrize(
    ("preset", "options", "parameters"),
    [
        ("eas_snn_s_use_spike", {"mode": "none"}, 8_938_133),
        ("eas_snn_m_use_spike", {"mode": "none"}, 25_280_821),
        ("eas_snn_s_use_spike", {"classes": ["a", "b", "c"]}, 8_938_554),
        ("eas_snn_s_full_spike", {"classes": ["a", "b", "c"]}, 8_938_578),
        ("eas_snn_s_full_spike_v2", {"classes": ["a", "b", "c"]}, 8_938_593),
        ("eas_snn_m_1mpx", {"mode": "full_spike"}, 25_281_482),
        ("eas_snn_m_1mpx", {"mode": "full_spike_v2"}, 25_281_497),
        ("eas_snn_m_use_spike", {"classes": class_names.NCALTECH101}, 25_337_613),
        ("eas_snn_m_ncaltech", {"mode": "full_spike"}, 25_337_222),
        ("eas_snn_m_ncaltech", {"mode": "full_spike_v2"}, 25_337_237),
        ("eas_snn_m_ncaltech", {"mode": "none"}, 25_337_139),
        ("eas_snn_s_use_spike", {"surrogate": "patan"}, 8_938_167 + 34),
    ],
)
def test_sizes_of_other_modes_and_classes(preset, options, parameters, registry):
    with torch.device("meta"):
        detector = Detector(registry.build("preset", preset, **options), registry)
    assert sum(p.numel() for p in detector.parameters()) == parameters


@pytest.mark.parametrize("preset", ["eas_snn_s_use_spike", "eas_snn_s_full_spike_v2", "eas_snn_m_full_spike"])
def test_operations_are_those_of_the_authors_count(preset, registry):
    with torch.device("meta"):
        detector = Detector(registry.build("preset", preset), registry)
    cost = cost_of(detector.eval())
    network = sum(layer.operations for layer in cost.layers if not layer.is_neuron and "sampler" not in layer.name)
    published = PUBLISHED[preset][3]
    assert 0.99 * published < 2 * network / 1e9 < published, "thop counts some of the norms too"
    # Each neuron is of a map of its own, and has one membrane for its outputs at three steps.
    assert cost.neuron_outputs == 3 * cost.state_elements


def test_the_command_counts_a_preset(capsys):
    assert plugins_command.main(["eas_snn_s_use_spike", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["parameters"] == 8_938_167 and told["spec"]["head"]["name"] == "yolox"
    assert told["state_elements"] > 0 and told["dense_operations"] > 23.8e9


def test_class_names_are_those_of_the_data_sets():
    assert class_names.NCALTECH101 == NCALTECH_CLASSES and len(class_names.NCALTECH101) == 100


def test_focus_takes_blocks_column_by_column():
    focus = Focus(2, 3).double().eval()
    x = torch.rand(1, 1, 2, 4, 6, dtype=torch.float64)
    seen = []
    focus.unit.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    focus(x, Membranes(None, 0))
    for row, column in ((0, 0), (1, 2)):
        pixels = [x[0, 0, c, 2 * row + dy, 2 * column + dx] for dx in (0, 1) for dy in (0, 1) for c in (0, 1)]
        assert torch.equal(seen[0][0, 0, :, row, column], torch.stack(pixels))


def test_a_folded_focus_is_one_convolution_of_the_pixels():
    focus = Focus(2, 5).double()
    focus(torch.rand(2, 3, 2, 8, 12, dtype=torch.float64), Membranes(None, 0))  # the norm has seen something
    x = torch.rand(2, 1, 2, 8, 12, dtype=torch.float64)
    folded = focus.eval().folded()
    assert list(folded.conv.weight.shape) == [5, 2, 6, 6]
    torch.testing.assert_close(folded(x, Membranes(None, 0)), focus(x, Membranes(None, 0)), rtol=1e-12, atol=1e-12)


def test_spatial_pyramid_pooling():
    spp = SPP(4, 6, None).double().eval()
    seen = []
    spp.conv2.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    x = torch.randn(2, 1, 4, 9, 15, dtype=torch.float64)
    spp(x, Membranes(None, 0))
    first = spp.conv1(x, Membranes(None, 0)).flatten(0, 1)
    pools = [nn.functional.max_pool2d(first, k, 1, k // 2) for k in (5, 9, 13)]
    assert torch.equal(seen[0].flatten(0, 1), torch.cat([first, *pools], dim=1))


def test_shortcuts_add_spikes():
    block = Bottleneck(3, lambda: ParametricLIF(**PLIF), shortcut=True).double().eval()
    nn.init.constant_(block.conv2.norm.bias, 2.0)
    x = (torch.rand(2, 2, 3, 6, 6, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    y = block(x, Membranes(None, 2))
    assert set(y.unique().tolist()) == {1.0, 2.0}, "spikes of both branches add up"
    block.shortcut = False
    assert set(block(x, Membranes(None, 2)).unique().tolist()) == {1.0}


def test_the_neuron_is_the_authors():
    """``v = v (1 - sigmoid(w)) + x``, a spike at 1 and above, which is subtracted; gradient through the reset."""
    neuron = ParametricLIF(**PLIF).double().train()
    with torch.no_grad():
        neuron.w.fill_(0.3)
    x = torch.randn(3, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)[:, None].requires_grad_()
    spikes, after = neuron(x)
    v, expected, fired = torch.zeros(1, 40, dtype=torch.float64), [], []
    for step in x:
        v = v * (1 - neuron.w.sigmoid()) + step
        smooth = torch.atan(math.pi / 2 * 2.0 * (v - 1)) / math.pi
        s = (v >= 1).double() + smooth - smooth.detach()
        v = v - s
        expected.append(s)
        fired.append(float(s.detach().mean()))
    assert sum(fired) > 0.2
    torch.testing.assert_close(spikes, torch.stack(expected))
    torch.testing.assert_close(after, v)
    weights = torch.randn(3, 1, 40, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    ours = torch.autograd.grad((spikes * weights).sum(), [x, neuron.w], retain_graph=True)
    theirs = torch.autograd.grad((torch.stack(expected) * weights).sum(), [x, neuron.w])
    torch.testing.assert_close(ours, theirs)


def test_a_learned_steepness_gets_its_gradient():
    fixed, learned = (ParametricLIF(**PLIF | {"surrogate": name}).double().train() for name in ("atan", "patan"))
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grads, trains = [], []
    for neuron in (fixed, learned):
        current = x.clone().requires_grad_()
        spikes, _ = neuron(current)
        spikes.sum().backward()
        grads.append(current.grad)
        trains.append(spikes.detach())
    assert trains[0].any() and torch.equal(*trains)
    torch.testing.assert_close(*grads)
    # One neuron, one step: d s / d alpha = (v - 1) / 2 / (1 + (pi / 2 alpha (v - 1))^2).
    learned.zero_grad()
    spikes, _ = learned(torch.full((1, 1), 1.5, dtype=torch.float64))
    spikes.sum().backward()
    assert learned.spike.surrogate.alpha.grad == pytest.approx(0.25 / (1 + (math.pi / 2 * 2.0 * 0.5) ** 2))
    assert torch.equal(learned.eval()(x)[0], trains[1])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("slots", [1, 3])
def test_where_the_average_is_taken(mode, slots, registry):
    detector = awake(registry, mode, slots=slots)
    x = bins()
    rates = rates_of(detector, x) if mode != "none" else {}
    assert len(rates) == {"none": 0, "use_spike": 34, "full_spike": 58, "full_spike_v2": 73}[mode]
    assert all(rate > 0 for rate in rates.values())
    backbone, head = detector.backbone, detector.head
    with torch.no_grad():
        frames = backbone.sample(x)
        maps, _ = backbone(x)
        raw, state = head(maps)
    assert len(frames) == (1 if mode == "none" else 3)
    assert [len(fmap) for fmap in maps] == [3 if mode in ("full_spike", "full_spike_v2") else 1] * 3
    if "full" in mode:
        assert all(set(fmap.unique().tolist()) <= {0.0, 1.0} for fmap in maps), "what leaves the neck is spikes"
    assert [list(level.shape) for level in raw] == [[2, 7, 8, 12], [2, 7, 4, 6], [2, 7, 2, 3]]
    assert (state is None) == (mode != "full_spike_v2")


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "none"])
def test_steps_one_by_one_equal_the_whole(mode, slots, registry):
    """What a detector that stops early does; after all steps it has the output of one call."""
    detector = awake(registry, mode, slots=slots)
    backbone, head, x = detector.backbone, detector.head, bins()
    with torch.no_grad():
        whole, after = detector(x)
        frames, maps, raws, state, head_state = backbone.sample(x), [], [], None, None
        outputs = []
        for step in frames.split(1):
            one, state = backbone.steps(step, state)
            maps.append(one)
            if head.spiking:
                raw, head_state = head.steps(backbone.gather(one), head_state)
                raws.append(raw)
                outputs.append(head.gather([torch.cat(levels) for levels in zip(*raws, strict=True)]))
            else:
                outputs.append(head(backbone.gather([torch.cat(levels) for levels in zip(*maps, strict=True)]))[0])
    torch.testing.assert_close(outputs[-1], whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close({"backbone": state, "head": head_state}, after, rtol=1e-10, atol=1e-10)
    assert all(not torch.equal(one[0], two[0]) for one, two in pairwise(outputs)), "each step has its say"
    if slots == 1:  # stopped after two steps it is the network of two steps
        shorter = built(registry, mode=mode)
        shorter.backbone.network_steps = 2
        shorter.load_state_dict(detector.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(outputs[1], shorter(x)[0], rtol=1e-10, atol=1e-10)


def test_predictions_are_averaged_before_any_sigmoid(registry):
    detector = awake(registry, "full_spike_v2")
    with torch.no_grad():
        maps, _ = detector.backbone(bins())
        steps, _ = detector.head.steps(maps)
        raw, _ = detector.head(maps)
    assert steps[0].shape[0] == 3 and not torch.equal(steps[0][0], steps[0][2])
    torch.testing.assert_close(raw[0], (steps[0][0] + steps[0][1] + steps[0][2]) / 3)


def test_a_preset_may_carry_or_overlap(registry):
    spec = registry.build("preset", "eas_snn_s_full_spike", state_policy="carry", window_us=50_000)
    assert (spec.state_policy, spec.stride_us) == ("carry", 50_000)
    spec = registry.build("preset", "eas_snn_s_full_spike", stride_us=50_000)
    assert (spec.window_us, spec.stride_us) == (200_000, 50_000)


def test_membranes_can_be_carried(registry):
    detector = awake(registry)
    first, second = bins(seed=1), bins(seed=2)
    with torch.no_grad():
        _, state = detector(first)
        carried, _ = detector(second, state)
        afresh, _ = detector(second)
        both, _ = detector.backbone(torch.cat([first, second]))
        one, after = detector.backbone(first)
        two, _ = detector.backbone(second, after)
    leaves = dict(named_leaves(state))
    assert len(leaves) == 34 and all(leaf.any() for leaf in leaves.values())
    assert not torch.equal(carried[0], afresh[0]), "what came before counts"
    for whole, *parts in zip(both, one, two, strict=True):
        torch.testing.assert_close(whole, torch.cat(parts), rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match="expected a tuple of 34, got a tuple of 33"):
        detector.backbone(second, after[:-1])


@pytest.mark.parametrize("mode", ["use_spike", "full_spike_v2"])
def test_folded_norms(mode, registry):
    detector = awake(registry, mode)
    folded = fold_norms(detector)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert isinstance(folded.backbone.trunk.stem, FoldedUnit)
    x = bins(seed=5)
    calls = []
    folded.backbone.trunk.stem.conv.register_forward_pre_hook(lambda _m, args: calls.append(len(args[0])))
    with torch.no_grad():
        expected, state = detector(x)
        raw, after = folded(x)
    assert calls == [2], "one frame of two rows for all three steps"
    torch.testing.assert_close(raw, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(after, state, rtol=1e-9, atol=1e-9)
    assert all(rate > 0 for rate in rates_of(folded, x).values())


def test_plain_steps_give_the_same(registry):
    detector = awake(registry, "full_spike_v2")
    with torch.no_grad():
        fused = detector(bins())[0]
        with plain_operations():
            plain = detector(bins())[0]
    torch.testing.assert_close(fused, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_a_training_step_reaches_every_weight(mode, registry):
    detector = awake(registry, mode).train()
    boxes = np.array([[8, 8, 40, 40], [30, 20, 60, 50]], np.float32)
    raw, _ = detector(bins())
    losses = detector.head.loss(raw, [Targets(boxes, np.array([0, 1])), None], SIZE)
    assert set(losses) == {"box", "objectness", "class", "l1"}
    sum(losses.values()).backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        # A level of the head at which no box is matched learns no box and no class.
        assert parameter.grad.any() or name.startswith("head."), f"no gradient reaches {name}"


def test_samplers_without_slices_fit_too(registry):
    for sampler, depth in (("count", 1), ("snn", 1), ("rsnn", 2)):
        detector = awake(registry, sampler=sampler, sampler_depth=depth)
        with torch.no_grad():
            raw, _ = detector(bins())
        assert all(level.isfinite().all() for level in raw)
    detector = awake(registry, branch="ncaltech-rep", ksize=7, sampler_depth=3, norm=True)
    assert len(rates_of(detector, bins())) == 35, "this branch's stem spikes too"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spiking": "head"}, "spiking: expected one of none, backbone, fpn, got 'head'"),
        ({"branch": "rep"}, "branch: expected one of main, ncaltech-rep, got 'rep'"),
        ({"slots": 2}, r"slots: expected 1, or steps \(3\), one frame for each network step, got 2"),
        ({"steps": 0}, r"steps and micro_steps: expected at least 1, got \(0, 4\)"),
        ({"width_factor": 0.0}, "width_factor: expected at least one channel of 64, got 0.0"),
        ({"sampler": "arsn"}, "sampler must be one of .*did you mean 'arsnn'"),
        ({"widht_factor": 1.0}, "unexpected keyword argument 'widht_factor'.*did you mean 'width_factor'"),
    ],
)
def test_options_are_checked(options, message, registry):
    with pytest.raises(PluginError, match=message):
        registry.build("backbone", "eas_snn", 2, registry.factory("neuron", "plif"), **options)


def test_other_presets_and_modes_are_refused(registry):
    with pytest.raises(PluginError, match="mode must be one of none, use_spike, full_spike, full_spike_v2, got 'True'"):
        registry.build("preset", "eas_snn_s_use_spike", mode="True")
    with pytest.raises(ValueError, match="2 channels, one per polarity, got 4"):
        EASBackbone(4, nn.Identity)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 1, 2, 64, 96), "expected 4 micro-bins per window, got 3"),
        ((4, 1, 2, 64, 90), "multiples of 32 px, got 64x90"),
    ],
)
def test_inputs_are_checked(shape, message, registry):
    with pytest.raises(ValueError, match=message):
        built(registry).backbone(torch.zeros(shape, dtype=torch.float64))


def test_raw_events_of_1mpx_by_option(registry):
    half, full = (registry.build("preset", "eas_snn_m_1mpx", raw=raw) for raw in (False, True))
    assert (half.sensor_size, full.sensor_size) == (SensorSize(360, 640), SensorSize(720, 1280))
    for spec in (half, full):
        bins = registry.build("representation", "micro_bins", spec.sensor_size, **spec.representation.options)
        assert bins.output_size == SensorSize(640, 640) and bins.letterbox.scaled == SensorSize(360, 640)
        assert bins.is_incremental and bins.bins(0, 200_000).edges.tolist() == [0, 50_000, 100_000, 150_000, 200_000]
