"""The gated recurrent cell of EAS-SNN's samplers: its convolutions, its spike and its steps.

Reference: Wang et al., "EAS-SNN: End-to-End Adaptive Sampling and Representation for Event-based Detection with
Recurrent Spiking Neural Networks", ECCV 2024, arXiv 2403.12574, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from snn_perception.api import membrane_dtype

from .thin_conv import ThinConv

HALF_WIDTH = 0.5  # of the rectangle that stands in for the spike's gradient


class Steps(NamedTuple):
    """One step of a cell, all [N, C, ...]: the potential before the reset, the spikes, the potential after it."""

    u: Tensor
    s: Tensor
    v: Tensor


class StrictSpike(nn.Module):
    """Fires where the potential exceeds the threshold, equality excluded.

    In training its gradient is a rectangle: 1 where the potential is less than 0.5 from the threshold, else 0. In
    evaluation it is the plain comparison.
    """

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, u: Tensor) -> Tensor:
        """Return spikes, 0 or 1 in the dtype of `u`."""
        if self.training:
            return _Rectangle.apply(u - self.threshold)  # type: ignore[no-any-return, no-untyped-call]
        return (u > self.threshold).to(u.dtype)

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}"


class _Rectangle(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, distance: Tensor) -> Tensor:
        ctx.save_for_backward(distance)
        return (distance > 0).to(distance.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (distance,) = ctx.saved_tensors
        return gradients[0] * (distance.abs() < HALF_WIDTH)


def reset_after(u: Tensor, s: Tensor, reset: float | None, threshold: float) -> Tensor:
    """Return the potential after spikes: set to `reset` where they are, or less by the threshold if it is None."""
    if reset is None:
        return torch.sub(u, s, alpha=threshold)
    v = torch.addcmul(u, u, s, value=-1)  # u (1 - s) in one pass
    return torch.add(v, s, alpha=reset) if reset else v


def gated_steps(
    currents: Tensor, gate_conv: Callable[[Tensor], Tensor], fire: StrictSpike, reset: float | None
) -> Iterator[Steps]:
    """Yield the steps of a gated cell that starts at rest.

    The spikes of the step before come back through `gate_conv`. With its output added, the first half of the currents'
    channels is the gate ``g`` and the second the current ``c``: ``u = sigmoid(g) v + c``, a leak that the data choose
    for every pixel; ``s = [u > threshold]``. Gradients run through all of it, the reset included.

    Args:
        currents: [T, N, 2 C, ...], one step after the other.
        gate_conv: spikes [N, C, ...] -> [N, 2 C, ...].
    """
    units = currents.shape[2] // 2
    dtype = membrane_dtype(currents)
    s = torch.zeros_like(currents[0, :, :units])
    v = None
    for current in currents:
        both = current.to(dtype) + gate_conv(s.to(currents.dtype))
        gate, drive = both[:, :units], both[:, units:]
        u = drive if v is None else torch.addcmul(drive, gate.sigmoid(), v)
        s = fire(u)
        v = reset_after(u, s, reset, fire.threshold)
        yield Steps(u, s, v)


def conv_stack(in_channels: int, out_channels: int, ksize: int, depth: int) -> nn.Sequential:
    """Return `depth` convolutions with ReLU between them and none after the last; all but the first keep the width."""
    layers: list[nn.Module] = [ThinConv(in_channels, out_channels, ksize)]
    for _ in range(depth - 1):
        layers += [nn.ReLU(inplace=True), ThinConv(out_channels, out_channels, ksize)]
    return nn.Sequential(*layers)


def start_input_stack(stack: nn.Module) -> None:
    """Give a stack fed with events its published initial weights: orthogonal, with the gain of a ReLU."""
    for layer in stack.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.orthogonal_(layer.weight, nn.init.calculate_gain("relu"))


def start_gate_stack(stack: nn.Module) -> None:
    """Give a stack fed with spikes its published initial weights: Kaiming uniform, with the gain of a sigmoid."""
    for layer in stack.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="sigmoid")


def logit(share: float) -> float:
    """Return the parameter whose sigmoid is `share`."""
    return math.log(share / (1.0 - share))
