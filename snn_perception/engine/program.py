"""A step as a program of tensor operations, for compilers; and a check of what a compiled program is called with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from snn_perception.engine.step import Step, StepShape
from snn_perception.errors import ExportError
from snn_perception.fusing import plain_operations
from snn_perception.state import State

MAX_ROWS = 16


def export_program(step: Step, x: Tensor, *, rows: str = "open") -> Any:
    """Return ``torch.export`` of a step: from events, keep, active and membranes to raw outputs and membranes.

    Args:
        x: input [T, B, C, H, W] with B of at least 2 for open rows.
        rows: ``open`` for 1 to `MAX_ROWS` of them, or ``fixed`` for those of `x`.

    Raises:
        ExportError: if the network does something that cannot be traced.
    """
    count = x.shape[1]
    keep, active = torch.ones(count, device=x.device), torch.ones(count, dtype=torch.bool, device=x.device)
    arguments = (x, keep, active, *step.shape.at_rest(count, x.device))
    dynamic = None
    if rows == "open":
        batch = torch.export.Dim("batch", min=1, max=MAX_ROWS)
        membranes = tuple({0: batch} for _ in step.shape.rows)
        dynamic = {"events": {1: batch}, "keep": {0: batch}, "active": {0: batch}, "membranes": membranes}
    with torch.no_grad(), plain_operations():
        step(*arguments)  # what is cached for this input's size must not be made while tracing
        try:
            return torch.export.export(step, arguments, dynamic_shapes=dynamic)
        except Exception as error:  # whatever the tracer meets in a plugin's network
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ExportError(
                f"{step.detector.spec.backbone.name}: the network cannot be traced: {reason}; operations of a plugin "
                "must be those of torch, of shapes that do not depend on values"
            ) from error


def flat_arguments(
    shape: StepShape, x: Tensor, state: State, keep: Tensor | None, active: Tensor | None
) -> list[Tensor]:
    """Return events, keep, active and membranes as a compiled program reads them, which checks nothing itself.

    Raises:
        ValueError: if the input or the state is of another model or size, or `keep` or `active` of other rows.
    """
    vectors = flat_vectors(shape.events, x, keep, active)
    leaves = shape.leaves(state, x.shape[1], x.device)
    return [*vectors, *(leaf.detach().to(x.device, torch.float32).contiguous() for leaf in leaves)]


def flat_vectors(
    events: tuple[int, int, int, int], x: Tensor, keep: Tensor | None, active: Tensor | None
) -> list[Tensor]:
    """Return events, keep and active, as `flat_arguments` does.

    Args:
        events: (T, C, H, W) of the input.

    Raises:
        ValueError: if the input is of another model or size, or `keep` or `active` of other rows.
    """
    steps, *image = events
    rows = x.shape[1] if x.dim() == 5 else 0
    if not 1 <= rows <= MAX_ROWS or tuple(x.shape) != (steps, rows, *image) or x.dtype != torch.float32:
        expected = [steps, f"1..{MAX_ROWS}", *image]
        raise ValueError(f"x: expected float32 {expected}, got {x.dtype} {list(x.shape)}")
    keep = torch.ones(rows) if keep is None else keep
    active = torch.ones(rows, dtype=torch.bool) if active is None else active
    if keep.shape != (rows,) or active.shape != (rows,) or active.dtype != torch.bool:
        raise ValueError(
            f"keep, active: expected float32 and bool of {rows} rows, got {list(keep.shape)} and "
            f"{active.dtype} {list(active.shape)}"
        )
    return [x.detach().contiguous(), keep.to(x.device, torch.float32).contiguous(), active.to(x.device).contiguous()]


def unflatten(shape: StepShape, found: Sequence[Tensor]) -> tuple[Any, State]:
    """Return the head's raw output and the state of what a step without boxes gives."""
    count = len(shape.raw)
    return shape.raw_tree(found[:count]), shape.tree(found[count:])
