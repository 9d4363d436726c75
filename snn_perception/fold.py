"""Norm-then-convolution layers, and a pass that replaces every layer by its cheaper equal form for inference."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
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


@runtime_checkable
class Mergeable(Protocol):
    """A module that can compute several convolutions of the same input as one; `merge_siblings` lets it."""

    def merged(self) -> nn.Module:
        """Return the equal module; self stays as it is. Its norms are folded already."""
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
        bias = (kernel * shift[:, None, None]).sum(dim=(1, 2, 3))
        return convolution(kernel * scale[:, None, None], bias, conv, padding=(self.padding, self.padding))


def convolution(
    kernel: Tensor,
    bias: Tensor | None,
    like: nn.Conv2d,
    *,
    padding: tuple[int, int] | None = None,
    stride: tuple[int, int] | None = None,
    groups: int | None = None,
) -> nn.Conv2d:
    """Return a convolution for inference of this kernel [C', C / groups, h, w] and bias [C'] or None.

    No random numbers are drawn, and nothing is loaded, as torch's own ways without initial values do.

    Args:
        like: whose device, dtype and, unless others are given, geometry it has.
    """
    groups = like.groups if groups is None else groups
    with torch.random.fork_rng(devices=[]):
        made = nn.Conv2d(
            groups,
            groups,
            (kernel.shape[2], kernel.shape[3]),
            stride=stride or like.stride,  # type: ignore[arg-type]
            padding=like.padding if padding is None else padding,  # type: ignore[arg-type]
            groups=groups,
            bias=bias is not None,
        )
    made.in_channels, made.out_channels = kernel.shape[1] * groups, kernel.shape[0]
    made.weight = nn.Parameter(kernel.detach().to(like.weight, copy=True), requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().to(like.weight, copy=True), requires_grad=False)
    return made


def fold_norms(model: Model) -> Model:
    """Return a copy of a model, in evaluation mode, with every `Foldable` layer replaced by its folded form.

    Equal to the model in evaluation mode up to rounding, with spikes in place of normalised values as the input of its
    convolutions. The names in its state_dict differ, so that it is a form to run, not one to save or to train.
    """
    return map_layers(model, lambda layer: layer.folded() if isinstance(layer, Foldable) else None)


def fuse_layers(model: Model) -> Model:
    """Return a copy of a model as `fold_norms` does, with every `Fusable` layer as the single convolution it equals."""

    def fuse(layer: nn.Module) -> nn.Module | None:
        if isinstance(layer, Fusable):
            return layer.fused()
        return layer.folded() if isinstance(layer, Foldable) else None

    return map_layers(model, fuse)


def merge_siblings(model: Model) -> Model:
    """Return a copy of a folded model with every `Mergeable` module in its merged form."""
    return map_layers(model, lambda module: module.merged() if isinstance(module, Mergeable) else None)


def side_by_side(convolutions: Sequence[nn.Conv2d]) -> nn.Conv2d:
    """Return one convolution whose output channels are those of several in turn, of the same input and geometry."""
    biases = [conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias for conv in convolutions]
    return convolution(torch.cat([conv.weight for conv in convolutions]), torch.cat(biases), convolutions[0])


def map_layers(model: Model, form: Callable[[nn.Module], nn.Module | None]) -> Model:
    """Return a copy of a model, in evaluation mode, with layers replaced by what `form` returns for them, if anything.

    A layer that is replaced is not looked into.
    """
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
