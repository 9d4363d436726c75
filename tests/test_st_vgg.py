"""ST-VGG: published sizes, stage order, states, gradients through time, and presets."""

import numpy as np
import pytest
import torch
from snn_perception_plugins.no_reset.st_vgg import STVGG, parse_layers, published_layers

from snn_perception import build_preset, load_registry
from snn_perception.checkpoint import load_weights
from snn_perception.detector import Detector
from snn_perception.errors import PluginError
from snn_perception.spec import ModelSpec
from snn_perception.state import detach, named_leaves, reset_rows, split_rows, stack_rows
from snn_perception.testing import FiringMeter, sparse_input, spiking_layers, wake
from snn_perception.types import SensorSize, Targets
from tests.paths import ROOT

PARAMETERS = {16: 642_351, 32: 1_139_791, 64: 2_881_167}
SIZE = SensorSize(96, 128)


@pytest.fixture(scope="module")
def detector(registry):
    """A 16-ST-VGG+SSD in float64 in which every layer fires on `windows`."""
    built = build_preset("st_vgg_ssd_16", registry=registry, height=SIZE.height, width=SIZE.width).double()
    rates = wake(built.backbone, windows(6, 3))
    assert len(rates) == 11
    return built


def windows(steps: int, rows: int, seed: int = 0) -> torch.Tensor:
    return sparse_input(steps, rows, 2, SIZE.height, SIZE.width, density=0.1, seed=seed)


def backbone_of(registry, **options) -> STVGG:
    return registry.build("backbone", "st_vgg", 2, registry.factory("neuron", "plif"), **options)


class TestPublishedNetworks:
    @pytest.mark.parametrize("width", PARAMETERS)
    def test_number_of_parameters_and_feature_maps(self, registry, width):
        detector = build_preset(f"st_vgg_ssd_{width}", registry=registry)
        assert sum(p.numel() for p in detector.parameters()) == PARAMETERS[width]
        assert detector.backbone.features.channels == (2 * width, 4 * width, 4 * width, 128, 128, 128)
        assert detector.backbone.features.strides == (8, 16, 32, 64, 128, 256)

    def test_preset_states_how_it_was_trained(self, registry):
        spec = registry.build("preset", "st_vgg_ssd_32")
        assert (spec.sensor_size, spec.window_us, spec.stride_us) == (SensorSize(240, 304), 50_000, 50_000)
        assert (spec.state_policy, spec.classes) == ("carry", ("car", "pedestrian"))
        assert spec.neuron.options["surrogate"] == "sigmoid" and spec.neuron.options["alpha"] == 4.0

    def test_resolved_spec_survives_json(self, registry):
        spec = build_preset("st_vgg_ssd_16", registry=registry).spec
        assert ModelSpec.from_json(spec.to_json()) == spec
        again = Detector(ModelSpec.from_json(spec.to_json()), registry)
        load_weights(again, build_preset("st_vgg_ssd_16", registry=registry).state_dict(), "test")

    def test_preset_options(self, registry):
        spec = registry.build(
            "preset", "st_vgg_ssd_16", classes=("a",), height=100, width=130, window_us=10_000, tbin=2
        )
        detector = Detector(spec, registry).eval()
        (found,), _ = detector.infer(torch.zeros(1, 1, 4, 100, 130))
        assert detector.spec.window_us == 10_000 and not found.class_id.any()

    def test_sizes_that_do_not_divide(self, registry):
        maps, state = backbone_of(registry)(torch.zeros(1, 1, 2, 240, 304), None)
        assert [tuple(m.shape[-2:]) for m in maps] == [(30, 38), (15, 19), (8, 10), (4, 5), (2, 3), (1, 2)]
        maps, _ = backbone_of(registry)(torch.zeros(1, 1, 2, 99, 61), None)
        assert [tuple(m.shape[-2:]) for m in maps] == [(12, 8), (6, 4), (3, 2), (2, 1), (1, 1), (1, 1)]
        assert [tuple(v.shape[-2:]) for _, v in named_leaves(state)][:4] == [(60, 76)] * 3 + [(30, 38)]

    def test_initial_weights(self, registry):
        torch.manual_seed(0)
        backbone = backbone_of(registry, width=64)
        for stage in backbone.stages:
            kernel = stage.current.conv.weight
            assert kernel.std().item() == pytest.approx((2 / kernel[0].numel()) ** 0.5, rel=0.1)
            assert stage.current.conv.bias is None and stage.neuron.w.item() == 0
            assert (stage.current.norm.weight == 1).all() and (stage.current.norm.bias == 0).all()

    def test_the_same_from_files_as_installed(self, registry):
        paths = [str(ROOT / "plugins" / name) for name in ("neurons.py", "ssd", "no_reset")]
        local = load_registry(paths, installed=False, environment=False)
        assert {p.id for p in local.plugins} == {"core", "neurons", "ssd", "no_reset"}
        one, other = (build_preset("st_vgg_ssd_16", registry=r) for r in (registry, local))
        assert type(one.backbone) is not type(other.backbone)
        x = sparse_input(1, 1, 2, 240, 304, dtype=torch.float32)
        assert one.infer(x)[0] == other.infer(x)[0] and one.spec == other.spec


