"""Membrane state as a value: a tree of tensors that belongs to a stream, never to a module.

A state is None (rest), a tensor, or a tuple or dict of states. Every leaf has the batch row as its first axis, and rest
is all zeros, so that rows can be reset, stacked and split without knowing the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Union

import torch
from torch import Tensor

State = Union[Tensor, tuple["State", ...], dict[str, "State"], None]
_LEAF = "leaf"  # in an outline


def tree_map(function: Callable[[Tensor], Tensor], state: State) -> State:
    """Return the same tree with `function` applied to every tensor; rest stays rest."""
    if state is None:
        return None
    if isinstance(state, Tensor):
        return function(state)
    if isinstance(state, tuple):
        return tuple(tree_map(function, part) for part in state)
    if isinstance(state, dict):
        return {name: tree_map(function, part) for name, part in state.items()}
    raise TypeError(f"a state is None, a tensor, or a tuple or dict of states, got {type(state).__name__}")


def detach(state: State) -> State:
    """Return the same values without their gradient history (the cut of truncated back-propagation through time)."""
    return tree_map(Tensor.detach, state)


def clone(state: State) -> State:
    """Return a copy that shares no memory with `state`."""
    return tree_map(Tensor.clone, state)


def to(state: State, device: torch.device | str) -> State:
    """Return the state on `device`; dtypes stay."""
    return tree_map(lambda leaf: leaf.to(device), state)


def reset_rows(state: State, is_start: Tensor) -> State:
    """Return the state with the rows where `is_start` (bool [B]) put to rest and the others untouched.

    Raises:
        ValueError: if `is_start` is not bool, or has another number of rows than the state.
    """
    if is_start.dtype != torch.bool or is_start.dim() != 1:
        raise ValueError(f"is_start: expected bool [B], got {is_start.dtype} {list(is_start.shape)}")

    def reset(leaf: Tensor) -> Tensor:
        _require_rows(leaf, len(is_start))
        rows = is_start.to(leaf.device).view(-1, *(1,) * (leaf.dim() - 1))
        return torch.where(rows, torch.zeros((), dtype=leaf.dtype, device=leaf.device), leaf)

    return tree_map(reset, state)


def named_leaves(state: State, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield (dotted name, tensor) of every leaf, in a fixed order: ``backbone.0``, ``head.conv.1``, ..."""
    if state is None:
        return
    if isinstance(state, Tensor):
        yield prefix, state
        return
    parts = enumerate(state) if isinstance(state, tuple) else state.items()
    for name, part in parts:
        yield from named_leaves(part, _joined(prefix, name))


def outline(state: State) -> Any:
    """Return a state's structure in plain types, for JSON; `from_leaves` builds the state again."""
    if state is None:
        return None
    if isinstance(state, Tensor):
        return _LEAF
    if isinstance(state, tuple):
        return [outline(part) for part in state]
    return {name: outline(part) for name, part in state.items()}


def from_leaves(structure: Any, leaves: Mapping[str, Tensor], prefix: str = "") -> State:
    """Return the state of an `outline` with its leaves by their dotted names, as `named_leaves` gives them.

    Raises:
        KeyError: if a leaf is missing.
        ValueError: if `structure` is no outline.
    """
    if structure is None:
        return None
    if structure == _LEAF:
        return leaves[prefix]
    if isinstance(structure, list):
        return tuple(from_leaves(part, leaves, _joined(prefix, i)) for i, part in enumerate(structure))
    if isinstance(structure, dict):
        return {name: from_leaves(part, leaves, _joined(prefix, name)) for name, part in structure.items()}
    raise ValueError(f"expected the outline of a state, got {structure!r:.40}")


def _joined(prefix: str, name: object) -> str:
    return f"{prefix}.{name}" if prefix else str(name)


def stack_rows(states: Sequence[State]) -> State:
    """Return one state whose batch rows are those of `states`, in order.

    A stream at rest (None) beside others becomes one row of zeros; all at rest gives None.

    Raises:
        ValueError: if the trees differ in structure or leaf shape.
    """
    template = next((state for state in states if state is not None), None)
    if template is None:
        return None
    if isinstance(template, Tensor):
        leaves = [template.new_zeros((1, *template.shape[1:])) if leaf is None else leaf for leaf in states]
        if not all(isinstance(leaf, Tensor) and leaf.shape[1:] == template.shape[1:] for leaf in leaves):
            raise ValueError("states of different models or input sizes cannot be stacked")
        return torch.cat(leaves)  # type: ignore[arg-type]  # every one is a tensor, checked above
    if isinstance(template, tuple):
        if any(state is not None and (not isinstance(state, tuple) or len(state) != len(template)) for state in states):
            raise ValueError("states of different models cannot be stacked")
        columns = [[None if state is None else state[i] for state in states] for i in range(len(template))]  # type: ignore[index,call-overload]
        return tuple(stack_rows(column) for column in columns)
    if any(state is not None and (not isinstance(state, dict) or state.keys() != template.keys()) for state in states):
        raise ValueError("states of different models cannot be stacked")
    return {name: stack_rows([None if state is None else state[name] for state in states]) for name in template}  # type: ignore[index,call-overload]


def split_rows(state: State, rows: int) -> list[State]:
    """Return `rows` states of one row each, the inverse of `stack_rows`; the rows are views.

    Raises:
        ValueError: if the state has another number of rows.
    """
    for _, leaf in named_leaves(state):
        _require_rows(leaf, rows)
    return [tree_map(lambda leaf, at=row: leaf[at : at + 1], state) for row in range(rows)]  # type: ignore[misc]


def count_elements(state: State) -> int:
    """Return the number of scalars in the state."""
    return sum(leaf.numel() for _, leaf in named_leaves(state))


def _require_rows(leaf: Tensor, rows: int) -> None:
    if leaf.dim() == 0 or leaf.shape[0] != rows:
        raise ValueError(f"expected {rows} rows in every leaf of the state, got a leaf {list(leaf.shape)}")
