"""Spikes as one bit each: 32 times less memory than float32, and the form that the kernels read and write."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from snn_perception.kernel_threads import in_threads
from snn_perception.native.calls import KINDS, Caller, best_isa, channels_last, require

WORD = 64  # spikes in a word
LEAST_PIXELS = 4096  # a smaller share of the work is not worth a thread


@dataclass(frozen=True, eq=False)
class PackedSpikes:
    """Binary spikes of a layer, one bit each.

    Attributes:
        words: int64 [B, H, W, ceil(channels / 64)], contiguous, on the CPU: channel c is bit ``c % 64`` of word
            ``c // 64``. Bits past the last channel are 0.
        channels: how many there are.

    Raises:
        ValueError: if the words do not have that form.
    """

    words: Tensor
    channels: int

    def __post_init__(self) -> None:
        words, expected = self.words, words_for(self.channels)
        fits = words.dim() == 4 and words.dtype == torch.int64 and words.is_cpu and words.is_contiguous()
        if self.channels < 1 or not fits or words.shape[3] != expected:
            raise ValueError(
                f"packed spikes: expected contiguous int64 words [B, H, W, {expected}] on the CPU for {self.channels} "
                f"channels, got {words.dtype} {list(words.shape)} on {words.device}; use `pack`"
            )

    @property
    def shape(self) -> torch.Size:
        """Of the tensor that they stand for: (B, C, H, W)."""
        batch, height, width, _ = self.words.shape
        return torch.Size((batch, self.channels, height, width))

    @property
    def density(self) -> float:
        """Share of the neurons that fired."""
        return self.count() / max(self.words[..., 0].numel() * self.channels, 1)

    def count(self) -> int:
        """Return how many fired."""
        library = require()
        return int(library.count(best_isa(library), self.words.data_ptr(), self.words.numel()))

    def unpacked(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return spikes [B, C, H, W], 0 or 1, in memory of channels_last."""
        bits = (self.words.unsqueeze(-1) >> torch.arange(WORD)) & 1
        flat = bits.flatten(3)[..., : self.channels]
        return flat.to(dtype).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def words_for(channels: int) -> int:
    """Return how many words hold the channels of a pixel."""
    return -(-channels // WORD)


def pack(spikes: Tensor) -> PackedSpikes:
    """Return the bits of spikes [B, C, H, W] of 0 and 1, float32, uint8 or bool.

    Memory of channels_last is read as it lies, other memory is brought into that order first.

    Raises:
        ValueError: for another dtype, shape or device, or if other values than 0 and 1 are among them.
        SnnPerceptionError: if the kernels are not there.
    """
    library, spikes = require(), channels_last(spikes, "spikes")
    batch, channels, height, width = spikes.shape
    words = torch.empty((batch, height, width, words_for(channels)), dtype=torch.int64)
    call = Caller(library.pack, best_isa(library), spikes.data_ptr(), int(KINDS[spikes.dtype]), channels)
    in_threads(call.piece, batch * height * width, LEAST_PIXELS, words.data_ptr())
    call.check()
    return PackedSpikes(words, channels)
