"""Weights of a convolution of spikes as int8: a gain for each input channel, a scale for each output channel.

A norm in front of a convolution folds into its weights as a factor for each input channel, one over the deviation of
that channel's spikes. Channels that hardly ever fire get weights hundreds of times larger than the others'; a scale
for each output channel alone would then round the weights of the channels that do fire to nothing. But int8 has room
on the side of the spikes: they are small whole numbers, and multiplied by a whole gain they stay exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_INT8 = 127

F32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class RoundedKernel:
    """A kernel [O, I, ...] as ``numbers * scale[O] * gain[I]``.

    Attributes:
        numbers: int8, from -127 to 127.
        scale: float32 [O], the current of one unit. gain: float32 [I], whole numbers that spikes are multiplied by.
    """

    numbers: NDArray[np.int8]
    scale: F32
    gain: F32

    def floats(self) -> F32:
        """Return the weights that it stands for."""
        product = self.numbers * _along(self.scale, 0, self.numbers) * _along(self.gain, 1, self.numbers)
        return np.asarray(product, np.float32)


def rounded(kernel: NDArray[Any], largest: int = 1, *, even: bool = True) -> RoundedKernel:
    """Return the kernel [O, I / groups, ...] of a convolution in int8, symmetric around 0.

    Gains even out the input channels: each is proportional to the root mean square of its channel's weights, as far as
    whole numbers up to 127 reach, so that all channels lose about the same share.

    Args:
        largest: number that the inputs take on; gains leave room for it.
        even: whether to; all gains are 1 otherwise.
    """
    floats = np.asarray(kernel, np.float64)
    gain = _gains(floats, LARGEST_INT8 // largest) if even else np.ones(floats.shape[1])
    evened = floats / _along(gain, 1, floats)
    scale = np.abs(evened).reshape(len(evened), -1).max(axis=1) / LARGEST_INT8
    scale[scale == 0] = 1.0
    numbers = np.rint(evened / _along(scale, 0, evened)).astype(np.int8)
    return RoundedKernel(numbers, scale.astype(np.float32), gain.astype(np.float32))


def _gains(floats: NDArray[np.float64], most: int) -> NDArray[np.float64]:
    """Return a whole number from 1 to `most` for each input channel."""
    others = (0, *range(2, floats.ndim))
    size = np.sqrt((floats**2).mean(axis=others))
    if not size.max(initial=0.0):
        return np.ones(len(size))
    return np.clip(np.rint(size / size.max() * most), 1, most)


def _along(vector: NDArray[Any], axis: int, like: NDArray[Any]) -> NDArray[Any]:
    """Return a vector as an array that broadcasts along one axis of another."""
    return vector.reshape(*(-1 if at == axis else 1 for at in range(like.ndim)))
