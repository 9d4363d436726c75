"""The contracts of snn_perception.testing, for every component that is registered; and proof that they can fail."""

import copy
import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from spikingjelly.activation_based.surrogate import Sigmoid
from torch import nn

from snn_perception import load_registry
from snn_perception.api import Detections, FeatureInfo, Spike, fold_time, membrane, resting
from snn_perception.detector import Detector
from snn_perception.spec import ModelSpec
from snn_perception.testing import (
    FiringMeter,
    check_backbone,
    check_dataset,
    check_head,
    check_neuron,
    check_representation,
    check_step,
    event_window,
    sparse_input,
    spiking_layers,
    wake,
)
from snn_perception.types import SensorSize
from tests.dataset_support import FOUND, SOME_LABELS, TREES, ncars_tree

REGISTRY = load_registry(environment=False)
SIZE = SensorSize(64, 96)
# Of presets with such options.
SMALLER = {"height": SIZE.height, "width": SIZE.width, "width_factor": 0.125, "depth_factor": 0.17}


def specs() -> dict[str, ModelSpec]:
    """Return every preset's description, for a small input and with few channels."""
    found = {}
    for preset in REGISTRY.names("preset"):
        options = REGISTRY.find("preset", preset).component.options()
        found[preset] = REGISTRY.build("preset", preset, **{k: v for k, v in SMALLER.items() if k in options})
    return found


PAIRS = sorted({(spec.backbone.name, spec.head.name) for spec in specs().values()})  # backbones as heads use them


def smallest_preset(**parts: str) -> ModelSpec:
    """Return the published model with the fewest weights among those of these components, for a small input."""
    users = []
    for preset, spec in specs().items():
        if all(getattr(spec, role).name == name for role, name in parts.items()):
            with torch.device("meta"):  # shapes without numbers
                users.append((sum(p.numel() for p in Detector(spec, REGISTRY).parameters()), preset, spec))
    assert users, f"no preset uses {parts}, so that nothing tells what it is made for: add one"
    return min(users, key=lambda user: user[:2])[2]


def test_every_backbone_is_of_a_preset():
    assert {backbone for backbone, _ in PAIRS} == set(REGISTRY.names("backbone"))


@pytest.mark.parametrize("name", REGISTRY.names("neuron"))
def test_neuron(name):
    check_neuron(REGISTRY.factory("neuron", name))


@pytest.mark.parametrize("neuron", ["plif", "spikingjelly"])
@pytest.mark.parametrize(("name", "head"), PAIRS)
def test_backbone(name, head, neuron):
    spec = smallest_preset(backbone=name, head=head)
    representation = REGISTRY.build("representation", spec.representation.name, SIZE, **spec.representation.options)
    channels, make = representation.channels, REGISTRY.factory("neuron", neuron)
    check_backbone(
        REGISTRY.build("backbone", name, channels, make, **spec.backbone.options),
        sparse_input(12, 3, channels, SIZE.height, SIZE.width),
        steps=representation.steps,
    )


@pytest.mark.parametrize("name", REGISTRY.names("head"))
def test_head(name):
    spec = smallest_preset(head=name)
    detector = Detector(spec, REGISTRY)
    neuron = REGISTRY.factory("neuron", spec.neuron.name, **spec.neuron.options)
    options = spec.head.options
    if "score_threshold" in REGISTRY.find("head", name).component.options():
        options = options | {"score_threshold": 0.0}  # without training the scores may all be low
    check_head(
        lambda features, classes: REGISTRY.build("head", name, features, classes, neuron, **options),
        features=detector.backbone.features,
        size=SIZE,
        num_classes=len(spec.classes),
        steps=detector.representation.steps,
    )


@pytest.mark.parametrize("name", REGISTRY.names("representation"))
def test_representation(name):
    check_representation(REGISTRY.factory("representation", name), size=SIZE)


@pytest.mark.parametrize("name", REGISTRY.names("dataset"))
def test_dataset(name, tmp_path):
    assert name in TREES, f"tests/dataset_support.py has no tree of files for the data set '{name}': add one"
    TREES[name](tmp_path)
    dataset = check_dataset(functools.partial(REGISTRY.build, "dataset", name), tmp_path, registry=REGISTRY)
    assert len(dataset) == FOUND[name]


