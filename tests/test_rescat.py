"""ResCat-SNN, 1x1 extras and the connected head: sizes, order, states, gradients, and a second opinion in NumPy."""

import numpy as np
import pytest
import torch
from snn_perception_plugins.no_reset.rescat import Block, ResCat, published_widths
from torch import nn

from snn_perception import build_preset
from snn_perception.detector import Detector
from snn_perception.errors import PluginError, SpecError
from snn_perception.fold import fold_norms
from snn_perception.spec import ModelSpec
from snn_perception.state import count_elements, detach, named_leaves, reset_rows
from snn_perception.testing import FiringMeter, check_head, sparse_input, spiking_layers, wake
from snn_perception.types import FeatureInfo, SensorSize, Targets
from tests.golden_support.kinds import kind_of
from tests.golden_support.vectors import Vector
from tests.no_reset_reference import write_vector

SIZE = SensorSize(96, 128)
VGG = [8, 16, 16, "16s2", 16, "32s2", 32, "32s2"]


@pytest.fixture(scope="module")
def detector(registry):
    """A ResCat-SNN-16+SSD in float64 in which every layer fires on `windows`."""
    built = build_preset("rescat_ssd_16", registry=registry, height=SIZE.height, width=SIZE.width).double()
    assert len(wake(built.backbone, windows(6, 3))) == 14
    return built


@pytest.fixture(scope="module")
def connected(registry):
    """A 16-ST-VGG+SSD with the connected head, in float64, in which every layer of backbone and head fires."""
    built = build_preset("st_vgg_ssd_16", registry=registry, height=SIZE.height, width=SIZE.width, dsod=True).double()
    assert len(wake(built, list(windows(6, 3).unsqueeze(1)))) == 11 + 5
    return built


def windows(steps: int, rows: int, seed: int = 0) -> torch.Tensor:
    return sparse_input(steps, rows, 2, SIZE.height, SIZE.width, density=0.1, seed=seed)


def backbone_of(registry, **options) -> ResCat:
    return registry.build("backbone", "rescat", 2, registry.factory("neuron", "plif"), **options)


class TestNetwork:
    @pytest.mark.parametrize("width", [16, 32, 64])
    def test_feature_maps(self, registry, width):
        features = build_preset(f"rescat_ssd_{width}", registry=registry).backbone.features
        assert features.channels == (3 * width, 6 * width, 6 * width, 128, 128, 128)
        assert features.strides == (8, 16, 32, 64, 128, 256)

    def test_preset_states_how_it_was_trained(self, registry):
        spec = registry.build("preset", "rescat_ssd_32")
        assert (spec.sensor_size, spec.window_us, spec.state_policy) == (SensorSize(240, 304), 50_000, "carry")
        assert spec.classes == ("car", "pedestrian") and spec.neuron.name == "plif"
        built = Detector(spec, registry)
        assert ModelSpec.from_json(built.spec.to_json()) == built.spec

    def test_state_of_one_stream_at_the_published_size(self, registry):
        built = build_preset("rescat_ssd_16", registry=registry)
        maps, state = built.backbone(torch.zeros(1, 1, 2, 240, 304), None)
        assert [tuple(m.shape[-2:]) for m in maps] == [(30, 38), (15, 19), (8, 10), (4, 5), (2, 3), (1, 2)]
        assert count_elements(state) == 540_224
        names = [name for name, _ in named_leaves(state)]
        assert names == ["0", "1", *(f"{k}.{i}" for k in (2, 3, 4) for i in range(3)), "5", "6", "7"]

    def test_main_path_and_transition_agree_on_odd_sizes(self, registry):
        maps, _ = backbone_of(registry, width=8)(torch.zeros(1, 1, 2, 61, 99), None)
        assert [tuple(m.shape[-2:]) for m in maps[:3]] == [(8, 12), (4, 6), (2, 3)]

    def test_a_block_concatenates_main_path_and_transition_of_its_input(self, registry):
        torch.manual_seed(0)
        block = Block(6, 8, registry.factory("neuron", "plif")).double().eval()
        x = sparse_input(2, 3, 6, 12, 16)
        wake(block, x, windows=1)
        out, _ = block(x, None)
        main, _ = block.second(block.first(x)[0])
        transition, _ = block.transition(x)
        assert out.shape == (2, 3, 12, 6, 8) and main.any() and transition.any()
        assert torch.equal(out[:, :, :8], main) and torch.equal(out[:, :, 8:], transition)

    def test_every_layer_fires_and_maps_are_binary(self, detector):
        layers = spiking_layers(detector.backbone, windows(6, 3))
        with FiringMeter(layers) as meter, torch.no_grad():
            maps, _ = detector.backbone(windows(6, 3), None)
        assert len(layers) == 14 and all(0.01 <= rate <= 0.60 for rate in meter.rates().values()), meter.rates()
        assert all(set(m.unique().tolist()) == {0.0, 1.0} for m in maps)

    def test_any_number_of_blocks(self, registry):
        backbone = backbone_of(registry, width=4, layers=[4, 6, 8, 10], extras=[])
        assert backbone.features == FeatureInfo((12, 15), (8, 16))
        maps, _ = backbone(torch.zeros(1, 2, 2, 64, 64), None)
        assert [tuple(m.shape[2:]) for m in maps] == [(12, 8, 8), (15, 4, 4)]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"width": 8, "layers": [16, 16, 32]}, "start with the stem's width 8"),
            ({"width": 8, "layers": [8, 16]}, "two stem widths and an even width"),
            ({"width": 8, "layers": [8, 16, 15]}, "even width"),
            ({"width": 8, "layers": [8, 16, "32s2"]}, "even width"),
            ({"width": 0}, "two stem widths"),
            ({"extras": [0]}, "extras"),
            ({"classifier_outputs": -1}, "classifier_outputs"),
        ],
    )
    def test_bad_networks_are_refused(self, registry, options, message):
        with pytest.raises(PluginError, match=message):
            backbone_of(registry, **options)

    def test_published_widths(self):
        assert published_widths(16) == [16, 32, 32, 64, 64]


