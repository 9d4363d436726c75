"""The native engine: every layer in a form that equals the detector's, chosen once and found again."""

import json
from collections import Counter

import pytest
import torch

from snn_perception import build_preset, native
from snn_perception.engine.choose import build_engine
from snn_perception.engine.engines import EagerEngine, Settings
from snn_perception.engine.native import NativeEngine, measure_layers
from snn_perception.engine.parity import compare
from snn_perception.engine.probe import synthetic_inputs
from snn_perception.engine.sparse_layers import SparseConv, SparseStage, is_patches, on_patches, to_patches
from snn_perception.errors import ExportError
from snn_perception.fold import fold_norms, merge_siblings
from snn_perception.state import named_leaves, stack_rows
from snn_perception.testing import FiringMeter, spiking_layers, wake

needs_kernels = pytest.mark.skipif(
    not native.available(), reason=f"the native kernels are not built: {native.why_not()}"
)
MODELS = {
    "st_vgg_ssd_16": {"height": 64, "width": 96},
    "rescat_ssd_16": {"height": 64, "width": 96},
    "eas_snn_s_use_spike": {"network_size": [64, 96]},
    "spikeyolo_s_gen1": {"network_size": [64, 96]},
}


@pytest.fixture(scope="module", params=MODELS)
def detector(request, registry):
    detector = build_preset(request.param, registry=registry, **MODELS[request.param])
    wake(detector, synthetic_inputs(detector, 3))
    return detector


@pytest.fixture(scope="module")
def st_vgg(registry):
    detector = build_preset("st_vgg_ssd_16", registry=registry, **MODELS["st_vgg_ssd_16"])
    wake(detector, synthetic_inputs(detector, 6))
    return detector


@pytest.fixture(scope="module")
def small_yolo(registry):
    detector = build_preset("spikeyolo_s_gen1", registry=registry, network_size=[64, 64], width_factor=0.125)
    wake(detector, synthetic_inputs(detector, 3))
    return detector


def with_choices(detector, cache, choose, monkeypatch):
    """Return an engine whose layers are in the form that `choose` picks of those that were measured."""
    monkeypatch.setattr(
        "snn_perception.engine.native.measure_layers",
        lambda form, inputs: {name: choose(name, kind) for name, kind in measure_layers(form, inputs).items()},
    )
    return NativeEngine(detector, Settings(cache=cache))


@needs_kernels
def test_it_is_the_detector_within_rounding(detector, tmp_path):
    inputs = synthetic_inputs(detector, 6)
    with torch.no_grad(), FiringMeter(spiking_layers(detector, inputs[0])) as meter:
        detector(inputs[1])
    assert min(meter.rates().values()) > 0
    parity = compare(NativeEngine(detector, Settings(cache=tmp_path)), EagerEngine(detector), inputs)
    assert parity.flips <= 1e-5 and parity.membrane_error < 1e-4
    assert parity.clean == 0 or parity.raw_error < 1e-3


@needs_kernels
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_every_form_of_a_layer_is_right_not_only_the_fastest(st_vgg, tmp_path, monkeypatch, kind):
    engine = with_choices(st_vgg, tmp_path, lambda name, measured: kind, monkeypatch)
    forms = [type(layer).__name__ for layer in engine.detector.modules()]
    assert ("SparseStage" in forms) == (kind == "sparse")
    parity = compare(engine, EagerEngine(st_vgg), synthetic_inputs(st_vgg, 8))
    assert parity.flips < 1e-6 and parity.raw_error < 1e-3 and parity.clean >= 7


@needs_kernels
@pytest.mark.parametrize("kind", ["dense", "whole sparse", "whole tiles"])
def test_every_form_of_a_layer_of_whole_numbers_is_right(small_yolo, tmp_path, monkeypatch, kind):
    engine = with_choices(
        small_yolo, tmp_path, lambda name, measured: kind if measured != "dense" else measured, monkeypatch
    )
    forms = Counter(type(layer).__name__ for layer in engine.detector.modules())
    assert forms["WholeStage"] > 50 and forms["ILIF"] == 0
    assert (forms["TilesConv"] > 10) == (kind == "whole tiles")
    inputs, plain = synthetic_inputs(small_yolo, 4), EagerEngine(small_yolo)
    assert max(float(leaf.abs().max()) for _, leaf in named_leaves(plain(inputs[0])[1])) > 0.5
    parity = compare(engine, plain, inputs)
    assert parity.flips < 1e-5 and parity.membrane_error < 1e-5
    _, state = plain(inputs[0])
    kept = [leaf.clone() for _, leaf in named_leaves(state)]
    engine(inputs[1], state)
    assert all(torch.equal(x, leaf) for x, (_, leaf) in zip(kept, named_leaves(state), strict=True))


