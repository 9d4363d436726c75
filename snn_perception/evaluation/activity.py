"""What goes on in a network while it runs: spikes of every neuron layer, and operations that its inputs really cause.

An `ActivityMeter` hooks into a detector only while it is entered, changes nothing in it, and counts each batch row by
itself, so that the rows may belong to different recordings.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from snn_perception.detector import Detector
from snn_perception.evaluation.layers import WeightedLayer, weighted_layers
from snn_perception.testing import spiking_layers
from snn_perception.types import EventArray, EventWindow

_PROBE_SHARE = 0.1  # of the probe's input that is not zero


@dataclass(frozen=True)
class LayerSpikes:
    """Outputs of one spiking layer: how many came, how many were not zero, and their sum."""

    fired: int = 0
    outputs: int = 0
    total: float = 0.0

    def __add__(self, other: LayerSpikes) -> LayerSpikes:
        return LayerSpikes(self.fired + other.fired, self.outputs + other.outputs, self.total + other.total)


@dataclass(frozen=True)
class LayerInput:
    """What one weighted layer got, and what that made it do.

    Attributes:
        dense: multiply-accumulates as if no input were zero.
        effective: of these, those whose input is not zero and whose kernel lies inside the input.
        weighted: the same, each counted as often as its input says (an integer spike of 3 is three spikes).
        is_binary, is_whole: whether every input was 0 or 1, or a whole number of at least 0.
        cells, fired, total: inputs that came, how many of them were not zero, and their sum.
    """

    dense: int = 0
    effective: int = 0
    weighted: float = 0.0
    is_binary: bool = True
    is_whole: bool = True
    cells: int = 0
    fired: int = 0
    total: float = 0.0

    def __add__(self, other: LayerInput) -> LayerInput:
        return LayerInput(
            self.dense + other.dense,
            self.effective + other.effective,
            self.weighted + other.weighted,
            self.is_binary and other.is_binary,
            self.is_whole and other.is_whole,
            self.cells + other.cells,
            self.fired + other.fired,
            self.total + other.total,
        )


@dataclass(frozen=True)
class Activity:
    """Counts over some windows of one or more recordings; they add up.

    Attributes:
        windows: how many.
        spikes, inputs: by the layer's name, in the order in which the layers run.
    """

    windows: int = 0
    spikes: Mapping[str, LayerSpikes] = field(default_factory=dict)
    inputs: Mapping[str, LayerInput] = field(default_factory=dict)

    def __add__(self, other: Activity) -> Activity:
        return Activity(
            self.windows + other.windows,
            _summed(self.spikes, other.spikes, LayerSpikes()),
            _summed(self.inputs, other.inputs, LayerInput()),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "windows": self.windows,
            "spikes": {name: list(vars(one).values()) for name, one in self.spikes.items()},
            "inputs": {name: list(vars(one).values()) for name, one in self.inputs.items()},
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Activity:
        """Return what `as_dict` gave."""
        return Activity(
            values["windows"],
            {name: LayerSpikes(*row) for name, row in values["spikes"].items()},
            {name: LayerInput(*row) for name, row in values["inputs"].items()},
        )


def _summed(a: Mapping[str, Any], b: Mapping[str, Any], nothing: Any) -> dict[str, Any]:
    return {name: a.get(name, nothing) + b.get(name, nothing) for name in dict.fromkeys((*a, *b))}


class ActivityMeter:
    """Counts what a detector's layers do while it is entered.

    Example::

        with ActivityMeter(detector) as meter:
            meter.expect(1)
            raw, state = detector(x, state)
            (counts,) = meter.take()

    Attributes:
        input_layers: names of the weighted layers that run before anything spikes: they see the representation.
    """

    def __init__(self, detector: Detector) -> None:
        self._spiking, self._weighted, self.input_layers = _find_layers(detector)
        self._handles: list[Any] = []
        self._seen: list[tuple[str, bool, Tensor]] = []  # name, whether a neuron, one row of counts for each batch row
        self._rows = 1
        self._values = _Values()

    def __enter__(self) -> ActivityMeter:
        for name, layer in self._spiking.items():
            self._handles.append(layer.register_forward_hook(self._spike_hook(name)))
        for name, unit in self._weighted.items():
            self._handles.append(unit.module.register_forward_hook(self._input_hook(name, unit)))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._seen.clear()
        self._values.clear()

    def expect(self, rows: int) -> None:
        """Say how many batch rows the next passes have."""
        self._rows = rows

    def take(self) -> list[Activity]:
        """Return what each batch row did in the window since the last call, and begin anew."""
        seen, self._seen = self._seen, []
        self._values.clear()
        numbers = torch.stack([counts for _, _, counts in seen]).tolist() if seen else []
        result = []
        for row in range(self._rows):
            spikes: dict[str, LayerSpikes] = {}
            inputs: dict[str, LayerInput] = {}
            for (name, is_neuron, _), counts in zip(seen, numbers, strict=True):
                if is_neuron:
                    fired, outputs, total = counts[row][:3]
                    spikes[name] = spikes.get(name, LayerSpikes()) + LayerSpikes(int(fired), int(outputs), total)
                else:
                    inputs[name] = inputs.get(name, LayerInput()) + _layer_input(counts[row])
            result.append(Activity(1, spikes, inputs))
        return result

    def _spike_hook(self, name: str) -> Any:
        def count(module: nn.Module, args: Any, output: Any) -> None:
            spikes = output[0].detach()
            rows = spikes.transpose(0, 1).flatten(1)  # [B, ...] of [T, B, ...]
            total = rows.sum(dim=1).double()
            fired = total if self._values.are_binary(spikes) else torch.count_nonzero(rows, dim=1).double()
            ones = torch.ones_like(total)
            columns = [fired, ones * rows.shape[1], total, *[torch.zeros_like(total)] * 5]
            self._seen.append((name, True, torch.stack(columns, dim=1)))

        return count

    def _input_hook(self, name: str, unit: WeightedLayer) -> Any:
        def count(module: nn.Module, args: Any, output: Any) -> None:
            x = args[0].detach()
            steps, rest = divmod(len(x), self._rows)
            if rest:
                raise ValueError(
                    f"layer '{name}' got {len(x)} images for {self._rows} rows: its first axis is not time and rows; "
                    "measure one row at a time"
                )
            is_binary = self._values.are_binary(x)
            is_whole = is_binary or bool(((x == x.round()) & (x >= 0)).all())
            effective = unit.caused(x if is_binary else (x != 0).to(x.dtype), steps)
            weighted = effective if is_binary else unit.caused(x.abs(), steps)
            ones = torch.ones_like(effective)
            dense = unit.dense(x, output) // self._rows
            total = _sums(x, steps)
            fired = total if is_binary else _sums(x != 0, steps)
            cells = x.numel() // self._rows
            columns = [ones * dense, effective, weighted, ones * is_binary, ones * is_whole, ones * cells, fired, total]
            self._seen.append((name, False, torch.stack(columns, dim=1)))

        return count


def _layer_input(counts: Sequence[float]) -> LayerInput:
    dense, effective, weighted, is_binary, is_whole, cells, fired, total = counts
    return LayerInput(
        int(dense), int(effective), weighted, bool(is_binary), bool(is_whole), int(cells), int(fired), total
    )


def _sums(x: Tensor, steps: int) -> Tensor:
    """Return for each row the sum of x [steps * rows, ...], float64 [rows]."""
    return x.flatten(1).sum(dim=1, dtype=torch.float64).unflatten(0, (steps, -1)).sum(dim=0)


class _Values:
    """Which tensors of the pass under way hold nothing but 0 and 1; many layers see the same one.

    Tensors are held until `clear`, so that their place in memory stands for them.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], tuple[Tensor, bool]] = {}

    def clear(self) -> None:
        self._known.clear()

    def are_binary(self, x: Tensor) -> bool:
        """Return whether every value is 0 or 1."""
        key = (x.data_ptr(), x.numel())
        if key not in self._known or not x.is_contiguous():
            self._known[key] = (x, _are_binary(x))
        return self._known[key][1]


