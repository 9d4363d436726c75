"""Random numbers inside compiled loops, the same bits on every machine: no system's ``log`` has a part in them."""

from __future__ import annotations

import numpy as np

from snn_perception.events.jit import kernel


@kernel
def uniform(draws):  # type: ignore[no-untyped-def]
    """Return the next number of [0, 1) of a generator uint64 [1] (SplitMix64; Steele et al., OOPSLA 2014, fig. 17)."""
    draws[0] += np.uint64(0x9E3779B97F4A7C15)
    z = draws[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return np.float64(z >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@kernel
def exponential(draws):  # type: ignore[no-untyped-def]
    """Return a waiting time of mean 1, by comparisons alone (von Neumann, NBS Applied Math. Series 12, 1951)."""
    whole = 0.0
    while True:
        first = uniform(draws)
        last, runs = first, 1
        while True:
            following = uniform(draws)
            if following >= last:
                break
            last, runs = following, runs + 1
        if runs % 2 == 1:
            return whole + first
        whole += 1.0


@kernel
def normal(draws):  # type: ignore[no-untyped-def]
    """Return a number of mean 0 and variance 1: twelve uniform ones less six, so never beyond 6."""
    total = -6.0
    for _ in range(12):
        total += uniform(draws)
    return total
