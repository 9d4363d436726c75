"""The weighted layers of a network, as a chip that adds one weight per spike would run them.

A norm in front of a convolution is folded into it there (`snn_perception.fold`), so such a pair counts as one
convolution over the spikes that enter the norm; unfolded, its input would be no spikes at all.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from snn_perception.fold import Foldable, Fusable

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
WEIGHTED = (*_CONVOLUTIONS, *_TRANSPOSED, nn.Linear)


@dataclass(eq=False)
class WeightedLayer:
    """A layer whose work is counted.

    Attributes:
        module: the module of the network whose input is looked at.
        layer: the convolution or linear layer that it amounts to.
    """

    module: nn.Module
    layer: Any

    def __post_init__(self) -> None:
        self._uses: dict[tuple[int, ...], Tensor] = {}

    def dense(self, x: Tensor, y: Tensor) -> int:
        """Return the multiply-accumulates from input x to output y, one per weight and place where it is applied."""
        if isinstance(self.layer, _TRANSPOSED):  # weight [C_in, C_out / groups, ...]: an input spreads to so many
            return int(x.numel() * self.layer.weight[0].numel())
        return int(y.numel() * self.layer.weight[0].numel())  # weight [C_out, C_in / groups, ...]

    def caused(self, amounts: Tensor, steps: int) -> Tensor:
        """Return for each row the operations that amounts [steps * rows, C, ...] at the input cause, float64 [rows].

        An input takes part at every place of the kernel that lies inside the output, for every output channel.
        """
        if isinstance(self.layer, nn.Linear):
            rows = amounts.unflatten(0, (steps, -1)).transpose(0, 1).flatten(1)
            return rows.sum(dim=1, dtype=torch.float64) * self.layer.out_features
        per_place = amounts.sum(dim=1).double().unflatten(0, (steps, -1)).sum(dim=0)  # [rows, ...]
        uses = self._uses_of(tuple(amounts.shape[2:]), amounts.device)
        return (per_place * uses).flatten(1).sum(dim=1) * self._outputs_per_input()

    def _outputs_per_input(self) -> int:
        if isinstance(self.layer, _TRANSPOSED):
            return int(self.layer.weight.shape[1])
        return int(self.layer.out_channels // self.layer.groups)

    def _uses_of(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Return how often the kernel touches each place of an input of this shape, float64."""
        if shape not in self._uses:
            self._uses[shape] = _uses(self.layer, shape).to(device)
        return self._uses[shape]


def weighted_layers(network: nn.Module) -> dict[str, WeightedLayer]:
    """Return the weighted layers of a network by name; those inside one that folds to a single one are part of it."""
    found: dict[str, WeightedLayer] = {}
    _collect(network, "", found, set())
    return found


def _collect(module: nn.Module, name: str, found: dict[str, WeightedLayer], known: set[nn.Module]) -> None:
    if module in known:  # a layer that several parts share counts under its first name
        return
    known.add(module)
    if isinstance(module, WEIGHTED):
        found[name] = WeightedLayer(module, module)
        return
    if isinstance(module, Fusable):
        found[name] = WeightedLayer(module, module.fused())
        return
    if isinstance(module, Foldable) and isinstance(folded := module.folded(), WEIGHTED):
        found[name] = WeightedLayer(module, folded)
        return
    for child_name, child in module.named_children():
        _collect(child, f"{name}.{child_name}" if name else child_name, found, known)


def _uses(layer: Any, shape: tuple[int, ...]) -> Tensor:
    """Return d(sum of outputs)/d(input) of a convolution of one channel with all weights 1: its uses of each place."""
    one = copy.copy(layer)  # geometry as it is, other weights; its hooks are passed by
    kernel = torch.ones((1, 1, *layer.weight.shape[2:]), dtype=torch.float64)
    one.__dict__ = {**layer.__dict__, "_parameters": {"weight": kernel, "bias": None}}
    one.groups = one.in_channels = one.out_channels = 1
    with torch.enable_grad():
        x = torch.zeros((1, 1, *shape), dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(one.forward(x).sum(), x)
    return gradient[0, 0].detach()