def _are_binary(x: Tensor) -> bool:
    """Return whether every value is 0 or 1, by three quick passes where it is so.

    In [0, 1] a square is no larger than its value, and equal only for 0 and 1; sums of these are exact.
    """
    if not x.numel():
        return True
    low, high = torch.aminmax(x)
    if low < 0 or high > 1:
        return False
    flat = x.reshape(-1)
    return bool(flat.sum() == torch.dot(flat, flat)) or bool(((x == 0) | (x == 1)).all())


@torch.no_grad()
def _find_layers(
    detector: Detector,
) -> tuple[dict[str, nn.Module], dict[str, WeightedLayer], tuple[str, ...]]:
    """Return the spiking and the weighted layers in the order in which they run, and which see the representation."""
    x = probe(detector)
    spiking = spiking_layers(detector, x)
    weighted = weighted_layers(detector)
    order: list[str] = []
    handles = [
        layer.register_forward_hook(lambda module, args, output, name=name: order.append(name))
        for name, layer in {**spiking, **{name: unit.module for name, unit in weighted.items()}}.items()
    ]
    try:
        detector(x, None)
    finally:
        for handle in handles:
            handle.remove()
    first = next((at for at, name in enumerate(order) if name in spiking), len(order))
    ran = dict.fromkeys(order)
    return (
        {name: spiking[name] for name in ran if name in spiking},
        {name: weighted[name] for name in ran if name in weighted},
        tuple(name for name in dict.fromkeys(order[:first]) if name in weighted),
    )


def probe(detector: Detector) -> Tensor:
    """Return an input [T, 1, C, H, W] of few ones at fixed random places, of the shape that a window has."""
    spec = detector.spec
    shape = detector.represent(EventWindow(EventArray.empty(spec.sensor_size), 0, spec.window_us)).shape
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(shape, generator=generator) < _PROBE_SHARE).to(detector.dtype)
    return x.to(detector.device)


def merged(activities: Sequence[Activity]) -> Activity:
    """Return the sum of counts."""
    return reduce(operator.add, activities, Activity())
