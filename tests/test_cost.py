"""Counting a model: against numbers worked out by hand, and against the published ones."""

import pytest
import torch
from torch import nn

from snn_perception import build_preset
from snn_perception.cost import LayerCost, ModelCost, cost_of
from snn_perception.registry import Component, Registered, Registry
from snn_perception.spec import ComponentRef, ModelSpec
from snn_perception.types import FeatureInfo, SensorSize


class Integrator(nn.Module):
    """The least of neurons."""

    def forward(self, current, v=None):
        v = torch.zeros_like(current[0]) if v is None else v
        return (current >= 1).to(current.dtype), v + current.sum(0)


class Layers(nn.Module):
    """One of each weighted layer; one applied twice, one never."""

    def __init__(self, in_channels, neuron, *, needs_values=False):
        super().__init__()
        self.features = FeatureInfo((6,), (2,))
        self.conv = nn.Conv2d(in_channels, 8, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2)
        self.norm = nn.BatchNorm2d(6)
        self.unused = nn.Conv2d(6, 6, 3)
        self.neuron = neuron()
        self.needs_values = needs_values

    def forward(self, x, state=None):
        y = self.grouped(self.grouped(self.conv(x.flatten(0, 1))))
        y = self.norm(self.up(y)).unflatten(0, x.shape[:2])
        if self.needs_values:
            float(y.sum())  # impossible with shapes alone
        y, state = self.neuron(y, state)
        return [y], state


class LinearHead(nn.Module):
    def __init__(self, features, num_classes, neuron):
        super().__init__()
        self.linear = nn.Linear(features.channels[0], num_classes)

    def forward(self, maps, state=None):
        return self.linear(maps[0].mean((3, 4))), None

    def decode(self, raw, size):
        raise AssertionError("counting needs neither boxes nor losses")

    loss = decode


class Zeros:
    channels, steps = 2, 3

    def __init__(self, size):
        self.size = size

    def __call__(self, window):
        return torch.zeros(3, 2, self.size.height, self.size.width)


@pytest.fixture
def detector():
    from snn_perception.detector import Detector

    kinds = {"neuron": Integrator, "backbone": Layers, "head": LinearHead, "representation": Zeros}
    registry = Registry([Registered(kind, "test", Component("it", factory)) for kind, factory in kinds.items()], [])
    ref = ComponentRef("it")

    def build(**options):
        backbone = ComponentRef("it", options)
        return Detector(ModelSpec(ref, ref, backbone, ref, ("a", "b", "c", "d"), 1000, SensorSize(10, 12)), registry)

    return build


@pytest.mark.parametrize("needs_values", [False, True])
def test_layers_by_hand(detector, needs_values):
    cost = cost_of(detector(needs_values=needs_values))
    steps, half, whole = 3, 5 * 6, 10 * 12
    expected = [
        LayerCost("backbone.conv", steps * half * 8 * 2 * 9, False),
        LayerCost("backbone.grouped", 2 * steps * half * 8 * 2 * 9, False),
        LayerCost("backbone.up", steps * half * 8 * 3 * 4, False),
        LayerCost("backbone.neuron", steps * whole * 6, True),
        LayerCost("head.linear", steps * 6 * 4, False),
    ]
    assert list(cost.layers) == expected
    assert cost.macs == sum(layer.operations for layer in expected if not layer.is_neuron)
    assert cost.neuron_outputs == steps * whole * 6
    assert cost.dense_operations == cost.macs + cost.neuron_outputs
    assert cost.state_elements == whole * 6


def test_counting_changes_nothing(detector):
    built = detector()
    before = {name: value.clone() for name, value in built.state_dict().items()}
    cost_of(built)
    assert all(torch.equal(value, before[name]) for name, value in built.state_dict().items())
    assert not any(module._forward_hooks for module in built.modules())
    assert built.device.type == "cpu"


# Parameters (those printed for the two smaller ResCats fit no network), published operations per window to the printed
# digits, and neuron outputs.
PUBLISHED = {
    "st_vgg_ssd_16": (642_351, 124.73e6, 482_944),
    "st_vgg_ssd_32": (1_139_791, 452.74e6, 962_304),
    "st_vgg_ssd_64": (2_881_167, 1725.3e6, 1_921_024),
    "rescat_ssd_16": (794_834, 164.88e6, 540_224),
    "rescat_ssd_32": (1_625_490, 596.31e6, 1_076_864),
    "rescat_ssd_64": (4_575_506, 2265.5e6, 2_150_144),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_figures(name, registry):
    parameters, operations, neurons = PUBLISHED[name]
    cost = cost_of(build_preset(name, registry=registry))
    assert (cost.parameters, cost.neuron_outputs, cost.state_elements) == (parameters, neurons, neurons)
    assert cost.dense_operations == pytest.approx(operations, rel=5e-5)


def test_empty_cost():
    cost = ModelCost(0, 0, ())
    assert (cost.macs, cost.neuron_outputs, cost.dense_operations) == (0, 0, 0)
