"""Loops that scratch lines into textures."""

from __future__ import annotations

import math

from snn_perception.events.jit import kernel


@kernel
def scratch_line(base, s, d, heading, turns, amount):  # type: ignore[no-untyped-def]
    """Add `amount` along a wandering line in base [S, D], which repeats; turns [N] are changes of its heading."""
    for k in range(len(turns)):
        heading += turns[k]
        s += math.cos(heading)
        d += math.sin(heading)
        base[math.floor(s) % base.shape[0], math.floor(d) % base.shape[1]] += amount
