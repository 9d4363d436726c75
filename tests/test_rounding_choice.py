"""Which layers become int8: each judged by what its rounding does to its own spikes, then all of them together."""

import json
from dataclasses import replace

import numpy as np
import pytest

from snn_perception import build_preset
from snn_perception.engine.artifact import read_sidecar, sidecar_path
from snn_perception.engine.graph_forms import layer_name, roundable
from snn_perception.engine.probe import synthetic_inputs
from snn_perception.engine.rounding_choice import (
    WARM_UPS,
    WINDOWS,
    Bounds,
    _most_within,
    choose_layers,
    int8_graph,
)
from snn_perception.engine.rounding_probe import Disturbance, shadowed
from snn_perception.engine.session import Session
from snn_perception.runtime.models import open_model
from tests.engine_support import awake, exported

onnx = pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
pytest.importorskip("onnxscript", reason="the extra 'onnx' is not installed")

WIDE = Bounds(layer=2.0, network=2.0)
BAD = "stages.5.current"


@pytest.fixture(scope="module")
def case(registry, tmp_path_factory):
    """A graph of ST-VGG of which one layer has a neuron with enormous weights behind a channel that never fires."""
    detector, inputs = awake(build_preset("st_vgg_ssd_16", registry=registry, height=48, width=64))
    path = exported(detector, tmp_path_factory.mktemp("rounding") / "model.onnx")
    return onnx.load(path), read_sidecar(path), [x.numpy() for x in inputs[: WARM_UPS + WINDOWS]], path


