"""What the network is made of: units of convolution, norm and neuron (or SiLU), and YOLOX's blocks of them.

Modules take and give [T, B, C, H, W] with a `Membranes`, which hands every neuron its part of the state in the order
in which they run. Everything without a neuron sees all steps at once, as [T * B, C, H, W].
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d, silu

from snn_perception.api import NeuronFactory, State, beside, convolution, fold_time, parts_of

NORM_EPS, NORM_MOMENTUM = 1e-3, 0.03
FOCUS = 4  # blocks of 2x2 pixels become so many times the channels


class Membranes:
    """The membranes of one call: those before it, taken one after the other, and those after it."""

    def __init__(self, state: State, count: int) -> None:
        """Start from the state of `count` neurons.

        Raises:
            ValueError: if it is of another number of neurons.
        """
        self._before = iter(parts_of(state, count))
        self._after: list[State] = []

    def fire(self, neuron: nn.Module, current: Tensor) -> Tensor:
        """Return the spikes [T, B, ...] of the next neuron."""
        spikes, after = neuron(current, next(self._before))
        self._after.append(after)
        return spikes  # type: ignore[no-any-return]

    def after(self) -> State:
        """Return the state of the neurons that have fired; None, which is rest, if there are none."""
        return tuple(self._after) or None


def count_neurons(module: nn.Module) -> int:
    """Return how many units of a network spike."""
    return sum(isinstance(unit, (ConvUnit, FoldedUnit)) and unit.neuron is not None for unit in module.modules())


class ConvUnit(nn.Module):
    """Convolution without bias, batch norm, and a neuron; without `neuron`, SiLU. Padding keeps the size at stride 1.

    In training the norm takes its statistics over time, batch and space.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        neuron: NeuronFactory | None,
        *,
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, (kernel - 1) // 2, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, eps=NORM_EPS, momentum=NORM_MOMENTUM)
        self.neuron = neuron() if neuron is not None else None

    def forward(self, x: Tensor, membranes: Membranes) -> Tensor:
        """Return [T, B, C', H', W'] of x [T, B, C, H, W]."""
        y = fold_time(lambda steps: self.norm(self.conv(steps)), x)
        return silu(y) if self.neuron is None else membranes.fire(self.neuron, y)

    def folded(self) -> FoldedUnit:
        """Return the unit with its norm within the convolution."""
        return FoldedUnit(convolution(*_folded_kernel(self), self.conv), self.neuron)


class FoldedUnit(nn.Module):
    """A unit in evaluation mode: one convolution with a bias, and the neuron or SiLU.

    An input that is the same at every step, a view with no distance between them, is convolved once.
    """

    def __init__(self, conv: nn.Conv2d, neuron: nn.Module | None) -> None:
        super().__init__()
        self.conv, self.neuron = conv, neuron

    def forward(self, x: Tensor, membranes: Membranes) -> Tensor:
        """Return [T, B, C', H', W'] of x [T, B, C, H, W]."""
        steps = len(x)
        y = fold_time(self.conv, x[:1] if same_at_every_step(x) else x)
        y = silu(y) if self.neuron is None else y
        y = y if len(y) == steps else y.expand(steps, *y.shape[1:])
        return y if self.neuron is None else membranes.fire(self.neuron, y)


def same_at_every_step(x: Tensor) -> bool:
    """Return whether x [T, B, ...] is known to hold one step T times: as the view that `Tensor.expand` makes."""
    return len(x) > 1 and x.stride(0) == 0


@torch.no_grad()
def _folded_kernel(unit: ConvUnit) -> tuple[Tensor, Tensor]:
    """Return kernel and bias of the unit's convolution with the norm behind it, computed in float64."""
    norm = unit.norm
    assert norm.running_var is not None and norm.running_mean is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = norm.bias.double() - norm.running_mean.double() * scale
    dtype = unit.conv.weight.dtype
    return (unit.conv.weight.double() * scale[:, None, None, None]).to(dtype), bias.to(dtype)


