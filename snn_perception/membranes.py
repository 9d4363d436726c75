"""Which neuron owns which membrane of a detector's state, and what a window without input leaves of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from snn_perception.detector import Detector
from snn_perception.errors import SpecError
from snn_perception.state import named_leaves


@dataclass(frozen=True)
class Membrane:
    """Who owns a leaf of the state, and how many steps it makes in a window."""

    neuron: Any
    steps: int


@torch.no_grad()
def owners(detector: Detector, x: Tensor) -> dict[str, Membrane]:
    """Return the owner of each leaf of the state, by its name, as a call with that state shows.

    Args:
        x: any input [T, B, C, H, W] of the detector.

    Raises:
        SpecError: if no neuron takes a membrane as it is.
    """
    _, state = detector(x, None)
    names = {id(leaf): name for name, leaf in named_leaves(state)}
    found: dict[str, Membrane] = {}

    def look(neuron: nn.Module, arguments: tuple[Any, ...]) -> None:
        if len(arguments) == 2 and isinstance(arguments[1], Tensor) and id(arguments[1]) in names:
            found[names[id(arguments[1])]] = Membrane(neuron, len(arguments[0]))  # the innermost call comes last

    handles = [module.register_forward_pre_hook(look) for module in detector.modules()]
    try:
        detector(x, state)
    finally:
        for handle in handles:
            handle.remove()
    if missing := sorted(set(names.values()) - set(found)):
        raise SpecError(
            f"gap_policy leak: no neuron takes the membrane '{missing[0]}' as it is; use gap_policy hold or reset"
        )
    return found


def require_leaks(membranes: dict[str, Membrane], neuron: str) -> None:
    """Raise SpecError unless every owner knows ``leak(v, steps) -> v``.

    Args:
        neuron: name of the component, for the message.
    """
    for name, membrane in membranes.items():
        if not callable(getattr(membrane.neuron, "leak", None)):
            raise SpecError(
                f"gap_policy leak: neuron '{neuron}' (membrane '{name}') does not say how it "
                "leaks; expected a method leak(v, steps), use gap_policy hold or reset"
            )


@torch.no_grad()
def window_leaks(detector: Detector, x: Tensor) -> dict[str, float]:
    """Return the share of each membrane that a window without input leaves, by its name.

    Raises:
        SpecError: if a neuron does not say how it leaks.
    """
    membranes = owners(detector, x)
    require_leaks(membranes, detector.spec.neuron.name)
    one = torch.ones((), dtype=torch.float64, device=x.device)
    return {name: float(m.neuron.leak(one, m.steps)) for name, m in membranes.items()}
