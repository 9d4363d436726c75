"""Convolutions with their norms, and the units of neuron and convolution that every block is a chain of.

All norms have eps 1e-3 and momentum 0.03. A layer that folds becomes plain convolutions for inference (`folded`), and
one single convolution for machines that add a weight per spike (`fused`), both computed in float64 and exact, borders
included.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from snn_perception.api import Chain, PotentialStage, State, convolution, fold_time

NORM_EPS, NORM_MOMENTUM = 1e-3, 0.03


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Return a batch norm as all of these networks have it."""
    return nn.BatchNorm2d(channels, eps=NORM_EPS, momentum=NORM_MOMENTUM)


class ConvNorm(nn.Module):
    """Convolution, then batch norm; padding keeps the size at stride 1 unless it is given."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        at_border = kernel // 2 if padding is None else padding
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, at_border, groups=groups, bias=bias)
        self.norm = batch_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, C', H', W'] of x [N, C, H, W]."""
        y: Tensor = self.norm(self.conv(x))
        return y

    @torch.no_grad()
    def folded(self) -> nn.Conv2d:
        """Return one convolution with a bias that equals this layer in evaluation mode."""
        scale, shift = norm_terms(self.norm)
        bias = shift if self.conv.bias is None else shift + scale * self.conv.bias.double()
        return _convolution(self.conv, self.conv.weight.double() * _per_output(scale), bias)


class BorderNorm(nn.Module):
    """Batch norm, then one pixel of padding that holds what the norm makes of zero ("BN-and-pad").

    A 1x1 convolution without bias before it so acts as if its own input were padded with zeros. The border comes from
    the running statistics, also in training, and passes no gradient.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = batch_norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, C, H + 2, W + 2] of x [N, C, H, W]."""
        y = self.norm(x)
        border = self._of_zero().to(y.dtype)[:, None, None]
        outside = 1 - pad(y.new_ones(y.shape[-2:]), (1, 1, 1, 1))
        return pad(y, (1, 1, 1, 1)) + border * outside

    def _of_zero(self) -> Tensor:
        norm = self.norm
        assert norm.running_var is not None and norm.running_mean is not None
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        return (norm.bias - norm.running_mean * scale).detach()


