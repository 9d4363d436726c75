"""Text of a run file to plain values with the line each came from, and back; nothing in the text is ever executed.

Numbers and words are read as YAML 1.2's core schema has them, not as YAML 1.1: ``3e-4`` is a number, ``off`` and ``no``
are text, ``010`` is ten. A few kilobytes can stand for gigabytes in YAML (an alias of aliases of aliases), so depth and
size are bounded before anything is made of the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml

from snn_perception.errors import SpecError

MAX_BYTES = 1 << 20
MAX_DEPTH = 20
MAX_VALUES = 10_000  # counted as often as aliases repeat them

KeyPath = tuple[str, ...]
_TAG = "tag:yaml.org,2002:"
_NUMBER_START = list("-+.0123456789")
_RESOLVERS = (
    ("null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("int", re.compile(r"^[-+]?[0-9]+$"), _NUMBER_START),
    (
        "float",
        re.compile(
            r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        _NUMBER_START,
    ),
)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # chosen at run time
    """The safe loader, with the words and numbers of YAML 1.2."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


class _Dumper(yaml.SafeDumper):
    """The safe dumper; text that YAML 1.1 or 1.2 would take for something else is put in quotes."""


for _name, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(_TAG + _name, _pattern, _first)
    _Dumper.add_implicit_resolver(_TAG + _name, _pattern, _first)


@dataclass(frozen=True)
class Values:
    """Plain values, and where each came from.

    Attributes:
        tree: dicts, lists, text, numbers, true, false and None.
        places: keys from the top to a value -> words that lead a person to it, such as ``run.yaml:12``.
    """

    tree: Any
    places: dict[KeyPath, str] = field(default_factory=dict)


def read_values(path: str | Path) -> Values:
    """Return what a YAML file holds.

    Raises:
        SpecError: if it is missing, too large, or no YAML of plain values; it names the line.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror or error}; expected a YAML run file") from None
    if len(content) > MAX_BYTES:
        raise SpecError(f"{path}: is larger than {MAX_BYTES >> 20} MiB; expected a YAML run file of a few lines")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: byte {error.start} is not UTF-8 text; expected a YAML run file") from None
    return parse_values(text, str(path))


def parse_values(text: str, source: str, *, with_lines: bool = True) -> Values:
    """Return what YAML text holds; an empty text is None. Raises SpecError as `read_values` does.

    Args:
        source: named in errors and places.
        with_lines: name the line too; pointless for a single value of a command line.
    """
    try:
        _check_depth(text, source)
        node = yaml.compose(text, Loader=_Loader)  # type: ignore[arg-type]  # one of the two loaders
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark and with_lines else ""
        raise SpecError(f"{source}{line}: not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:  # a character that YAML does not allow
        raise SpecError(f"{source}: not YAML: {' '.join(str(error).split())}") from None
    reading = _Reading(source, with_lines)
    tree = None if node is None else reading.value(node, ())
    return Values(tree, reading.places)


def write_values(tree: Any) -> str:
    """Return plain values as YAML text that `parse_values` and any other YAML reader understand alike."""
    text: str = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


def _check_depth(text: str, source: str) -> None:
    """Look at the text piece by piece, which needs no stack, before anything recursive does."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):  # type: ignore[arg-type]
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise SpecError(f"{source}:{line}: more than {MAX_DEPTH} levels deep; a run file has at most a few")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _Reading:
    """One text on its way to plain values."""

    def __init__(self, source: str, with_lines: bool) -> None:
        self.places: dict[KeyPath, str] = {}
        self._source, self._with_lines = source, with_lines
        self._left = MAX_VALUES

    def value(self, node: yaml.Node, keys: KeyPath) -> Any:
        """Return the value of a node, whose keys from the top are `keys`."""
        self._left -= 1
        if self._left < 0 or len(keys) > MAX_DEPTH:  # aliases that repeat one another, or contain themselves
            raise self._error(node, f"stands for more than {MAX_VALUES} values; write out what its aliases repeat")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, keys)
        if isinstance(node, yaml.SequenceNode):
            self._check_tag(node, "seq")
            return [self.value(item, (*keys, str(i))) for i, item in enumerate(node.value)]
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, keys: KeyPath) -> dict[str, Any]:
        self._check_tag(node, "map")
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if not isinstance(key, str):
                raise self._error(key_node, "expected a name before the colon, got a group")
            if key == "<<" and not key_node.style:
                raise self._error(key_node, "'<<' (merging) is not supported; write the keys out")
            if key in values:
                raise self._error(key_node, f"'{key}' stands there twice; keep one")
            self.places[(*keys, key)] = self._place(key_node)
            values[key] = self.value(value_node, (*keys, key))
        return values

    def _scalar(self, node: yaml.Node) -> Any:
        text, tag = node.value, node.tag.removeprefix(_TAG)
        try:
            if tag == "null":
                return None
            if tag == "bool":
                return {"true": True, "false": False}[text.lower()]
            if tag == "int":
                return _whole_number(text)
            if tag == "float":
                return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
        except (ValueError, KeyError):  # an explicit tag on other text, or digits without end
            raise self._error(node, f"not a value of its kind, or beyond 64 bits: {text:.40}") from None
        self._check_tag(node, "str")
        return text

    def _check_tag(self, node: yaml.Node, expected: str) -> None:
        if node.tag not in (_TAG + expected, "!"):
            raise self._error(node, f"the tag '{node.tag.removeprefix(_TAG)}' is not supported; use plain values")

    def _place(self, node: yaml.Node) -> str:
        return f"{self._source}:{node.start_mark.line + 1}" if self._with_lines else self._source

    def _error(self, node: yaml.Node, text: str) -> SpecError:
        return SpecError(f"{self._place(node)}: {text}")


def _whole_number(text: str) -> int:
    value = int(text)  # refuses thousands of digits by itself
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(text)
    return value