class TestState:
    @torch.no_grad()
    def test_windows_one_by_one_equal_all_steps_at_once(self, detector):
        x = windows(4, 2)
        whole, whole_state = detector.backbone(x, None)
        state, pieces = None, []
        for step in x:
            maps, state = detector.backbone(step[None], state)
            pieces.append(maps)
        for i, one in enumerate(whole):
            assert one.any()
            torch.testing.assert_close(torch.cat([maps[i] for maps in pieces]), one, atol=0, rtol=0)
        for (_, one), (_, other) in zip(named_leaves(whole_state), named_leaves(state), strict=True):
            torch.testing.assert_close(one, other)

    def test_a_reset_row_equals_a_fresh_stream_and_the_others_go_on(self, detector):
        _, state = detector.infer(windows(1, 2))
        x = windows(1, 2, seed=1)
        mixed, _ = detector.infer(x, reset_rows(state, torch.tensor([True, False])))
        fresh, _ = detector.infer(x, None)
        carried, _ = detector.infer(x, state)
        assert mixed == [fresh[0], carried[1]] and fresh[0] != carried[0] and len(mixed[0])

    @torch.no_grad()
    def test_folded_it_gives_the_same_spikes_and_outputs(self, detector):
        folded = fold_norms(detector)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
        state = folded_state = None
        for x in windows(3, 2).unsqueeze(1):
            maps, _ = detector.backbone(x, None if state is None else state["backbone"])
            raw, state = detector(x, state)
            folded_raw, folded_state = folded(x, folded_state)
            assert all(m.any() for m in maps)
            for one, other in zip((*raw[0], *raw[1]), (*folded_raw[0], *folded_raw[1]), strict=True):
                torch.testing.assert_close(other, one, atol=1e-12, rtol=0)


def test_gradient_goes_through_time_to_every_used_parameter(detector, registry):
    trainee = trainable(detector, registry)
    x, state = windows(3, 2).requires_grad_(), None
    for step in x:
        raw, state = trainee(step[None], state)
    loss_of(trainee, raw).backward()
    unused = {name for name, p in trainee.named_parameters() if p.grad is None or not p.grad.any()}
    assert all(name.startswith(("backbone.classifier.", "head.boxes.")) for name in unused), unused
    assert x.grad[0].any(), "the first window does not reach the loss of the third"


def trainable(detector, registry):
    """Return a copy in training mode whose norms keep their statistics: those of two rows would put it to sleep."""
    copy = Detector(detector.spec, registry).double()
    copy.load_state_dict(detector.state_dict())
    copy.train()
    for module in copy.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return copy


def loss_of(trainee, raw):
    boxes = np.array([[10, 10, 60, 60], [40, 20, 110, 90]], np.float32)
    return sum(trainee.head.loss(raw, [None, Targets(boxes, np.array([0, 1], np.int64))], SIZE).values())


