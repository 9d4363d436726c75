"""What a model costs, counted on the built network: parameters, state, and dense operations of one window.

The dense operations are those of the literature's ACC per time step (Cordone, PhD thesis, 2022): the
multiply-accumulates of every convolution and linear layer as if no input were zero, and one operation for each output
of a neuron. Biases and norms are not counted. How many of them a sparse input really needs is another figure.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from snn_perception.detector import Detector
from snn_perception.fold import Fusable, fuse_layers
from snn_perception.state import State, count_elements
from snn_perception.types import EventArray, EventWindow

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_WEIGHTED = (*_CONVOLUTIONS, *_TRANSPOSED, nn.Linear)


@dataclass(frozen=True)
class LayerCost:
    """Operations of one layer in one window; `is_neuron` tells neuron outputs from multiply-accumulates."""

    name: str
    operations: int
    is_neuron: bool


@dataclass(frozen=True)
class ModelCost:
    """Costs of a model.

    Attributes:
        parameters: numbers in the network that training can change.
        state_elements: numbers that one stream carries from window to window.
        layers: in the order in which they ran; those that never ran are not among them.
    """

    parameters: int
    state_elements: int
    layers: tuple[LayerCost, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one window."""
        return sum(layer.operations for layer in self.layers if not layer.is_neuron)

    @property
    def neuron_outputs(self) -> int:
        """Neuron outputs of one window."""
        return sum(layer.operations for layer in self.layers if layer.is_neuron)

    @property
    def dense_operations(self) -> int:
        """Multiply-accumulates and neuron outputs of one window."""
        return self.macs + self.neuron_outputs


def cost_of(detector: Detector) -> ModelCost:
    """Return what one window of one stream costs, found by watching the layers run on an empty window.

    Neurons are the innermost modules without weighted layers that turn ``(current, state)`` into ``(spikes, state)`` of
    the same shape. Layers that a module applies as plain functions, without a module of their own, are not seen.
    """
    spec = detector.spec
    x = detector.represent(EventWindow(EventArray.empty(spec.sensor_size), 0, spec.window_us))
    try:  # shapes alone tell the cost, and the large models take seconds to compute
        layers, state = _watch(copy.deepcopy(detector).to("meta"), x.to("meta", detector.dtype))
    except (NotImplementedError, RuntimeError):  # an operation that needs the values
        layers, state = _watch(detector, x.to(detector.device, detector.dtype))
    parameters = sum(parameter.numel() for parameter in detector.parameters())
    return ModelCost(parameters, count_elements(state), layers)


def fused_cost_of(detector: Detector) -> ModelCost | None:
    """Return what a window costs where every re-parameterised layer runs as the one convolution that it equals.

    That is the network that a machine which adds one weight per spike runs, and that published figures count. In its
    parts such a layer takes fewer operations. None for a model without such layers.
    """
    if not any(isinstance(part, Fusable) for part in detector.modules()):
        return None
    return cost_of(fuse_layers(copy.deepcopy(detector).to("meta")))


@torch.no_grad()
def _watch(network: nn.Module, x: Tensor) -> tuple[tuple[LayerCost, ...], State]:
    """Return the operations of every layer that runs on x [T, B, C, H, W], and the state after it."""
    names = {module: name for name, module in network.named_modules()}
    operations: dict[nn.Module, int] = {}

    def watch(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, _WEIGHTED):
            operations[module] = operations.get(module, 0) + _macs(module, inputs[0], output)
        elif _looks_like_neuron(inputs, output) and not any(part in operations for part in _inside(module)):
            operations[module] = operations.get(module, 0) + output[0].numel()

    handles = [module.register_forward_hook(watch) for module in names]
    try:
        _, state = network(x, None)
    finally:
        for handle in handles:
            handle.remove()
    layers = (LayerCost(names[module], n, not isinstance(module, _WEIGHTED)) for module, n in operations.items())
    return tuple(layers), state


def _inside(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if part is not module]


def _macs(module: nn.Module, x: Tensor, y: Tensor) -> int:
    """Return the multiply-accumulates of a weighted layer: one per weight and place where it is applied."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    if isinstance(module, _TRANSPOSED):  # weight [C_in, C_out / groups, ...]: each input spreads to so many outputs
        return x.numel() * weight[0].numel()
    return y.numel() * weight[0].numel()  # weight [C_out, C_in / groups, ...]


def _looks_like_neuron(inputs: tuple[Any, ...], output: Any) -> bool:
    if not (inputs and isinstance(inputs[0], Tensor) and isinstance(output, tuple) and len(output) == 2):
        return False
    return isinstance(output[0], Tensor) and output[0].shape == inputs[0].shape
