"""What the rounding of each layer's weights does to the layer's own spikes, all layers seen in one run of a graph.

Beside every convolution that can be rounded stands its shadow: the same convolution of the same spikes with rounded
weights, and a copy of everything up to the spikes (or raw outputs) that follow. Nothing reads a shadow's outputs, so
that every layer is fed with what the exact network gives it, window after window: teacher-forced, layer by layer. A
graph with shadows takes about twice as long as without, however many layers there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from snn_perception.engine.graph_forms import layer_name, roundable, rounded_kernel, whole_numbers

Array = np.ndarray[Any, Any]

_SHADOW = ".shadow."


@dataclass(frozen=True)
class Disturbance:
    """Differences from the exact network over some windows.

    Attributes:
        flips: numbers of spikes that differ, as a share of the spikes; None where no neuron follows or none fired.
        raw_error: mean difference of the raw outputs, as a share of their mean size; None where none follow. Not
            squared: one neuron that hardly ever fires may have an enormous weight, and would decide alone.
    """

    flips: float | None
    raw_error: float | None


@dataclass(frozen=True)
class Shadowed:
    """A graph with shadows.

    Attributes:
        model: gives `outputs` besides its own outputs.
        pairs: layer -> (exact, shadow) names of the tensors that follow it.
        spikes: names of all exact spikes. raw: of the raw outputs.
    """

    model: Any
    pairs: Mapping[str, tuple[tuple[str, str], ...]]
    spikes: tuple[str, ...]
    raw: tuple[str, ...]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of everything that is compared."""
        exact = dict.fromkeys(name for pairs in self.pairs.values() for pair in pairs for name in pair)
        return tuple(exact | dict.fromkeys(self.spikes) | dict.fromkeys(self.raw))


def spike_sources(model: Any, largest: Mapping[str, int]) -> list[str]:
    """Return the tensors of a graph that are made where neurons fire, each the spikes of one layer and step."""
    return [node.output[0] for node in model.graph.node if node.op_type in ("Cast", "Round") and _fires(node, largest)]


def _fires(node: Any, largest: Mapping[str, int]) -> bool:
    return node.output[0] in largest and node.input[0] not in largest


def shadowed(model: Any, raw: Sequence[str]) -> Shadowed:
    """Return a copy of a float32 graph with a shadow of each convolution that can be rounded.

    Args:
        raw: names of its raw outputs.
    """
    from onnx import ValueInfoProto, numpy_helper

    largest = whole_numbers(model)
    spikes = spike_sources(model, largest)
    ends = {*spikes, *raw}
    readers = _readers(model)
    result = type(model)()
    result.CopyFrom(model)
    weights = {one.name: one for one in model.graph.initializer}
    pairs: dict[str, tuple[tuple[str, str], ...]] = {}
    for number, node in enumerate(roundable(model, largest)):
        found = rounded_kernel(node, numpy_helper.to_array(weights[node.input[1]]), largest[node.input[0]])
        kernel = f"{node.input[1]}{_SHADOW}{number}"
        result.graph.initializer.append(numpy_helper.from_array(found.floats(), kernel))
        copies, met = _copies(node, readers, ends, f"{_SHADOW}{number}")
        copies[0].input[1] = kernel
        result.graph.node.extend(copies)
        name = layer_name(node)
        pairs[name] = pairs.get(name, ()) + tuple((end, f"{end}{_SHADOW}{number}") for end in met)
    have = {one.name for one in result.graph.output}
    made = Shadowed(result, pairs, tuple(spikes), tuple(raw))
    result.graph.output.extend(ValueInfoProto(name=name) for name in made.outputs if name not in have)
    return made


def _readers(model: Any) -> dict[str, list[tuple[int, Any]]]:
    """Return which nodes read each tensor, with their places in the graph's order."""
    readers: dict[str, list[tuple[int, Any]]] = {}
    for place, node in enumerate(model.graph.node):
        for name in dict.fromkeys(node.input):
            readers.setdefault(name, []).append((place, node))
    return readers


def _copies(
    first: Any, readers: Mapping[str, list[tuple[int, Any]]], ends: set[str], suffix: str
) -> tuple[list[Any], list[str]]:
    """Return copies of a node and of all behind it up to the first of `ends`, in order, and the ends that were met."""
    behind: dict[int, Any] = {}
    waiting = list(first.output)
    met: dict[str, None] = {}
    while waiting:
        name = waiting.pop()
        if name in ends:
            met[name] = None
            continue
        for place, node in readers.get(name, []):
            if place not in behind:
                behind[place] = node
                waiting.extend(node.output)
    nodes = [first, *(node for _, node in sorted(behind.items()))]
    changed = {name for node in nodes for name in node.output}
    return [_renamed(node, changed, suffix) for node in nodes], list(met)


def _renamed(node: Any, changed: set[str], suffix: str) -> Any:
    copied = type(node)()
    copied.CopyFrom(node)
    copied.name = f"{node.name}{suffix}"
    copied.input[:] = [f"{name}{suffix}" if name in changed else name for name in node.input]
    copied.output[:] = [f"{name}{suffix}" for name in node.output]
    return copied


class DisturbanceMeter:
    """Adds up differences.

    Args:
        spikes: names of tensors of spikes; all others are raw outputs.
    """

    def __init__(self, spikes: Sequence[str]) -> None:
        self._spikes = set(spikes)
        self._flips = self._fired = 0
        self._error = self._size = 0.0

    def add(self, name: str, exact: Array, got: Array) -> None:
        """Count a tensor of a window, called `name` in the exact network."""
        if name in self._spikes:
            self._flips += int(np.count_nonzero(exact != got))
            self._fired += int(np.count_nonzero(exact))
        else:
            self._error += float(np.abs(exact - got).sum(dtype=np.float64))
            self._size += float(np.abs(exact).sum(dtype=np.float64))

    @property
    def changed(self) -> int:
        """Spikes that differ."""
        return self._flips

    def disturbance(self) -> Disturbance:
        """Return what was counted."""
        return Disturbance(
            self._flips / self._fired if self._fired else None,
            self._error / self._size if self._size else None,
        )
