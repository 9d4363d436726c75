"""Sums over the processes that train together; one process alone is the usual case, and costs nothing."""

from __future__ import annotations

from torch import Tensor, distributed


def in_company() -> bool:
    """Return whether several processes train together (torch.distributed is up, with more than one rank)."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def sum_over_ranks(x: Tensor) -> Tensor:
    """Return the sum of `x` over all processes; carries no gradient.

    A head divides the sum of its samples' losses by counts that are summed in this way. The processes' losses, and
    their gradients, then add up to those of one process with all the samples. Every process must call it.
    """
    x = x.detach().clone()
    if in_company():
        distributed.all_reduce(x)
    return x
