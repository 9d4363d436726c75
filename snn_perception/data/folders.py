"""Finding the files of a data set: listings and headers alone, so that thousands of recordings take a moment."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from snn_perception.data.labels import count_labels
from snn_perception.errors import EventDataError
from snn_perception.events.dat_header import MAX_HEADER_BYTES, parse_header, stated_size
from snn_perception.types import SensorSize

MAX_DEPTH = 3
RVT_PARTS = ("event_representations_v2", "labels_v2")
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class PairedFiles:
    """Recordings and their labels, told from file names.

    Attributes:
        pairs: (name, events, labels), by name.
        without_labels, without_events: names of which only the other half is there.
        notes: names found twice, of which the first path is used.
    """

    pairs: tuple[tuple[str, Path, Path], ...]
    without_labels: tuple[str, ...]
    without_events: tuple[str, ...]
    notes: tuple[str, ...]


def checked_root(root: str | Path) -> Path:
    """Return the folder of a data set as a path.

    Raises:
        EventDataError: if it does not exist or is no folder.
    """
    root = Path(root)
    if not root.is_dir():
        got = "a file" if root.exists() else "nothing there"
        raise EventDataError(f"{root}: expected the folder of a data set, got {got}")
    return root


def checked_split(split: str, known: Sequence[str] = ()) -> str:
    """Return the name of a split; it is the name of a folder, or one of `known` where those are given.

    Raises:
        EventDataError: for any other.
    """
    if known and split not in known:
        raise EventDataError(f"unknown split {split!r}; splits: {', '.join(known)}")
    if not split or split != Path(split).name or split in (".", ".."):
        raise EventDataError(f"a split is the name of a folder, such as train, val or test, got {split!r}")
    return split


def list_files(
    folder: str | Path, *, depth: int = MAX_DEPTH, is_unit: Callable[[Path], bool] = lambda path: False
) -> list[Path]:
    """Return the files below a folder, to a depth, by path; hidden ones are left out.

    Args:
        depth: levels of folders to enter, the folder itself included.
        is_unit: folders for which it is true are listed in place of what they hold.

    Raises:
        EventDataError: if a folder cannot be listed.
    """
    return sorted(_walk(Path(folder), depth, is_unit))


def _walk(folder: Path, depth: int, is_unit: Callable[[Path], bool]) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            found = [(Path(entry.path), entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise EventDataError(f"{folder}: cannot be listed: {error.strerror or error}; check its permissions") from error
    for path, is_folder in found:
        if not is_folder or is_unit(path):
            yield path
        elif depth > 1:
            yield from _walk(path, depth - 1, is_unit)


def is_rvt_sequence(path: str | Path) -> bool:
    """Return whether a folder is a sequence as RVT preprocesses it, from the names in it."""
    return any((Path(path) / name).is_dir() for name in RVT_PARTS)


def is_half_size(path: str | Path) -> bool:
    """Return whether an RVT-preprocessed sequence is of half size, from the names in it."""
    return any((Path(path) / RVT_PARTS[0]).glob("*/*_ds2_*.h5"))


def missing_rvt_parts(path: str | Path) -> tuple[str, ...]:
    """Return which parts a sequence lacks: its representations, its labels."""
    path = Path(path)
    wanted = {"representations": f"{RVT_PARTS[0]}/*/*.h5", "labels": f"{RVT_PARTS[1]}/labels.npz"}
    return tuple(part for part, pattern in wanted.items() if not any(path.glob(pattern)))


def split_folder(root: Path, split: str, *, names: Sequence[str] = (), inner: Sequence[str] = ()) -> Path | None:
    """Return the folder of a split below the root of a data set, None where there is none.

    Args:
        names: what the folder may be called, most usual first; by default the split's own name.
        inner: folders in which the splits may lie, below the root.
    """
    for base in (root, *(root / name for name in inner)):
        for name in names or (split,):
            if (base / name).is_dir():
                return base / name
    return None


def strip_suffix(name: str, suffixes: Iterable[str]) -> str | None:
    """Return a file name without the first of the suffixes that it ends in, None if it ends in none of them."""
    return next((name[: -len(suffix)] for suffix in suffixes if name.endswith(suffix) and name != suffix), None)


def pair_files(files: Iterable[Path], event_suffixes: Sequence[str], label_suffix: str = "_bbox.npy") -> PairedFiles:
    """Return which of the files are recordings, and the label file of each, by the name before the suffix.

    Args:
        event_suffixes: endings of recordings, the preferred ones first, where a recording is there in several forms.
    """
    events: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    notes: list[str] = []
    files = list(files)
    for suffix in event_suffixes:
        _gather(events, files, suffix, notes)
    _gather(labels, files, label_suffix, notes)
    both = sorted(events.keys() & labels.keys())
    return PairedFiles(
        tuple((name, events[name], labels[name]) for name in both),
        tuple(sorted(events.keys() - labels.keys())),
        tuple(sorted(labels.keys() - events.keys())),
        tuple(notes),
    )


def _gather(found: dict[str, Path], files: Iterable[Path], suffix: str, notes: list[str]) -> None:
    for path in files:
        name = strip_suffix(path.name, [suffix])
        if name is None:
            continue
        if name in found:
            notes.append(f"{path}: not used, {found[name]} is the same recording")
        else:
            found[name] = path


def header_fault(path: str | Path, sensor: SensorSize | None = None) -> str | None:
    """Return what is wrong with a file as far as its first bytes tell, None if nothing is.

    DAT files must have a header (a download that failed often leaves a file of zeros), and may state no other size than
    `sensor`; label files the fields of labels and as many rows as they announce, HDF5 files their signature, and no
    file may be empty.
    """
    path = Path(path)
    try:
        if not path.is_file():
            return f"{path}: expected a file, got {'something else' if path.exists() else 'nothing there'}"
        if path.suffix == ".npy":
            count_labels(path)
            return None
        with path.open("rb") as file:
            head = file.read(MAX_HEADER_BYTES + 2 if path.suffix == ".dat" else len(_HDF5_MAGIC))
        if not head:
            return f"{path}: is empty"
        if path.suffix == ".dat":
            header = parse_header(head, path)
            if not header.text:
                return f"{path}: has no DAT header"
            stated = stated_size(header, path)
            if sensor is not None and stated not in (None, sensor):
                return f"{path}: expected {sensor} px, as its data set has, got {stated}; wrong set?"
        if path.suffix in (".h5", ".hdf5") and head != _HDF5_MAGIC:
            return f"{path}: expected an HDF5 file, got one that begins with {head!r}"
    except EventDataError as error:
        return str(error)
    except OSError as error:
        return f"{path}: cannot be read: {error.strerror or error}"
    return None


def in_turn(groups: Mapping[str, Sequence[Path]]) -> list[tuple[str, Path]]:
    """Return (group, path) of all, one of each group after the other, so that the first few hold every group."""
    longest = max((len(paths) for paths in groups.values()), default=0)
    return [(name, paths[i]) for i in range(longest) for name, paths in groups.items() if i < len(paths)]
