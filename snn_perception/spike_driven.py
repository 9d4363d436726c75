"""Integer spikes as a spiking machine runs them: every convolution gets zeros and ones alone, in virtual time steps.

A neuron that fires up to D spikes at once (an integer neuron, with ``max_spikes`` = D) is trained with whole numbers.
On a machine that only adds weights, a number v becomes D virtual steps of which the first v are ones; the D partial
sums of a layer are added, its bias is applied once, and the neuron behind sees the sum. The result is the same, up to
the order of additions (Luo et al., ECCV 2024, sec. 3.3).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from snn_perception.errors import SpecError
from snn_perception.fold import fuse_layers
from snn_perception.state import State

Model = TypeVar("Model", bound=nn.Module)
_WEIGHTED = (nn.Conv2d, nn.Linear)


def spike_driven(model: Model, x: Tensor) -> Model:
    """Return a copy of a model, in evaluation mode, whose layers behind neurons see binary spikes alone.

    Norms and re-parameterised convolutions are fused first, so that each such layer is one convolution. It takes the
    same inputs and states and gives the same outputs as the model in evaluation mode, at the price of as many passes of
    every convolution as a neuron has spikes: it is for proof and for counting, not for speed. Whoever counts what goes
    into `BinarySteps.layer` counts the spikes of the machine.

    Example::

        x = detector.represent(window)
        twin = spike_driven(detector, x)
        detections, state = twin.infer(x, state)

    Args:
        model: ``(x, state) -> (output, state)``.
        x: an input [T, B, C, H, W] that makes its neurons fire, to see which layers are behind neurons.

    Raises:
        SpecError: if the model has no integer neuron, or some neuron fires nothing on `x`.
    """
    most = max((_spikes_of(module) for module in model.modules()), default=0)
    if most < 1:
        raise SpecError("spike_driven: expected neurons with an attribute max_spikes, got a model without any")
    twin = fuse_layers(model)
    for name in _layers_behind_neurons(twin, x, most):
        parent, _, leaf = name.rpartition(".")
        setattr(twin.get_submodule(parent), leaf, BinarySteps(twin.get_submodule(name), most))
    return twin.eval()


class BinarySteps(nn.Module):
    """A convolution or linear layer that sees whole numbers of spikes as so many binary steps.

    Attributes:
        layer: the same without its bias; it runs once for each virtual step, on zeros and ones.
    """

    layer: Any
    bias: Tensor | None

    def __init__(self, layer: nn.Module, max_spikes: int) -> None:
        super().__init__()
        self.layer = copy.deepcopy(layer)
        self.bias = self.layer.bias
        self.layer.bias = None
        self.max_spikes = max_spikes

    def forward(self, spikes: Tensor) -> Tensor:
        """Return what the layer makes of spikes [N, C, ...], whole numbers from 0 to `max_spikes`.

        Raises:
            ValueError: for any other input, which binary steps cannot hold.
        """
        if not _are_spikes(spikes, self.max_spikes):
            raise ValueError(f"expected whole numbers of spikes from 0 to {self.max_spikes} in every place")
        total: Tensor | None = None
        for step in binary_steps(spikes, self.max_spikes):
            part = self.layer(step)
            total = part if total is None else total + part
        assert total is not None
        if self.bias is None:
            return total
        return total + (self.bias if isinstance(self.layer, nn.Linear) else self.bias[:, None, None])


def binary_steps(spikes: Tensor, max_spikes: int) -> Iterator[Tensor]:
    """Yield `max_spikes` binary tensors whose sum is `spikes`: where it is v, the first v are 1."""
    for step in range(max_spikes):
        yield (spikes > step).to(spikes.dtype)


def _spikes_of(module: nn.Module) -> int:
    found = getattr(module, "max_spikes", 0)
    return found if isinstance(found, int) else 0


def _are_spikes(x: Tensor, most: int) -> bool:
    low, high = torch.aminmax(x)
    return bool((low >= 0) & (high <= most) & (x == x.round()).all())


@torch.no_grad()
def _layers_behind_neurons(model: nn.Module, x: Tensor, most: int) -> list[str]:
    """Return the names of the weighted layers whose input is spikes: whole numbers, after the first neuron has run."""
    names = {module: name for name, module in model.named_modules()}
    fired: dict[str, bool] = {}
    behind: dict[str, bool] = {}

    def watch(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        name = names[module]
        if _spikes_of(module):
            fired[name] = fired.get(name, False) or bool(output[0].any())
        elif isinstance(module, _WEIGHTED):
            behind[name] = behind.get(name, True) and bool(fired) and _are_spikes(inputs[0], most)

    handles = [module.register_forward_hook(watch) for module in names]
    try:
        state: State = None
        model(x, state)
    finally:
        for handle in handles:
            handle.remove()
    silent = [name for name, has_fired in fired.items() if not has_fired]
    if silent:
        raise SpecError(
            f"spike_driven: {len(silent)} of {len(fired)} neurons fire nothing on the input, first '{silent[0]}'"
        )
    return [name for name, is_behind in behind.items() if is_behind]