class SeparableConv(nn.Module):
    """Norm with border, 1x1 convolution, depthwise 3x3 without padding, norm: "SepRepConv" and the norm behind it."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.border = BorderNorm(in_channels)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.depthwise = nn.Conv2d(out_channels, out_channels, 3, groups=out_channels, bias=False)
        self.norm = batch_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, C', H, W] of x [N, C, H, W]."""
        y: Tensor = self.norm(self.depthwise(self.pointwise(self.border(x))))
        return y

    @torch.no_grad()
    def folded(self) -> nn.Sequential:
        """Return a 1x1 and a depthwise 3x3 convolution that together equal this layer in evaluation mode."""
        pointwise, depthwise, bias = self._terms()
        return nn.Sequential(
            _convolution(self.pointwise, pointwise[:, :, None, None]),
            _convolution(self.depthwise, depthwise, bias, padding=1),
        )

    @torch.no_grad()
    def fused(self) -> nn.Conv2d:
        """Return the one 3x3 convolution that equals this layer in evaluation mode."""
        pointwise, depthwise, bias = self._terms()
        kernel = depthwise * pointwise[:, :, None, None]  # [out, 1, 3, 3] * [out, in, 1, 1]
        return _dense(self.pointwise, kernel, bias)

    def _terms(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the pointwise [out, in] and depthwise [out, 1, 3, 3] kernels and the bias [out], norms within.

        The first norm shifts every pixel alike, those of the border too, so that its shift becomes part of the bias.
        """
        scale, shift = norm_terms(self.border.norm)
        last_scale, last_shift = norm_terms(self.norm)
        pointwise = self.pointwise.weight.double()[:, :, 0, 0]
        depthwise = self.depthwise.weight.double() * _per_output(last_scale)
        bias = (pointwise @ shift) * depthwise.sum(dim=(1, 2, 3)) + last_shift
        return pointwise * scale, depthwise, bias


class RepConv(nn.Module):
    """1x1 convolution, norm with border, depthwise 3x3 without padding, 1x1 convolution, and two norms in a row.

    The second of the two stands behind the authors' "RepConv", which ends in the first.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.entry = nn.Conv2d(in_channels, in_channels, 1, bias=False)
        self.border = BorderNorm(in_channels)
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, groups=in_channels, bias=False)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.norm, self.second_norm = batch_norm(out_channels), batch_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, C', H, W] of x [N, C, H, W]."""
        y = self.pointwise(self.depthwise(self.border(self.entry(x))))
        z: Tensor = self.second_norm(self.norm(y))
        return z

    @torch.no_grad()
    def folded(self) -> nn.Sequential:
        """Return a 1x1, a depthwise 3x3 and a 1x1 convolution that together equal this layer in evaluation mode."""
        entry, depthwise, pointwise, bias = self._terms()
        return nn.Sequential(
            _convolution(self.entry, entry[:, :, None, None]),
            _convolution(self.depthwise, depthwise, padding=1),
            _convolution(self.pointwise, pointwise[:, :, None, None], bias),
        )

    @torch.no_grad()
    def fused(self) -> nn.Conv2d:
        """Return the one 3x3 convolution that equals this layer in evaluation mode."""
        entry, depthwise, pointwise, bias = self._terms()
        kernel = torch.einsum("om,myx,mi->oiyx", pointwise, depthwise[:, 0], entry)
        return _dense(self.pointwise, kernel, bias)

    def _terms(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the kernels [in, in], [in, 1, 3, 3], [out, in] and the bias [out], all norms within."""
        scale, shift = norm_terms(self.border.norm)
        first, second = norm_terms(self.norm), norm_terms(self.second_norm)
        last_scale, last_shift = first[0] * second[0], first[1] * second[0] + second[1]
        depthwise = self.depthwise.weight.double()
        pointwise = self.pointwise.weight.double()[:, :, 0, 0] * last_scale[:, None]
        bias = pointwise @ (shift * depthwise.sum(dim=(1, 2, 3))) + last_shift
        return self.entry.weight.double()[:, :, 0, 0] * scale[:, None], depthwise, pointwise, bias


class Plain(nn.Module):
    """A layer without a neuron, as a stateful one: ``(x, state) -> (y, None)``."""

    def __init__(self, current: nn.Module) -> None:
        super().__init__()
        self.current = current

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Return [T, B, C', H', W'] of x [T, B, C, H, W], and no state."""
        return fold_time(self.current, x), None


class SpikingConv(PotentialStage):
    """A neuron, then a convolution of its spikes: ``(potentials, state) -> (potentials, state)``."""


class Residual(Chain):
    """A chain whose input is added to its output: a shortcut between membrane potentials, which nothing rounds."""

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Return x + chain(x) [T, B, C, H, W], and the state of its layers."""
        y, state = super().forward(x, state)
        return x + y, state


def norm_terms(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return scale and shift [C] of a norm in evaluation mode, float64: ``y = x * scale + shift``."""
    assert norm.running_var is not None and norm.running_mean is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.double() - norm.running_mean.double() * scale


def _per_output(scale: Tensor) -> Tensor:
    return scale[:, None, None, None]


def _convolution(
    like: nn.Conv2d, kernel: Tensor, bias: Tensor | None = None, *, padding: int | None = None
) -> nn.Conv2d:
    """Return a convolution of this kernel and bias with the geometry, device and dtype of another."""
    return convolution(kernel, bias, like, padding=None if padding is None else (padding, padding))


def _dense(like: nn.Conv2d, kernel: Tensor, bias: Tensor) -> nn.Conv2d:
    return convolution(kernel, bias, like, padding=(1, 1), stride=(1, 1), groups=1)
