"""Integrate-and-fire with stochastic release: a whole plugin for snn_perception."""

import torch
from spikingjelly.activation_based.surrogate import Sigmoid
from torch import Tensor, nn

from snn_perception.api import Component, Spike, State, hookimpl, membrane


@hookimpl
def snn_neurons() -> list[Component]:
    return [Component("quantal", Quantal, "integrate-and-fire with stochastic release")]


class Quantal(nn.Module):
    """In training each current arrives with probability `release`, in evaluation its mean does; no leak, soft reset."""

    def __init__(self, *, release: float = 0.8, v_threshold: float = 1.0) -> None:
        super().__init__()
        if not 0 < release <= 1:
            raise ValueError(f"release must be a probability above 0, got {release}")
        self.release, self.v_threshold, self.spike = release, v_threshold, Spike(Sigmoid(alpha=4.0))

    def forward(self, current: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Return spikes [T, B, ...] and the membrane [B, ...] after the last step."""
        v, spikes = membrane(state, current), []
        for x in current.to(v.dtype):
            v = v + x * (torch.rand_like(x) < self.release if self.training else self.release)
            spikes.append(self.spike(v, self.v_threshold))
            v = v - spikes[-1] * self.v_threshold
        return torch.stack(spikes).to(current.dtype), v
