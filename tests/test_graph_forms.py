"""Graphs in lower precision: which tensors change, and that the numbers are the detector's but for the rounding."""

import numpy as np
import pytest

from snn_perception import build_preset
from snn_perception.engine.graph_forms import half_convolutions, integer_convolutions, whole_numbers

onnx = pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
ort = pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
pytest.importorskip("onnxscript", reason="the extra 'onnx' is not installed")

HALF, FLOAT = 10, 1  # of onnx.TensorProto


@pytest.fixture(scope="module")
def graph(registry, tmp_path_factory):
    """Return a graph of ST-VGG as it is exported, in memory."""
    from snn_perception.engine.export import export_onnx
    from snn_perception.engine.probe import synthetic_inputs
    from snn_perception.testing import wake

    detector = build_preset("st_vgg_ssd_16", registry=registry, height=48, width=64)
    wake(detector, synthetic_inputs(detector, 6))
    path = tmp_path_factory.mktemp("graphs") / "model.onnx"
    export_onnx(detector, path)
    return onnx.load(path)


def feed_of(session, seed=0):
    rng = np.random.default_rng(seed)
    feed = {}
    for one in session.get_inputs():
        shape = [size if isinstance(size, int) else 1 for size in one.shape]
        feed[one.name] = rng.random(shape, np.float32)
    feed["events"] = (feed["events"] < 0.1).astype(np.float32)
    return feed | {"keep": np.ones(1, np.float32), "active": np.ones(1, bool)}


def run(model, seed=0):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(None, feed_of(session, seed)), strict=True))


def types(model):
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    found = {
        one.name: one.type.tensor_type.elem_type for one in (*inferred.value_info, *inferred.input, *inferred.output)
    }
    return found | {one.name: one.data_type for one in inferred.initializer}


def convolutions(model):
    return [node for node in model.graph.node if node.op_type == "Conv"]


def test_half_precision_is_that_of_convolutions_alone(graph):
    before = graph.SerializeToString()
    model = half_convolutions(graph)
    onnx.checker.check_model(model)
    kinds = types(model)
    assert len(convolutions(model)) == 23
    for node in convolutions(model):
        assert {kinds[name] for name in (*node.input, *node.output)} == {HALF}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Cast"):
            assert HALF not in {kinds[name] for name in (*node.input, *node.output) if name in kinds}, node.op_type
    ends = [one for one in (*model.graph.input, *model.graph.output) if one.name != "active"]
    assert {one.type.tensor_type.elem_type for one in ends} == {FLOAT}, "membranes go in and out in float32"
    assert graph.SerializeToString() == before


def test_spikes_are_known_in_the_graph(graph):
    most = whole_numbers(graph)
    fed_by_spikes = [node for node in convolutions(graph) if node.input[0] in most]
    assert len(fed_by_spikes) == 22, "all but the first, which is fed with events"
    assert {most[node.input[0]] for node in fed_by_spikes} == {1}
    raw = {one.name for one in graph.graph.output}
    assert not raw & most.keys()


def test_integer_weights_are_those_of_convolutions_of_spikes(graph):
    model = integer_convolutions(graph)
    onnx.checker.check_model(model)
    nodes = [node.op_type for node in model.graph.node]
    assert nodes.count("QuantizeLinear") == 22 and nodes.count("DequantizeLinear") == 44
    assert nodes.count("Mul") - [node.op_type for node in graph.graph.node].count("Mul") == 22, "gains of the spikes"
    kept = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    before = {one.name: onnx.numpy_helper.to_array(one) for one in graph.graph.initializer}
    for node in convolutions(graph)[1:]:
        floats = next(one for one in convolutions(graph) if one.name == node.name).input[1]
        numbers, scale, gain = (kept[f"{node.name}.{part}"] for part in ("weight", "scale", "gain"))
        assert numbers.dtype == np.int8 and abs(numbers.astype(int)).max() == 127
        assert ((gain >= 1) & (gain <= 127) & (gain == gain.round())).all(), "times a gain a spike stays exact"
        step = scale.reshape(-1, 1, 1, 1) * gain
        assert (abs(numbers * step - before[floats]) <= step * 0.5001).all() and floats not in kept


@pytest.mark.parametrize(("form", "most"), [(half_convolutions, 2e-3), (integer_convolutions, 1.5e-2)])
def test_few_neurons_spike_differently(form, most, graph):
    """Of the first two layers: the second is fed with the same spikes but for the flips of the first."""
    model = form(graph)
    assert len(model.SerializeToString()) < 0.9 * len(graph.SerializeToString())
    names = [one.name for one in graph.graph.output if one.name.endswith("_out")][:2]
    flipped = cells = fired = 0
    for seed in range(6):
        expected, got = run(graph, seed), run(model, seed)
        for name in names:
            flipped += int(((expected[name] == 0) != (got[name] == 0)).sum())
            fired += int((expected[name] == 0).sum())
            cells += got[name].size
    assert fired > 0.05 * cells and flipped / cells < most
    assert any(not np.array_equal(expected[name], got[name]) for name in names), "nothing was rounded"


def test_bounds_follow_sums_joins_and_clamps():
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("GreaterOrEqual", ["x", "one"], ["fires"]),
        helper.make_node("Cast", ["fires"], ["binary"], to=TensorProto.FLOAT),
        helper.make_node("Clip", ["x", "zero", "four"], ["clamped"]),
        helper.make_node("Round", ["clamped"], ["whole"]),
        helper.make_node("Add", ["binary", "whole"], ["sum"]),
        helper.make_node("Concat", ["binary", "sum"], ["joined"], axis=0),
        helper.make_node("Identity", ["joined"], ["same"]),
        helper.make_node("Mul", ["binary", "x"], ["product"]),
        helper.make_node("Clip", ["x", "one", "four"], ["above"]),
        helper.make_node("Round", ["above"], ["not_from_zero"]),
        helper.make_node("Add", ["binary", "x"], ["mixed"]),
    ]
    constants = {"zero": 0.0, "one": 1.0, "four": 4.0}
    weights = [onnx.numpy_helper.from_array(np.array(value, np.float32), name) for name, value in constants.items()]
    inputs, outputs = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, [3])] for name in ("x", "product"))
    model = helper.make_model(helper.make_graph(nodes, "bounds", inputs, outputs, weights))
    assert whole_numbers(model) == {"binary": 1, "whole": 4, "sum": 5, "joined": 5, "same": 5}
