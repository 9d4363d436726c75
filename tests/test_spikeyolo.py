"""SpikeYOLO: neurons, layers and their fused forms, binary steps, presets, the head."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from snn_perception_plugins.spikeyolo.decoding import decode_levels
from snn_perception_plugins.spikeyolo.neuron import COCO_LEAK, GEN1_LEAK, ILIF
from snn_perception_plugins.spikeyolo.presets import COCO_CLASSES
from snn_perception_plugins.spikeyolo.units import BorderNorm, ConvNorm, RepConv, SeparableConv, SpikingConv
from torch import nn

from snn_perception import build_preset
from snn_perception.cli.plugins import main as plugins_main
from snn_perception.cost import cost_of, fused_cost_of
from snn_perception.detector import Detector
from snn_perception.errors import PluginError, SpecError
from snn_perception.evaluation.activity import ActivityMeter
from snn_perception.evaluation.energy import energy_of
from snn_perception.evaluation.operations import operations_of
from snn_perception.fold import fold_norms, fuse_layers
from snn_perception.spec import ComponentRef
from snn_perception.spike_driven import BinarySteps, spike_driven
from snn_perception.state import named_leaves
from snn_perception.testing import spiking_layers, wake
from snn_perception.testing.steps import tensors
from snn_perception.types import SensorSize, Targets

TINY = {"width_factor": 0.125, "depth_factor": 0.17, "network_size": [64, 96], "classes": ["a", "b"]}
FORMS = {"coco": COCO_LEAK, "gen1": GEN1_LEAK}


@pytest.fixture(scope="module")
def awake(registry):
    """A narrow network in float64 of which every neuron fires, and an input of two steps."""
    detector = build_preset("spikeyolo_s_gen1", registry=registry, **TINY).double()
    x = 2 * torch.rand(6, 1, 3, 64, 96, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wake(detector, x)
    return detector, x[:2]


def integers_fire(module, x):
    """Return whether some neuron fires more than one spike at once, and whether every one fires at all."""
    seen = {}
    handles = [
        layer.register_forward_hook(lambda m, a, out, name=name: seen.__setitem__(name, out[0].max().item()))
        for name, layer in spiking_layers(module, x).items()
    ]
    with torch.no_grad():
        module(x, None)
    for handle in handles:
        handle.remove()
    return max(seen.values()) > 1, min(seen.values()) > 0


# Neurons


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("most", [1, 2, 4, 8])
def test_a_neuron_rounds_half_to_even_after_clamping(form, most):
    neuron = ILIF(**FORMS[form], max_spikes=most).double().eval()
    potential = torch.tensor([-3, 0.5, 0.51, 1.5, 2.5, 3.5, 4.5, 7.5, 100.0], dtype=torch.float64)
    gain = 0.5 if form == "gen1" else 1.0
    spikes, v = neuron(potential[None, None] / gain)
    wanted = torch.tensor([0, 0, 1, 2, 2, 4, 4, 8, 100.0], dtype=torch.float64).clamp(max=most)
    assert torch.equal(spikes[0, 0], wanted)
    torch.testing.assert_close(v[0], potential - wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("form", "decay", "gain"), [("coco", 0.25, 1.0), ("gen1", 0.5, 0.5)])
def test_the_residue_leaks_and_lends_a_gradient_through_time(form, decay, gain):
    neuron = ILIF(**FORMS[form]).double().train()
    x = torch.tensor([[[2.3 / gain]], [[0.4 / gain]]], dtype=torch.float64, requires_grad=True)
    spikes, _ = neuron(x)
    assert spikes.flatten().tolist() == [2.0, round(decay * 0.3 + 0.4)]
    (gradient,) = torch.autograd.grad(spikes[1].sum(), x)
    assert gradient.flatten().tolist() == pytest.approx([decay * gain, gain]), "the subtracted spike passes none"


def test_beyond_the_clamp_no_gradient_passes():
    neuron = ILIF().double().train()
    x = torch.tensor([-0.01, 0.0, 4.0, 4.01], dtype=torch.float64).view(1, 1, -1).requires_grad_()
    assert torch.autograd.grad(neuron(x)[0].sum(), x)[0].flatten().tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("options", [{"max_spikes": 0}, {"max_spikes": 1.5}, {"decay": 1.0}, {"decay": -0.1}])
def test_a_neuron_refuses_options_out_of_range(registry, options):
    with pytest.raises(PluginError, match=next(iter(options))):
        registry.build("neuron", "ilif", **options)


# Layers


def shaken(layer, seed=0):
    """Give every norm of a layer statistics and terms of its own."""
    generator = torch.Generator().manual_seed(seed)
    for norm in (m for m in layer.modules() if isinstance(m, nn.BatchNorm2d)):
        for tensor, low, high in ((norm.weight, 0.5, 1.5), (norm.bias, -1, 1), (norm.running_mean, -1, 1)):
            tensor.data.uniform_(low, high, generator=generator)
        norm.running_var.uniform_(0.5, 1.5, generator=generator)
        assert (norm.eps, norm.momentum) == (1e-3, 0.03)
    return layer.double().eval()


@pytest.mark.parametrize("make", [lambda: RepConv(5, 7), lambda: SeparableConv(6, 4)], ids=["rep", "separable"])
def test_reparameterised_layers_equal_their_fused_and_folded_forms(make):
    layer = shaken(make())
    channels = next(m for m in layer.modules() if isinstance(m, nn.Conv2d)).in_channels
    x = torch.randint(0, 5, (2, channels, 7, 6), generator=torch.Generator().manual_seed(0)).double()
    expected = layer(x)
    fused, folded = layer.fused(), layer.folded()
    assert (
        fused.kernel_size == (3, 3)
        and fused.groups == 1
        and len(list(folded)) == len(list(layer.children())) - (3 if isinstance(layer, RepConv) else 2)
    )
    torch.testing.assert_close(fused(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(folded(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "options", [{"bias": True, "stride": 2}, {"groups": 4}, {}], ids=["down", "depthwise", "plain"]
)
def test_a_convolution_folds_its_norm(options):
    layer = shaken(ConvNorm(4, 8, 3, **options))
    x = torch.randn(2, 4, 8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer.folded()(x), layer(x), rtol=1e-12, atol=1e-12)


def test_the_border_is_what_the_norm_makes_of_zero_from_running_statistics():
    layer = shaken(BorderNorm(3)).train()
    x = 4 + torch.randn(2, 3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = layer(x)
    norm = layer.norm
    inside = nn.functional.batch_norm(x, None, None, norm.weight, norm.bias, training=True, eps=1e-3)
    torch.testing.assert_close(y[..., 1:-1, 1:-1], inside)
    border = norm.bias - norm.running_mean * norm.weight / (norm.running_var + 1e-3).sqrt()
    for side in (y[..., 0, :], y[..., -1, :], y[..., 0], y[..., -1]):
        torch.testing.assert_close(side, border[:, None].expand_as(side))
    (gradient,) = torch.autograd.grad(y[..., 0, :].sum(), norm.bias, allow_unused=True)
    assert not gradient.any(), "the border passes no gradient"


# Whole networks


@torch.no_grad()
def test_fused_and_folded_networks_equal_the_plain_one(awake):
    detector, x = awake
    assert integers_fire(detector, x) == (True, True)
    raw, state = detector(x, None)
    for form in (fold_norms(detector), fuse_layers(detector)):
        assert not any(isinstance(m, nn.BatchNorm2d) for m in form.modules())
        other, other_state = form(x, None)
        for one, two in zip(raw, other, strict=True):
            torch.testing.assert_close(two, one, rtol=1e-9, atol=1e-9)
        for (_, one), (_, two) in zip(named_leaves(state), named_leaves(other_state), strict=True):
            torch.testing.assert_close(two, one, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_binary_steps_equal_integers(awake):
    detector, x = awake
    twin = spike_driven(detector, x)
    layers = {name: m for name, m in twin.named_modules() if isinstance(m, BinarySteps)}
    neurons = [name for name, m in detector.named_modules() if isinstance(m, ILIF)]
    assert [f"{name.removesuffix('neuron')}current" for name in neurons] == list(layers), (
        "all but the first convolution"
    )
    seen, raw = [], detector(x, None)
    handles = [
        m.layer.register_forward_hook(lambda m, args, out: seen.append(args[0].unique())) for m in layers.values()
    ]
    other = twin(x, None)
    for handle in handles:
        handle.remove()
    assert len(seen) == 4 * len(layers) and set(torch.cat(seen).tolist()) == {0.0, 1.0}
    for one, two in zip(raw[0], other[0], strict=True):
        torch.testing.assert_close(two, one, rtol=1e-9, atol=1e-9)
    for (_, one), (_, two) in zip(named_leaves(raw[1]), named_leaves(other[1]), strict=True):
        torch.testing.assert_close(two, one, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_binary_spikes_are_as_many_as_the_integers_say(awake):
    """What a machine would add, counted spike by spike, is what the cost figures count for integers."""
    detector, x = awake
    counted = []
    for network in (detector, spike_driven(detector, x)):
        with ActivityMeter(network) as meter:
            meter.expect(1)
            network(x, None)
            (activity,) = meter.take()
        counted.append(activity)
    whole, binary = counted
    assert not all(one.is_binary for one in whole.inputs.values()), "integers fire"
    integers, twin = (operations_of(activity, detector, meter.input_layers) for activity in counted)
    first = sum(layer.dense for name, layer in twin.layers.items() if name in meter.input_layers)
    assert twin.acs == integers.acs > 0 and twin.analog_macs == integers.analog_macs == first > 0
    assert energy_of(twin)["event_ac"] == energy_of(integers)["event_ac"]
    for name, one in whole.inputs.items():
        if name not in meter.input_layers and not name.startswith("backbone.layers.1."):
            steps = binary.inputs[f"{name}.layer"]
            assert steps.is_binary and one.is_whole and one.weighted > 0
            assert steps.effective == one.weighted and steps.dense == 4 * one.dense
            assert steps.fired == steps.total == one.total and steps.cells == 4 * one.cells


@torch.no_grad()
def test_a_network_of_another_family_with_integer_neurons_has_a_twin(registry):
    spec = registry.build("preset", "st_vgg_ssd_16", height=64, width=96)
    spec = replace(spec, neuron=ComponentRef("ilif", dict(GEN1_LEAK)))
    detector = Detector(spec, registry).double().eval()
    x = 3 * torch.rand(3, 1, 2, 64, 96, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wake(detector.backbone, x)
    assert integers_fire(detector.backbone, x[:1]) == (True, True)
    twin = spike_driven(detector, x[:1])
    for one, two in zip(tensors(detector(x[:1], None)), tensors(twin(x[:1], None)), strict=True):
        torch.testing.assert_close(two, one, rtol=1e-9, atol=1e-9)
    convolutions = [m for m in detector.modules() if isinstance(m, nn.Conv2d)]
    steps = [m for m in twin.modules() if isinstance(m, BinarySteps)]
    assert len(steps) == len(convolutions) - 1 - (detector.backbone.classifier is not None), "all but the first"


def test_binary_steps_refuse_what_they_cannot_hold():
    layer = BinarySteps(nn.Conv2d(1, 1, 1), 2)
    for value in (0.5, 3.0, -1.0):
        with pytest.raises(ValueError, match="from 0 to 2"):
            layer(torch.full((1, 1, 2, 2), value))


def test_a_network_that_does_not_fire_has_no_twin(awake):
    detector, x = copy.deepcopy(awake[0]), awake[1]
    detector.backbone.layers["7"].current.norm.bias.data.fill_(-1000)
    with pytest.raises(SpecError, match="neurons fire nothing on the input"):
        spike_driven(detector, x)
    with pytest.raises(SpecError, match="without any"):
        spike_driven(nn.Conv2d(1, 1, 1), x)


@torch.no_grad()
def test_carried_membranes_tell_in_the_next_window(awake):
    detector, x = awake
    first, state = detector(x, None)
    again, _ = detector(x, state)
    assert not torch.equal(first[0], again[0]), "membranes that were carried must tell"
    resting, _ = detector(x, None)
    assert torch.equal(first[0], resting[0])


@pytest.mark.parametrize(
    ("preset", "parameters", "tensors", "neurons"),
    [
        ("spikeyolo_n_coco", 13_271_632, 755, 88),
        ("spikeyolo_s_coco", 23_153_024, 755, 88),
        ("spikeyolo_m_coco", 47_841_856, 947, 108),
        ("spikeyolo_l_coco", 68_478_400, 947, 108),
        ("spikeyolo_s_gen1", 23_122_838, 755, 88),
    ],
)
def test_published_sizes(registry, preset, parameters, tensors, neurons):
    spec = registry.build("preset", preset)
    with torch.device("meta"):
        detector = Detector(spec, registry)
    assert sum(p.numel() for p in detector.parameters()) == parameters
    assert len(detector.state_dict()) == tensors
    assert sum(isinstance(m, ILIF) for m in detector.modules()) == neurons
    assert detector.spec.state_policy == "per_window"


def test_published_neurons_and_inputs(registry):
    image = registry.build("preset", "spikeyolo_s_coco")
    assert image.neuron.options == {"decay": 0.25, "decay_input": False, "max_spikes": 4}
    assert image.representation.options == {"steps": 1, "network_size": [640, 640]}
    assert len(COCO_CLASSES) == len(set(COCO_CLASSES)) == 80 and COCO_CLASSES[11:13] == ("stop sign", "parking meter")
    events = registry.build("preset", "spikeyolo_s_gen1")
    assert events.neuron.options == {"decay": 0.5, "decay_input": True, "max_spikes": 4}
    assert events.representation.options == {"steps": 2, "network_size": [320, 320], "newest_first": True}
    assert events.window_us == 250_000 and events.sensor_size == SensorSize(240, 304)
    carried = registry.build("preset", "spikeyolo_s_gen1", state_policy="carry")
    assert carried.state_policy == "carry" and not carried.representation.options["newest_first"]


def test_a_preset_is_told_by_the_command(capsys):
    assert plugins_main(["spikeyolo_n_coco", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["parameters"] == 13_271_632 and told["dense_operations"] > 3e10
    assert told["dense_operations_fused"] > 1.5 * told["dense_operations"], "a RepConv is cheaper in its parts"
    assert told["spec"]["neuron"]["name"] == "ilif" and told["spec"]["representation"]["name"] == "image"


def test_the_dense_operations_are_those_of_the_published_sheet_without_its_errors(registry):
    """101.2 G for COCO s at 640x640, every re-parameterised layer as one convolution.

    The sheet counts the separable convolution of layer 12 on 20x20 cells, not 40x40, and layer 22 with 512 hidden
    channels, not 768.
    """
    spec = registry.build("preset", "spikeyolo_s_coco")
    with torch.device("meta"):
        detector = Detector(spec, registry)
    cost = fused_cost_of(detector)
    macs = cost.macs
    assert macs == cost_of(fuse_layers(detector)).macs and cost.neuron_outputs == cost_of(detector).neuron_outputs
    layer_12, layer_22 = 9 * 512 * 256 * (40**2 - 20**2), 2 * 9 * 256 * (768 - 512) * 40**2
    assert macs - layer_12 - layer_22 == pytest.approx(101.2e9, abs=0.05e9)


def test_sides_that_are_no_multiples_of_the_stride_are_refused(awake):
    detector, x = awake
    with pytest.raises(SpecError, match="multiples of 32 px, got 96x48"):
        detector(x[..., :48, :], None)


# The head


def level(height, width, *, sides=(), logits=()):
    """Return a raw map [1, 64 + 2, h, w] that says nothing, but for the given (row, column, ...) entries."""
    raw = torch.zeros(1, 66, height, width, dtype=torch.float64)
    raw[:, 64:] = -20
    for row, column, distances in sides:
        for side, distance in enumerate(distances):
            raw[0, 16 * side + distance, row, column] = 60
    for row, column, class_id, logit in logits:
        raw[0, 64 + class_id, row, column] = logit
    return raw


def test_boxes_are_distances_from_cell_centres(awake):
    head = copy.deepcopy(awake[0].head)
    raw = (
        level(8, 12, sides=[(2, 3, (1, 2, 3, 4))], logits=[(2, 3, 1, 2.0)]),
        level(4, 6, sides=[(1, 1, (1, 1, 1, 1))], logits=[(1, 1, 0, 3.0)]),
        level(2, 3),
    )
    (found,) = head.decode(raw, SensorSize(64, 96))
    assert found.class_id.tolist() == [0, 1]
    np.testing.assert_allclose(found.score, [1 / (1 + np.exp(-3)), 1 / (1 + np.exp(-2))], rtol=1e-6)
    np.testing.assert_allclose(found.xyxy, [[8, 8, 40, 40], [20, 4, 52, 52]], atol=1e-3)


def test_thresholds_may_change_at_any_time(awake):
    head = copy.deepcopy(awake[0].head)
    twice = [(2, 3, 0, 2.0), (2, 3, 1, 1.0), (2, 4, 0, 1.5)]
    same = [(2, 3, (3, 2, 3, 2)), (2, 4, (4, 2, 2, 2))]
    raw = (level(8, 12, sides=same, logits=twice), level(4, 6), level(2, 3))
    size = SensorSize(64, 96)
    assert [len(found) for found in head.decode(raw, size)] == [2]
    head.best_class_only = True
    assert head.decode(raw, size)[0].class_id.tolist() == [0]
    head.nms_threshold = 1.0
    assert len(head.decode(raw, size)[0]) == 2
    head.max_detections = 1
    assert len(head.decode(raw, size)[0]) == 1
    head.score_threshold = 0.99
    assert len(head.decode(raw, size)[0]) == 0


def test_a_network_starts_with_rare_objects(registry):
    detector = build_preset("spikeyolo_s_gen1", registry=registry, **TINY)
    raw, _ = detector(torch.zeros(2, 1, 3, 64, 96), None)
    _, scores = decode_levels(raw, (8, 16, 32), detector.head.projection)
    for scale, of_level in zip((8, 16, 32), scores.split([96, 24, 6], dim=1), strict=True):
        prior = 5 / 2 / (640 / scale) ** 2
        assert of_level.median().item() == pytest.approx(prior / (1 + prior), rel=2.0)
    assert not detector.head.projection.requires_grad


def test_a_loss_reaches_every_weight(awake):
    detector, x = copy.deepcopy(awake[0]).train(), awake[1]
    raw, _ = detector(x, None)
    targets = [Targets(np.array([[10, 10, 50, 40]], np.float32), np.array([1], np.int64))]
    losses = detector.head.loss(raw, targets, SensorSize(64, 96))
    assert losses.keys() == {"box", "class", "dfl"} and all(loss > 0 for loss in losses.values())
    sum(losses.values()).backward()
    without = [name for name, p in detector.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    assert all(isinstance(m.neuron, ILIF) for m in detector.modules() if isinstance(m, SpikingConv))