class TestLayerList:
    def test_strides_and_stem(self):
        assert parse_layers([16, "32", "32s2"]) == [(16, 4), (32, 1), (32, 2)]
        assert published_layers(32) == [32, 64, 64, "64s2", 64, "128s2", 128, "128s2"]

    @pytest.mark.parametrize("bad", ["s2", "32s3", "-4", 0, 1.5, None, True, "32 s2", "٣٢", ["32"], 10**6])
    def test_other_items_are_refused_by_place(self, bad):
        with pytest.raises(ValueError, match=r"layers\[1\]"):
            parse_layers([16, bad])

    def test_the_stem_has_no_stride_to_choose(self):
        with pytest.raises(ValueError, match=r"layers\[0\]"):
            parse_layers(["16s2", 32])

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"width": 16, "layers": [32, "32s2"]}, "start with the stem's width 16"),
            ({"layers": []}, "start with"),
            ({"layers": [32, 32], "extras": []}, "no feature map"),
            ({"extras": ["64s2"]}, "extras"),
            ({"extras": [0]}, "extras"),
            ({"width": 0}, "layers"),
        ],
    )
    def test_bad_networks_are_refused(self, registry, options, message):
        with pytest.raises(PluginError, match=message):
            backbone_of(registry, **options)

    def test_any_number_of_stages_and_extras(self, registry):
        backbone = backbone_of(registry, width=8, layers=[8, "16s2", 16, "24s2"], extras=[32])
        maps, state = backbone(torch.zeros(2, 3, 2, 64, 64), None)
        assert [tuple(m.shape) for m in maps] == [(2, 3, 16, 8, 8), (2, 3, 24, 4, 4), (2, 3, 32, 2, 2)]
        assert backbone.features.channels == (16, 24, 32) and backbone.features.strides == (8, 16, 32)
        assert [tuple(v.shape) for _, v in named_leaves(state)] == [
            (3, 8, 16, 16),
            (3, 16, 8, 8),
            (3, 16, 8, 8),
            (3, 24, 4, 4),
            (3, 32, 2, 2),
        ]

    def test_one_by_one_extras_halve_the_channels_first(self, registry):
        backbone = backbone_of(registry, width=8, extras=[32, 64], one_one_extras=True).eval()
        kernels = [tuple(stage.current.conv.weight.shape) for stage in backbone.extras]
        assert kernels == [(16, 32, 1, 1), (32, 16, 3, 3), (16, 32, 1, 1), (64, 16, 3, 3)]
        assert backbone.features.channels == (16, 32, 32, 32, 64)
        assert len(backbone(torch.zeros(1, 1, 2, 64, 64), None)[0]) == 5