class TestConnectedHead:
    """The head in which spiking connections lead from each level to the next (`dsod`)."""

    @pytest.mark.parametrize("preset", ["st_vgg_ssd_16", "rescat_ssd_16"])
    def test_it_keeps_the_contract_of_a_head(self, registry, preset):
        detector = build_preset(preset, registry=registry, height=SIZE.height, width=SIZE.width)
        neuron = registry.factory("neuron", "plif")
        check_head(
            lambda features, classes: registry.build("head", "ssd", features, classes, neuron, dsod=True),
            features=detector.backbone.features,
            size=SIZE,
        )

    def test_each_level_holds_the_map_and_as_many_channels_of_the_level_before(self, connected):
        own = connected.backbone.features.channels
        assert connected.head.connections.features.channels == (own[0], *(2 * channels for channels in own[1:]))
        kernels = [tuple(layer.conv.weight.shape) for layer in connected.head.connections.currents]
        assert kernels == [(64, 32, 3, 3), (64, 128, 3, 3), (128, 128, 3, 3), (128, 256, 3, 3), (128, 256, 3, 3)]

    @torch.no_grad()
    def test_connections_fire_and_follow_the_map(self, connected):
        x = windows(1, 2)
        maps, _ = connected.backbone(x, None)
        joined, state = connected.head.connections(maps)
        assert torch.equal(joined[0], maps[0]) and len(list(named_leaves(state))) == 5
        for one, with_connection in zip(maps[1:], joined[1:], strict=True):
            channels = one.shape[2]
            assert torch.equal(with_connection[:, :, :channels], one)
            assert with_connection[:, :, channels:].any(), "a silent connection proves nothing"

    def test_its_membranes_are_state_of_the_stream(self, connected):
        _, state = connected.infer(windows(1, 2))
        assert [name for name, _ in named_leaves(state["head"])] == list("01234")
        x = windows(1, 2, seed=1)
        carried, _ = connected.infer(x, state)
        forgotten, _ = connected.infer(x, {**state, "head": None})
        assert carried != forgotten and all(len(found) for found in (*carried, *forgotten))
        mixed, _ = connected.infer(x, reset_rows(state, torch.tensor([True, False])))
        assert mixed == [connected.infer(x)[0][0], carried[1]]

    def test_gradient_goes_through_the_connections_and_their_past(self, connected, registry):
        trainee = trainable(connected, registry)
        _, state = trainee(windows(1, 2), None)
        raw, _ = trainee(windows(1, 2, seed=1), {"backbone": detach(state["backbone"]), "head": state["head"]})
        loss_of(trainee, raw).backward()
        for name, weight in trainee.head.connections.named_parameters():
            assert weight.grad is not None and weight.grad.isfinite().all() and weight.grad.any(), name

    @torch.no_grad()
    def test_folded_it_gives_the_same_outputs(self, connected):
        folded = fold_norms(connected)
        state = folded_state = None
        for x in windows(3, 2).unsqueeze(1):
            raw, state = connected(x, state)
            folded_raw, folded_state = folded(x, folded_state)
            for one, other in zip((*raw[0], *raw[1]), (*folded_raw[0], *folded_raw[1]), strict=True):
                torch.testing.assert_close(other, one, atol=1e-12, rtol=0)

    def test_maps_that_do_not_halve_are_refused(self, registry):
        neuron = registry.factory("neuron", "plif")
        head = registry.build("head", "ssd", FeatureInfo((4, 4), (8, 8)), 2, neuron, dsod=True, aspect_ratios=[[], []])
        with pytest.raises(SpecError, match=r"half as large.*expected \[4, 4\] cells, got \[8, 8\]"):
            head([torch.zeros(1, 1, 4, 8, 8), torch.zeros(1, 1, 4, 8, 8)])

    def test_without_it_the_head_has_no_state(self, registry):
        built = build_preset("rescat_ssd_16", registry=registry, height=64, width=96)
        _, state = built(torch.zeros(1, 1, 2, 64, 96))
        assert state["head"] is None and not any("connections" in name for name in built.state_dict())


@pytest.mark.parametrize(
    ("cfg", "extras", "one_one", "channels", "classes"),
    [
        ([8, 16, 16, 32, 32], [16, 24, 16], False, 2, 2),
        ([8, 16, 16, 32, 32], [16, 24, 32], True, 2, 2),
        ([4, 12, 16, 24, 32], [16, 24, 16], True, 4, 3),
        (VGG, [16, 24, 16], True, 2, 2),
        (VGG, [16, 24, 16], False, 4, 1),
    ],
    ids=["rescat", "rescat 1x1 extras", "rescat other widths", "st_vgg 1x1 extras", "st_vgg 4 channels"],
)
def test_a_detector_equals_the_plain_numpy_one_through_the_importer(
    tmp_path, registry, cfg, extras, one_one, channels, classes
):
    path = tmp_path / "made_up" / "whatever.json"
    rates = write_vector(
        path,
        cfg,
        [1, channels, 64, 96],
        prefix="backbone.model.",
        extras=extras,
        one_one_extras=one_one,
        classes=classes,
        gain=5.0,
    )
    assert all(rate.min() > 0 and rate.max() < 1 for rate in rates.values()), rates
    vector = Vector(path)
    assert kind_of(vector).name == "detector"
    kind_of(vector).check(vector, registry)
    assert not vector.unaccounted()
