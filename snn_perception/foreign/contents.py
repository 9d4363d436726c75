"""Where an author's object keeps its weights."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeGuard

from snn_perception.foreign.limits import (
    MAX_DEPTH,
    MAX_DOTTED_NAME,
    MAX_MODULE_ENTRIES,
    MAX_TENSORS,
    REMEDY,
    Refusal,
    damaged,
    shown,
)
from snn_perception.foreign.records import Inert, TensorRecord

STATE_KEYS = ("state_dict", "ema", "model", "model_state_dict")
"""Where weights are looked for, in this order; where a file holds averaged ones too, those are the ones to evaluate."""


@dataclass(frozen=True)
class Contents:
    """The parts of an author's object."""

    state_from: str
    tensors: dict[str, TensorRecord]
    others: dict[str, Any]
    """What may become hints; under ``modules`` the pickled module whose tensors these are."""
    skipped: tuple[str, ...] = ()


def find_contents(root: Any) -> Contents:
    """Return the weights and the rest of an object; raise Refusal where no weights are found.

    It is a mapping of names to tensors, a module kept as inert records, or a dict with one of those under STATE_KEYS.
    """
    if is_module(root):
        return Contents("module", module_tensors(root), {"modules": root})
    if isinstance(root, dict):
        for key in STATE_KEYS:
            value = root.get(key)
            if is_module(value):
                return Contents(key, module_tensors(value), {**_others(root, key), "modules": value})
            if _is_state(value):
                tensors = _tensors(value)
                skipped = tuple(f"{key}.{shown(name)[1:-1]}" for name in value if name not in tensors)
                return Contents(key, tensors, _others(root, key), skipped)
        if _is_state(root):
            return Contents("mapping", _tensors(root), _others(root))
    raise Refusal(
        f"holds no weights: expected a mapping of names to tensors, bare or under one of {', '.join(STATE_KEYS)}, "
        f"got {_description(root)}; {REMEDY}"
    )


def is_module(value: Any) -> TypeGuard[Inert]:
    """Return whether a record is what a pickled ``torch.nn.Module`` leaves behind."""
    return isinstance(value, Inert) and isinstance(value.state, dict) and isinstance(value.state.get("_modules"), dict)


def modules(root: Inert) -> Iterator[tuple[str, Inert]]:
    """Yield (dotted name, record) of a module and all below it, parents first, in their order of registration."""
    pending = [("", root, 0)]
    entries = 0
    while pending:
        prefix, module, depth = pending.pop()
        # Modules may be shared, and so name each other in cycles and exponentially many ways.
        entries += 1 + len(module.state) + sum(len(_group(module, name)) for name in _GROUPS)
        if depth > MAX_DEPTH or entries > MAX_MODULE_ENTRIES:
            raise damaged(f"nests its modules deeper than {MAX_DEPTH} or unfolds to over {MAX_MODULE_ENTRIES} entries")
        yield prefix, module
        children = [(name, child) for name, child in _group(module, "_modules").items() if is_module(child)]
        pending.extend((_join(prefix, name), child, depth + 1) for name, child in reversed(children))


def module_tensors(root: Inert) -> dict[str, TensorRecord]:
    """Return a pickled module's parameters and persistent buffers by dotted name, as ``state_dict()`` would."""
    tensors: dict[str, TensorRecord] = {}
    for prefix, module in modules(root):
        transient = module.state.get("_non_persistent_buffers_set")
        for group in ("_parameters", "_buffers"):
            for name, value in _group(module, group).items():
                if not isinstance(value, TensorRecord) or (isinstance(transient, set) and name in transient):
                    continue
                if tensors.setdefault(_join(prefix, name), value) is not value:
                    raise damaged(f"holds two tensors named {shown(_join(prefix, name))}")
        if len(tensors) > MAX_TENSORS:
            raise damaged(f"holds over {MAX_TENSORS} tensors")
    return tensors


_GROUPS = ("_modules", "_parameters", "_buffers")


def _group(module: Inert, name: str) -> dict[Any, Any]:
    group = module.state.get(name)
    return group if isinstance(group, dict) else {}


def _join(prefix: str, name: Any) -> str:
    if not isinstance(name, str) or len(prefix) + len(name) > MAX_DOTTED_NAME:
        raise damaged(f"names a part of a module by something else than a text of up to {MAX_DOTTED_NAME} characters")
    return f"{prefix}.{name}" if prefix else name


def _is_state(value: Any) -> TypeGuard[dict[str, Any]]:
    return (
        isinstance(value, dict)
        and any(isinstance(item, TensorRecord) for item in value.values())
        and all(isinstance(key, str) for key in value)
    )


def _tensors(mapping: dict[str, Any]) -> dict[str, TensorRecord]:
    return {name: value for name, value in mapping.items() if isinstance(value, TensorRecord)}


def _others(root: dict[Any, Any], without: str = "") -> dict[str, Any]:
    items = ((key, value) for key, value in root.items() if isinstance(key, str) and key != without)
    return {key: value for key, value in items if not isinstance(value, TensorRecord)}


def _description(root: Any) -> str:
    if isinstance(root, Inert):
        return f"an object of class {shown(root.qualified_name)}"
    if isinstance(root, dict):
        return f"a dict with the keys {', '.join(shown(key) for key in list(root)[:12]) or '(none)'}"
    return f"a {type(root).__name__}"
