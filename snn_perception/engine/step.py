"""The step of a detector as a flat function of tensors, as graph formats want it: every membrane has a name.

    events [T, B, C, H, W], keep [B], active [B], <membrane>_in ...
        -> raw outputs ..., boxes [B, A, 4], scores [B, A, K], <membrane>_out ...

`keep` and `active` make resets, gaps and partly filled batches data, so that a graph needs no control flow:

* ``keep``: what a row's membranes are multiplied by first: 1 carries them on, 0 puts them to rest. A negative number
  -k stands for k windows that were never run: every membrane leaks by its own neuron's factor for each of them.
* ``active``: rows that are False are left alone: their membranes come out as they went in (their other outputs mean
  nothing).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from snn_perception.detector import Detector
from snn_perception.errors import SpecError
from snn_perception.membranes import window_leaks
from snn_perception.state import State, from_leaves, named_leaves, outline

EVENTS, KEEP, ACTIVE, BOXES, SCORES = "events", "keep", "active", "boxes", "scores"


@dataclass(frozen=True)
class StepShape:
    """What a step takes and gives, batch rows left out.

    Attributes:
        events: (T, C, H, W) of the input.
        raw: names of the head's raw outputs, and their structure as `state.outline` gives it.
        state: names of the membranes, and their structure.
        rows: shape of each membrane without its batch row, by name.
        leaks: what is left of each membrane after a window without input, by name; None where a neuron does not say.
    """

    events: tuple[int, int, int, int]
    raw: tuple[str, ...]
    raw_outline: Any
    state_outline: Any
    rows: dict[str, tuple[int, ...]]
    leaks: dict[str, float] | None

    @property
    def state(self) -> tuple[str, ...]:
        """Names of the membranes, in the order in which they are passed."""
        return tuple(self.rows)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of everything that goes in."""
        return (EVENTS, KEEP, ACTIVE, *(f"{name}_in" for name in self.state))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of everything that comes out."""
        return (*self.raw, BOXES, SCORES, *(f"{name}_out" for name in self.state))

    def at_rest(self, rows: int, device: torch.device | str = "cpu") -> list[Tensor]:
        """Return the membranes of so many rows at rest."""
        return [torch.zeros(rows, *shape, device=device) for shape in self.rows.values()]

    def leaves(self, state: State, rows: int, device: torch.device | str = "cpu") -> list[Tensor]:
        """Return the membranes of a state of so many rows, in order; zeros for rest.

        Raises:
            ValueError: if the state is of another model or input size.
        """
        found = dict(named_leaves(state))
        if not found:
            return self.at_rest(rows, device)
        expected = {name: (rows, *shape) for name, shape in self.rows.items()}
        got = {name: tuple(leaf.shape) for name, leaf in found.items()}
        if got != expected:
            wrong = next(name for name in (*expected, *got) if expected.get(name) != got.get(name))
            raise ValueError(
                f"state does not fit the model: membrane '{wrong}' has the shape {got.get(wrong)}, "
                f"expected {expected.get(wrong)}"
            )
        return [found[name] for name in self.rows]

    def tree(self, leaves: Sequence[Tensor]) -> State:
        """Return the state of membranes in their order."""
        return from_leaves(self.state_outline, dict(zip(self.state, leaves, strict=True)))

    def raw_tree(self, tensors: Sequence[Tensor]) -> Any:
        """Return the head's raw output of its tensors in their order."""
        return from_leaves(self.raw_outline, dict(zip(_bare(self.raw), tensors, strict=True)))


class Step(nn.Module):
    """A detector's step with named, flat inputs and outputs.

    Args:
        detector: in evaluation mode; folded or not.
        x: any input [T, B, C, H, W] of it.
        with_boxes: whether boxes and scores are outputs too; the head must know ``boxes_and_scores(raw, size)``.

    Raises:
        SpecError: if the detector keeps no state that can be passed, or boxes are asked of a head that has none.
    """

    def __init__(self, detector: Detector, x: Tensor, *, with_boxes: bool = True) -> None:
        super().__init__()
        if with_boxes and not callable(getattr(detector.head, "boxes_and_scores", None)):
            raise SpecError(
                f"head '{detector.spec.head.name}' cannot be exported: expected a method boxes_and_scores(raw, size)"
            )
        self.detector, self.with_boxes = detector, with_boxes
        self.shape = step_shape(detector, x)
        for name, leak in (self.shape.leaks or {}).items():
            self.register_buffer(_buffer(name), torch.tensor(leak, device=x.device), persistent=False)

    def forward(self, events: Tensor, keep: Tensor, active: Tensor, *membranes: Tensor) -> tuple[Tensor, ...]:
        """Return raw outputs, boxes and scores, and membranes after the window, as `shape.outputs` names them."""
        before = [self._kept(name, v, keep) for name, v in zip(self.shape.state, membranes, strict=True)]
        raw, state = self.detector(events, self.shape.tree(before))
        found = self.boxes_and_scores(raw) if self.with_boxes else ()
        after = [
            torch.where(_rows(active, old), new, old)
            for (_, new), old in zip(named_leaves(state), membranes, strict=True)
        ]
        return (*(tensor for _, tensor in named_leaves(raw)), *found, *after)

    def boxes_and_scores(self, raw: Any) -> tuple[Tensor, Tensor]:
        """Return boxes [B, A, 4], xyxy in pixels of the network input and not cut to it, and scores [B, A, K]."""
        boxes, scores = self.detector.head.boxes_and_scores(raw, input_size(self.detector))
        return boxes, scores

    def _kept(self, name: str, v: Tensor, keep: Tensor) -> Tensor:
        factor = keep
        if self.shape.leaks is not None:
            factor = torch.where(keep < 0, getattr(self, _buffer(name)) ** keep.clamp(max=0).neg(), keep)
        return v * _rows(factor, v)


def step_shape(detector: Detector, x: Tensor) -> StepShape:
    """Return what the step of a detector takes and gives, seen from a run on any input x [T, B, C, H, W].

    Raises:
        SpecError: if it has no state: a step without one needs no engine that carries it.
    """
    with torch.no_grad():
        raw, state = detector(x, None)
    leaves = dict(named_leaves(state))
    if not leaves:
        raise SpecError("the model has no membranes, so that there is no state to carry")
    steps, _, *rest = x.shape
    try:
        leaks: dict[str, float] | None = window_leaks(detector, x)
    except SpecError:
        leaks = None
    return StepShape(
        events=(steps, *rest),  # type: ignore[arg-type]
        raw=tuple(f"raw.{name}" for name, _ in named_leaves(raw)),
        raw_outline=outline(raw),
        state_outline=outline(state),
        rows={name: tuple(leaf.shape[1:]) for name, leaf in leaves.items()},
        leaks=leaks,
    )


def input_size(detector: Detector) -> Any:
    """Return the size of the network's input in pixels, which boxes of its head are in."""
    letterbox = getattr(detector.representation, "letterbox", None)
    return detector.spec.sensor_size if letterbox is None else letterbox.target


def _rows(vector: Tensor, like: Tensor) -> Tensor:
    return vector.view(-1, *(1,) * (like.dim() - 1))


def _bare(names: Sequence[str]) -> list[str]:
    return [name.removeprefix("raw.") for name in names]


def _buffer(name: str) -> str:
    return "leak_" + name.replace(".", "_")