@pytest.mark.parametrize(("backbone", "head"), PAIRS)
def test_a_whole_detector_is_a_pure_step(backbone, head):
    """The step that a stream runs: backbone and head with one state."""
    spec = smallest_preset(backbone=backbone, head=head)
    detector = Detector(spec, REGISTRY).double().eval()
    steps, channels = detector.representation.steps, detector.representation.channels
    x = sparse_input(3 * steps, 3, channels, spec.sensor_size.height, spec.sensor_size.width)
    wake(detector.backbone, x)

    def step(inputs, state):
        return detector(inputs[0], state)

    check_step(step, [x[:steps]], module=detector, time_outputs=False, steps=steps)


class Integrator(nn.Module):
    """A sound neuron, from which each broken one below differs in one thing."""

    def __init__(self, threshold=1.0):
        super().__init__()
        self.spike, self.threshold = Spike(Sigmoid(alpha=4.0)), threshold

    def start(self, current, state):
        return membrane(state, current)

    def forward(self, current, state):
        v, spikes = self.start(current, state), []
        for x in current.to(v.dtype):
            v = v + x
            spikes.append(self.spike(v, self.threshold))
            v = v - spikes[-1] * self.threshold
        return torch.stack(spikes).to(current.dtype), v


class KeepsState(Integrator):
    def forward(self, current, state):
        spikes, self.v = super().forward(current, state if state is not None else getattr(self, "v", None))
        return spikes, self.v


class CountsCalls(Integrator):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, current, state):
        self.calls += 1
        return super().forward(current, state)


class MixesRows(Integrator):
    def forward(self, current, state):
        return super().forward(current + 0.1 * current.mean(dim=1, keepdim=True), state)


class ChangesItsState(Integrator):
    def forward(self, current, state):
        spikes, v = super().forward(current, state)
        return spikes, v if state is None else state.copy_(v)


class ChangesItsInput(Integrator):
    def forward(self, current, state):
        return super().forward(current.add_(0.001), state)


class RestsHigh(Integrator):
    def start(self, current, state):
        return resting(current) + 0.5 if state is None else state


class ForgetsItsState(Integrator):
    def forward(self, current, state):
        spikes, v = super().forward(current, None)
        return spikes, v if state is None else v + 0 * state


class HalfPrecision(Integrator):
    def start(self, current, state):
        return (resting(current) if state is None else state).to(current.dtype)


class Single(Integrator):
    def start(self, current, state):
        return super().start(current, state).float()

    def forward(self, current, state):
        spikes, v = super().forward(current.float(), None if state is None else state.float())
        return spikes.to(current.dtype), v


class BatchLast(Integrator):
    def forward(self, current, state):
        spikes, v = super().forward(current, None if state is None else state.movedim(-1, 0))
        return spikes, v.movedim(0, -1)


class Comparison(nn.Module):
    def forward(self, v, threshold):
        return (v >= threshold).to(v.dtype)


class NoSurrogate(Integrator):
    def __init__(self):
        super().__init__()
        self.spike = Comparison()


class UnusedWeight(Integrator):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))


class RandomRelease(Integrator):
    def forward(self, current, state):
        return super().forward(current * torch.randint_like(current, 2), state)


class Widens(Integrator):
    def forward(self, current, state):
        spikes, v = super().forward(current, state)
        return spikes.double() if current.dtype == torch.bfloat16 else spikes, v


SHARED = Integrator()
BROKEN_NEURONS = {
    KeepsState: "a state of zeros must act as no state|same input and state must give the same result",
    CountsCalls: r"must change nothing in the module; changed: \['.calls'\]",
    MixesRows: "must not depend on the other rows",
    ChangesItsState: "must not change the state that it is given",
    ChangesItsInput: "a state of zeros must act as no state|must not change its input",
    RestsHigh: "a state of zeros must act as no state",
    ForgetsItsState: "must equal one call",
    HalfPrecision: r"under autocast|expected torch.float32",
    Single: "expected torch.float64 or wider for torch.float64 input, got torch.float32",
    BatchLast: "expected 3 batch rows first, got",
    NoSurrogate: "must depend on the input's gradient|no gradient reaches",
    UnusedWeight: r"no gradient reaches \.w",
    RandomRelease: "a state of zeros must act as no state|same input and state",
    Widens: "spikes must be in the current's dtype, bfloat16, got torch.float64",
    lambda: SHARED: "must make a fresh neuron",
    lambda: Integrator(threshold=1e9): "fires at 1% to 60% at no gain of a noise current; rates by gain: 1: 0.0%",
    lambda: "neuron": "a neuron is a torch module, got str",
}


