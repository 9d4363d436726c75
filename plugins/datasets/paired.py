"""Recordings with a label file beside each, in a folder per split; the same as RVT preprocesses them.

``NAME_td.dat`` (or ``.dat.h5``, ``.h5``, ``.hdf5``, ``.raw``) goes with ``NAME_bbox.npy``, wherever both lie below the
folder of the split. A sequence folder of RVT holds both parts itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from snn_perception.api import (
    Dataset,
    DatasetReport,
    LabelledRecording,
    LabelRules,
    Piece,
    SensorSize,
    checked_root,
    checked_split,
    choose_recordings,
    header_fault,
    is_half_size,
    is_rvt_sequence,
    list_files,
    missing_rvt_parts,
    pair_files,
    read_labels,
    read_sequence_labels,
    split_folder,
)

SPLITS = ("train", "val", "test")
EVENT_SUFFIXES = ("_td.dat", "_td.dat.h5", "_td.h5", "_td.hdf5", "_td.raw")


@dataclass(frozen=True)
class PairedLayout:
    """What differs between data sets of this form.

    Attributes:
        name, classes, sensor: of the data set.
        inner: folders in which the splits may lie, below the root.
        label_free: recordings known to lose every label under the usual filter.
    """

    name: str
    classes: tuple[str, ...]
    sensor: SensorSize
    inner: tuple[str, ...] = ()
    label_free: frozenset[str] = frozenset()


def open_paired(
    layout: PairedLayout,
    root: str | Path,
    split: str,
    *,
    rules: LabelRules,
    piece: Piece | None = None,
    limit: int | None,
    skip_faulty: bool,
    skip_label_free: bool = False,
    only_sequences: bool = False,
) -> Dataset:
    """Return a split of a data set of this form; a split of which nothing is there comes back empty.

    Args:
        rules: for labels beside recordings.
        piece: part of each recording that is meant; RVT-preprocessed sequences tell for themselves.
        limit, skip_faulty: as for every data set (hook ``snn_datasets``).
        skip_label_free: leave the layout's `label_free` recordings out.
        only_sequences: pass over recordings that hold events.

    Raises:
        EventDataError: if the root is no folder, or the split no name of one.
    """
    root = checked_root(root)
    split = checked_split(split)
    folder, remarks = _find(layout, root, split)
    looked_for = "RVT-preprocessed sequences"
    if not only_sequences:
        looked_for = f"NAME{EVENT_SUFFIXES[0]} with NAME_bbox.npy, or {looked_for}"
    if folder is None:
        where = ", ".join(str(base / split) for base in (root, *(root / name for name in layout.inner)))
        report = DatasetReport(f"{where} for {looked_for}", missing=(f"split '{split}': no such folder", *remarks))
        return Dataset(layout.name, split, layout.classes, None, (), report)
    files = list_files(folder, is_unit=is_rvt_sequence)
    sequences = [path for path in files if path.is_dir()]
    pairs = pair_files([path for path in files if not (only_sequences or path.is_dir())], EVENT_SUFFIXES)
    part = piece or Piece()
    candidates = {name: _recording(layout, name, events, labels, rules, part) for name, events, labels in pairs.pairs}
    twice = [f"{path}: not used, its events are there" for path in sequences if path.name in candidates]
    for path in sequences:
        if not missing_rvt_parts(path):
            candidates.setdefault(path.name, _sequence(layout, path, rules))
    free = sorted(candidates.keys() & layout.label_free)
    known = [f"{name}: known to lose all its labels under the usual filter" for name in free]
    wanted = [candidates[name] for name in sorted(candidates) if not (skip_label_free and name in free)]
    chosen = choose_recordings(wanted, _faults, limit=limit, skip_faulty=skip_faulty)
    report = DatasetReport(
        f"{folder} for {looked_for}",
        found=len(chosen.recordings),
        missing=(
            *(f"labels of {name}" for name in pairs.without_labels),
            *(f"events of {name}" for name in pairs.without_events),
            *(f"{part} of {path.name}" for path in sequences for part in missing_rvt_parts(path)),
            *remarks,
        ),
        faulty=chosen.faulty,
        left_out=(*(known if skip_label_free else ()), *chosen.left_out),
        notes=(*(() if skip_label_free else known), *pairs.notes, *twice),
    )
    sizes = {recording.size for recording in chosen.recordings}
    size = sizes.pop() if len(sizes) == 1 else None
    return Dataset(layout.name, split, layout.classes, size, chosen.recordings, report)


def _find(layout: PairedLayout, root: Path, split: str) -> tuple[Path | None, tuple[str, ...]]:
    """Return the folder of a split and what to say about the others."""
    there = {name: split_folder(root, name, inner=layout.inner) for name in dict.fromkeys((*SPLITS, split))}
    if there[split] is not None:
        absent = [name for name, folder in there.items() if folder is None]
        return there[split], tuple(f"split '{name}': no such folder" for name in absent)
    present = [name for name, folder in there.items() if folder is not None]
    if present:
        return None, (f"present are {', '.join(present)}",)
    if root.name in SPLITS and root.name != split:
        return None, (f"the folder given is that of split '{root.name}'",)
    holds = any(path.name.endswith(EVENT_SUFFIXES) or is_rvt_sequence(path) for path in root.iterdir())
    return (root, ()) if holds or root.name == split else (None, ())


def _recording(
    layout: PairedLayout, name: str, events: Path, labels: Path, rules: LabelRules, piece: Piece
) -> LabelledRecording:
    return LabelledRecording(
        name,
        events,
        sensor_size=layout.sensor,
        label_source=partial(read_labels, labels),
        labels_path=labels,
        rules=rules,
        piece=piece,
    )


def _sequence(layout: PairedLayout, path: Path, rules: LabelRules) -> LabelledRecording:
    """Return a sequence as preprocessed by RVT: what it holds is halved already, its labels are not."""
    factor = 2 if is_half_size(path) else 1
    return LabelledRecording(
        path.name,
        path,
        sensor_size=layout.sensor,
        label_source=partial(read_sequence_labels, path),
        labels_path=path / "labels_v2" / "labels.npz",
        rules=replace(rules, downsample=factor),
        piece=Piece(downsample=factor, downsample_mode="nearest"),
        is_sequence=True,
    )


def _faults(recording: LabelledRecording) -> tuple[str, ...]:
    if recording.is_sequence:
        files: Iterator[Path] = iter(sorted(recording.path.glob("event_representations_v2/*/*.h5")))
    else:
        files = iter(path for path in (recording.path, recording.labels_path) if path is not None)
    return tuple(fault for path in files if (fault := header_fault(path, recording.sensor_size)) is not None)
