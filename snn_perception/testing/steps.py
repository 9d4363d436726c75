"""What holds for every ``(inputs, state) -> (output, state)``, be it a neuron, a backbone, a head or a detector.

Inputs are a list of tensors [T, B, ...]; an output is any tree of tensors. Comparisons between calls of other shapes
allow for rounding in float64; comparisons between equal calls are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from snn_perception.state import State, clone, named_leaves, reset_rows, split_rows, stack_rows, tree_map

Step = Callable[[list[Tensor], State], tuple[Any, State]]


def check_step(
    step: Step, inputs: list[Tensor], *, module: nn.Module | None = None, time_outputs: bool = True, steps: int = 1
) -> None:
    """Assert that a step treats state as a value, on inputs [T, B, ...] in float64 with B of at least 2.

    Args:
        step: the function under test, in evaluation mode.
        module: whose buffers and attributes must not change.
        time_outputs: whether outputs have time as their first axis, so that those of pieces can be joined.
        steps: time steps that belong together (one window, for a network that reads a window as a whole).
    """
    with torch.no_grad():
        check_state_layout(step, inputs)
        check_no_hidden_state(step, inputs, module)
        check_pieces(step, inputs, time_outputs=time_outputs, steps=steps)
        check_rows(step, inputs)
        check_reset(step, inputs)


def check_state_layout(step: Step, inputs: list[Tensor]) -> None:
    """Assert that every leaf has the batch first, is at least float32, and that zeros are rest."""
    output, state = step(inputs, None)
    batch = inputs[0].shape[1]
    for name, leaf in named_leaves(state):
        assert leaf.dim() >= 1 and leaf.shape[0] == batch, (
            f"state '{name}': expected {batch} batch rows first, got {list(leaf.shape)}"
        )
        check_precision(name, leaf, inputs[0].dtype)
    zeros = step(inputs, tree_map(torch.zeros_like, state))
    _same((output, state), zeros, "a state of zeros must act as no state (None): rest is zero")


def check_precision(name: str, leaf: Tensor, dtype: torch.dtype) -> None:
    """Assert that a float leaf of the state is at least as wide as float32 and as the input."""
    wider = torch.promote_types(dtype, torch.float32)
    fits = not leaf.is_floating_point() or torch.promote_types(leaf.dtype, wider) == leaf.dtype
    assert fits, f"state '{name}': expected {wider} or wider for {dtype} input, got {leaf.dtype}; see membrane_dtype"


def check_no_hidden_state(step: Step, inputs: list[Tensor], module: nn.Module | None = None) -> None:
    """Assert that a call leaves nothing behind: in the module, in its arguments, or for another stream's call."""
    _, state = step(inputs, None)
    given, before = [x.clone() for x in inputs], clone(state)
    kept = dict(_contents(module)) if module is not None else {}
    first = step(inputs, state)
    _same(given, inputs, "a call must not change its input")
    _same(before, state, "a call must not change the state that it is given; return a new one")
    step([1 - x for x in inputs], None)  # another stream
    _same(first, step(inputs, state), "the same input and state must give the same result, whatever ran in between")
    if module is not None:
        now = dict(_contents(module))
        changed = [name for name in kept.keys() | now.keys() if not _equal(kept.get(name), now.get(name))]
        assert not changed, f"a call in evaluation mode must change nothing in the module; changed: {sorted(changed)}"