@needs_kernels
def test_choices_are_measured_once_for_the_same_weights(st_vgg, tmp_path):
    told = []
    first = NativeEngine(st_vgg, Settings(cache=tmp_path, on_stage=told.append))
    assert len(told) == 1 and set(first.choices.values()) <= {"dense", "sparse", "sparse patches", "tiles"}
    again = NativeEngine(st_vgg, Settings(cache=tmp_path, on_stage=told.append))
    assert len(told) == 1 and again.choices == first.choices
    (path,) = tmp_path.glob("*.native.json")
    path.write_text("{damaged")
    NativeEngine(st_vgg, Settings(cache=tmp_path, on_stage=told.append))
    assert len(told) == 2 and json.loads(path.read_text()) != {}


@needs_kernels
def test_states_are_those_of_other_engines(st_vgg, tmp_path):
    engine, plain = NativeEngine(st_vgg, Settings(cache=tmp_path)), EagerEngine(st_vgg)
    inputs, state, reference = synthetic_inputs(st_vgg, 8), None, None
    for k, x in enumerate(inputs):
        _, reference = plain(x, reference)
        _, state = (engine if k % 2 else plain)(x, state)
        for (name, a), (other, b) in zip(named_leaves(reference), named_leaves(state), strict=True):
            assert name == other and torch.allclose(a, b, atol=1e-3)


@needs_kernels
def test_the_given_state_is_left_alone_and_rows_do_not_mix(st_vgg, tmp_path):
    engine, inputs = NativeEngine(st_vgg, Settings(cache=tmp_path)), synthetic_inputs(st_vgg, 4)
    _, one = engine(inputs[0], None)
    kept = [leaf.clone() for _, leaf in named_leaves(one)]
    _, a = engine(inputs[1], one)
    _, b = engine(inputs[1], one)
    assert all(torch.equal(x, leaf) for x, (_, leaf) in zip(kept, named_leaves(one), strict=True))
    assert all(torch.equal(x, y) for (_, x), (_, y) in zip(named_leaves(a), named_leaves(b), strict=True))
    _, both = engine(torch.cat([inputs[1], inputs[2]], dim=1), stack_rows([one, None]))
    for (_, x), (_, y) in zip(named_leaves(a), named_leaves(both), strict=True):
        assert torch.allclose(x[0], y[0], atol=1e-4)


@needs_kernels
def test_a_layer_that_is_no_longer_fed_with_spikes_goes_on():
    conv = torch.nn.Conv2d(4, 6, 3, padding=1)
    layer, x = SparseConv(conv, binary=True), torch.rand(1, 4, 5, 7)
    with torch.no_grad():
        assert torch.allclose(layer((x > 0.7).float()), conv((x > 0.7).float()), atol=1e-5)
        assert torch.allclose(layer((x * 4).round()), conv((x * 4).round()), atol=1e-4)
        assert torch.allclose(layer(x), conv(x), atol=1e-5)


@needs_kernels
def test_patches_are_the_convolution_of_their_pixels(st_vgg):
    conv = torch.nn.Conv2d(2, 8, 4, stride=4)
    x = (torch.rand(2, 2, 22, 31) < 0.2).float()
    assert is_patches(conv) and not is_patches(torch.nn.Conv2d(2, 8, 4, stride=2))
    with torch.no_grad():
        assert torch.allclose(on_patches(conv)(to_patches(x, 4)), conv(x), atol=1e-5)
        neuron = st_vgg.backbone.stages[0].neuron
        stage = SparseStage(conv, neuron, form="floats", patches=True)
        spikes, v = stage(x[None], None)
        expected, after = neuron(conv(x)[None], None)
    assert torch.equal(spikes, expected) and torch.allclose(v, after, atol=1e-5)


def test_merged_heads_give_the_same_maps(st_vgg):
    x = synthetic_inputs(st_vgg, 1)[0]
    folded = fold_norms(st_vgg)
    merged = merge_siblings(folded)
    assert len(merged.head.both) == 6 and not len(merged.head.boxes)
    with torch.no_grad():
        for (_, a), (_, b) in zip(named_leaves(folded(x)[0]), named_leaves(merged(x)[0]), strict=True):
            assert torch.allclose(a, b, atol=1e-4)


def test_without_kernels_it_says_what_to_do(st_vgg, monkeypatch):
    monkeypatch.setattr(native, "why_not", lambda: "not built; run 'python -m snn_perception.native'")
    with pytest.raises(ExportError, match=r"needs its kernels.*python -m snn_perception.native"):
        build_engine("native", st_vgg)


@needs_kernels
def test_a_gap_leaks_as_in_the_plain_network(st_vgg, tmp_path):
    engine, plain = NativeEngine(st_vgg, Settings(cache=tmp_path)), EagerEngine(st_vgg)
    first, second = synthetic_inputs(st_vgg, 2)
    _, state = plain(first)
    keep = torch.tensor([-3.0])
    (_, expected), (_, got), (_, carried) = (
        plain(second, state, keep),
        engine(second, state, keep),
        plain(second, state),
    )
    for (_, a), (_, b) in zip(named_leaves(expected), named_leaves(got), strict=True):
        assert torch.allclose(a, b, atol=1e-3)
    pairs = zip(named_leaves(expected), named_leaves(carried), strict=True)
    assert any(not torch.allclose(a, b) for (_, a), (_, b) in pairs)
