"""A neuron that is none: a plugin that makes any network of ours dense, to train the CNN of the same shape.

    python -m snn_perception train --plugin tools/dense_neuron.py --set model.overrides.neuron=relu ...

It is the upper rung of a synthetic set's sanity ladder (docs/synthetic.md): what the layers reach when they pass real
numbers on in place of spikes, and remember nothing.
"""

import torch
from torch import Tensor, nn

from snn_perception.api import Component, State, hookimpl


@hookimpl
def snn_neurons() -> list[Component]:
    return [Component("relu", ReLU, "no neuron: the positive part of the current, without spikes, time or state")]


class ReLU(nn.Module):
    """``max(current, 0)`` of every step by itself. Rest is the only state it has."""

    def forward(self, current: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Return the positive part of the current [T, B, ...], and rest."""
        return torch.relu(current), None
