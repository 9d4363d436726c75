"""What an engine's numbers are worth: the same window from the same state, beside the network itself.

Free-running networks cannot be compared by a tolerance. A rounding error may decide whether a neuron fires, and one
spike changes everything behind it: in the next windows, and in the deeper layers of the same one. So every window
starts from the reference's own state, and of a window only the first layer in which spikes differ is counted; what lies
behind it has seen another input.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# A membrane that differs by more has spiked in one of the two alone: of float32, and of lower precisions, whose
# rounding is larger, but far below what a reset takes away.
ROUNDING, LOW_ROUNDING = 1e-3, 0.5

Array = NDArray[Any]


@dataclass(frozen=True)
class Parity:
    """Differences from the reference over some windows.

    Attributes:
        windows: compared. clean: of these, without any spike that differs.
        flips: share of neurons that spike differently, in layers whose input was the same.
        membrane_error: largest difference of a membrane in those layers, spikes that differ left out, relative to the
            layer's largest membrane if that is above 1.
        raw_error: largest difference of a raw output in clean windows, relative alike; 0 if there are none.
    """

    windows: int
    clean: int
    flips: float
    membrane_error: float
    raw_error: float


class ParityMeter:
    """Counts differences, window by window.

    Args:
        precision: of the engine.
    """

    def __init__(self, precision: str = "fp32") -> None:
        self._rounding = ROUNDING if precision == "fp32" else LOW_ROUNDING
        self._windows = self._clean = self._flips = self._cells = 0
        self._membrane_error = self._raw_error = 0.0

    def add(self, membranes: Iterable[tuple[Array, Array]], raw: Iterable[tuple[Array, Array]]) -> None:
        """Count a window.

        Args:
            membranes: (reference, engine) after it, in the order in which the layers run. raw: of the raw outputs.
        """
        self._windows += 1
        for expected, got in membranes:
            error = np.abs(expected - got)
            flipped = error > self._rounding
            count = int(np.count_nonzero(flipped))
            self._flips, self._cells = self._flips + count, self._cells + error.size
            self._membrane_error = max(self._membrane_error, float(error[~flipped].max(initial=0.0)) / _scale(expected))
            if count:
                return
        self._clean += 1
        self._raw_error = max(self._raw_error, largest(raw))

    def parity(self) -> Parity:
        """Return what was counted."""
        share = self._flips / max(self._cells, 1)
        return Parity(self._windows, self._clean, share, self._membrane_error, self._raw_error)


def largest(pairs: Iterable[tuple[Array, Array]]) -> float:
    """Return the largest difference within pairs of arrays, each relative to its largest number if that is above 1."""
    return max((float(np.abs(a - b).max(initial=0.0)) / _scale(a) for a, b in pairs), default=0.0)


def _scale(x: Array) -> float:
    return max(1.0, float(np.abs(x).max(initial=0.0)))


def compare(engine: Any, reference: Any, inputs: Sequence[Any]) -> Parity:
    """Return how an `Engine` compares with another over windows [T, B, C, H, W], each from the reference's state."""
    from snn_perception.state import named_leaves

    def pairs(a: Any, b: Any) -> list[tuple[Array, Array]]:
        return [
            (x.detach().float().cpu().numpy(), y.detach().float().cpu().numpy())
            for (_, x), (_, y) in zip(named_leaves(a), named_leaves(b), strict=True)
        ]

    meter, state = ParityMeter(engine.precision), None
    for x in inputs:
        raw, after = reference(x, state)
        got_raw, got_after = engine(x, state)
        meter.add(pairs(after, got_after), pairs(raw, got_raw))
        state = after
    return meter.parity()
