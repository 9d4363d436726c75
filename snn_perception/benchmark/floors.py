"""The least time a dense step could take on this processor: its arithmetic at the speed of the best matrix product.

Measured in the process that measures the engines, again and again between them, since a shared machine's speed is not a
constant; the best is taken, so that the floor is low and the ratio to it is not flattered.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from snn_perception.detector import Detector
from snn_perception.fold import fold_norms
from snn_perception.fusing import plain_operations

_SIDE = 1024  # of the product's matrices: 12 MiB, what blocks of a convolution behave like
_COPY_BYTES = 1 << 26


@torch.no_grad()
def folded_flops(detector: Detector, x: Tensor) -> int:
    """Return the floating-point operations of convolutions and products in one window x, norms folded."""
    with FlopCounterMode(display=False) as counter, plain_operations():
        fold_norms(detector)(x, None)
    return int(counter.get_total_flops())


@dataclass
class Floors:
    """The best matrix product and copy that were seen so far.

    Attributes:
        sgemm_flops: operations per second, float32. copy_bytes: bytes per second, read and written once each.
    """

    sgemm_flops: float = 0.0
    copy_bytes: float = 0.0

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self._a, self._b = (torch.rand(_SIDE, _SIDE, generator=generator) for _ in range(2))
        self._out = torch.empty(_SIDE, _SIDE)
        self._from, self._to = (torch.zeros(_COPY_BYTES // 4) for _ in range(2))

    def measure(self) -> None:
        """Measure once more."""
        begun = time.process_time()
        torch.mm(self._a, self._b, out=self._out)
        self.sgemm_flops = max(self.sgemm_flops, 2 * _SIDE**3 / _since(begun))
        begun = time.process_time()
        self._to.copy_(self._from)
        self.copy_bytes = max(self.copy_bytes, 2 * _COPY_BYTES / _since(begun))

    def floor_s(self, flops: int) -> float:
        """Return the least seconds of one thread for so many operations."""
        return flops / self.sgemm_flops


def _since(begun: float) -> float:
    return max(time.process_time() - begun, 1e-9)
