"""A check that a network's neurons are those its weights need: they fire, and whole numbers of spikes, not 0 and 1.

Weights of this family run without complaint on a binary neuron, as they do where the stock spikingjelly takes the place
of the copy that the authors changed, and detect next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from snn_perception.api import CheckpointError

from .units import SpikingConv

GAINS = (1.0, 4.0, 16.0)  # of the probe: weights decide how strong an input stirs them
_SIDE = 64
_SILENT_SHARE = 0.5  # of the neurons; with more of them a stronger probe is tried


@dataclass(frozen=True)
class Firing:
    """What the neurons of a network did at one strength of the probe: the largest output of each, by its name."""

    gain: float
    largest: dict[str, float]

    @property
    def silent(self) -> list[str]:
        """Names of the neurons that never fired."""
        return [name for name, value in self.largest.items() if value == 0]

    @property
    def most(self) -> float:
        """The most spikes of any neuron in one step."""
        return max(self.largest.values())


def check_firing(network: nn.Module, max_spikes: int, *, steps: int = 1) -> Firing:
    """Return what a probe image makes the neurons of a network do, once it shows that they are the right ones.

    Args:
        network: a detector of the family, or its backbone and head in one module, ``(x, state) -> (output, state)``.
        max_spikes: the most that a neuron of its weights fires in one step (D).
        steps: time steps of the probe.

    Raises:
        CheckpointError: naming the neurons, if all are silent, fire something else than whole numbers from 0 to
            `max_spikes`, or only 0 and 1 where more are due. That some are silent is no error: weights before training
            leave many so.
    """
    neurons = {name: module.neuron for name, module in network.named_modules() if isinstance(module, SpikingConv)}
    kinds = ", ".join(sorted({_kind(neuron) for neuron in neurons.values()}))
    due = f"these weights need whole numbers of up to {max_spikes} spikes (neuron 'ilif')"
    best: Firing | None = None
    for gain in GAINS:
        firing = _firing(network, neurons, gain, steps, due)
        if firing.most > max_spikes:
            raise CheckpointError(f"neurons {kinds} fire up to {firing.most:g} at once; {due}")
        if best is None or (firing.most > 1, -len(firing.silent)) > (best.most > 1, -len(best.silent)):
            best = firing
        if (max_spikes == 1 or best.most > 1) and len(best.silent) <= _SILENT_SHARE * len(neurons):
            break
    assert best is not None
    if best.most == 0:
        raise CheckpointError(
            f"all {len(neurons)} neurons ({kinds}) are silent whatever the strength of a probe image; {due}, or the "
            "weights are damaged"
        )
    if best.most == 1 < max_spikes:
        raise CheckpointError(f"neurons {kinds} fire 0 and 1 alone, as the stock neuron of spikingjelly does; {due}")
    return best


@torch.no_grad()
def _firing(network: nn.Module, neurons: dict[str, nn.Module], gain: float, steps: int, due: str) -> Firing:
    like = next(parameter for parameter in network.parameters() if parameter.is_floating_point())
    generator = torch.Generator().manual_seed(0)
    x = gain * torch.rand(steps, 1, 3, _SIDE, _SIDE, generator=generator)
    largest = dict.fromkeys(neurons, 0.0)

    def watch(name: str, spikes: Tensor) -> None:
        if not bool((spikes == spikes.round()).all()) or bool((spikes < 0).any()):
            raise CheckpointError(f"neuron {_kind(neurons[name])} '{name}' does not fire whole numbers from 0; {due}")
        largest[name] = max(largest[name], float(spikes.max()))

    handles = [
        neuron.register_forward_hook(lambda module, args, output, name=name: watch(name, output[0]))
        for name, neuron in neurons.items()
    ]
    try:
        with _evaluating(network):
            network(x.to(like.device, like.dtype), None)
    finally:
        for handle in handles:
            handle.remove()
    return Firing(gain, largest)


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


def _kind(neuron: nn.Module) -> str:
    """Return the neuron's class; of one that is wrapped, the class inside too."""
    inner = [type(child).__name__ for child in neuron.children() if hasattr(child, "named_memories")]
    return "".join([type(neuron).__name__, *(f"({name})" for name in inner)])
