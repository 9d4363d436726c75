"""The blocks of the network (Luo et al., SpikeYOLO, ECCV 2024, sec. 3.2): chains of neurons and convolutions.

In every branch the neuron comes first, and shortcuts add membrane potentials ("membrane shortcut").
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from snn_perception.api import Chain, NeuronFactory, State, beside, fold_time, parts_of

from .units import ConvNorm, Plain, RepConv, Residual, SeparableConv, SpikingConv

_EXPANSION = 2  # of the separable branch, fixed in the paper
_POOL = 5


def standard_conv(channels: int, out: int, kernel: int, neuron: NeuronFactory, *, stride: int = 1) -> SpikingConv:
    """Return neuron, convolution and norm, with half the kernel's size of padding."""
    return SpikingConv(neuron(), ConvNorm(channels, out, kernel, stride=stride))


def stem(channels: int, out: int) -> Plain:
    """Return the first layer, which sees the real-valued image: 7x7, stride 4, padding 2, with a bias."""
    return Plain(ConvNorm(channels, out, 7, stride=4, padding=2, bias=True))


def down(channels: int, out: int, neuron: NeuronFactory) -> SpikingConv:
    """Return a layer of half the resolution: neuron, 3x3 convolution of stride 2 with a bias, norm."""
    return SpikingConv(neuron(), ConvNorm(channels, out, 3, stride=2, bias=True))


def separable_branch(channels: int, neuron: NeuronFactory, kernel: int = 7) -> Residual:
    """Return ``x + SepConv(x)``: 1x1 to twice the channels, depthwise, and a separable convolution back."""
    middle = _EXPANSION * channels
    return Residual(
        [
            SpikingConv(neuron(), ConvNorm(channels, middle, 1)),
            SpikingConv(neuron(), ConvNorm(middle, middle, kernel, groups=middle)),
            SpikingConv(neuron(), SeparableConv(middle, channels)),
        ]
    )


def block_1(channels: int, neuron: NeuronFactory, *, ratio: int = 4) -> Chain:
    """Return SNN block 1 ("all-convolution"): the separable branch, then two 3x3 convolutions with a shortcut."""
    hidden = channels * ratio
    mixer = [standard_conv(channels, hidden, 3, neuron), standard_conv(hidden, channels, 3, neuron)]
    return Chain([separable_branch(channels, neuron), Residual(mixer)])


def block_2(channels: int, neuron: NeuronFactory, *, ratio: int) -> Chain:
    """Return SNN block 2 ("re-parameterisation"): the separable branch, then two RepConvs with a shortcut."""
    hidden = channels * ratio
    mixer = [SpikingConv(neuron(), RepConv(channels, hidden)), SpikingConv(neuron(), RepConv(hidden, channels))]
    return Chain([separable_branch(channels, neuron), Residual(mixer)])


class SpatialPyramid(nn.Module):
    """Fast spatial pyramid pooling (SPPF): three maxima of 5x5 in a row, on potentials, between two 1x1 units."""

    def __init__(self, channels: int, out: int, neuron: NeuronFactory) -> None:
        super().__init__()
        half = channels // 2
        self.squeeze = standard_conv(channels, half, 1, neuron)
        self.merge = standard_conv(4 * half, out, 1, neuron)

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Return [T, B, C', H, W] of x [T, B, C, H, W], and the state of both units."""
        first, last = parts_of(state, 2)
        x, first = self.squeeze(x, first)
        maps = [x]
        for _ in range(3):
            maps.append(fold_time(_pooled, maps[-1]))
        y, last = self.merge(beside(maps), last)
        return y, (first, last)


def _pooled(x: Tensor) -> Tensor:
    return max_pool2d(x, _POOL, stride=1, padding=_POOL // 2)
