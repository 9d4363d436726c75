"""The components that plugins declare, by kind and name, and how they are built with checked options.

`load_registry` returns a `Registry`; callers pass it on. There is no global one, so a test builds its own in a line.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from snn_perception.errors import PluginError, SnnPerceptionError

API_VERSION = 1
# What the host passes to the factories of each kind, by position; everything else is an option (see hookspecs).
HOST_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "neuron": (),
    "backbone": ("in_channels", "neuron"),
    "head": ("features", "num_classes", "neuron"),
    "representation": ("size",),
    "preset": (),
    "checkpoint_importer": (),
    "event_reader": ("path",),
    "event_decoder": (),
    "dataset": ("root", "split"),
}
KINDS = tuple(HOST_ARGUMENTS)
NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Component:
    """One thing a plugin offers.

    Attributes:
        name: lower case letters, digits and underscores; unique per kind.
        factory: builds the product, or ``"module:attribute"`` of what does, imported on first use.
        summary: one line for people.
        version: rises when the same options give other numbers; checkpoints store it.

    Raises:
        PluginError: for a name of another form, or a factory that is neither callable nor ``"module:attribute"``.
    """

    name: str
    factory: Callable[..., Any] | str
    summary: str = ""
    version: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise PluginError(f"component name {self.name!r}: use lower case letters, digits and underscores")
        if not (":" in self.factory if isinstance(self.factory, str) else callable(self.factory)):
            raise PluginError(
                f"component '{self.name}': factory must be callable or 'module:attribute', got {self.factory!r}"
            )
        if not isinstance(self.version, int) or self.version < 1:
            raise PluginError(f"component '{self.name}': version must be a whole number from 1, got {self.version!r}")

    def resolve(self) -> Callable[..., Any]:
        """Return the factory, imported if it was given by name."""
        if not isinstance(self.factory, str):
            return self.factory
        module, _, attribute = self.factory.partition(":")
        return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]

    def signature(self) -> inspect.Signature:
        """Return the factory's signature; its keyword-only parameters are the options."""
        return inspect.signature(self.resolve())

    def options(self) -> dict[str, Any]:
        """Return the options with their defaults (`inspect.Parameter.empty` where one must be given)."""
        wanted = inspect.Parameter.KEYWORD_ONLY
        return {name: p.default for name, p in self.signature().parameters.items() if p.kind is wanted}


@dataclass(frozen=True)
class ImportReport:
    """What an importer did with a file.

    Attributes:
        importer: name of the importer.
        matched: number of tensors taken over.
        missing, unexpected: names the model needs and the file lacks, and the other way round.
        defaults: what the file does not hold and where the value came from, name -> text.
        notes: anything else a person should know.
        windows: how the authors cut windows for training, as the data section of a run file has it:
            ``{"windows": "label", "lookback": True}``; ``evaluate`` does so too. Empty where it is not known.
    """

    importer: str
    matched: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    defaults: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    windows: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PluginInfo:
    """A plugin and where it came from; `error` tells why it is not in use, where it is not."""

    id: str
    source: str
    error: str = ""


@dataclass(frozen=True)
class Registered:
    """A component and the plugin that declared it."""

    kind: str
    plugin: str
    component: Component

    def __str__(self) -> str:
        return f"{self.kind} '{self.component.name}' (plugin '{self.plugin}')"


