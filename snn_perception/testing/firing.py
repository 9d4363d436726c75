"""Which layers of a network spike, how often, and how to make all of them do it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from snn_perception.state import State

FIRING_BAND = (0.01, 0.60)  # share of outputs that are not zero, at which a layer is neither silent nor saturated
_ROUNDS = 12


class FiringMeter:
    """Counts the outputs of spiking layers while it is entered; leaves the network as it was.

    Example::

        with FiringMeter(spiking_layers(backbone, x)) as meter:
            backbone(x, None)
        meter.rates()   # {"stages.0.neuron": 0.13, ...}
    """

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        self._layers = dict(layers)
        self._fired: dict[str, int] = {}
        self._outputs: dict[str, int] = {}
        self._handles: list[Any] = []
        self.clear()

    def clear(self) -> None:
        """Forget what was counted."""
        self._fired = dict.fromkeys(self._layers, 0)
        self._outputs = dict.fromkeys(self._layers, 0)

    def rates(self) -> dict[str, float]:
        """Return for each layer the share of its outputs since the last `clear` that were not zero; 0 if none came."""
        return {name: self._fired[name] / max(1, self._outputs[name]) for name in self._layers}

    def overall(self) -> float:
        """Return the share of all outputs since the last `clear` that were not zero; 0 if none came."""
        return sum(self._fired.values()) / max(1, sum(self._outputs.values()))

    def __enter__(self) -> FiringMeter:
        for name, layer in self._layers.items():
            self._handles.append(layer.register_forward_hook(self._counter(name)))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _counter(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def count(module: nn.Module, args: Any, output: Any) -> None:
            self._fired[name] += int(torch.count_nonzero(output[0]))
            self._outputs[name] += output[0].numel()

        return count


def spiking_layers(module: nn.Module, x: Any) -> dict[str, nn.Module]:
    """Return the spiking layers of a network by name, in the order in which they run on input x.

    They are found by watching: the innermost modules that turn ``(current, state)`` into ``(spikes, state)`` of the
    same shape, spikes being whole numbers. So no neuron needs a base class or a mark.
    """
    names = {layer: name for name, layer in module.named_modules()}
    found: dict[str, nn.Module] = {}

    def watch(layer: nn.Module, args: Any, output: Any) -> None:
        if _looks_spiking(args, output) and not any(names.get(inner) in found for inner in layer.modules()):
            found[names[layer]] = layer

    handles = [layer.register_forward_hook(watch) for layer in names]
    try:
        with torch.no_grad():
            module(x, None)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _looks_spiking(args: Any, output: Any) -> bool:
    if not (args and isinstance(args[0], Tensor) and isinstance(output, tuple) and len(output) == 2):
        return False
    spikes = output[0]
    return isinstance(spikes, Tensor) and spikes.shape == args[0].shape and bool((spikes == spikes.round()).all())


@torch.no_grad()
def wake(module: nn.Module, x: Tensor | Sequence[Any], *, windows: int = 3) -> dict[str, float]:
    """Make every spiking layer fire in each window, in evaluation mode, and return the layers' lowest rates.

    The norms see the data, so that their running statistics fit it; then the gain of what feeds a layer that is silent
    or saturated is changed, until all are within `FIRING_BAND` in every window.

    Args:
        x: input [T, B, ...], cut into `windows` pieces along T, or the windows' inputs as a list.

    Raises:
        AssertionError: if the module has no spiking layers or some cannot be woken.
    """
    module.eval()
    inputs = list(x.chunk(windows)) if isinstance(x, Tensor) else list(x)
    layers = spiking_layers(module, inputs[0])
    assert layers, f"{type(module).__name__}: no spiking layer ran; expected at least one neuron in the network"
    feeders = _feeders(module, inputs[0], layers)
    low, high = FIRING_BAND
    extremes: dict[str, tuple[float, float]] = {}
    for _ in range(_ROUNDS):
        _calibrate(module, inputs)
        extremes = _extremes(module, inputs, layers)
        if all(low <= least and most <= high for least, most in extremes.values()):
            return {name: least for name, (least, _) in extremes.items()}
        for name, (least, most) in extremes.items():
            if (least < low or most > high) and name in feeders:
                feeders[name].mul_(2.0 if least < low else 0.7)
    rates = ", ".join(f"{name} {least:.2%}..{most:.2%}" for name, (least, most) in extremes.items())
    raise AssertionError(f"a spiking layer does not fire at {low:.0%} to {high:.0%} whatever its input's gain: {rates}")


def _extremes(
    module: nn.Module, inputs: Sequence[Any], layers: Mapping[str, nn.Module]
) -> dict[str, tuple[float, float]]:
    """Return the lowest and highest rate of each layer over the windows, state carried from one to the next."""
    state, seen = None, []
    with FiringMeter(layers) as meter:
        for window in inputs:
            meter.clear()
            _, state = module(window, state)
            seen.append(meter.rates())
    return {name: (min(rates[name] for rates in seen), max(rates[name] for rates in seen)) for name in layers}


def _feeders(module: nn.Module, x: Any, layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return for each spiking layer the weight whose gain sets its current: that of the last weighted layer before."""
    last: list[Tensor] = []
    feeders: dict[str, Tensor] = {}
    names = {layer: name for name, layer in layers.items()}

    def before(layer: nn.Module, args: Any) -> None:
        if layer in names:
            if last:  # one that the input itself feeds has to fire as it is
                feeders[names[layer]] = last[-1]
        elif isinstance(weight := getattr(layer, "weight", None), Tensor):
            last.append(weight)

    handles = [layer.register_forward_pre_hook(before) for layer in module.modules()]
    try:
        module(x, None)
    finally:
        for handle in handles:
            handle.remove()
    return feeders


def _calibrate(module: nn.Module, inputs: Sequence[Any]) -> None:
    """Set the running statistics of the batch norms to those of the inputs, each norm seeing normalised ones."""
    norms = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over what it sees
        norm.train()
    state: State = None
    for window in inputs:
        _, state = module(window, state)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
