"""Event-driven convolutions and neuron steps in compiled C++, where they are built; everything works without them."""

from __future__ import annotations


def available() -> bool:
    """Return whether the kernels are built and load."""
    from snn_perception.native.library import load

    return load()[0] is not None


def why_not() -> str | None:
    """Return why the kernels cannot be used and what to do about it; None where they can."""
    from snn_perception.native.library import load

    library, reason = load()
    return reason if library is None else None
