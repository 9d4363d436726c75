"""Layers of the native engine: they take spikes in memory of channels_last, as numbers or bytes, and add weights."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from snn_perception.native.convolution import SpikeConv2d
from snn_perception.native.neuron import Form, NeuronStep
from snn_perception.nn import membrane
from snn_perception.state import State

log = logging.getLogger(__name__)


class SparseConv(nn.Module):
    """A convolution of spikes [N, C, H, W] by the native kernels; in another form once an input asks for it.

    Args:
        binary: whether inputs are 0 and 1 alone; else any numbers, mostly zeros.
    """

    takes: Form = "bytes"

    def __init__(self, conv: nn.Conv2d, *, binary: bool) -> None:
        super().__init__()
        self.sparse: SpikeConv2d | None = SpikeConv2d.from_conv(conv, binary=binary)
        self.dense = DenseConv(conv)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, C', H', W'] in memory of channels_last."""
        if self.sparse is not None:
            try:
                y: Tensor = self.sparse(x)
                return y
            except ValueError as error:
                self.sparse = self._instead(error)
                return self(x)  # type: ignore[no-any-return]
        return self.dense(x)  # type: ignore[no-any-return]

    def _instead(self, error: ValueError) -> SpikeConv2d | None:
        """Return what takes an input that the kernels refused: the form for any numbers, or None."""
        if self.sparse is not None and self.sparse.binary:
            return SpikeConv2d.from_conv(self.dense.conv, binary=False)
        log.warning("a layer that was fed with spikes gets what the kernels do not take (%s): computed densely", error)
        return None


class DenseConv(nn.Module):
    """A convolution by torch, its weights in memory of channels_last; spikes may come as bytes."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        plain = conv.groups == 1 and conv.padding == (0, 0)
        self._is_product = plain and conv.kernel_size == conv.stride == (1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, C', H', W'] of x [N, C, H, W]."""
        conv = self.conv
        x = x.to(conv.weight.dtype).contiguous(memory_format=torch.channels_last)
        if self._is_product:  # torch has a slow way with these, and a fast one with products
            return linear(x.permute(0, 2, 3, 1), conv.weight.flatten(1), conv.bias).permute(0, 3, 1, 2)
        y: Tensor = conv(x)
        return y


class SparseStage(nn.Module):
    """A convolution of binary spikes and its neuron in one pass, one time step a call: ``(x, v) -> (spikes, v)``.

    Args:
        form: of the spikes that it gives, ``floats`` or ``bytes``.
        patches: whether to compute it on the pixels of each patch as channels, where `is_patches` holds.
    """

    def __init__(self, conv: nn.Conv2d, neuron: nn.Module, *, form: Form, patches: bool = False) -> None:
        super().__init__()
        self.side = int(conv.stride[0]) if patches else 1
        self.sparse: SpikeConv2d | None = SpikeConv2d.from_conv(on_patches(conv) if patches else conv)
        self.dense, self.neuron, self.form = DenseConv(conv), neuron, form
        self.step = step_of(neuron)

    def forward(self, x: Tensor, v: State = None) -> tuple[Tensor, State]:
        """Return spikes [1, B, C', H', W'] of x [1, B, C, H, W], and the membrane [B, C', H', W']."""
        if self.sparse is None or len(x) != 1:
            return dense_stage(self.dense, self.neuron, x, v)
        before = None if v is None else _in_order(v)
        try:
            spikes = x[0] if self.side == 1 else to_patches(x[0], self.side)
            fired = self.sparse.fire(spikes, before, self.step, forms=(self.form,))
        except ValueError as error:
            log.warning("a layer that was fed with spikes is fed with other numbers (%s): computed densely", error)
            self.sparse = None
            return dense_stage(self.dense, self.neuron, x, v)
        train = fired.spikes(self.form)
        assert isinstance(train, Tensor)
        return train.unsqueeze(0), fired.v


class DenseStage(nn.Module):
    """A convolution by torch in memory of channels_last, and its neuron: ``(x, v) -> (spikes, v)``."""

    def __init__(self, conv: nn.Conv2d, neuron: nn.Module) -> None:
        super().__init__()
        self.dense, self.neuron = DenseConv(conv), neuron

    def forward(self, x: Tensor, v: State = None) -> tuple[Tensor, State]:
        """Return spikes [T, B, C', H', W'] of x [T, B, C, H, W], and the neuron's state."""
        return dense_stage(self.dense, self.neuron, x, v)


def is_patches(conv: nn.Conv2d) -> bool:
    """Return whether a convolution sees each pixel once: square patches side by side."""
    side = conv.kernel_size[0]
    return side > 1 and conv.kernel_size == conv.stride == (side, side) and conv.padding == (0, 0)


def on_patches(conv: nn.Conv2d) -> nn.Conv2d:
    """Return the 1x1 convolution of `to_patches` of its input that equals a convolution of patches."""
    weight = conv.weight.detach().flatten(1)
    result = nn.Conv2d(weight.shape[1], conv.out_channels, 1, bias=conv.bias is not None)
    with torch.no_grad():
        result.weight.copy_(weight[:, :, None, None])
        if conv.bias is not None:
            result.bias.copy_(conv.bias)  # type: ignore[union-attr]
    return result


def to_patches(x: Tensor, side: int) -> Tensor:
    """Return images [N, C, H, W] as [N, C * side * side, H // side, W // side], in memory of channels_last.

    Rows and columns that fill no patch are left out.
    """
    batch, channels, height, width = x.shape
    rows, columns = height // side, width // side
    cut = x[:, :, : rows * side, : columns * side].reshape(batch, channels, rows, side, columns, side)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows, columns, -1).permute(0, 3, 1, 2)


def dense_stage(conv: DenseConv, neuron: nn.Module, x: Tensor, v: State) -> tuple[Tensor, State]:
    """Return what a stage does with x [T, B, C, H, W]."""
    current = conv(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    spikes, after = neuron(current, v)
    return spikes, after


def step_of(neuron: Any) -> NeuronStep:
    """Return what a neuron does, for the kernels.

    Raises:
        AttributeError: for a neuron without a `StepRule` as its ``rule`` and a ``factor(v)``.
    """
    return NeuronStep.of_rule(neuron.rule, neuron.factor(torch.zeros(1)))


def has_step(neuron: Any) -> bool:
    """Return whether `step_of` knows a neuron."""
    return hasattr(neuron, "rule") and callable(getattr(neuron, "factor", None))


def _in_order(v: State) -> Tensor:
    assert isinstance(v, Tensor)
    return membrane(v, v.unsqueeze(0)).contiguous(memory_format=torch.channels_last)