def test_the_sound_neuron_passes():
    check_neuron(Integrator)


@pytest.mark.parametrize("make", BROKEN_NEURONS, ids=lambda make: getattr(make, "__name__", "?"))
def test_a_broken_neuron_is_found(make):
    with pytest.raises(AssertionError, match=BROKEN_NEURONS[make]):
        check_neuron(make)


class Network(nn.Module):
    """A sound backbone of two spiking layers, from which each broken one below differs in one thing."""

    def __init__(self, neuron=Integrator, channels=3):
        super().__init__()
        self.first = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, channels, 3, 2, 1, bias=False))
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels))
        self.neurons = nn.ModuleList([neuron(), neuron()])
        self.features = FeatureInfo((channels,), (4,))

    def forward(self, x, state):
        one, two = state or (None, None)
        x, one = self.neurons[0](fold_time(self.first, x), one)
        x, two = self.neurons[1](fold_time(self.second, x), two)
        return [x], (one, two)


class NormsEachBatch(Network):
    def forward(self, x, state):
        return super().forward(x / x.mean(), state)


class OtherFeatures(Network):
    def __init__(self):
        super().__init__()
        self.features = FeatureInfo((3,), (8,))


class NoFeatures(Network):
    def __init__(self):
        super().__init__()
        self.features = None


class DeadLayer(Network):
    def __init__(self):
        super().__init__()
        self.neurons[1] = Integrator(threshold=1e9)


class CutGradient(Network):
    def forward(self, x, state):
        return super().forward(x.detach(), state)


class SwapsStates(Network):
    def forward(self, x, state):
        maps, (one, two) = super().forward(x, state)
        return maps, (one, two * 0)


class Analog(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(2, 3, 4, 4))
        self.features = FeatureInfo((3,), (4,))

    def forward(self, x, state):
        return [fold_time(super().forward, x)], state


BROKEN_BACKBONES = {
    NormsEachBatch: "must equal one call|must not depend on the other rows",
    OtherFeatures: "map 0: 64 px at stride 8 cannot give 16 cells",
    NoFeatures: "must have an attribute `features: FeatureInfo`",
    DeadLayer: r"a spiking layer does not fire at 1% to 60% whatever its input's gain: .*neurons.1 0.00%\.\.0.00%",
    CutGradient: "no gradient reaches the input",
    SwapsStates: "must equal one call",
    Analog: "no spiking layer ran; expected at least one neuron",
}


def test_the_sound_backbone_passes():
    check_backbone(Network())


@pytest.mark.parametrize("make", BROKEN_BACKBONES, ids=lambda make: make.__name__)
def test_a_broken_backbone_is_found(make):
    with pytest.raises(AssertionError, match=BROKEN_BACKBONES[make]):
        check_backbone(make())


class MeanHead(nn.Module):
    """A sound head: one box per class over the whole image."""

    def __init__(self, features, classes):
        super().__init__()
        self.gain, self.classes = nn.Parameter(torch.linspace(0.5, 1, classes)), classes

    def forward(self, maps, state):
        return maps[0].mean(dim=(0, 2, 3, 4))[:, None] * self.gain, state

    def loss(self, raw, targets, size):
        return {"mean": (raw**2).mean()}

    def decode(self, raw, size):
        box = np.tile(np.array([[0, 0, size.width, size.height]], np.float32), (self.classes, 1))
        order = np.argsort(-raw.detach().numpy(), axis=1)
        scores = np.take_along_axis(raw.detach().numpy(), order, axis=1).astype(np.float32)
        return [Detections(box, s, o.astype(np.int64)) for s, o in zip(scores, order, strict=True)]


class Unsorted(MeanHead):
    def decode(self, raw, size):
        return [found[::-1] for found in super().decode(raw, size)]