class Registry:
    """Components by kind and name. A name is ``name``, or ``plugin:name`` where two plugins offer the same."""

    def __init__(self, registered: list[Registered], plugins: list[PluginInfo]) -> None:
        self.plugins = tuple(plugins)
        self._by_kind: dict[str, dict[str, list[Registered]]] = {kind: {} for kind in KINDS}
        for entry in registered:
            self._by_kind[entry.kind].setdefault(entry.component.name, []).append(entry)

    def names(self, kind: str) -> list[str]:
        """Return the names of a kind, sorted; a name that two plugins offer appears as ``plugin:name`` of each."""
        names = []
        for name, entries in self._kind(kind).items():
            names += [name] if len(entries) == 1 else [f"{entry.plugin}:{name}" for entry in entries]
        return sorted(names)

    def find(self, kind: str, name: str) -> Registered:
        """Return the component of a kind called `name`.

        Raises:
            PluginError: if there is none (with close matches) or more than one (with their plugins).
        """
        plugin, _, bare = name.rpartition(":")
        entries = [e for e in self._kind(kind).get(bare, []) if plugin in ("", e.plugin)]
        if len(entries) > 1:
            owners = " and ".join(f"'{entry.plugin}'" for entry in entries)
            choices = " or ".join(f"'{entry.plugin}:{bare}'" for entry in entries)
            raise PluginError(f"{kind} '{bare}' is offered by the plugins {owners}; name one: {choices}")
        if not entries:
            raise PluginError(self._unknown(kind, name))
        return entries[0]

    def resolve_options(self, kind: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return `options` completed by the defaults.

        Raises:
            PluginError: for an unknown or missing option, or one that is not keyword-only, with the signature.
        """
        entry = self.find(kind, name)
        signature = _signature(entry)
        try:
            bound = signature.bind(*HOST_ARGUMENTS[kind], **options)
        except TypeError as error:
            close = difflib.get_close_matches(_offender(error), signature.parameters, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            if "positional" in str(error):
                hint = f"; the host passes ({', '.join(HOST_ARGUMENTS[kind])}) by position"
            raise PluginError(f"{entry}: {error}; options: {_plain(signature)}{hint}") from None
        bound.apply_defaults()
        resolved: dict[str, Any] = {}
        for parameter in signature.parameters.values():
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                resolved[parameter.name] = bound.arguments[parameter.name]
            elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
                resolved.update(bound.arguments[parameter.name])
        positional = [option for option in options if option not in resolved]
        if positional:
            raise PluginError(
                f"{entry}: '{positional[0]}' is no option, since it is not keyword-only; options: {_plain(signature)}"
            )
        return resolved

    def build(self, kind: str, name: str, /, *context: Any, **options: Any) -> Any:
        """Return the product of a component's factory, called with the host's `context` and the user's `options`.

        Raises:
            PluginError: for unknown names or options, or when the factory refuses them (chained).
        """
        entry = self.find(kind, name)
        resolved = self.resolve_options(kind, name, options)
        try:
            return entry.component.resolve()(*context, **resolved)
        except SnnPerceptionError:
            raise
        except (ValueError, TypeError, ImportError) as error:
            raise PluginError(f"{entry}: {error}") from error

    def factory(self, kind: str, name: str, /, **options: Any) -> Callable[..., Any]:
        """Return a function of the host's arguments that builds the component; the options are checked now."""
        resolved = self.resolve_options(kind, name, options)
        return lambda *context: self.build(kind, name, *context, **resolved)

    def entries(self, kind: str) -> list[Registered]:
        """Return every component of a kind, by name, then plugin."""
        return [entry for _, entries in sorted(self._kind(kind).items()) for entry in entries]

    def _kind(self, kind: str) -> dict[str, list[Registered]]:
        if kind not in self._by_kind:
            raise PluginError(f"unknown kind of component '{kind}'; kinds: {', '.join(KINDS)}")
        return self._by_kind[kind]

    def _unknown(self, kind: str, name: str) -> str:
        known = self.names(kind)
        close = " or ".join(f"'{match}'" for match in difflib.get_close_matches(name, known, n=3))
        hint = f"did you mean {close}?" if close else f"known: {', '.join(known) or 'none'}"
        text = f"unknown {kind} '{name}'; {hint}"
        broken = [f"'{p.id}' ({p.error})" for p in self.plugins if p.error]
        return text + (f"; plugins that are not in use: {', '.join(broken)}" if broken else "")


def _signature(entry: Registered) -> inspect.Signature:
    try:
        return entry.component.signature()
    except Exception as error:  # a factory given by name runs its module's import, which may fail in any way
        raise PluginError(f"{entry}: cannot be loaded: {type(error).__name__}: {error}") from error


def _offender(error: TypeError) -> str:
    quoted = re.search(r"'([^']+)'", str(error))
    return quoted[1] if quoted else ""


def _plain(signature: inspect.Signature) -> str:
    """Return the signature without annotations: names and defaults are what a user sets."""
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(inspect.Signature(bare))
