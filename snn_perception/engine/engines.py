"""What runs a detector's network, behind one call, with the state as a value in and out.

Every engine takes and gives the same states, so that one may follow another in the middle of a stream. `detector` is
the detector as it is; `eager`, the same by plain operations, is the oracle that all others are held against.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from snn_perception.detector import Detector
from snn_perception.errors import SpecError
from snn_perception.fusing import plain_operations
from snn_perception.membranes import window_leaks
from snn_perception.state import State, named_leaves, tree_map


class Engine(Protocol):
    """A network that runs.

    Attributes:
        name: of the backend. precision: ``fp32``, ``bf16``, ``fp16`` or ``int8``, of weights and activations;
            membranes are float32 in all.
    """

    name: str
    precision: str

    def __call__(
        self, x: Tensor, state: State = None, keep: Tensor | None = None, active: Tensor | None = None
    ) -> tuple[Any, State]:
        """Return the head's raw output and the state after x [T, B, C, H, W].

        Args:
            state: of B rows, or None for rest. It is left as it was.
            keep: float32 [B], what membranes are multiplied by first (1 goes on, 0 resets, -k leaks over k windows).
            active: bool [B]; the membranes of the other rows come out as they went in.

        Raises:
            ValueError: if the state is of another model, batch or input size.
        """
        ...


@dataclass(frozen=True)
class Settings:
    """What an engine is built with.

    Attributes:
        threads: processor threads of its arithmetic.
        precision: of weights and activations, where the engine has more than ``fp32``; membranes are float32 always.
        cache: folder of what was compiled or exported before; None: the user's own.
        graph: an exported file to run in place of one from the cache.
        on_stage: told what is being done where that takes long.
    """

    threads: int = 1
    precision: str = "fp32"
    cache: Path | None = None
    graph: Path | None = None
    on_stage: Callable[[str], None] = lambda stage: None


class DetectorEngine:
    """A detector, or an equal form of it, as it is: its own fused neurons, operation by operation.

    Args:
        source: the detector that an equal form was made of, whose neurons say how they leak.
    """

    precision = "fp32"

    def __init__(self, detector: Detector, name: str = "detector", *, source: Detector | None = None) -> None:
        self.detector, self.name = detector, name
        self._source = source or detector
        self._leaks: Mapping[str, float] | None = None

    def _kept(self, x: Tensor, state: State, keep: Tensor) -> State:
        if self._leaks is None and bool((keep < 0).any()):
            self._leaks = window_leaks(self._source, x)
        return with_keep(state, keep, self._leaks)

    @torch.no_grad()
    def __call__(
        self, x: Tensor, state: State = None, keep: Tensor | None = None, active: Tensor | None = None
    ) -> tuple[Any, State]:
        """Return the head's raw output and the state after x."""
        before = state if keep is None else self._kept(x, state, keep)
        raw, after = self.detector(x, before)
        return raw, after if active is None else with_active(after, state, active)

    @torch.no_grad()
    def advance(self, x: Tensor, state: State = None) -> State:
        """Return the state after x alone; a head without membranes is not run."""
        if isinstance(state, dict) and state["head"] is None:  # it has none, since it was run before
            _, backbone = self.detector.backbone(x, state["backbone"])
            return {"backbone": backbone, "head": None}
        return self.detector(x, state)[1]  # type: ignore[no-any-return]


class EagerEngine(DetectorEngine):
    """A detector by plain operations of torch, nothing fused or folded: what every other engine is held against."""

    def __init__(self, detector: Detector) -> None:
        super().__init__(detector, "eager")

    def __call__(
        self, x: Tensor, state: State = None, keep: Tensor | None = None, active: Tensor | None = None
    ) -> tuple[Any, State]:
        """Return the head's raw output and the state after x."""
        with plain_operations():
            return super().__call__(x, state, keep, active)

    def advance(self, x: Tensor, state: State = None) -> State:
        """Return the state after x alone."""
        with plain_operations():
            return super().advance(x, state)


def advance(engine: Engine, x: Tensor, state: State = None) -> State:
    """Return the state after x, as cheaply as an engine can tell it."""
    if isinstance(engine, DetectorEngine):
        return engine.advance(x, state)
    return engine(x, state)[1]


def with_keep(state: State, keep: Tensor, leaks: Mapping[str, float] | None) -> State:
    """Return a state whose rows are multiplied by `keep` (float32 [B]); by ``leak ** k`` where it is -k.

    Raises:
        SpecError: for a number below 0 if it is not known how membranes leak.
    """
    if leaks is None and bool((keep < 0).any()):
        raise SpecError("keep: expected numbers from 0, since a neuron does not say how it leaks, got one below 0")
    names = iter([name for name, _ in named_leaves(state)])

    def kept(leaf: Tensor) -> Tensor:
        name = next(names)
        factor = keep if leaks is None else torch.where(keep < 0, leaks[name] ** keep.clamp(max=0).neg(), keep)
        return leaf * _rows(factor.to(leaf), leaf)

    return tree_map(kept, state)


def with_active(after: State, before: State, active: Tensor) -> State:
    """Return the state `after` for rows where `active` (bool [B]) holds, and that `before` for the others."""
    old = dict(named_leaves(before))
    names = iter([name for name, _ in named_leaves(after)])

    def chosen(new: Tensor) -> Tensor:
        leaf = old.get(next(names))
        return torch.where(_rows(active.to(new.device), new), new, torch.zeros_like(new) if leaf is None else leaf)

    return tree_map(chosen, after)


def _rows(vector: Tensor, like: Tensor) -> Tensor:
    return vector.view(-1, *(1,) * (like.dim() - 1))
