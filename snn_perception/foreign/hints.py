"""The plain values of an author's object that help an importer: options, epochs, class names, module attributes."""

from collections.abc import Callable
from typing import Any

import torch

from snn_perception.foreign.contents import STATE_KEYS, is_module, modules
from snn_perception.foreign.limits import MAX_DEPTH, MAX_HINT_ELEMENTS, MAX_HINT_VALUES, damaged, shown
from snn_perception.foreign.records import ArrayRecord, ArrayType, GlobalRef, Inert, TensorRecord

_TRAINING_KEYS = frozenset(
    {
        *("optimizer", "optimizers", "optimizer_state_dict", "optimizer_states", "optim"),
        *("scheduler", "lr_scheduler", "lr_schedulers", "scheduler_state_dict", "callbacks", "loops"),
        *("scaler", "grad_scaler", "amp", "amp_scaling_state", "native_amp_scaling_state", "rng_states"),
        *("MixedPrecision", "MixedPrecisionPlugin", "NativeMixedPrecisionPlugin"),
    }
)


class _NotPlainError(Exception):
    """A value that no hint can hold."""


def _rank(member: Any) -> tuple[str, Any]:
    """Return by what to sort the members of a set, whose own order changes from run to run."""
    if isinstance(member, tuple):
        raise _NotPlainError
    is_ordered = isinstance(member, (str, bytes, int, float))
    return type(member).__name__, member if is_ordered else getattr(member, "name", str(member))


class HintBuilder:
    """Makes texts, numbers, lists and dicts of records, and keeps a list of what it leaves out."""

    def __init__(self, read_tensor: Callable[[TensorRecord], torch.Tensor]) -> None:
        self._read_tensor = read_tensor
        self._left = MAX_HINT_VALUES
        self.skipped: list[str] = []

    def build(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return the plain hints among `values`; training state and second sets of weights are left out."""
        hints: dict[str, Any] = {}
        for key, value in values.items():
            if key == "modules" and is_module(value):
                hints[key] = {name: self._attributes(name, module) for name, module in modules(value)}
            elif key in _TRAINING_KEYS or (key in STATE_KEYS and isinstance(value, (dict, Inert))):
                self.skipped.append(key)
            else:
                self._put(hints, key, value, "", 0)
        return hints

    def _attributes(self, name: str, module: Inert) -> dict[str, Any]:
        """Return a module's class and plain public attributes: its eps, stride, class names and the like."""
        attributes: dict[str, Any] = {"class": module.qualified_name}
        for key, value in module.state.items():
            if isinstance(key, str) and not key.startswith("_"):
                self._put(attributes, key, value, f"modules.{name}.", 1)
        return attributes

    def _put(self, target: dict[Any, Any], key: Any, value: Any, prefix: str, depth: int) -> None:
        path = f"{prefix}{shown(key)[1:-1]}"
        try:
            if isinstance(key, tuple):
                raise _NotPlainError
            plain_key = key if key is None else self._plain(key, path, depth)
            target[plain_key] = self._plain(value, path, depth)
        except _NotPlainError:
            self.skipped.append(path)

    def _plain(self, value: Any, path: str, depth: int) -> Any:
        self._spend(1, depth)
        if value is None or isinstance(value, (bool, int, float, str, bytes)):
            return value
        if isinstance(value, (list, tuple)):
            return self._list(value, path, depth)
        if isinstance(value, (set, frozenset)):
            self._spend(len(value), depth)
            return self._list(sorted(value, key=_rank), path, depth)
        if isinstance(value, dict):
            return self._dict(value, path, depth)
        if isinstance(value, Inert) and isinstance(value.state, dict) and not is_module(value):
            return self._dict(value.state, path, depth)
        if isinstance(value, GlobalRef):
            return value.name
        if isinstance(value, (torch.dtype, ArrayType)):
            return str(value if isinstance(value, torch.dtype) else value.dtype)
        if isinstance(value, TensorRecord) and max(value.numel, value.storage.numel) <= MAX_HINT_ELEMENTS:
            self._spend(
                16 + value.numel + value.storage.numel, depth
            )  # a read of the file costs as much as many values
            return self._read_tensor(value).tolist()
        if isinstance(value, ArrayRecord) and value.value is not None and value.value.size <= MAX_HINT_ELEMENTS:
            self._spend(value.value.size, depth)
            return value.value.tolist()
        raise _NotPlainError

    def _list(self, values: list[Any] | tuple[Any, ...], path: str, depth: int) -> list[Any]:
        plain: list[Any] = []
        for index, value in enumerate(values):
            try:
                plain.append(self._plain(value, f"{path}.{index}", depth + 1))
            except _NotPlainError:
                plain.append(None)  # so that the others keep their places
                self.skipped.append(f"{path}.{index}")
        return plain

    def _dict(self, values: dict[Any, Any], path: str, depth: int) -> dict[Any, Any]:
        plain: dict[Any, Any] = {}
        for key, value in values.items():
            self._put(plain, key, value, f"{path}.", depth + 1)
        return plain

    def _spend(self, count: int, depth: int) -> None:
        """Bound depth and number: lists that hold lists twice over, or themselves, unfold to no end."""
        self._left -= count
        if depth > MAX_DEPTH or self._left < 0:
            raise damaged(f"nests its values deeper than {MAX_DEPTH} or unfolds to over {MAX_HINT_VALUES} of them")
