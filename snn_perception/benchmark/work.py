"""What a network does in a window, whichever engine runs it: spikes, and an estimate of the energy they would take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from snn_perception.detector import Detector
from snn_perception.errors import SnnPerceptionError
from snn_perception.evaluation.activity import Activity, ActivityMeter, merged
from snn_perception.evaluation.energy import EnergyReport, energy_of
from snn_perception.evaluation.operations import operations_of


@dataclass(frozen=True)
class Work:
    """Means over some windows.

    Attributes:
        firing_rate: spikes per neuron and step. spikes: per window.
        energy: of the average window, an estimate for neuromorphic hardware; no engine's own.
    """

    firing_rate: float
    spikes: float
    energy: EnergyReport


@torch.no_grad()
def work_of(detector: Detector, inputs: Sequence[Tensor], *, carries: bool) -> Work:
    """Return what a detector does with inputs [T, 1, C, H, W] that follow one another.

    Raises:
        SnnPerceptionError: if nothing fires.
    """
    state, seen = None, list[Activity]()
    with ActivityMeter(detector) as meter:
        for x in inputs:
            meter.expect(1)
            _, after = detector(x, state)
            seen.extend(meter.take())
            state = after if carries else None
        input_layers = meter.input_layers
    activity = merged(seen)
    spikes = sum(layer.total for layer in activity.spikes.values())
    if not spikes:
        raise SnnPerceptionError("no neuron fires on these windows: there is nothing to measure; choose other weights")
    outputs = sum(layer.outputs for layer in activity.spikes.values())
    energy = energy_of(operations_of(activity, detector, input_layers))
    return Work(spikes / outputs, spikes / len(inputs), energy)
