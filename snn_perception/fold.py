"""Norm-then-convolution layers, and a pass that replaces every layer by its cheaper equal form for inference."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from snn_perception.norm_convolution import can_join, joined

Model = TypeVar("Model", bound=nn.Module)


@runtime_checkable
class Foldable(Protocol):
    """A layer that knows a cheaper layer which equals it in evaluation mode; `fold_norms` puts that in its place."""

    def folded(self) -> nn.Module:
        """Return the equal layer, on the same device and in the same dtype; self stays as it is."""
        ...


@runtime_checkable
class Fusable(Protocol):
    """A layer of several convolutions in a row that equals a single one in evaluation mode.

    A machine that adds one weight per spike runs the single one, and so energy is counted on it; elsewhere the layer's
    own form, or its folded one, takes fewer operations.
    """

    def fused(self) -> nn.Conv2d:
        """Return the equal convolution, on the same device and in the same dtype; self stays as it is."""
        ...


class NormConv(nn.Module):
    """Zero padding, then batch norm, then convolution without bias: the norm sees the padding.

    A padded pixel so enters the convolution as the norm's shift ``t = beta - mean * g``, with ``g = gamma / sqrt(var +
    eps)``, not as 0, and in training the batch statistics include the padding. `padding` is the same on all four sides.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__()
        self.pad = nn.ZeroPad2d(padding) if padding else nn.Identity()
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride=stride, bias=False)
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, C', H', W'] of x [B, C, H, W]."""
        if can_join(x, self.norm, self.conv):
            return joined(x, self.norm, self.conv, self.padding)
        y: Tensor = self.conv(self.norm(self.pad(x)))
        return y

    @torch.no_grad()
    def folded(self) -> nn.Conv2d:
        """Return one convolution that equals this layer in evaluation mode, borders included.

        ``W'[o, c] = W[o, c] * g[c]`` and ``b'[o] = sum(W[o, c] * t[c])``. A padded zero contributes 0 through ``W'``
        and its full share through ``b'``, so that plain zero padding is exact. Computed in float64.
        """
        conv, norm = self.conv, self.norm
        assert norm.running_var is not None and norm.running_mean is not None
        scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        shift = norm.bias.double() - norm.running_mean.double() * scale
        kernel = conv.weight.double()
        result = nn.utils.skip_init(
            nn.Conv2d,
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            stride=conv.stride,
            padding=self.padding,
            device=conv.weight.device,
            dtype=conv.weight.dtype,
        )
        result.weight.copy_(kernel * scale[:, None, None])
        result.bias.copy_((kernel * shift[:, None, None]).sum(dim=(1, 2, 3)))
        return result.requires_grad_(False)


def fold_norms(model: Model) -> Model:
    """Return a copy of a model, in evaluation mode, with every `Foldable` layer replaced by its folded form.

    Equal to the model in evaluation mode up to rounding, with spikes in place of normalised values as the input of its
    convolutions. The names in its state_dict differ, so that it is a form to run, not one to save or to train.
    """
    return _with_children(model, lambda layer: layer.folded() if isinstance(layer, Foldable) else None)


def fuse_layers(model: Model) -> Model:
    """Return a copy of a model as `fold_norms` does, with every `Fusable` layer as the single convolution it equals."""

    def fuse(layer: nn.Module) -> nn.Module | None:
        if isinstance(layer, Fusable):
            return layer.fused()
        return layer.folded() if isinstance(layer, Foldable) else None

    return _with_children(model, fuse)


def _with_children(model: Model, form: Callable[[nn.Module], nn.Module | None]) -> Model:
    result = copy.deepcopy(model).eval()
    _replace_children(result, form)
    return result.eval()


def _replace_children(module: nn.Module, form: Callable[[nn.Module], nn.Module | None]) -> None:
    for name, child in module.named_children():
        replaced = form(child)
        if replaced is not None:
            setattr(module, name, replaced)
        else:
            _replace_children(child, form)
