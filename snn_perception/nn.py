"""Building blocks for networks over time-major tensors ``[T, B, ...]`` with explicit state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from snn_perception.state import State

NeuronFactory = Callable[[], nn.Module]


def fold_time(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return `layer` applied to every step of x [T, B, ...] at once, as [T, B, ...].

    Convolutions and norms know nothing of time: they run once, on [T * B, ...].
    """
    y = layer(x.flatten(0, 1))
    return y.unflatten(0, x.shape[:2])


def beside(maps: Sequence[Tensor]) -> Tensor:
    """Return maps [T, B, C_i, H, W] as one of all their channels, in the memory order of the maps.

    Of five axes torch does not know the order of channels_last, and would bring it into its own and back.
    """
    return torch.cat([x.flatten(0, 1) for x in maps], dim=1).unflatten(0, maps[0].shape[:2])


def membrane_dtype(current: Tensor) -> torch.dtype:
    """Return the dtype for membranes: the wider of float32 and the input's, also under autocast.

    A membrane adds many small currents; in half precision the small ones would vanish.
    """
    return torch.promote_types(current.dtype, torch.float32)


def resting(current: Tensor) -> Tensor:
    """Return a membrane at rest for an input [T, B, ...]: zeros [B, ...] in the membrane's dtype, in memory alike."""
    return torch.zeros_like(current[0], dtype=membrane_dtype(current))


def membrane(state: State, current: Tensor) -> Tensor:
    """Return the membrane [B, ...] to start from: the state of a neuron with one variable, or rest.

    Raises:
        ValueError: if the state was made for another batch or input size, or by another kind of neuron.
    """
    if state is None:
        return resting(current)
    if not isinstance(state, Tensor) or state.shape != current.shape[1:]:
        got = f"a tensor {list(state.shape)}" if isinstance(state, Tensor) else f"a {type(state).__name__}"
        raise ValueError(f"state does not fit the input: expected a tensor {list(current.shape[1:])}, got {got}")
    return state.to(membrane_dtype(current))


class Spike(nn.Module):
    """Fires where the membrane reaches the threshold, equality included; gradient of a surrogate in training.

    In evaluation it is the plain comparison, which exports to any graph format. `surrogate` is a callable with a
    gradient, such as those of spikingjelly.
    """

    def __init__(self, surrogate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.surrogate = surrogate

    def forward(self, v: Tensor, threshold: float | Tensor = 0.0) -> Tensor:
        """Return spikes, 0 or 1 in the dtype of `v`; without a threshold, `v` is the distance to it."""
        if self.training:
            return self.surrogate(v - threshold)
        return (v >= threshold).to(v.dtype)


class SpikingStage(nn.Module):
    """A layer without time whose output is the current of a neuron: ``(x, v) -> (spikes, v)``."""

    def __init__(self, current: nn.Module, neuron: nn.Module) -> None:
        super().__init__()
        self.current, self.neuron = current, neuron

    def forward(self, x: Tensor, v: State = None) -> tuple[Tensor, State]:
        """Return spikes [T, B, C', H', W'] of x [T, B, C, H, W], and the neuron's state."""
        spikes, v = self.neuron(fold_time(self.current, x), v)
        return spikes, v


class PotentialStage(nn.Module):
    """A neuron, then a layer without time that takes its spikes: ``(potentials, v) -> (potentials, v)``.

    Nothing else sees the spikes, so that an engine may keep them in whatever form the layer reads fastest.
    """

    def __init__(self, neuron: nn.Module, current: nn.Module) -> None:
        super().__init__()
        self.neuron, self.current = neuron, current

    def forward(self, x: Tensor, v: State = None) -> tuple[Tensor, State]:
        """Return potentials [T, B, C', H', W'] of potentials x [T, B, C, H, W], and the neuron's state."""
        spikes, v = self.neuron(x, v)
        return fold_time(self.current, spikes), v


class Chain(nn.Module):
    """Stateful layers one after the other: ``(x, state) -> (y, state)``, one part of the state for each layer."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Return the last layer's output and the state of all layers."""
        after = []
        for layer, part in zip(self.layers, parts_of(state, len(self.layers)), strict=True):
            x, part = layer(x, part)
            after.append(part)
        return x, tuple(after)


def parts_of(state: State, count: int) -> tuple[State, ...]:
    """Return the `count` parts of a tuple state; rest has `count` parts at rest.

    Raises:
        ValueError: if the state was made by a network of another structure.
    """
    if state is None:
        return (None,) * count
    if not isinstance(state, tuple) or len(state) != count:
        got = f"a tuple of {len(state)}" if isinstance(state, tuple) else type(state).__name__
        raise ValueError(f"state has another structure than the network: expected a tuple of {count}, got {got}")
    return state


class FromMemoryModule(nn.Module):
    """Gives a spikingjelly ``MemoryModule`` an explicit state, so that it is a neuron like any other.

    The node keeps its memories inside; they are written before a call and taken out after it, and the node is left at
    rest. One call at a time per instance.

    Args:
        node: runs step by step (``step_mode="s"``); its memories, as `node.named_memories()` lists them, rest at 0.

    Raises:
        ValueError: for any other node, since its state could not be passed as a value.
    """

    def __init__(self, node: nn.Module) -> None:
        super().__init__()
        _require_explicit_memories(node)
        self.node: Any = node

    def forward(self, current: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Return spikes [T, B, ...] and the memories {name: [B, ...]} after the last step.

        Raises:
            ValueError: if the state is of another neuron or input size, or the node returns more than spikes.
        """
        node = self.node
        before = self._memories_from(state, current.shape[1:])
        node.reset()
        try:
            for name, value in before.items():
                setattr(node, name, value)
            with _full_precision(current.device):
                spikes = [node(step) for step in current.to(membrane_dtype(current))]
            after: State = {name: value for name, value in node.named_memories() if isinstance(value, Tensor)}
        finally:
            node.reset()
        if not all(isinstance(s, Tensor) and s.shape == current.shape[1:] for s in spikes):
            raise ValueError(f"{type(node).__name__} does not return one spike tensor per step of the input's shape")
        return torch.stack(spikes).to(current.dtype), after

    def _memories_from(self, state: State, shape: torch.Size) -> dict[str, Tensor]:
        if state is None:
            return {}
        known = {name for name, _ in self.node.named_memories()}
        fits = isinstance(state, dict) and state.keys() <= known
        if not fits or not all(isinstance(v, Tensor) and v.shape == shape for v in state.values()):  # type: ignore[union-attr]
            raise ValueError(f"state does not fit the input: expected tensors {list(shape)} named {sorted(known)}")
        return state  # type: ignore[return-value]  # a dict of tensors, checked above


def _full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context without autocast; the meta device has none to switch off."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def _require_explicit_memories(node: Any) -> None:
    kind = type(node).__name__
    holders = [module for module in node.modules() if hasattr(module, "named_memories")]
    if holders != [node]:
        raise ValueError(f"{kind} does not hold its state itself as memories; expected one MemoryModule")
    memories = dict(node.named_memories())
    if not memories:
        raise ValueError(f"{kind} has no memories: it is no neuron that runs step by step")
    if getattr(node, "step_mode", "s") != "s":
        raise ValueError(f"{kind} must run step by step: use step_mode='s', got {node.step_mode!r}")
    for name, rest in memories.items():
        if not isinstance(rest, (int, float)) or rest != 0:
            hint = "; use v_reset=0.0 or None" if name == "v" else ""
            raise ValueError(f"{kind}: memory '{name}' rests at {rest}, but rest must be 0{hint}")
