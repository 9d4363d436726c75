"""Time that passes unseen: membranes leak as over so many windows without input."""

from __future__ import annotations

import torch
from torch import Tensor

from snn_perception.detector import Detector
from snn_perception.membranes import owners, require_leaks
from snn_perception.state import State, from_leaves, named_leaves, outline


class Leak:
    """Lets a detector's state leak over windows that were never run.

    Biases of the layers before the neurons count as input, and there is none. A neuron knows its leak as
    ``leak(v, steps) -> v``.

    Args:
        x: any input [T, B, C, H, W] of the detector, to see which membrane belongs to which neuron.

    Raises:
        SpecError: if a neuron does not say how it leaks.
    """

    def __init__(self, detector: Detector, x: Tensor) -> None:
        self._membranes = owners(detector, x)
        require_leaks(self._membranes, detector.spec.neuron.name)

    @torch.no_grad()
    def __call__(self, state: State, windows: int) -> State:
        """Return the state after so many windows without input."""
        leaves: dict[str, Tensor] = {}
        for name, leaf in named_leaves(state):
            membrane = self._membranes[name]
            leaves[name] = membrane.neuron.leak(leaf, membrane.steps * windows)
        return from_leaves(outline(state), leaves)
