"""Finding plugins: installed ones by entry point, local ones by path or module name.

One broken plugin stops no other.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import logging
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

import pluggy

from snn_perception import hookspecs
from snn_perception.errors import PluginError
from snn_perception.registry import API_VERSION, KINDS, Component, PluginInfo, Registered, Registry

ENTRY_POINT_GROUP = "snn_perception.plugins"
PLUGINS_VARIABLE = "SNN_PERCEPTION_PLUGINS"
CORE = "core"

log = logging.getLogger(__name__)


def load_registry(
    plugins: Iterable[str | os.PathLike[str]] = (),
    *,
    blocked: Iterable[str] = (),
    installed: bool = True,
    environment: bool = True,
) -> Registry:
    """Return the components of the core, of installed plugins and of local ones.

    A local plugin stands in for an installed one with the same id, so that it can be edited without installing it.

    Args:
        plugins: local plugins the user named: a ``.py`` file, a package folder, or a module name.
        blocked: plugin ids to leave out.
        installed: whether to look for installed plugins (entry-point group ``snn_perception.plugins``).
        environment: whether to read the path list in ``SNN_PERCEPTION_PLUGINS``.

    Raises:
        PluginError: if a plugin that the user named cannot be loaded. One that nobody named only gives a warning.
    """
    loader = _Loader(blocked)
    loader.add(CORE, "snn_perception", lambda: importlib.import_module("snn_perception.builtin_components"), named=True)
    named = [_canonical(os.fspath(plugin)) for plugin in plugins]
    if environment:
        named += [_canonical(path) for path in os.environ.get(PLUGINS_VARIABLE, "").split(os.pathsep) if path]
    for source in dict.fromkeys(named):  # the same path twice is one plugin
        loader.add(_local_id(source), source, partial(_import_local, source), named=True)
    if installed:
        for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name):
            loader.add(point.name, point.value, point.load, named=False)
    return loader.registry()


class _Loader:
    """Loads plugins one by one and keeps what became of each."""

    def __init__(self, blocked: Iterable[str]) -> None:
        self._blocked = set(blocked)
        self._named: set[str] = set()
        self._infos: dict[str, PluginInfo] = {}
        self._registered: list[Registered] = []

    def add(self, plugin_id: str, source: str, load: Callable[[], ModuleType], *, named: bool) -> None:
        if plugin_id in self._blocked:
            self._infos[plugin_id] = PluginInfo(plugin_id, source, "blocked")
        elif plugin_id in self._infos:
            self._add_again(plugin_id, source, named)
        else:
            self._infos[plugin_id] = self._try(plugin_id, source, load, named)
        if named:
            self._named.add(plugin_id)

    def registry(self) -> Registry:
        for unknown in sorted(self._blocked - self._infos.keys()):
            log.warning("no plugin '%s' to leave out; plugins: %s", unknown, ", ".join(self._infos))
        return Registry(self._registered, list(self._infos.values()))

    def _try(self, plugin_id: str, source: str, load: Callable[[], ModuleType], named: bool) -> PluginInfo:
        try:
            self._registered += _components(plugin_id, load())
        except (Exception, SystemExit) as error:  # a script without a main guard may call sys.exit
            reason = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
            if named:
                raise PluginError(f"plugin '{plugin_id}' ({source}): {reason}") from error
            log.warning("plugin '%s' (%s) is left out: %s", plugin_id, source, reason)
            log.debug("plugin '%s'", plugin_id, exc_info=error)
            return PluginInfo(plugin_id, source, reason)
        return PluginInfo(plugin_id, source)

    def _add_again(self, plugin_id: str, source: str, named: bool) -> None:
        earlier = self._infos[plugin_id].source
        if earlier == source:
            return
        if named:
            raise PluginError(f"plugin id '{plugin_id}' is given twice: {earlier} and {source}; rename one")
        # Quiet where the user named a local plugin in place of the installed one.
        level = logging.INFO if plugin_id in self._named else logging.WARNING
        log.log(level, "plugin '%s': %s stands in for %s", plugin_id, earlier, source)


def _components(plugin_id: str, module: ModuleType) -> list[Registered]:
    """Return what a plugin declares; raise PluginError if it breaks the plugin contract."""
    wanted = getattr(module, "SNN_PERCEPTION_API", API_VERSION)
    if wanted != API_VERSION:
        raise PluginError(f"was written for plugin API {wanted}, this is API {API_VERSION}; install a matching version")
    # A manager for each plugin: what a broken one leaves behind reaches no other, and each result has its plugin.
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(module, plugin_id)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(_hook_problem(error)) from error
    found = []
    for kind in KINDS:
        for implementation in getattr(manager.hook, f"snn_{kind}s").get_hookimpls():
            found += [Registered(kind, plugin_id, item) for item in _call(f"snn_{kind}s()", implementation.function)]
    if not found:
        raise PluginError("declares no components; decorate a function such as snn_neurons() with @hookimpl")
    return found


def _call(hook: str, function: Callable[[], object]) -> list[Component]:
    try:
        items = function()
    except Exception as error:
        raise PluginError(f"{hook}: {type(error).__name__}: {error}") from error
    if not isinstance(items, (list, tuple)):
        raise PluginError(f"{hook} must return a list of Component, got {type(items).__name__}")
    names: set[str] = set()
    for item in items:
        if not isinstance(item, Component):
            raise PluginError(f"{hook} must return a list of Component, got {type(item).__name__} in it")
        if item.name in names:
            raise PluginError(f"{hook} declares '{item.name}' twice")
        names.add(item.name)
    return list(items)


def _hook_problem(error: pluggy.PluginValidationError) -> str:
    """Return pluggy's complaint about a hook's name or parameters in one line."""
    text = " ".join(str(error).split())
    unknown = re.match(r"unknown hook '(\w+)'", text)
    if unknown is None:
        return text
    hooks = [f"snn_{kind}s" for kind in KINDS]
    close = difflib.get_close_matches(unknown[1], hooks, n=1)
    return f"{unknown[0]}; " + (f"did you mean '{close[0]}'?" if close else f"hooks: {', '.join(hooks)}")


def _is_path(source: str) -> bool:
    return source.endswith(".py") or os.sep in source or source.startswith("~") or Path(source).is_dir()


def _canonical(source: str) -> str:
    """Return a path in its one full form, a module name as it is."""
    return str(Path(source).expanduser().resolve()) if _is_path(source) else source


def _local_id(source: str) -> str:
    """Return the id of a local plugin: its file or module name, without the ``snn_perception_`` of a distribution."""
    name = Path(source).stem if _is_path(source) else source.rpartition(".")[2]
    return name.removeprefix("snn_perception_")


def _import_local(source: str) -> ModuleType:
    """Return the module of a ``.py`` file, a package folder or a module name; like any import, it runs once."""
    if not _is_path(source):
        return importlib.import_module(source)
    path = Path(source)
    file = path / "__init__.py" if path.is_dir() else path
    if not file.is_file():
        raise PluginError(f"expected a Python file or a package folder, there is no {file}")
    # Files of one name in two folders are two modules.
    name = f"snn_perception_local_{path.stem}_{zlib.crc32(os.fsencode(path)):08x}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(
        name, file, submodule_search_locations=[str(path)] if path.is_dir() else None
    )
    if spec is None or spec.loader is None:
        raise PluginError(f"{file} is not a Python source file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and relative imports look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
