"""Numbers too small for the full precision of their type, which some CPUs compute a hundred times slower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Let this thread, and those it starts, take denormal numbers for 0; where the CPU cannot, nothing changes.

    A surrogate gradient falls exponentially with the distance from the threshold, and layers and windows multiply
    theirs: networks with large potentials meet gradients below 1e-38, and trained at less than half the speed.
    """
    before = _flushes()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _flushes() -> bool:
    return not (torch.full((1,), 1e-40) * 1).item()