class OverOne(MeanHead):
    def forward(self, maps, state):
        raw, state = super().forward(maps, state)
        return raw + 1, state


class Nothing(MeanHead):
    def decode(self, raw, size):
        return [Detections.empty()] * len(raw)


class OneForAll(MeanHead):
    def decode(self, raw, size):
        return super().decode(raw, size)[:1]


class SharesRows(MeanHead):
    def decode(self, raw, size):
        return super().decode(raw - raw.min(), size)


class NoScalars(MeanHead):
    def loss(self, raw, targets, size):
        return {"mean": raw}


class NotFinite(MeanHead):
    def loss(self, raw, targets, size):
        boxes = sum(len(target) for target in targets if target is not None)
        return {"mean": (raw**2).sum() / boxes}


BROKEN_HEADS = {
    Unsorted: "the best score must come first",
    OverOne: r"scores must lie in 0\.\.1",
    Nothing: "no detections, which proves nothing",
    OneForAll: "one Detections for each of 3 rows, got 1",
    SharesRows: "detections depend on other rows|scores",
    NoScalars: "loss 'mean' must be a scalar tensor",
    NotFinite: "loss 'mean' is inf",
}


def test_the_sound_head_passes():
    check_head(MeanHead, features=FeatureInfo((4,), (8,)))


@pytest.mark.parametrize("make", BROKEN_HEADS, ids=lambda make: make.__name__)
def test_a_broken_head_is_found(make):
    with pytest.raises(AssertionError, match=BROKEN_HEADS[make]):
        check_head(make, features=FeatureInfo((4,), (8,)))


class Presence:
    """A sound representation: one channel, one where an event was."""

    channels, steps = 1, 1

    def __init__(self, size):
        self.size = size

    def __call__(self, window):
        grid = np.zeros((1, 1, self.size.height, self.size.width), np.float32)
        grid[0, 0, window.events.y, window.events.x] = 1
        return torch.from_numpy(grid)


class OneBuffer(Presence):
    def __init__(self, size):
        super().__init__(size)
        self.grid = torch.zeros(1, 1, size.height, size.width)

    def __call__(self, window):
        return self.grid.copy_(super().__call__(window))


class Accumulates(Presence):
    last = 0

    def __call__(self, window):
        self.last = self.last * 0.5 + super().__call__(window)
        return self.last


class AbsoluteTime(Presence):
    def __call__(self, window):
        return super().__call__(window) * (1 + window.t_start_us)


class Transposed(Presence):
    def __call__(self, window):
        return super().__call__(window).mT


class Flipped(Presence):
    def __call__(self, window):
        return super().__call__(window).flip(-1)


class DropsTheLast(Presence):
    def __call__(self, window):
        keep = window.events.t < window.t_end_us - 1
        return super().__call__(type(window)(window.events[keep], window.t_start_us, window.t_end_us))


class Normalised(Presence):
    def __call__(self, window):
        grid = super().__call__(window)
        return grid / grid.max()


class Whole(Presence):
    def __call__(self, window):
        return super().__call__(window).long()


BROKEN_REPRESENTATIONS = {
    OneBuffer: "must not change when the next window is represented",
    Accumulates: "the same window must always give the same tensor",
    AbsoluteTime: "only the time inside the window may count",
    Transposed: r"expected \[steps, channels, H, W\] = \[1, 1, 64, 96\], got \[1, 1, 96, 64\]",
    Flipped: "pixels without events must be as in silence",
    DropsTheLast: r"t=49999 us must change its own pixel only, changed \[\]",
    Normalised: "a window without events must give finite values",
    Whole: "expected float32, got torch.int64",
}


def test_the_sound_representation_passes():
    check_representation(Presence)


@pytest.mark.parametrize("make", BROKEN_REPRESENTATIONS, ids=lambda make: make.__name__)
def test_a_broken_representation_is_found(make):
    with pytest.raises(AssertionError, match=BROKEN_REPRESENTATIONS[make]):
        check_representation(make)


