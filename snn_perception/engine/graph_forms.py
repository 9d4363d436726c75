"""Exported graphs in lower precision: functions from a graph to a graph that say which tensors stay float32.

Only convolutions change. What lies between them, the membranes and everything that goes in and out above all, stays
float32: a membrane adds many small currents, and in half precision the small ones would vanish. The forms are plain
ONNX, so that what a runtime makes of them is stated in the graph and not left to its rules.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from snn_perception.engine.rounding import LARGEST_INT8, RoundedKernel, rounded
from snn_perception.whole_file import whole_file

_FORMAT = 2  # rises when a graph's form changes
_SAME = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Gather", "Expand", "MaxPool")
_TO_FLOAT = ("Cast", *_SAME)


def half_convolutions(model: Any) -> Any:
    """Return a graph whose convolutions take, weigh and give float16; all other operators stay float32.

    Args:
        model: an ``onnx.ModelProto`` in float32, which is left as it was.
    """
    from onnx import TensorProto, helper, numpy_helper

    def halved(node: Any, weights: dict[str, Any]) -> Iterable[Any]:
        half = [_half(node, at, name, weights, helper, numpy_helper, TensorProto) for at, name in enumerate(node.input)]
        inner = f"{node.output[0]}.half"
        for casts, _ in half:
            yield from casts
        changed = _copy(node)
        changed.input[:] = [name for _, name in half]
        changed.output[:] = [inner]
        yield changed
        yield helper.make_node("Cast", [inner], [node.output[0]], f"{node.name}.float", to=TensorProto.FLOAT)

    return _with_convolutions(model, halved, lambda node: True)


def _half(node: Any, at: int, name: str, weights: dict[str, Any], helper: Any, numbers: Any, types: Any) -> Any:
    """Return operators that make an input of a convolution float16, and its name then."""
    if not name:
        return (), name
    half = f"{node.name}.{at}.half"
    if name in weights:
        weights[half] = numbers.from_array(numbers.to_array(weights[name]).astype(np.float16), half)
        return (), half
    return (helper.make_node("Cast", [name], [half], half, to=types.FLOAT16),), half


def integer_convolutions(model: Any, layers: Collection[str] | None = None) -> Any:
    """Return a graph whose convolutions of spikes have int8 weights, as `rounding.rounded` makes them.

    Spikes are whole numbers: times a whole gain they lose nothing in int8. The rounding of the weights is all that
    differs. Convolutions of anything else, such as of the events, stay as they are.

    Args:
        model: an ``onnx.ModelProto`` in float32, which is left as it was.
        layers: the only ones to round, by `layer_name`; None: all.
    """
    from onnx import helper, numpy_helper

    largest = whole_numbers(model)

    def changed(node: Any, weights: dict[str, Any]) -> Iterable[Any]:
        spikes, kernel, *bias = node.input
        name = node.name or node.output[0]
        found = rounded_kernel(node, numpy_helper.to_array(weights[kernel]), largest[spikes])
        added: dict[str, np.ndarray[Any, Any]] = {
            "weight": found.numbers,
            "scale": found.scale,
            "zeros": np.zeros(len(found.scale), np.int8),
            "one": np.ones((), np.float32),
            "zero": np.zeros((), np.int8),
        }
        if has_gain := bool((found.gain != 1).any()):
            added["gain"] = found.gain.reshape(1, -1, *(1,) * (found.numbers.ndim - 2))
        at = {part: f"{name}.{part}" for part in added}
        weights.update({at[part]: numpy_helper.from_array(array, at[part]) for part, array in added.items()})
        if has_gain:
            yield helper.make_node("Mul", [spikes, at["gain"]], [f"{name}.gained"], f"{name}.gained")
            spikes = f"{name}.gained"
        scaled = [at["one"], at["zero"]]
        yield helper.make_node("QuantizeLinear", [spikes, *scaled], [f"{name}.counts"], f"{name}.quantize")
        yield helper.make_node("DequantizeLinear", [f"{name}.counts", *scaled], [f"{name}.spikes"], f"{name}.spikes")
        scales = [at["weight"], at["scale"], at["zeros"]]
        yield helper.make_node("DequantizeLinear", scales, [f"{name}.kernel"], f"{name}.kernel", axis=0)
        convolution = _copy(node)
        convolution.input[:] = [f"{name}.spikes", f"{name}.kernel", *bias]
        yield convolution

    def applies(node: Any) -> bool:
        return _is_of_spikes(node, largest) and (layers is None or layer_name(node) in layers)

    return _with_convolutions(model, changed, applies)


def roundable(model: Any, largest: Mapping[str, int] | None = None) -> list[Any]:
    """Return the convolutions of a graph that `integer_convolutions` can round, in their order.

    Args:
        largest: what `whole_numbers` gave for the graph, if it is there already.
    """
    largest = whole_numbers(model) if largest is None else largest
    weights = {one.name for one in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "Conv" and node.input[1] in weights]
    return [node for node in nodes if _is_of_spikes(node, largest)]


def layer_name(node: Any) -> str:
    """Return what a convolution is called: by its weights, where the exporter kept the network's own names."""
    kernel: str = node.input[1]
    return kernel.removesuffix(".weight") if "." in kernel else str(node.name or node.output[0])


