"""How much a network spikes: per layer and over all, over every window, labelled or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from snn_perception.evaluation.activity import Activity, LayerSpikes

SATURATED = 0.9  # share of outputs that fire, above which a layer tells hardly anything apart


@dataclass(frozen=True)
class LayerFiring:
    """One spiking layer.

    Attributes:
        rate: share of its outputs that were not zero.
        mean: of its outputs; differs from `rate` for neurons that fire whole numbers above 1.
        outputs: per window.
    """

    rate: float
    mean: float
    outputs: int


@dataclass(frozen=True)
class FiringReport:
    """Firing rates over `windows` windows.

    Attributes:
        sparsity: non-zero outputs over all outputs of all spiking layers, each layer counted once. The literature
            prints it in percent under this name, though lower is sparser (Cordone, PhD thesis, 2022).
        layers: by name, in the order in which they run.
    """

    windows: int
    sparsity: float
    layers: Mapping[str, LayerFiring]

    @property
    def dead(self) -> tuple[str, ...]:
        """Layers that never fired: what comes after them sees nothing."""
        return tuple(name for name, layer in self.layers.items() if layer.rate == 0)

    @property
    def saturated(self) -> tuple[str, ...]:
        """Layers that fired at more than 90 % of their outputs."""
        return tuple(name for name, layer in self.layers.items() if layer.rate > SATURATED)

    @property
    def fires_integers(self) -> bool:
        """Whether some layer fires whole numbers above 1."""
        return any(layer.mean > layer.rate for layer in self.layers.values())

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "windows": self.windows,
            "sparsity": self.sparsity,
            "layers": {name: asdict(layer) for name, layer in self.layers.items()},
            "dead": list(self.dead),
            "saturated": list(self.saturated),
        }


def firing_of(activity: Activity) -> FiringReport:
    """Return the firing rates in counts."""
    layers = {
        name: LayerFiring(
            one.fired / max(one.outputs, 1), one.total / max(one.outputs, 1), one.outputs // max(activity.windows, 1)
        )
        for name, one in activity.spikes.items()
    }
    everything = sum(activity.spikes.values(), start=LayerSpikes())
    return FiringReport(activity.windows, everything.fired / max(everything.outputs, 1), layers)