class TestState:
    def test_every_layer_fires(self, detector):
        x = windows(6, 3)
        with FiringMeter(spiking_layers(detector.backbone, x)) as meter, torch.no_grad():
            detector.backbone(x, None)
        assert len(meter.rates()) == 11
        assert all(0.01 <= rate <= 0.60 for rate in meter.rates().values()), meter.rates()

    def test_one_membrane_for_each_spiking_layer_in_their_order(self, detector):
        _, state = detector(windows(1, 2), None)
        assert [name for name, _ in named_leaves(state)] == [f"backbone.{i}" for i in range(11)]
        channels = [stage.current.conv.out_channels for stage in (*detector.backbone.stages, *detector.backbone.extras)]
        assert [v.shape[1] for _, v in named_leaves(state)] == channels

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

    def test_the_state_matters(self, detector):
        x = windows(2, 1)
        _, state = detector.infer(x[:1])
        assert detector.infer(x[1:], state)[0] != detector.infer(x[1:])[0]

    def test_batch_rows_are_independent(self, detector):
        first, second = windows(1, 3), windows(1, 3, seed=1)
        _, state = detector.infer(first)
        together, after = detector.infer(second, state)
        for row, before in enumerate(split_rows(state, 3)):
            (alone,), alone_after = detector.infer(second[:, row : row + 1], before)
            assert len(alone) and np_close(alone, together[row])
            for (_, one), (_, other) in zip(named_leaves(alone_after), named_leaves(after), strict=True):
                torch.testing.assert_close(one[0], other[row])

    def test_a_reset_row_equals_a_fresh_stream_and_the_others_go_on(self, detector):
        _, state = detector.infer(windows(1, 2))
        x = windows(1, 2, seed=1)
        mixed, _ = detector.infer(x, reset_rows(state, torch.tensor([True, False])))
        fresh, _ = detector.infer(x, None)
        carried, _ = detector.infer(x, state)
        assert mixed == [fresh[0], carried[1]] and fresh[0] != carried[0]

    def test_stacked_streams_are_rows(self, detector):
        _, one = detector.infer(windows(1, 1))
        stacked = stack_rows([one, None])
        x = windows(1, 1, seed=1).expand(-1, 2, -1, -1, -1)
        both, _ = detector.infer(x, stacked)
        assert np_close(both[0], detector.infer(x[:, :1], one)[0][0])
        assert np_close(both[1], detector.infer(x[:, :1])[0][0])

    def test_nothing_stays_in_the_network(self, detector):
        before = {name: value.clone() for name, value in detector.state_dict().items()}
        one, _ = detector.infer(windows(1, 1))
        assert detector.infer(windows(1, 1))[0] == one
        assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())

    def test_membranes_of_another_network_are_refused(self, detector):
        with pytest.raises(ValueError, match="tuple of 11"):
            detector.backbone(windows(1, 1), (None,) * 8)


class TestTraining:
    @pytest.fixture
    def trainee(self, detector, registry):
        copy = Detector(detector.spec, registry).double()
        copy.load_state_dict(detector.state_dict())
        copy.train()
        for module in copy.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()  # batch statistics of two rows would put the network back to sleep
        return copy

    def losses(self, trainee, raw):
        boxes = np.array([[10, 10, 60, 60], [40, 20, 110, 90]], np.float32)
        targets = [None, Targets(boxes, np.array([0, 1], np.int64))]
        return sum(trainee.head.loss(raw, targets, SIZE).values())

    def test_gradient_goes_through_time_to_every_used_parameter(self, trainee):
        x = windows(3, 2).requires_grad_()
        state = None
        with FiringMeter(spiking_layers(trainee.backbone, windows(1, 2))) as meter:
            for step in x:
                raw, state = trainee(step[None], state)
        assert all(0.01 <= rate <= 0.60 for rate in meter.rates().values()), meter.rates()
        self.losses(trainee, raw).backward()
        unused = {name for name, p in trainee.named_parameters() if p.grad is None or not p.grad.any()}
        assert all(name.startswith(("backbone.classifier.", "head.boxes.")) for name in unused), unused
        assert not all(name in unused for name, _ in trainee.named_parameters() if name.startswith("head.boxes."))
        assert all(p.grad.isfinite().all() for p in trainee.parameters() if p.grad is not None)
        assert x.grad[0].any(), "the first window does not reach the loss of the third"

    def test_detached_state_ends_the_gradient_and_keeps_the_values(self, trainee):
        x = windows(2, 2).requires_grad_()
        _, state = trainee(x[:1], None)
        cut = detach(state)
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(named_leaves(state), named_leaves(cut), strict=True))
        raw, _ = trainee(x[1:], cut)
        self.losses(trainee, raw).backward()
        assert not x.grad[0].any() and x.grad[1].any()
        # The leaks stay trainable after a cut (in the authors' code they do not).
        assert all(p.requires_grad for p in trainee.parameters())


def np_close(one, other) -> bool:
    """Return whether two detections agree but for the rounding of differently blocked sums."""
    return (
        len(one) == len(other)
        and np.allclose(one.xyxy, other.xyxy, atol=1e-4)
        and np.allclose(one.score, other.score, atol=1e-6)
        and (one.class_id == other.class_id).all()
    )
