"""Run files: YAML and ``--set`` to a checked `RunConfig`, and back.

The dataclasses of `training.config` are the schema: their fields are the keys, their types what a value must be, and
their own checks the ranges. There is no templating and no inheritance besides a preset.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from snn_perception.data.image_changes import ImageChanges
from snn_perception.errors import SpecError
from snn_perception.training.config import RunConfig
from snn_perception.training.optimizer import OptimizerConfig
from snn_perception.training.yaml_text import KeyPath, Values, parse_values, read_values, write_values

# Settings that came later, with the values that do what was done before them: runs begun without them can go on.
_LATER: dict[KeyPath, Any] = {
    ("train", "ema_ramp"): 0.0,
    ("train", "optimizer"): asdict(OptimizerConfig()),
    ("train", "images"): asdict(ImageChanges()),
    ("train", "augment", "placing"): "none",
    ("train", "augment", "placing_jitter"): 0.3,
    ("train", "augment", "placing_scale"): 0.4,
    ("data", "windows"): "grid",
    ("data", "lookback"): False,
}

_WANTED = {int: "a whole number", float: "a number", str: "text", bool: "true or false", dict: "keys with values"}


def load_run(
    path: str | Path | None = None, overrides: Sequence[str] = (), defaults: RunConfig | None = None
) -> RunConfig:
    """Return the run of a YAML file, with ``key.key=value`` overrides on top, and defaults below.

    The value of an override is YAML too (``0.1``, ``null``, ``[a, b]``) and replaces what stands at its key.

    Args:
        path: of the run file; None for defaults and overrides alone.
        defaults: what neither says; by default the dataclasses' own.

    Raises:
        SpecError: naming file and line, or the override: for text that is not YAML, an unknown key (with close matches
            and the known ones), a value of another type, or one out of range.
    """
    tree = run_as_dict(defaults or RunConfig())
    places: dict[KeyPath, str] = {}
    if path is not None:
        read = read_values(path)
        if not isinstance(read.tree, dict):
            raise SpecError(f"{path}: expected keys such as 'model:' and 'train:', got {_told(read.tree)}")
        _merge(tree, read.tree)
        places.update(read.places)
    for text in overrides:
        _override(tree, places, text)
    config: RunConfig = _Builder(places, str(path) if path is not None else "run").build(RunConfig, tree, ())
    return config


def dump_run(config: RunConfig) -> str:
    """Return the whole run as YAML text, which `load_run` reads back as an equal run."""
    return write_values(run_as_dict(config))


def run_as_dict(config: RunConfig) -> dict[str, Any]:
    """Return the whole run as plain values, as YAML and JSON hold them."""
    plain: dict[str, Any] = _plain(asdict(config))
    return plain


def run_from_dict(values: Mapping[str, Any], source: str = "run") -> RunConfig:
    """Return the run that `run_as_dict` wrote; keys that are missing take the defaults. Raises as `load_run` does.

    Args:
        source: named in errors.
    """
    config: RunConfig = _Builder({}, source).build(RunConfig, dict(values), ())
    return config


def run_digest(config: RunConfig) -> str:
    """Return 16 hex digits that tell runs apart by what they compute; see `what_counts`."""
    return hashlib.sha256(json.dumps(what_counts(config), sort_keys=True).encode()).hexdigest()[:16]


def what_counts(config: RunConfig) -> dict[str, Any]:
    """Return the part of a run that its figures depend on: not where the data lie, what is saved when, or the targets.

    A run may be resumed under a configuration that differs in the rest.
    """
    values = run_as_dict(config)
    for name in ("train", "val"):
        values["data"][name] = str(values["data"][name]).partition(":")[0]
    for name in ("save_every_steps", "prefetch"):
        del values["train"][name]
    for (*groups, name), before in _LATER.items():
        group = reduce(lambda tree, key: tree[key], groups, values)
        if group[name] == before:
            del group[name]
    del values["target"]
    return values


def differences(a: RunConfig, b: RunConfig) -> list[str]:
    """Return a line ``key: value of a, value of b`` for everything that counts in which two runs differ."""
    flat = [_flat(what_counts(config)) for config in (a, b)]
    keys = list(dict.fromkeys([*flat[0], *flat[1]]))
    shown = [[repr(side[key]) if key in side else "nothing" for side in flat] for key in keys]
    return [f"{key}: {one}, {other}" for key, (one, other) in zip(keys, shown, strict=True) if one != other]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _merge(below: dict[str, Any], above: dict[str, Any]) -> None:
    """Put `above` over `below`, group by group."""
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            _merge(below[key], value)
        elif value is None and isinstance(below.get(key), dict):
            continue  # a heading whose keys are all commented out
        else:
            below[key] = copy.deepcopy(value)


def _override(tree: dict[str, Any], places: dict[KeyPath, str], text: str) -> None:
    name, equals, value = text.partition("=")
    keys = tuple(name.strip().split("."))
    if not equals or not all(keys):
        raise SpecError(f"--set {text}: expected KEY=VALUE, such as train.lr=3e-4")
    place = f"--set {text}"
    values: Values = parse_values(value, place, with_lines=False)
    group: Any = tree
    for depth, key in enumerate(keys[:-1]):
        group = group.setdefault(key, {})
        if not isinstance(group, dict):
            raise SpecError(f"{place}: {'.'.join(keys[: depth + 1])} is {_told(group)}, it has no keys of its own")
        places.setdefault(keys[: depth + 1], place)  # what the override itself brings in is to be found there
    group[keys[-1]] = values.tree
    for known in [known for known in places if known[: len(keys)] == keys]:
        del places[known]
    places[keys] = place


class _Builder:
    """Plain values to dataclasses; errors lead to where a value came from."""

    def __init__(self, places: Mapping[KeyPath, str], source: str) -> None:
        self._places, self._source = places, source

    def build(self, kind: type[Any], values: Any, keys: KeyPath) -> Any:
        """Return the dataclass `kind` made of `values`, which stand at `keys`."""
        if not isinstance(values, dict):
            raise self._error(keys, f"expected {_WANTED[dict]}, got {_told(values)}")
        hints = get_type_hints(kind)
        known = [f.name for f in fields(kind)]
        for key in values:
            if key not in known:
                raise self._unknown(key, known, keys)
        made = {key: self._checked(hints[key], value, (*keys, key)) for key, value in values.items()}
        try:
            return kind(**made)
        except SpecError as error:
            raise self._out_of_range(error, keys, known) from None

    def _checked(self, hint: Any, value: Any, keys: KeyPath) -> Any:
        """Return `value` as the type `hint` (a number or text, a tuple of them, a dict, a dataclass, or None)."""
        if is_dataclass(hint):
            return self.build(hint, value, keys)  # type: ignore[arg-type]  # hints are types, not instances
        origin, inner = get_origin(hint), get_args(hint)
        if origin in (Union, types.UnionType):
            if value is None:
                return None
            (hint,) = (one for one in inner if one is not type(None))
            return self._checked(hint, value, keys)
        if origin is tuple:
            return self._tuple(inner, value, keys)
        kind = origin or hint
        if kind is dict and isinstance(value, dict):
            return copy.deepcopy(value)
        if kind is float and type(value) in (int, float):
            return float(value)
        if type(value) is kind:
            return value
        quotes = "; put it in quotes" if kind is str and type(value) in (int, float, bool) else ""
        raise self._error(keys, f"expected {_WANTED[kind]}, got {_told(value)}{quotes}")

    def _tuple(self, inner: tuple[Any, ...], value: Any, keys: KeyPath) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)):
            raise self._error(keys, f"expected a list such as [a, b], got {_told(value)}")
        if inner[-1] is Ellipsis:
            inner = inner[:1] * len(value)
        if len(value) != len(inner):
            raise self._error(keys, f"expected a list of {len(inner)}, got {len(value)}")
        return tuple(self._checked(hint, item, (*keys, str(i))) for i, (hint, item) in enumerate(zip(inner, value)))  # noqa: B905  # of one length, checked above

    def _unknown(self, key: str, known: list[str], keys: KeyPath) -> SpecError:
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        where = f" in '{'.'.join(keys)}'" if keys else ""
        return self._error((*keys, key), f"unknown key '{key}'{where}{hint}; keys: {', '.join(known)}", named=False)

    def _out_of_range(self, error: SpecError, keys: KeyPath, known: list[str]) -> SpecError:
        """Return a dataclass's complaint with the place of the keys that it names before its colon."""
        named = [part.strip().rpartition(".")[2] for part in str(error).partition(":")[0].split(",")]
        at = next((place for name in named if name in known and (place := self._places.get((*keys, name)))), None)
        return SpecError(f"{at or self._source}: {error}")

    def _error(self, keys: KeyPath, text: str, *, named: bool = True) -> SpecError:
        place = next((self._places[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in self._places), None)
        name = f"{'.'.join(keys)}: " if named and keys else ""
        return SpecError(f"{place or self._source}: {name}{text}")


def _told(value: Any) -> str:
    """Return a value in words."""
    if value is None:
        return "nothing"
    if isinstance(value, (dict, list, tuple)):
        return "a group of keys" if isinstance(value, dict) else f"a list of {len(value)}"
    return repr(value)[:60]