def spoiled(model):
    """Return the graph with one kernel whose output channels have a giant weight each: the rest rounds to nothing."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    node = next(node for node in roundable(copied) if layer_name(node).endswith(BAD))
    kernel = next(one for one in copied.graph.initializer if one.name == node.input[1])
    floats = onnx.numpy_helper.to_array(kernel).copy()
    floats[np.arange(len(floats)), np.arange(len(floats)) % floats.shape[1], 0, 0] *= 300.0  # no gain evens that out
    kernel.CopyFrom(onnx.numpy_helper.from_array(floats, kernel.name))
    return copied


def test_shadows_change_nothing_and_see_their_own_layer_alone(case, tmp_path):
    model, sidecar, windows, _ = case
    made = shadowed(model, sidecar.raw)
    assert len(made.pairs) == 22 and len(made.spikes) == 11
    onnx.save(made.model, tmp_path / "shadowed.onnx")
    onnx.save(model, tmp_path / "plain.onnx")
    membranes = {f"{one.name}_in": np.zeros((1, *one.shape), np.float32) for one in sidecar.states}
    feed = {"events": windows[3], "keep": np.ones(1, np.float32), "active": np.ones(1, bool), **membranes}
    shadow, plain = Session(tmp_path / "shadowed.onnx").run(feed), Session(tmp_path / "plain.onnx").run(feed)
    for name in sidecar.outputs:
        np.testing.assert_allclose(shadow[name], plain[name], atol=1e-5)
    for name, pairs in made.pairs.items():
        is_head = ".head." in name
        assert all((exact in sidecar.raw) == is_head for exact, _ in pairs) and len(pairs) == 1, name
        for exact, got in pairs:
            assert np.count_nonzero(shadow[exact]) > 0 and shadow[exact].shape == shadow[got].shape
            assert np.mean(shadow[exact] != shadow[got]) < (0.02 if not is_head else 1.1)
    assert any(not np.array_equal(shadow[a], shadow[b]) for pairs in made.pairs.values() for a, b in pairs)


def test_a_layer_that_rounding_spoils_stays_in_float32(case):
    model, sidecar, windows, _ = case
    good = choose_layers(model, sidecar, windows, WIDE)
    assert len(good.int8) == 22 and good.windows == WINDOWS
    assert 0 < good.together.flips < 0.5 and good.together.raw_error > 0
    found = choose_layers(spoiled(model), sidecar, windows, Bounds(layer=0.05, network=2.0))
    (bad,) = [layer for layer in found.layers if layer.name.endswith(BAD)]
    assert bad.alone.flips > 0.05 and not bad.is_int8
    others = [layer for layer in found.layers if layer is not bad]
    assert sum(layer.is_int8 for layer in others) >= 18


def test_together_they_keep_within_the_bound_of_the_network(case):
    model, sidecar, windows, _ = case
    wide = choose_layers(model, sidecar, windows, WIDE)
    most = max(wide.together.flips, wide.together.raw_error) / 2
    tight = choose_layers(model, sidecar, windows, replace(WIDE, network=most))
    assert 0 < len(tight.int8) < len(wide.int8)
    assert max(tight.together.flips, tight.together.raw_error) <= most
    left = [layer.changed for layer in tight.layers if not layer.is_int8]
    kept = [layer.changed for layer in tight.layers if layer.is_int8]
    assert min(left) >= max(kept), "the layers that change most spikes go first"


def test_a_layer_behind_which_nothing_fires_cannot_be_judged(case):
    model, sidecar, windows, _ = case
    silent = [np.zeros_like(x) for x in windows]
    found = choose_layers(model, sidecar, silent, WIDE)
    for layer in found.layers:
        assert not layer.is_int8 or layer.alone.flips is not None or layer.alone.raw_error is not None
    assert any(layer.alone == Disturbance(None, None) and not layer.is_int8 for layer in found.layers)


@pytest.mark.parametrize(("bound", "expected"), [(10.0, 5), (4.9, 4), (1.0, 1), (0.5, 0)])
def test_halving_finds_the_most_that_fit(bound, expected):
    asked = []

    def measure(names):
        asked.append(len(names))
        return Disturbance(float(len(names)), None)

    kept, found = _most_within("abcde", measure, bound)
    assert list(kept) == list("abcde"[:expected]) and len(asked) <= 4
    assert found == (Disturbance(float(expected), None) if expected else None)


def test_the_file_says_which_layers_are_int8_and_is_made_once(case, tmp_path):
    _, sidecar, windows, path = case
    asked, told = [], []

    def inputs(count):
        asked.append(count)
        return windows

    made = int8_graph(path, sidecar, inputs, tmp_path, bounds=WIDE, on_stage=told.append)
    assert asked == [WARM_UPS + WINDOWS] and "int8" in told[0]
    beside = read_sidecar(made)
    assert beside.precision == "int8" and beside.weights_sha256 == sidecar.weights_sha256
    layers = beside.rounding["layers"]
    assert len(layers) == 22 and {"name", "is_int8", "alone", "changed"} == set(layers[0])
    nodes = [node.name for node in onnx.load(made).graph.node if node.op_type == "QuantizeLinear"]
    assert len(nodes) == sum(layer["is_int8"] for layer in layers) == 22
    assert int8_graph(path, sidecar, inputs, tmp_path, bounds=WIDE) == made and len(asked) == 1
    few = int8_graph(path, sidecar, inputs, tmp_path, bounds=Bounds(layer=0.0, network=0.0))
    assert few != made and read_sidecar(few).rounding["together"] is None, "other bounds are another file"
    assert not [one for one in tmp_path.iterdir() if one.name.startswith(".")], "nothing half-written is left"


def test_a_sidecar_from_before_int8_is_still_read(case, tmp_path):
    *_, path = case
    graph = tmp_path / "model.onnx"
    graph.write_bytes(path.read_bytes())
    values = json.loads(sidecar_path(path).read_text())
    del values["rounding"]
    sidecar_path(graph).write_text(json.dumps(values))
    assert read_sidecar(graph).rounding is None


@pytest.mark.slow
def test_the_shipped_weights_are_int8_in_nearly_all_layers(registry, tmp_path):
    """Behind `extras.0` neurons that never fired in training have weights hundreds of times larger than the others'."""
    detector = open_model("st_vgg_ssd_16_synth", registry, device="cpu").detector.eval()
    path = exported(detector, tmp_path / "model.onnx")
    windows = [x.numpy() for x in synthetic_inputs(detector, WARM_UPS + WINDOWS)]
    choice = choose_layers(onnx.load(path), read_sidecar(path), windows, Bounds())
    assert len(choice.layers) == 22 and len(choice.int8) >= 20 and choice.together.flips > 0
    (hard,) = [layer for layer in choice.layers if layer.name.endswith("extras.1.current")]
    assert hard.is_int8 and 0 < hard.alone.flips < 0.01, "a tenth of its spikes differ without gains"
