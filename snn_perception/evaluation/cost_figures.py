"""What a detector cost in an evaluation: spikes, operations, energy by the book."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from snn_perception.detector import Detector
from snn_perception.evaluation.activity import ActivityMeter
from snn_perception.evaluation.energy import EnergyReport, energy_of
from snn_perception.evaluation.firing import FiringReport, firing_of
from snn_perception.evaluation.operations import Operations, operations_of
from snn_perception.evaluation.run import Evaluation


@dataclass(frozen=True)
class CostFigures:
    """Firing rates, operations and energy of the average window."""

    firing: FiringReport
    operations: Operations
    energy: EnergyReport

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "firing": self.firing.as_dict(),
            "operations": self.operations.as_dict(),
            "energy": self.energy.as_dict(),
        }


def cost_figures(evaluation: Evaluation, detector: Detector) -> CostFigures | None:
    """Return the cost figures of an evaluation that was run with ``measure``; None of any other."""
    if not evaluation.activity.windows:
        return None
    operations = operations_of(evaluation.activity, detector, ActivityMeter(detector).input_layers)
    return CostFigures(firing_of(evaluation.activity), operations, energy_of(operations))