def test_spiking_layers_are_found_and_counted():
    network, x = Network().eval(), sparse_input(6, 2, 2, 16, 16, dtype=torch.float32)
    lowest = wake(network, x)
    assert list(lowest) == ["neurons.0", "neurons.1"] and all(0.01 <= rate <= 0.6 for rate in lowest.values())
    layers = spiking_layers(network, x)
    assert layers == {"neurons.0": network.neurons[0], "neurons.1": network.neurons[1]}
    with FiringMeter(layers) as meter:
        maps, _ = network(x, None)
    assert meter.rates()["neurons.1"] == pytest.approx(maps[0].mean().item())
    network(x, None)
    assert meter.rates()["neurons.1"] == pytest.approx(maps[0].mean().item()), "nothing is counted afterwards"
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in network.modules())
    meter.clear()
    assert meter.rates() == {"neurons.0": 0.0, "neurons.1": 0.0}


def test_waking_fits_the_norms_to_the_data():
    network, x = Network().eval(), 5 + sparse_input(6, 2, 2, 16, 16, dtype=torch.float32)
    before = copy.deepcopy(network)
    wake(network, x)
    norm = network.first[0]
    torch.testing.assert_close(norm.running_mean, x.mean(dim=(0, 1, 3, 4)))
    assert norm.momentum == before.first[0].momentum and not norm.training


def test_small_inputs():
    x = sparse_input(4, 3, 2, 16, 16, density=0.1)
    assert x.dtype == torch.float64 and set(x.unique().tolist()) == {0, 1} and 0.05 < x.mean() < 0.15
    assert torch.equal(x, sparse_input(4, 3, 2, 16, 16, density=0.1)) and not torch.equal(
        x, sparse_input(4, 3, 2, 16, 16, density=0.1, seed=1)
    )
    window = event_window(SIZE, count=50, t_start_us=1000, length_us=100)
    assert (window.events.validate().t[0], window.events.t[-1]) == (1000, 1099) and len(window.events) == 50
    assert len(event_window(SIZE, count=0).events) == 0


def ncars(root, split, **options):
    return REGISTRY.build("dataset", "ncars", root, split, **options)


def altered(change):
    """Return the factory of a sound data set whose product is changed by a function of it and the options."""
    return lambda root, split, **options: change(ncars(root, split, **options), options)


def with_first(dataset, **changes):
    first, *others = dataset.recordings
    return replace(dataset, recordings=(replace(first, **changes), *others))


def some_labels():
    return SOME_LABELS[::-1], ()


BROKEN_DATASETS = {
    "no Dataset": (altered(lambda d, _: list(d)), "must return a Dataset, got list"),
    "names twice": (altered(lambda d, _: with_first(d, name=d[1].name)), "names of recordings must be unique"),
    "other split": (
        altered(lambda d, _: replace(d, split="all")),
        "split must be the one asked for, .* got 'all'",
    ),
    "miscounts": (altered(lambda d, _: replace(d, report=replace(d.report, found=1))), "report must count 6, got 1"),
    "does not say where": (
        altered(lambda d, _: replace(d, report=replace(d.report, looked_in="somewhere"))),
        "report must say where it looked",
    ),
    "limits the wrong end": (
        altered(lambda d, o: replace(d, recordings=d.recordings[::-1]) if "limit" not in o else d),
        "limit=1 must give the first recording",
    ),
    "ignores the root": (
        lambda root, split, **options: ncars(root if root.is_dir() else root.parent, split, **options),
        "a root that is no folder must be an EventDataError",
    ),
    "cannot be pickled": (altered(lambda d, _: with_first(d, label_source=lambda: 3)), "must travel to .* processes"),
    "labels out of order": (altered(lambda d, _: with_first(d, label_source=some_labels)), "must be in time order"),
    "class of its own": (altered(lambda d, _: with_first(d, class_id=2)), r"class must be in range\(0, 2\), got 2"),
    "class of a detection set": (altered(lambda d, _: replace(d, is_classification=False)), "has no class, got 0"),
    "other size": (altered(lambda d, _: with_first(d, sensor_size=SIZE)), "must be of the set's 120x100, got 96x64"),
}


@pytest.mark.parametrize("case", BROKEN_DATASETS)
def test_a_broken_dataset_is_found(case, tmp_path):
    ncars_tree(tmp_path)
    check_dataset(ncars, tmp_path, registry=REGISTRY)
    make, message = BROKEN_DATASETS[case]
    with pytest.raises(AssertionError, match=message):
        check_dataset(make, tmp_path, registry=REGISTRY)
