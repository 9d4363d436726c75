"""Energy of one window from counted operations: an estimate for neuromorphic hardware, never a measurement.

The same network on the same window comes out up to a factor of twenty apart by what is counted, so every figure stands
beside its formula. Joules measured on a board belong into another column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from snn_perception.evaluation.operations import LayerOperations, Operations

LABEL = "estimate for neuromorphic hardware"


@dataclass(frozen=True)
class EnergyTable:
    """What one operation costs.

    Attributes:
        mac_pj, ac_pj: of a multiply-accumulate and of an accumulate, picojoules.
        memory_pj_per_byte: of a byte read or written.
        source, memory_source: where the numbers come from.
    """

    name: str
    node: str
    number_format: str
    mac_pj: float
    ac_pj: float
    memory_pj_per_byte: float
    source: str
    memory_source: str


# A MAC is one multiplication (3.7 pJ) and one addition (0.9 pJ).
HOROWITZ_45NM_FP32 = EnergyTable(
    name="horowitz_45nm_fp32",
    node="45 nm, 0.9 V",
    number_format="fp32",
    mac_pj=4.6,
    ac_pj=0.9,
    memory_pj_per_byte=24.96,
    source="M. Horowitz, Computing's energy problem (and what we can do about it), ISSCC 2014",
    memory_source="spikingjelly 2.0, op_counter, table of memory accesses",
)


@dataclass(frozen=True)
class EnergyVariant:
    """One way of keeping the books: its formula in words and what it gives for a window."""

    name: str
    formula: str
    microjoules: float


@dataclass(frozen=True)
class LayerEnergy:
    """What one weighted layer costs in a window, nanojoules, by the ways that divide among layers.

    Each sums up over the layers to the `EnergyVariant` of its name.
    """

    dense_mac: float
    dense_ac: float
    event_ac: float


@dataclass(frozen=True)
class EnergyReport:
    """The five usual ways, from the densest to the one that counts memory, and the constants they share.

    Attributes:
        layers: weighted layers by name, in the order in which they run.
    """

    table: EnergyTable
    variants: tuple[EnergyVariant, ...]
    layers: Mapping[str, LayerEnergy] = field(default_factory=dict)
    label: str = LABEL

    def __getitem__(self, name: str) -> float:
        """Return the microjoules of one way by its name."""
        return next(variant.microjoules for variant in self.variants if variant.name == name)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; those of layers in nanojoules."""
        values = asdict(replace(self, layers={}))
        values["layers_nanojoules"] = {name: asdict(layer) for name, layer in self.layers.items()}
        del values["layers"]
        return values


def energy_of(operations: Operations, table: EnergyTable = HOROWITZ_45NM_FP32) -> EnergyReport:
    """Return what a window costs by each way of keeping the books."""
    mac, ac = f"{table.mac_pj:g} pJ", f"{table.ac_pj:g} pJ"
    events = operations.acs * table.ac_pj + operations.analog_macs * table.mac_pj
    neurons = operations.neuron_updates * table.mac_pj
    state = 2 * operations.state_bytes * table.memory_pj_per_byte
    weights = operations.weight_bytes * table.memory_pj_per_byte
    variants = (
        ("dense_mac", f"dense MACs x {mac}", operations.dense_macs * table.mac_pj),
        ("dense_ac", f"dense MACs x {ac}", operations.dense_macs * table.ac_pj),
        ("event_ac", f"effective ACs x {ac} + dense MACs of analog layers x {mac}", events),
        ("event_ac_neurons", f"event_ac + neuron updates x {mac}", events + neurons),
        (
            "event_ac_neurons_memory",
            f"event_ac_neurons + (2 x state bytes + weight bytes) x {table.memory_pj_per_byte:g} pJ",
            events + neurons + state + weights,
        ),
    )
    layers = {name: _of_layer(layer, table) for name, layer in operations.layers.items()}
    return EnergyReport(table, tuple(EnergyVariant(name, formula, pj / 1e6) for name, formula, pj in variants), layers)


def _of_layer(layer: LayerOperations, table: EnergyTable) -> LayerEnergy:
    event_pj = layer.effective * table.ac_pj if layer.is_accumulate else layer.dense * table.mac_pj
    return LayerEnergy(layer.dense * table.mac_pj / 1e3, layer.dense * table.ac_pj / 1e3, event_pj / 1e3)