def rounded_kernel(node: Any, floats: Any, largest: int) -> RoundedKernel:
    """Return the weights of a convolution in int8.

    Args:
        largest: number that its inputs take on.
    """
    groups = next((one.i for one in node.attribute if one.name == "group"), 1)
    # A kernel's input channel stands for one in each group: a gain cannot be of them all.
    return rounded(floats, largest, even=groups == 1)


def _is_of_spikes(node: Any, largest: Mapping[str, int]) -> bool:
    return 0 < largest.get(node.input[0], 0) <= LARGEST_INT8


def whole_numbers(model: Any) -> dict[str, int]:
    """Return the tensors of a graph that hold whole numbers from 0 alone, with the most that they can hold.

    That is a comparison as a number, which is a spike; what is clamped and rounded; and what only moves or adds these.
    """
    from onnx import numpy_helper

    graph = model.graph
    constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    made = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    found: dict[str, int] = {}
    for node in graph.node:
        if (most := _largest(node, found, made, constants)) is not None:
            found.update(dict.fromkeys(node.output, most))
    return found


def _largest(node: Any, found: dict[str, int], made: dict[str, Any], constants: dict[str, Any]) -> int | None:
    """Return the most that an operator of whole numbers gives, None if it gives others."""
    before = made.get(node.input[0]) if node.input else None
    if node.op_type == "Cast" and before is not None and before.op_type in ("GreaterOrEqual", "Greater", "And"):
        return 1
    if node.op_type == "Round" and before is not None and before.op_type == "Clip":
        low, high = (constants.get(name) for name in before.input[1:3])
        return int(high) if low is not None and high is not None and low == 0 and float(high).is_integer() else None
    if node.op_type in _TO_FLOAT:
        return found.get(node.input[0])
    if node.op_type == "Concat" and all(name in found for name in node.input):
        return max(found[name] for name in node.input)
    if node.op_type == "Add" and all(name in found for name in node.input):
        return sum(found[name] for name in node.input)
    return None


def _with_convolutions(
    model: Any, change: Callable[[Any, dict[str, Any]], Iterable[Any]], applies: Callable[[Any], bool]
) -> Any:
    """Return a copy of a graph in which `change` gives the operators that stand for a convolution."""
    result = _copy(model)
    weights = {one.name: one for one in result.graph.initializer}
    nodes: list[Any] = []
    for node in model.graph.node:
        is_ours = node.op_type == "Conv" and node.input[1] in weights and applies(node)
        nodes.extend(change(node, weights) if is_ours else [node])
    used = {name for node in nodes for name in node.input} | {one.name for one in result.graph.output}
    del result.graph.node[:], result.graph.initializer[:]
    result.graph.node.extend(nodes)
    result.graph.initializer.extend(one for name, one in weights.items() if name in used)
    del result.graph.value_info[:]  # types between operators, which have changed
    return result


def _copy(message: Any) -> Any:
    copied = type(message)()
    copied.CopyFrom(message)
    return copied


FORMS: dict[str, Callable[[Any], Any]] = {"fp16": half_convolutions, "int8": integer_convolutions}


def graph_in(precision: str, graph: Path, sha256: str, folder: Path) -> Path:
    """Return the file of a graph in a precision: `graph` itself, or that of its form, made in `folder` if need be.

    Args:
        sha256: of `graph`.
    """
    if precision not in FORMS:
        return graph
    path = folder / f"{sha256[:24]}.{precision}-{_FORMAT}.onnx"
    if not path.exists():
        import onnx

        with whole_file(path) as partial:
            onnx.save(FORMS[precision](onnx.load(graph)), partial)
    return path
