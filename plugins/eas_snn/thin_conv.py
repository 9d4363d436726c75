"""Convolutions of few channels over many pixels, computed on the four phases of the image.

A convolution of 2 or 4 channels at full resolution leaves most of a CPU's vector units idle. The same numbers come
from a smaller image of four times the channels, in which each channel is one phase (even or odd row, even or odd
column) of an old one: a kernel of 5x5 becomes one of 3x3, and no pixel is left out or counted twice.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from snn_perception.api import can_fuse

PHASES = 2  # in each direction


class ThinConv(nn.Conv2d):
    """A convolution with stride 1 that keeps the size of the image; `ksize` is odd.

    Called like any other it takes and gives images [N, C, H, W]; `in_phases` takes and gives the phases of images.
    """

    def __init__(self, in_channels: int, out_channels: int, ksize: int) -> None:
        super().__init__(in_channels, out_channels, ksize, padding=ksize // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, C', H, W] of x [N, C, H, W]."""
        if has_phases(x):
            return from_phases(self._convolve(to_phases(x)))
        return super().forward(x)

    def in_phases(self, x: Tensor) -> Tensor:
        """Return [N, 4 C', H/2, W/2], the phases of the output, of x [N, 4 C, H/2, W/2], those of the input.

        Whoever watches this module by hooks sees it called with images; the numbers are the same to the bit.
        """
        return to_phases(self(from_phases(x))) if _is_watched(self) else self._convolve(x)

    def _convolve(self, x: Tensor) -> Tensor:
        weight = phase_weight(self.weight)
        bias = None if self.bias is None else self.bias.repeat_interleave(PHASES**2)
        return F.conv2d(x, weight.contiguous(memory_format=torch.channels_last), bias, padding=weight.shape[-1] // 2)


def has_phases(images: Tensor) -> bool:
    """Return whether images [..., H, W] are to be convolved in phases: of even size, and no reference is wanted."""
    height, width = images.shape[-2:]
    # A graph for another engine has the same operations as the network here, so that it fires alike. Any number tells
    # whether plain operations are asked for: these here suit every type.
    exporting = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return height % PHASES == 0 and width % PHASES == 0 and (exporting or can_fuse(torch.ones(())))


def to_phases(images: Tensor) -> Tensor:
    """Return images [N, C, H, W] as their phases [N, 4 C, H/2, W/2], in the order channel, row, column."""
    return F.pixel_unshuffle(images, PHASES).contiguous(memory_format=torch.channels_last)


def from_phases(phases: Tensor) -> Tensor:
    """Return phases [N, 4 C, H/2, W/2] as the images [N, C, H, W] that they are of."""
    return F.pixel_shuffle(phases, PHASES).contiguous()


def phase_weight(weight: Tensor) -> Tensor:
    """Return [4 C', 4 C, K', K'], the weights between phases, of weights [C', C, K, K] between images; K is odd.

    A pixel of output phase `a` meets one of input phase `b`, `m` coarse pixels on, through the weight at the distance
    ``2 m + b - a``, which is none if the kernel does not reach so far.
    """
    reach = weight.shape[-1] // 2
    coarse = (reach + PHASES - 1) // PHASES
    phase = torch.arange(PHASES, device=weight.device)
    steps = torch.arange(-coarse, coarse + 1, device=weight.device)
    furthest = PHASES * coarse + PHASES - 1
    at = PHASES * steps + phase[None, :, None] - phase[:, None, None] + furthest  # [a, b, m], from 0
    padded = F.pad(weight, [furthest - reach] * 4)
    taken = padded[:, :, at[:, None, :, None, :, None], at[None, :, None, :, None, :]]  # [C', C, a, a, b, b, m, m]
    return taken.permute(0, 2, 3, 1, 4, 5, 6, 7).flatten(3, 5).flatten(0, 2)


def _is_watched(module: nn.Module) -> bool:
    own = module._forward_hooks or module._forward_pre_hooks
    return bool(own or torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks)
