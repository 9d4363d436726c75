"""Spikes, operations, energy and latency: against counts made another way, and numbers worked out by hand."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from snn_perception import build_preset
from snn_perception.cost import cost_of
from snn_perception.detector import Detector
from snn_perception.evaluation.activity import Activity, ActivityMeter, LayerInput, LayerSpikes, merged
from snn_perception.evaluation.energy import HOROWITZ_45NM_FP32, energy_of
from snn_perception.evaluation.firing import firing_of
from snn_perception.evaluation.latency import PERCENTILES, STAGES, measure_latency
from snn_perception.evaluation.layers import WeightedLayer, weighted_layers
from snn_perception.evaluation.operations import LayerOperations, Operations, operations_of
from snn_perception.fold import fold_norms
from snn_perception.nn import fold_time
from snn_perception.registry import Component, Registered, Registry
from snn_perception.spec import ComponentRef, ModelSpec
from snn_perception.testing import wake
from snn_perception.types import FeatureInfo, SensorSize
from tests.evaluate_support import shapes_set, shapes_tree
from tests.runtime_support import random_windows, tiny_detector, tiny_registry

REGISTRY = tiny_registry()


def measured(detector, inputs, hooks=()) -> tuple[Activity, tuple[str, ...]]:
    """Return what goes on while a detector runs over inputs, state carried; with hooks (module, hook) of the test."""
    state = None
    with ActivityMeter(detector) as meter, torch.no_grad():
        handles = [module.register_forward_hook(hook) for module, hook in hooks]
        seen = []
        for x in inputs:
            meter.expect(x.shape[1])
            _, state = detector(x, state)
            seen += meter.take()
        for handle in handles:
            handle.remove()
    return merged(seen), meter.input_layers


@pytest.fixture(scope="module")
def published():
    """A published detector on a small image, awake, and what it saw in three windows."""
    detector = build_preset("st_vgg_ssd_16", registry=REGISTRY, height=48, width=64, tbin=1)
    size = SensorSize(48, 64)
    inputs = [detector.represent(window) for window in random_windows(4, size, window_us=50_000, per_window=700)[:3]]
    wake(detector.backbone, torch.cat(inputs), windows=3)
    return detector, inputs


# Firing


def test_firing_rates_are_those_of_counting_each_layer_in_every_window(published):
    detector, inputs = published
    neurons = {name: layer for name, layer in detector.named_modules() if type(layer).__name__ == "ParametricLIF"}
    fired, outputs = dict.fromkeys(neurons, 0), dict.fromkeys(neurons, 0)

    def count(name):
        def hook(module, args, output):
            for value in output[0].flatten().tolist():
                fired[name] += value != 0
                outputs[name] += 1

        return hook

    activity, _ = measured(detector, inputs, [(layer, count(name)) for name, layer in neurons.items()])
    report = firing_of(activity)
    assert {name: layer.rate for name, layer in report.layers.items()} == pytest.approx(
        {name: fired[name] / outputs[name] for name in neurons}
    )
    assert min(fired.values()) > 0 and report.windows == 3
    assert report.sparsity == pytest.approx(sum(fired.values()) / sum(outputs.values()))
    assert sum(layer.outputs for layer in report.layers.values()) * 3 == sum(outputs.values())
    assert not report.fires_integers and not report.dead


def test_dead_and_saturated_layers_are_named():
    spikes = {"a": LayerSpikes(0, 100, 0.0), "b": LayerSpikes(95, 100, 95.0), "c": LayerSpikes(50, 100, 120.0)}
    report = firing_of(Activity(1, spikes))
    assert report.dead == ("a",) and report.saturated == ("b",) and report.fires_integers
    assert report.layers["c"].mean == 1.2 and report.sparsity == pytest.approx(145 / 300)
    assert report.as_dict()["dead"] == ["a"]


def test_counts_add_up_and_come_back_from_json(published):
    detector, inputs = published
    whole, _ = measured(detector, inputs)
    assert Activity.from_dict(whole.as_dict()) == whole
    assert merged([whole, whole]).windows == 6
    assert firing_of(merged([whole, whole])).sparsity == firing_of(whole).sparsity
    assert merged([]) == Activity()


def test_rows_of_a_batch_are_counted_apart(published):
    detector, inputs = published
    alone = [measured(detector, [x])[0] for x in inputs]
    together, _ = measured(detector, [torch.cat(inputs, dim=1)])
    assert together.windows == 3 and together == merged(alone)
    assert len({one.inputs["backbone.stages.1.current"].effective for one in alone}) == 3


# Operations


def test_operations_of_a_published_detector_are_those_of_its_folded_graph(published):
    """The folded network is run for itself: the non-zero inputs under each kernel, by a convolution with ones."""
    detector, inputs = published
    folded = fold_norms(detector)
    effective, dense = {}, {}

    def hook(name, layer):
        def count(module, args, output):
            x = (args[0] != 0).double()
            ones = torch.ones_like(layer.weight, dtype=torch.float64)
            under = nn.functional.conv2d(x, ones, None, layer.stride, layer.padding, layer.dilation, layer.groups)
            effective[name] = effective.get(name, 0) + int(under.sum())
            dense[name] = dense.get(name, 0) + output.numel() * layer.weight[0].numel()

        return count

    for name, layer in folded.named_modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(hook(name, layer))
    state = None
    with torch.no_grad():
        for x in inputs:
            _, state = folded(x, state)
    activity, input_layers = measured(detector, inputs)
    operations = operations_of(activity, detector, input_layers)
    assert {name: one.effective for name, one in operations.layers.items()} == pytest.approx(
        {name: count / 3 for name, count in effective.items()}
    )
    assert {name: one.dense for name, one in operations.layers.items()} == {n: c // 3 for n, c in dense.items()}
    assert all(one.input == "binary" and one.effective > 0 for one in operations.layers.values())
    cost = cost_of(detector)
    assert operations.dense_macs == cost.macs and operations.neuron_updates == cost.neuron_outputs
    assert operations.acs == pytest.approx(sum(effective.values()) / 3) and operations.analog_macs == 0
    assert input_layers == ("backbone.stages.0.current",)
    assert operations.state_bytes == 4 * cost.state_elements
    assert operations.weight_bytes == 4 * cost.parameters


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
        nn.Conv2d(4, 2, (2, 3), padding=(0, 2), dilation=2),
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2),
    ],
    ids=["strided", "dilated", "transposed"],
)
def test_an_input_counts_where_the_kernel_lies_inside_the_output(layer):
    """Each input alone: the outputs that it changes, with all weights 1, are what it causes."""
    shape = (4, 5, 7)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.bias.zero_()
        fan_out = torch.zeros(shape)
        for at in product(*map(range, shape)):
            x = torch.zeros(1, *shape)
            x[0][at] = 1.0
            fan_out[at] = layer(x).sum()
    unit = WeightedLayer(layer, layer)
    x = (torch.rand(6, *shape, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    expected = (x * fan_out).flatten(1).sum(dim=1).unflatten(0, (2, 3)).sum(dim=0)
    torch.testing.assert_close(unit.caused(x, steps=2), expected.double())
    assert fan_out.min() < fan_out.max(), "without borders the test shows little"


def test_a_linear_layer_causes_one_operation_for_each_output():
    layer = nn.Linear(5, 7)
    x = torch.tensor([[0, 1, 0, 2, 0], [1, 1, 1, 1, 1.0]])
    unit = WeightedLayer(layer, layer)
    assert unit.caused((x != 0).float(), steps=1).tolist() == [14, 35]
    assert unit.dense(x, layer(x)) == 2 * 35


def test_a_layer_that_two_parts_share_counts_under_one_name():
    shared = nn.Conv2d(1, 1, 1)
    network = nn.ModuleDict({"a": nn.Sequential(shared), "b": nn.Sequential(shared)})
    assert list(weighted_layers(network)) == ["a.0"]


class IntegerNeuron(nn.Module):
    """Fires whole numbers from 0 to 4, as integer neurons do in training."""

    def forward(self, current, v=None):
        v = torch.zeros_like(current[0]) if v is None else v
        spikes = []
        for step in current:
            v = v + step
            spikes.append(v.round().clamp(0, 4))
            v = v - spikes[-1]
        return torch.stack(spikes), v


class MixedBackbone(nn.Module):
    """A layer on the representation, one behind integer spikes, one behind an average of them."""

    def __init__(self, in_channels, neuron):
        super().__init__()
        self.features = FeatureInfo((3,), (4,))
        self.first, self.second = nn.Conv2d(in_channels, 3, 2, 2), nn.Conv2d(3, 3, 3, padding=1)
        self.third = nn.Conv2d(3, 3, 1)
        self.neuron = neuron()
        with torch.no_grad():
            self.first.weight.abs_()

    def forward(self, x, state=None):
        spikes, state = self.neuron(fold_time(self.first, x), state)
        y = fold_time(self.second, spikes).mean() + nn.functional.avg_pool2d(spikes.flatten(0, 1), 2)
        return [self.third(y).unflatten(0, x.shape[:2])], state


class NoHead(nn.Module):
    def __init__(self, features, num_classes, neuron):
        super().__init__()

    def forward(self, maps, state=None):
        return maps[0], None

    def decode(self, raw, size):
        raise AssertionError("nobody asked for boxes")

    loss = decode


def mixed_detector() -> Detector:
    own = [
        Registered("neuron", "test", Component("integer", IntegerNeuron)),
        Registered("backbone", "test", Component("mixed", MixedBackbone)),
        Registered("head", "test", Component("none", NoHead)),
    ]
    entries = [entry for kind in ("representation",) for entry in REGISTRY.entries(kind)]
    refs = {role: ComponentRef(name) for role, name in (("neuron", "integer"), ("backbone", "mixed"), ("head", "none"))}
    spec = ModelSpec(
        representation=ComponentRef("event_count"),
        classes=("car",),
        window_us=10_000,
        sensor_size=SensorSize(16, 24),
        **refs,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Detector(spec, Registry([*own, *entries], [])).eval()


def test_integer_spikes_count_as_often_as_they_say_and_counts_of_events_are_multiplied():
    detector = mixed_detector()
    inputs = [detector.represent(w) for w in random_windows(3, SensorSize(16, 24), per_window=900)]
    assert max(float(x.max()) for x in inputs) > 1
    spikes = []
    watch = (detector.backbone.second, lambda module, args, output: spikes.append(args[0]))
    activity, input_layers = measured(detector, inputs, [watch])
    operations = operations_of(activity, detector, input_layers)
    first, second, third = operations.layers.values()
    assert (first.input, second.input, third.input) == ("analog", "integer", "analog")
    assert first.sees_representation and not second.sees_representation
    ones = torch.ones(3, 3, 3, 3, dtype=torch.float64)
    caused = sum(float(nn.functional.conv2d(x.double(), ones, padding=1).sum()) for x in spikes)
    non_zero = sum(float(nn.functional.conv2d((x != 0).double(), ones, padding=1).sum()) for x in spikes)
    assert second.effective == pytest.approx(caused / 3) and caused > 1.1 * non_zero
    assert operations.acs == second.effective
    assert operations.analog_macs == first.dense + third.dense
    assert operations.effective_macs == first.effective + third.effective < operations.analog_macs
    assert second.input_mean == pytest.approx(sum(float(x.mean()) for x in spikes) / 3)
    assert second.input_mean > 1.1 * second.input_rate > 0
    firing = firing_of(activity)
    assert firing.fires_integers and firing.layers["backbone.neuron"].mean > firing.layers["backbone.neuron"].rate


def test_a_layer_is_binary_only_if_it_was_in_every_window():
    once = LayerInput(10, 4, 4.0, is_binary=True, is_whole=True)
    later = LayerInput(10, 4, 6.0, is_binary=False, is_whole=True)
    never = LayerInput(10, 4, 4.5, is_binary=False, is_whole=False)
    detector = tiny_detector()
    kinds = {}
    for name, parts in {"binary": [once, once], "integer": [once, later], "analog": [later, never]}.items():
        activity = merged([Activity(1, inputs={"layer": part}) for part in parts])
        kinds[name] = operations_of(activity, detector, ()).layers["layer"]
    assert {name: one.input for name, one in kinds.items()} == {name: name for name in kinds}
    assert [one.effective for one in kinds.values()] == [4, 5, 4]


def test_measuring_changes_nothing(published):
    detector, inputs = published
    with torch.no_grad():
        before, _ = detector(inputs[0], None)
        with ActivityMeter(detector) as meter:
            meter.expect(1)
            during, _ = detector(inputs[0], None)
    assert all(torch.equal(a, b) for a, b in zip(before[0], during[0], strict=True))
    assert not any(module._forward_hooks for module in detector.modules())


# Energy


def test_energy_by_hand():
    layers = {
        "first": LayerOperations("analog", True, dense=1_000_000, effective=400_000.0),
        "second": LayerOperations("binary", False, dense=9_000_000, effective=2_000_000.0),
        "third": LayerOperations("integer", False, dense=5_000_000, effective=3_000_000.0),
    }
    report = energy_of(Operations(layers, neuron_updates=500_000, state_bytes=2_000_000, weight_bytes=4_000_000))
    assert report["dense_mac"] == pytest.approx(15e6 * 4.6e-6)
    assert report["dense_ac"] == pytest.approx(15e6 * 0.9e-6)
    assert report["event_ac"] == pytest.approx(5e6 * 0.9e-6 + 1e6 * 4.6e-6)
    assert report["event_ac_neurons"] == pytest.approx(4.5 + 4.6 + 0.5e6 * 4.6e-6)
    assert report["event_ac_neurons_memory"] == pytest.approx(11.4 + (2 * 2e6 + 4e6) * 24.96e-6)
    assert report.label == "estimate for neuromorphic hardware"
    assert all("pJ" in variant.formula for variant in report.variants)
    assert [report.layers[name].event_ac for name in layers] == pytest.approx([1e3 * 4.6, 2e3 * 0.9, 3e3 * 0.9])
    assert [report.layers[name].dense_mac for name in layers] == pytest.approx([4.6e3, 9e3 * 4.6, 5e3 * 4.6])
    assert [one["dense_ac"] for one in report.as_dict()["layers_nanojoules"].values()] == pytest.approx(
        [0.9e3, 9e3 * 0.9, 5e3 * 0.9]
    )


FAMILIES = {
    "st_vgg_ssd_16": {"height": 48, "width": 64},
    "rescat_ssd_16": {"height": 64, "width": 64},
    "spikeyolo_s_gen1": {"width_factor": 0.125, "depth_factor": 0.1, "network_size": [64, 64]},
    "eas_snn_s_full_spike": {"width_factor": 0.125, "height": 64, "width": 64, "network_size": [64, 64]},
}


@pytest.mark.parametrize("preset", FAMILIES)
def test_the_table_of_layers_adds_up_to_the_totals(preset):
    detector = build_preset(preset, registry=REGISTRY, seed=0, **FAMILIES[preset])
    size, length = detector.spec.sensor_size, detector.spec.window_us
    inputs = [detector.represent(w) for w in random_windows(3, size, window_us=length, per_window=20_000)]
    wake(detector, inputs)
    seen = {}

    def watch(name):
        def see(module, args, output):
            x = args[0].double()
            fired, total, cells = seen.get(name, (0, 0.0, 0))
            seen[name] = fired + int(x.count_nonzero()), total + float(x.sum()), cells + x.numel()

        return see

    units = weighted_layers(detector)
    activity, input_layers = measured(detector, inputs, [(u.module, watch(name)) for name, u in units.items()])
    operations = operations_of(activity, detector, input_layers)
    energy = energy_of(operations)
    for way in ("dense_mac", "dense_ac", "event_ac"):
        total = sum(getattr(one, way) for one in energy.layers.values())
        assert total / 1e3 == pytest.approx(energy[way], rel=1e-12) and total > 0
    assert list(energy.layers) == list(operations.layers)
    assert {one.operation for one in operations.layers.values()} == {"AC", *(["MAC"] if operations.analog_macs else [])}
    spiking = [one for one in operations.layers.values() if one.is_accumulate]
    assert len(spiking) > 10 and min(one.effective for one in spiking) > 0, "every layer is behind spikes"
    assert sum(one.effective for one in spiking) == operations.acs
    for name, one in operations.layers.items():
        fired, total, cells = seen[name]
        assert one.input_rate == fired / cells and one.input_mean == pytest.approx(total / cells, rel=1e-6)
        assert 0 < one.effective <= (4 if one.input == "integer" else 1) * one.dense


def test_energy_follows_the_named_constants():
    operations = Operations({"only": LayerOperations("binary", False, 100, 10.0)}, 0, 0, 0)
    other = replace(HOROWITZ_45NM_FP32, name="other", mac_pj=1.5, ac_pj=0.4)
    report = energy_of(operations, other)
    assert report["dense_mac"] == pytest.approx(150e-6) and report["event_ac"] == pytest.approx(4e-6)
    assert "x 0.4 pJ" in report.variants[2].formula and report.as_dict()["table"]["name"] == "other"


# Latency


def test_latency_tells_percentiles_of_each_stage_and_where(tmp_path):
    recording = shapes_set(shapes_tree(tmp_path, ("17-05-01_0_2",)), REGISTRY)[0].open(REGISTRY)
    latency = measure_latency(tiny_detector(), recording, REGISTRY, windows=20)
    assert latency.windows == 20 and latency.threads == torch.get_num_threads() and latency.device == "cpu"
    assert list(latency.wall_ms) == list(latency.cpu_ms) == [*STAGES, "total"]
    for times in (*latency.wall_ms.values(), *latency.cpu_ms.values()):
        values = [times[f"p{p}"] for p in PERCENTILES]
        assert values == sorted(values) and values[0] > 0
    assert "core" in latency.machine
    highest = np.sum([latency.wall_ms[stage]["p99"] for stage in STAGES])
    assert latency.wall_ms["total"]["p50"] <= highest * 1.001


def test_a_recording_too_short_to_time_has_no_latency(tmp_path):
    recording = shapes_set(shapes_tree(tmp_path, ("17-05-01_0_2",)), REGISTRY)[0].open(REGISTRY)
    detector = tiny_detector(window_us=1_000_000)
    assert measure_latency(detector, recording, REGISTRY) is None