def check_pieces(step: Step, inputs: list[Tensor], *, time_outputs: bool = True, steps: int = 1) -> None:
    """Assert that input given in pieces along time, with the state carried, gives what one call gives."""
    whole, state = step(inputs, None)
    length = len(inputs[0])
    cuts = sorted({steps, length // (2 * steps) * steps, length - steps} - {0, length})
    plans = [[0, cut, length] for cut in cuts] + [list(range(0, length + 1, steps))]
    for plan in plans:
        parts, carried = [], None
        for start, end in pairwise(plan):
            part, carried = step([x[start:end] for x in inputs], carried)
            parts.append(part)
        where = f"pieces [{', '.join(f'{a}:{b}' for a, b in pairwise(plan))}] must equal one call"
        _close(carried, state, f"{where}: state differs")
        if time_outputs:
            joined = [torch.cat(pieces) for pieces in zip(*map(tensors, parts), strict=True)]
            _close(joined, list(tensors(whole)), f"{where}: output differs")


def check_rows(step: Step, inputs: list[Tensor]) -> None:
    """Assert that a batch gives each row what the row gives alone, and that streams can be stacked and split."""
    batch = inputs[0].shape[1]
    _, state = step(inputs, None)
    together, after = step(inputs, state)
    alone = []
    for row, own in enumerate(split_rows(state, batch)):
        output, own_after = step([x[:, row : row + 1] for x in inputs], own)
        alone.append(own_after)
        for whole, single in _pairs(together, output, "a row alone gives another number of outputs than a batch"):
            _close(_row(whole, single, row), single, f"row {row} of a batch must not depend on the other rows: output")
    _close(stack_rows(alone), after, "rows of a batch must not depend on each other: state")


def check_reset(step: Step, inputs: list[Tensor]) -> None:
    """Assert that a row reset by `reset_rows` starts afresh, and that the others go on."""
    batch = inputs[0].shape[1]
    _, state = step(inputs, None)
    is_start = torch.arange(batch) % 2 == 0
    output, after = step(inputs, reset_rows(state, is_start))
    for row, (own, own_after) in enumerate(zip(split_rows(state, batch), split_rows(after, batch), strict=True)):
        starts = bool(is_start[row])
        alone, alone_after = step([x[:, row : row + 1] for x in inputs], None if starts else own)
        what = f"row {row} must {'start from rest after a reset' if starts else 'go on while others are reset'}"
        for whole, single in _pairs(output, alone, what):
            _close(_row(whole, single, row), single, f"{what}: output")
        _close(own_after, alone_after, f"{what}: state")


def tensors(tree: Any) -> Iterator[Tensor]:
    """Yield the tensors of an output: any nesting of lists, tuples, dicts and dataclasses."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        for part in tree.values():
            yield from tensors(part)
    elif isinstance(tree, (list, tuple)):
        for part in tree:
            yield from tensors(part)
    elif is_dataclass(tree):
        for field in fields(tree):
            yield from tensors(getattr(tree, field.name))


def _row(whole: Tensor, single: Tensor, row: int) -> Tensor:
    """Return one row of a batch's output, given the output of a single row: they differ in the batch axis only."""
    axes = [axis for axis in range(whole.dim()) if whole.shape[axis] != single.shape[axis]]
    assert len(axes) <= 1, f"the output of one row is {list(single.shape)}, that of the batch {list(whole.shape)}"
    return whole.narrow(axes[0], row, 1) if axes else whole


def _pairs(first: Any, second: Any, what: str) -> list[tuple[Tensor, Tensor]]:
    left, right = list(tensors(first)), list(tensors(second))
    assert len(left) == len(right), f"{what}: {len(left)} and {len(right)} tensors"
    return list(zip(left, right, strict=True))


def _same(first: Any, second: Any, what: str) -> None:
    assert all(torch.equal(a, b) for a, b in _pairs(first, second, what)), what


def _close(first: Any, second: Any, what: str) -> None:
    for a, b in _pairs(first, second, what):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=lambda detail: f"{what}\n{detail}")


def _contents(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield (name, copy) of every parameter, buffer and attribute of a module tree."""
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if name in ("_parameters", "_buffers"):
                yield from ((f"{path}.{key}", _copy(tensor)) for key, tensor in value.items())
            elif name != "_modules":
                yield f"{path}.{name}", _copy(value)


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copy(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copy(part) for part in value]
    return value if isinstance(value, (str, int, float, type(None))) else id(value)


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first.shape == second.shape and torch.equal(first, second)
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_equal(first[key], second[key]) for key in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(_equal, first, second))
    return type(first) is type(second) and bool(first == second)
