"""What ``convert`` finds where it is given many recordings: these, what goes with them, and their new names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from snn_perception.errors import SnnPerceptionError

if TYPE_CHECKING:
    from snn_perception.registry import Registry

LARGEST_COPY_BYTES = 64 << 20
_SHOWN = 3


@dataclass(frozen=True)
class Found:
    """A recording or another file.

    Attributes:
        name: relative to the folder that all of them keep their place in, with slashes.
        path: where it is.
        target: its name below the destination.
        needs_plugins: the core alone does not know it.
    """

    name: str
    path: Path
    target: str
    needs_plugins: bool = False


@dataclass(frozen=True)
class Plan:
    """What is to be done, each in the order of the names.

    Attributes:
        recordings: to be converted.
        others: to be copied unchanged: labels, and what else lies beside the recordings.
        left_out: names of what is neither, with the reason.
    """

    recordings: tuple[Found, ...]
    others: tuple[Found, ...]
    left_out: tuple[str, ...]


def plan_of(
    sources: Iterable[Path], suffix: str, core: Registry, every: Callable[[], Registry], reader: str | None = None
) -> Plan:
    """Return what is to be done with some recordings and folders of them.

    A single folder's content goes right below the destination; of several sources each keeps its own name there.
    Of a source that is a recording, the label file beside it goes with it.

    Args:
        suffix: of the recordings' new names; empty for bags.
        core: knows most recordings.
        every: returns the registry to ask of files that `core` does not know; loading it may take seconds.
        reader: counts only what this one claims.

    Raises:
        SnnPerceptionError: if a source or every recording is missing, or two would get the same name.
    """
    sources = list(sources)
    finder = _Finder(core, every, reader)
    entries = [entry for source in sources for entry in finder.below(source, keep_name=len(sources) > 1)]
    entries.sort(key=lambda entry: entry[0])
    recordings, others, left_out = [], [], []
    for name, path, kind in entries:
        if kind in ("core", "plugin"):
            recordings.append(Found(name, path, _target(name, path, suffix), kind == "plugin"))
        elif kind == "other":
            others.append(Found(name, path, name))
        else:
            left_out.append(f"{name}: {kind}")
    if not recordings:
        looked = ", ".join(map(str, sources[:_SHOWN])) + (", ..." if len(sources) > _SHOWN else "")
        raise SnnPerceptionError(f"{looked}: holds no recording that is known here")
    _refuse_same_target([*recordings, *others])
    return Plan(tuple(recordings), tuple(others), tuple(left_out))


class _Finder:
    """Tells recordings from other files."""

    def __init__(self, core: Registry, every: Callable[[], Registry], reader: str | None) -> None:
        self._core, self._every, self._reader = core, every, reader
        self._seen: set[str] = set()

    def below(self, source: Path, *, keep_name: bool) -> Iterator[tuple[str, Path, str]]:
        """Yield (name, path, kind) of a source and all below it; kind: core, plugin, other, or why it is left out."""
        if not source.exists():
            raise SnnPerceptionError(f"{source}: no such file or folder")
        own = source.resolve().name
        kind = self._kind(source)
        if kind in ("core", "plugin"):
            yield own, source, kind
            labels = source.with_name(f"{source.stem.removesuffix('_td')}_bbox.npy")
            if labels.is_file():
                yield labels.name, labels, "other"
        elif source.is_dir():
            yield from self._walk(source, f"{own}/" if keep_name else "")
        else:
            raise SnnPerceptionError(f"{source}: not a recording that is known here")

    def _walk(self, folder: Path, prefix: str) -> Iterator[tuple[str, Path, str]]:
        true_path = str(folder.resolve())
        if true_path in self._seen:  # links that lead round in a circle
            return
        self._seen.add(true_path)
        try:
            with os.scandir(folder) as listed:
                entries = sorted((entry.name, Path(entry.path)) for entry in listed if not entry.name.startswith("."))
        except OSError as error:
            raise SnnPerceptionError(f"{folder}: cannot be listed: {error.strerror or error}") from error
        for name, path in entries:
            kind = self._kind(path)
            if kind:
                yield prefix + name, path, kind
            else:
                yield from self._walk(path, f"{prefix}{name}/")

    def _kind(self, path: Path) -> str:
        """Return what an entry is; nothing for a folder to look into."""
        from snn_perception.data.folders import is_rvt_sequence

        if self._is_claimed(path, self._core):
            return "core"
        if path.is_dir():
            if is_rvt_sequence(path):
                return "preprocessed, it holds no events"
            return "plugin" if self._is_claimed(path, self._every()) else ""
        if not path.is_file():
            return "neither a file nor a folder"
        if path.suffix.lower() not in _NO_RECORDINGS and self._is_claimed(path, self._every()):
            return "plugin"
        if path.stat().st_size > LARGEST_COPY_BYTES:
            return f"no recording, and too large to be copied along (over {LARGEST_COPY_BYTES >> 20} MiB)"
        return "other"

    def _is_claimed(self, path: Path, registry: Registry) -> bool:
        from snn_perception.events.recording import find_reader

        if self._reader is None:
            return find_reader(path, registry) is not None
        if registry is self._core and self._reader not in registry.names("event_reader"):
            return False
        claims = registry.find("event_reader", self._reader).component.resolve().claims  # type: ignore[attr-defined]
        return bool(claims(path))


# No reader need be asked about these, and none loaded for it.
_NO_RECORDINGS = {".npy", ".json", ".yaml", ".yml", ".md", ".txt", ".csv"}


def _target(name: str, path: Path, suffix: str) -> str:
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last if path.is_dir() else Path(last).stem}{suffix}"


def _refuse_same_target(found: list[Found]) -> None:
    by_target: dict[str, Found] = {}
    for entry in found:
        other = by_target.setdefault(entry.target, entry)
        if other is not entry:
            raise SnnPerceptionError(
                f"{other.path} and {entry.path} would both become {entry.target}; convert them apart, or choose one "
                "format of source with --reader"
            )