class Focus(nn.Module):
    """A stem of stride 2: blocks of 2x2 pixels to channels, then a 3x3 unit without a neuron.

    The order of a block is top left, bottom left, top right, bottom right, all channels of each together.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.unit = ConvUnit(FOCUS * in_channels, out_channels, 3, None)

    def forward(self, x: Tensor, membranes: Membranes) -> Tensor:
        """Return [T, B, C', H / 2, W / 2] of x [T, B, C, H, W]."""
        top, bottom = x[..., 0::2, :], x[..., 1::2, :]
        blocks = [top[..., 0::2], bottom[..., 0::2], top[..., 1::2], bottom[..., 1::2]]
        y: Tensor = self.unit(beside(blocks), membranes)
        return y

    def folded(self) -> FoldedUnit:
        """Return one convolution of the pixels, 6x6 of stride 2: the 3x3 of the blocks, each weight in its place."""
        kernel, bias = _folded_kernel(self.unit)
        out_channels, channels = len(kernel), kernel.shape[1] // FOCUS
        # [out, right, bottom, channel, row, column] -> [out, channel, row, bottom, column, right]
        blocks = kernel.view(out_channels, 2, 2, channels, 3, 3).permute(0, 3, 4, 2, 5, 1)
        pixels = blocks.reshape(out_channels, channels, 6, 6)
        return FoldedUnit(convolution(pixels, bias, self.unit.conv, stride=(2, 2), padding=(2, 2)), None)


class InTurn(nn.ModuleList):
    """Layers one after the other."""

    def forward(self, x: Tensor, membranes: Membranes) -> Tensor:
        """Return the last layer's output [T, B, C', H', W'] for x [T, B, C, H, W]."""
        for layer in self:
            x = layer(x, membranes)
        return x


class Bottleneck(nn.Module):
    """A 1x1 and a 3x3 unit of the same width; with `shortcut` the input is added to the spikes (SEW, "add")."""

    def __init__(self, channels: int, neuron: NeuronFactory | None, *, shortcut: bool) -> None:
        super().__init__()
        self.conv1 = ConvUnit(channels, channels, 1, neuron)
        self.conv2 = ConvUnit(channels, channels, 3, neuron)
        self.shortcut = shortcut

    def forward(self, x: Tensor, membranes: Membranes) -> Tensor:
        """Return [T, B, C, H, W]; with a shortcut a sum of spikes, small whole numbers."""
        y: Tensor = self.conv2(self.conv1(x, membranes), membranes)
        return y + x if self.shortcut else y


class CSP(nn.Module):
    """Two 1x1 branches of half the width, bottlenecks on the first, and a 1x1 unit over both (CSPNet)."""

    def __init__(
        self, in_channels: int, out_channels: int, neuron: NeuronFactory | None, *, bottlenecks: int, shortcut: bool
    ) -> None:
        super().__init__()
        hidden = out_channels // 2
        self.conv1 = ConvUnit(in_channels, hidden, 1, neuron)
        self.conv2 = ConvUnit(in_channels, hidden, 1, neuron)
        self.conv3 = ConvUnit(2 * hidden, out_channels, 1, neuron)
        self.m = InTurn(Bottleneck(hidden, neuron, shortcut=shortcut) for _ in range(bottlenecks))

    def forward(self, x: Tensor, membranes: Membranes) -> Tensor:
        """Return [T, B, C', H, W] of x [T, B, C, H, W]."""
        deep = self.conv1(x, membranes)
        flat = self.conv2(x, membranes)
        deep = self.m(deep, membranes)
        return self.conv3(beside([deep, flat]), membranes)  # type: ignore[no-any-return]


class SPP(nn.Module):
    """Spatial pyramid pooling: the maxima of 5x5, 9x9 and 13x13 pixels beside the input, between two 1x1 units."""

    def __init__(self, in_channels: int, out_channels: int, neuron: NeuronFactory | None) -> None:
        super().__init__()
        hidden = in_channels // 2
        self.conv1 = ConvUnit(in_channels, hidden, 1, neuron)
        self.conv2 = ConvUnit(4 * hidden, out_channels, 1, neuron)

    def forward(self, x: Tensor, membranes: Membranes) -> Tensor:
        """Return [T, B, C', H, W] of x [T, B, C, H, W]."""
        maps = [self.conv1(x, membranes)]
        for _ in range(3):  # the maximum of 5x5 of the 5x5 is that of the 9x9
            maps.append(fold_time(lambda y: max_pool2d(y, 5, stride=1, padding=2), maps[-1]))
        return self.conv2(beside(maps), membranes)  # type: ignore[no-any-return]


def enlarged(x: Tensor) -> Tensor:
    """Return x [T, B, C, H, W] with each cell as four."""
    return fold_time(lambda y: interpolate(y, scale_factor=2, mode="nearest"), x)
