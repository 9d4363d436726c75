"""Operations of one window, dense and as the spikes really cause them, and the bytes that move.

The folded graph is counted (`layers`). A layer whose inputs are all 0 or 1 only adds weights: one accumulate (AC) for
each non-zero input at each place of the kernel inside the output, borders included. A layer behind neurons that fire
whole numbers adds a weight that many times. Any other layer multiplies (MAC), and so does one that sees a
representation of counts; its MACs are given dense and without those whose input is zero.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from snn_perception.detector import Detector
from snn_perception.evaluation.activity import Activity, LayerInput, probe
from snn_perception.state import named_leaves

InputKind = Literal["binary", "integer", "analog"]


@dataclass(frozen=True)
class LayerOperations:
    """Operations of one weighted layer in one window, on the average.

    Attributes:
        input: ``binary`` (0 or 1), ``integer`` (spikes of several levels) or ``analog``.
        sees_representation: it runs before anything spikes.
        dense: multiply-accumulates as if no input were zero.
        effective: those whose input is not zero; integer spikes as often as they say.
        input_rate: share of its inputs that are not zero.
        input_mean: of its inputs. Behind neurons that fire whole numbers these are the spikes of a cell, over all
            binary steps of a spiking machine.
    """

    input: InputKind
    sees_representation: bool
    dense: int
    effective: float
    input_rate: float = 0.0
    input_mean: float = 0.0

    @property
    def is_accumulate(self) -> bool:
        """Whether the layer adds weights and multiplies nothing."""
        return self.input != "analog"

    @property
    def operation(self) -> Literal["AC", "MAC"]:
        """What it does for each input: adds a weight, or multiplies and adds."""
        return "AC" if self.is_accumulate else "MAC"


@dataclass(frozen=True)
class Operations:
    """Operations and bytes of one window of one stream.

    Attributes:
        layers: by name, in the order in which they run.
        neuron_updates: neuron outputs, over all time steps.
        state_bytes: of the membranes that a stream carries. weight_bytes: of all parameters.
        graph: which graph was counted.
    """

    layers: dict[str, LayerOperations]
    neuron_updates: int
    state_bytes: int
    weight_bytes: int
    graph: str = "folded: norms are part of the convolution behind them"

    @property
    def dense_macs(self) -> int:
        """Multiply-accumulates of all layers as if no input were zero."""
        return sum(layer.dense for layer in self.layers.values())

    @property
    def acs(self) -> float:
        """Effective accumulates of the layers that see spikes."""
        return sum(layer.effective for layer in self.layers.values() if layer.is_accumulate)

    @property
    def analog_macs(self) -> int:
        """Dense multiply-accumulates of the layers that see analog values."""
        return sum(layer.dense for layer in self.layers.values() if not layer.is_accumulate)

    @property
    def effective_macs(self) -> float:
        """Multiply-accumulates of the layers that see analog values whose input is not zero."""
        return sum(layer.effective for layer in self.layers.values() if not layer.is_accumulate)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "graph": self.graph,
            "dense_macs": self.dense_macs,
            "effective_acs": self.acs,
            "analog_macs": self.analog_macs,
            "effective_analog_macs": self.effective_macs,
            "neuron_updates": self.neuron_updates,
            "state_bytes": self.state_bytes,
            "weight_bytes": self.weight_bytes,
            "layers": {name: {**asdict(layer), "operation": layer.operation} for name, layer in self.layers.items()},
        }


def operations_of(activity: Activity, detector: Detector, input_layers: tuple[str, ...]) -> Operations:
    """Return the operations of the average window in counts of a detector's activity.

    Args:
        input_layers: names of the layers that see the representation (`ActivityMeter.input_layers`).
    """
    windows = max(activity.windows, 1)
    layers = {name: _layer(one, name in input_layers, windows) for name, one in activity.inputs.items()}
    updates = sum(one.outputs for one in activity.spikes.values()) // windows
    weights = sum(parameter.numel() * parameter.element_size() for parameter in detector.parameters())
    return Operations(layers, updates, _state_bytes(detector), weights)


def _layer(one: LayerInput, sees_representation: bool, windows: int) -> LayerOperations:
    kind: InputKind = "analog"
    if one.is_binary:
        kind = "binary"
    elif one.is_whole and not sees_representation:  # a representation of whole numbers holds counts, not spikes
        kind = "integer"
    effective = one.weighted if kind == "integer" else one.effective
    cells = max(one.cells, 1)
    return LayerOperations(
        kind, sees_representation, one.dense // windows, effective / windows, one.fired / cells, one.total / cells
    )


def _state_bytes(detector: Detector) -> int:
    import torch

    if detector.spec.state_policy != "carry":
        return 0
    with torch.no_grad():
        _, state = detector(probe(detector), None)
    return sum(leaf.numel() * leaf.element_size() for _, leaf in named_leaves(state))
