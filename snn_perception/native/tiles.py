"""3x3 convolutions of small whole numbers by tiles of 2x2 outputs, in integers: exact but for the rounding of weights.

Winograd's F(2x2, 3x3) (Lavin & Gray, CVPR 2016, sec. 4.1) takes 16 multiplications for four outputs in place of 36.
Its transform of the input adds and subtracts alone, so that spikes stay whole numbers, and its sums are taken in bytes:
transformed weights are whole numbers of 24 bits times a scale for each output channel, about what float32 resolves.
However much fires, it takes the same time; see docs/benchmarks/native.md for where it is faster.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor, nn

from snn_perception.kernel_threads import in_threads
from snn_perception.native.calls import KINDS, Caller, best_isa, channels_last, require
from snn_perception.native.library import Geometry, InputKind, TileCall

MOST_SPIKES = 16  # in one pixel of one channel
LEAST_ROWS = 2  # of tiles that are worth a thread
_LARGEST = 127 * (1 + 256 + 65536)  # of three signed bytes
# How a column of three weights becomes four.
_WEIGHTS = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))


class TileConv2d(nn.Module):
    """A 3x3 convolution of stride 1 of whole numbers from 0 to `MOST_SPIKES`, for inference; make it with `from_conv`.

    It holds its weights in the order of the kernels, not as parameters: moving or casting the module changes nothing,
    and there is nothing to save.
    """

    def __init__(self, conv: nn.Conv2d, *, isa: str | None = None) -> None:
        super().__init__()
        if not fits_tiles(conv):
            raise ValueError(f"expected a 3x3 convolution of stride 1 in one group, padded with zeros, got {conv}")
        library = require()
        self.isa = best_isa(library, isa)
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.padding = int(conv.padding[0]), int(conv.padding[1])
        sizes = Geometry(1, 2, 2, self.in_channels, 2, 2, self.out_channels, 3, 3, 1, 1, 1, 1)
        numbers, scales = _numbers(conv.weight)
        channels = int(library.tile_channels(self.isa, sizes))
        self._weights = torch.empty(library.tile_weights_size(self.isa, sizes), dtype=torch.int8)
        self._starts = torch.empty(16 * 3 * channels, dtype=torch.int32)
        self._scales = torch.zeros(channels)
        self._scales[: self.out_channels] = scales
        addresses = (numbers.data_ptr(), self._weights.data_ptr(), self._starts.data_ptr())
        library.pack_tiles(self.isa, sizes, *addresses)
        self._bias = None if conv.bias is None else conv.bias.detach().to("cpu", torch.float32, copy=True).contiguous()

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, *, isa: str | None = None) -> TileConv2d:
        """Return the equal of a convolution, which stays as it is.

        Raises:
            ValueError: for a convolution for which `fits_tiles` does not hold, or an instruction set that is not there.
            SnnPerceptionError: if the kernels are not there.
        """
        return cls(conv, isa=isa)

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 [B, C', H', W'] in memory of channels_last; no part of it depends on the number of threads.

        Args:
            x: whole numbers [B, C, H, W], uint8 or float32; a copy is made of memory that is not channels_last.

        Raises:
            ValueError: for tensors of another kind, or other numbers than whole ones from 0 to `MOST_SPIKES`.
        """
        library, x = require(), self._as_bytes(x)
        batch, _, height, width = x.shape
        out_h, out_w = height + 2 * self.padding[0] - 2, width + 2 * self.padding[1] - 2
        if min(out_h, out_w) < 1:
            raise ValueError(f"input: expected at least the kernel of 3x3 with padding {self.padding}, got {x.shape}")
        y = torch.empty((batch, self.out_channels, out_h, out_w), memory_format=torch.channels_last)
        sizes = (batch, height, width, self.in_channels, out_h, out_w, self.out_channels, 3, 3, 1, 1, *self.padding)
        bias = None if self._bias is None else self._bias.data_ptr()
        packed = self._weights.data_ptr(), self._starts.data_ptr(), self._scales.data_ptr(), bias
        call = TileCall(Geometry(*sizes), x.data_ptr(), *packed, y.data_ptr())
        caller = Caller(library.convolve_tiles, self.isa, ctypes.byref(call))
        in_threads(caller.piece, batch * -(-out_h // 2), LEAST_ROWS)
        caller.check()
        return y

    def _as_bytes(self, x: Tensor) -> Tensor:
        x = channels_last(x, "input")
        if x.shape[1] != self.in_channels:
            raise ValueError(f"input: expected {self.in_channels} channels, got {list(x.shape)}")
        if KINDS[x.dtype] == InputKind.BYTES:
            return x
        whole = x.to(torch.uint8)
        if not torch.equal(whole.float(), x):
            raise ValueError("input: expected whole numbers of spikes, got others")
        return whole

    def extra_repr(self) -> str:
        """Return the sizes, for the module's printed form."""
        return f"{self.in_channels}, {self.out_channels}, padding={self.padding}"


def fits_tiles(conv: nn.Conv2d) -> bool:
    """Return whether a convolution is one that `TileConv2d` computes: 3x3, stride 1, one group, padded with zeros."""
    plain = conv.groups == 1 and conv.dilation == (1, 1) and conv.padding_mode == "zeros"
    return plain and conv.kernel_size == (3, 3) and conv.stride == (1, 1) and not isinstance(conv.padding, str)


def _numbers(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return transformed weights as whole numbers, int32 [16, C, C'], and what to multiply them by, float32 [C']."""
    change = torch.tensor(_WEIGHTS, dtype=torch.float64)
    points = torch.einsum("ay,oiyx,bx->abio", change, weight.detach().to("cpu", torch.float64), change).flatten(0, 1)
    scales = (points.abs().amax(dim=(0, 1)) / _LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
    scales = scales.float()  # what the kernels multiply by is what is divided by
    numbers = (points / scales.double()).round().clamp(-_LARGEST, _LARGEST)
    return numbers.to(torch.int32).contiguous(), scales
