"""Which of the authors' two source trees a file comes from: it decides the neuron, which no shape tells.

The COCO tree's neurons keep a quarter of the residue and take the input whole; those of the GEN1 tree halve both. A
file with whole pickled modules names the neurons' classes; a bare state_dict does not, and what is then assumed is
shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from snn_perception.api import CheckpointError

from .keys import authors_neuron
from .neuron import COCO_LEAK, GEN1_LEAK, MAX_SPIKES
from .presets import COCO_CLASSES, GEN1_CLASSES
from .shapes import Network, bare

COCO, GEN1 = "COCO", "GEN1"
_COCO_NEURON, _QUANTISER = "mem_update", re.compile(r"MultiSpike(\d{1,3})")
_GEN1_NEURON, _GEN1_LIBRARY = "MultiStepLIFNode", "spikingjelly."
_GEN1_TAU = 2.0
_MAX_SPIKES_READ = 64


@dataclass(frozen=True)
class Tree:
    """The source tree of a file.

    Attributes:
        name: ``COCO`` or ``GEN1``.
        max_spikes: of its neurons (D).
        steps: time steps (T), where the file tells.
        assumed: what the file does not tell and why it was chosen, name -> text.
    """

    name: str
    max_spikes: int
    steps: int | None
    assumed: Mapping[str, str]

    @property
    def leak(self) -> dict[str, Any]:
        """The options of the neuron."""
        return {**(COCO_LEAK if self.name == COCO else GEN1_LEAK), "max_spikes": self.max_spikes}

    @property
    def told(self) -> str:
        """The neuron in words."""
        form = "decay 0.25, input whole" if self.name == COCO else "time constant 2, input halved"
        return f"I-LIF of the {self.name} tree: {form}, up to {self.max_spikes} spikes"


def find_tree(hints: Mapping[str, Any], network: Network) -> Tree:
    """Return the tree that the classes of a file's pickled neurons tell, or that its numbers let assume.

    Raises:
        CheckpointError: if neurons of both trees are there, or of another kind than either has.
    """
    modules = modules_of(hints)
    neurons = {name: modules[name] for name in _neuron_names(network) if name in modules}
    if not neurons:
        return _assumed(network)
    kinds = {_class_name(attributes) for attributes in neurons.values()}
    if kinds == {_COCO_NEURON}:
        return _coco(modules, neurons)
    if kinds == {_GEN1_NEURON} and all(_is_of_library(attributes) for attributes in neurons.values()):
        return _gen1(neurons)
    raise CheckpointError(
        f"neurons: expected those of the COCO tree ({_COCO_NEURON}) or of the GEN1 tree ({_GEN1_NEURON}), "
        f"got {', '.join(ascii(kind[:80]) for kind in sorted(kinds)[:4])}"
    )


def _coco(modules: Mapping[str, Mapping[str, Any]], neurons: Mapping[str, Any]) -> Tree:
    inside = tuple(f"{name}." for name in neurons)
    found = {
        int(match[1])
        for name, attributes in modules.items()
        if name.startswith(inside) and (match := _QUANTISER.fullmatch(_class_name(attributes)))
    }
    assumed: dict[str, str] = {}
    if len(found) != 1:
        assumed["max_spikes"] = f"{MAX_SPIKES} (published; the neurons do not tell)"
        found = {MAX_SPIKES}
    return Tree(COCO, _checked_spikes(found.pop()), _steps(modules), assumed)


def _gen1(neurons: Mapping[str, Mapping[str, Any]]) -> Tree:
    for name, attributes in neurons.items():
        wanted = {"tau": _GEN1_TAU, "decay_input": True, "v_reset": None}
        for option, value in wanted.items():
            if option in attributes and attributes[option] != value:
                raise CheckpointError(
                    f"neuron 'model.{name}': expected {option}={value}, as the GEN1 tree has it, "
                    f"got {ascii(attributes[option])[:40]}"
                )
    told = "the file does not tell it: its neurons are called as the binary ones of the stock spikingjelly"
    return Tree(GEN1, MAX_SPIKES, None, {"max_spikes": f"{MAX_SPIKES} (published; {told})"})


def _assumed(network: Network) -> Tree:
    """Return what is likeliest for a bare state_dict."""
    coarse, middle = network.repeats[3], network.repeats[1]
    if network.num_classes == len(COCO_CLASSES):
        name, why = COCO, f"{network.num_classes} classes"
    elif coarse > 1:
        name, why = COCO, f"{coarse} blocks in layer 8"
    elif middle > 2:
        name, why = GEN1, f"a single block in layer 8 beside {middle} in layer 4"
    elif network.num_classes == len(GEN1_CLASSES):
        name, why = GEN1, f"{network.num_classes} classes"
    else:
        name, why = COCO, f"{network.num_classes} classes, which neither tree was published with"
    assumed = {
        "tree": f"{name} ({why}; the file names no neurons, and the wrong tree's ruin the weights)",
        "max_spikes": f"{MAX_SPIKES} (published)",
    }
    return Tree(name, MAX_SPIKES, None, assumed)


def _neuron_names(network: Network) -> list[str]:
    """Return the authors' bare names of all neurons."""
    import torch

    from .neuron import ILIF

    with torch.device("meta"):
        parts = dict(zip(("backbone", "head"), network.build(ILIF), strict=True))
    return [
        authors_neuron(f"{part}.{name}", network.repeats)
        for part, module in parts.items()
        for name, inner in module.named_modules()
        if isinstance(inner, ILIF)
    ]


def modules_of(hints: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the attributes of the file's modules by bare name; empty for a bare state_dict."""
    found = hints.get("modules")
    if not isinstance(found, Mapping):
        return {}
    return {bare(name): values for name, values in found.items() if isinstance(values, Mapping)}


def _class_name(attributes: Mapping[str, Any]) -> str:
    return str(attributes.get("class", "")).rpartition(".")[2]


def _is_of_library(attributes: Mapping[str, Any]) -> bool:
    return str(attributes.get("class", "")).startswith(_GEN1_LIBRARY)


def _steps(modules: Mapping[str, Mapping[str, Any]]) -> int | None:
    """Return the T of the layer that repeats the image."""
    steps = modules.get("0", {}).get("T")
    return steps if type(steps) is int and 1 <= steps <= 64 else None


def _checked_spikes(count: int) -> int:
    if not 1 <= count <= _MAX_SPIKES_READ:
        raise CheckpointError(f"neurons: expected 1 to {_MAX_SPIKES_READ} spikes in one step, got {count}")
    return count
