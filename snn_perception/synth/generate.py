"""A whole set: recordings made by one executor, a manifest that grows with them, and the check of both."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from snn_perception.data.provenance import MANIFEST_NAME
from snn_perception.errors import EventDataError, SnnPerceptionError
from snn_perception.held_folder import held_folder
from snn_perception.synth.drive import Unit, is_as_listed, make_recording
from snn_perception.synth.manifest import FileEntry, Manifest, read_manifest, write_manifest
from snn_perception.synth.sizes import RecordingPlan, SetRequest, amount, bytes_needed, plan_set
from snn_perception.work import make_executor

Advance = Callable[[int, int, int, int], None]  # recordings done and in all, microseconds done and in all


@dataclass(frozen=True)
class Made:
    """A set that is there: its manifest, and how many recordings were made just now."""

    folder: Path
    manifest: Manifest
    new: int


def generate(
    folder: str | Path,
    request: SetRequest,
    *,
    limit: int | None = None,
    executor: str = "processes",
    workers: int | None = None,
    advance: Advance = lambda *counts: None,
) -> Made:
    """Return a set, after making what of it is not there yet; the same files for any executor and number of workers.

    Args:
        limit: at most so many recordings of each split.
        advance: is told of every recording that is there.

    Raises:
        SnnPerceptionError: if the folder holds another set, another process writes to it, or the disk is too small.
    """
    folder = Path(folder)
    _make_folder(folder)
    with held_folder(folder, "another synth"):
        manifest = _present(folder, request)
        known = {entry.name: entry for entry in manifest.recordings}
        units = [Unit(plan, folder, known.get(plan.name)) for plan in plan_set(request, limit)]
        return _run(folder, manifest, units, executor, workers, advance)


def regenerate(
    source: str | Path,
    folder: str | Path,
    *,
    executor: str = "processes",
    workers: int | None = None,
    advance: Advance = lambda *counts: None,
) -> Made:
    """Return a set made again from a manifest, bit for bit.

    Raises:
        EventDataError: if a file comes out otherwise than the manifest says; it names the first, which is not kept.
        SnnPerceptionError: as `generate`.
    """
    wanted, folder = read_manifest(source), Path(folder)
    _make_folder(folder)
    with held_folder(folder, "another synth"):
        manifest = _present(folder, wanted.request)
        entries = {entry.name: entry for entry in wanted.recordings}
        units = [Unit(plan, folder, entries[plan.name], must_match=True) for plan in wanted.plans()]
        return _run(folder, manifest, units, executor, workers, advance)


def check(folder: str | Path, advance: Advance = lambda *counts: None) -> Manifest:
    """Return the manifest of a set after comparing every file with it.

    Raises:
        EventDataError: if a file is missing or differs; it names the first and tells how many there are.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    recordings = manifest.recordings
    total_us = sum(entry.duration_us for entry in recordings)
    bad: list[FileEntry] = []
    done_us = 0
    for done, entry in enumerate(recordings, start=1):
        bad += [file for file in entry.files if not is_as_listed(folder, file)]
        done_us += entry.duration_us
        advance(done, len(recordings), done_us, total_us)
    if bad:
        first = folder / bad[0].path
        what = "differs from the manifest" if first.exists() else "is missing"
        files = sum(len(entry.files) for entry in recordings)
        raise EventDataError(
            f"{first}: {what}; {len(bad)} of {files} files are not as the manifest says: run `synth` with the same "
            f"options and -o {folder}, which makes them again"
        )
    return manifest


def _run(
    folder: Path, manifest: Manifest, units: Sequence[Unit], executor: str, workers: int | None, advance: Advance
) -> Made:
    plans = [unit.plan for unit in units]
    _check_space(folder, plans)
    for split in dict.fromkeys(plan.split for plan in plans):
        _make_folder(folder / split)
    _sweep(folder)
    total_us, done_us, new = sum(plan.duration_us for plan in plans), 0, 0
    try:
        with make_executor(executor, workers) as pool:
            for done, made in enumerate(pool.map(make_recording, units), start=1):
                manifest = manifest.with_recording(made.entry, made.style)
                write_manifest(manifest, folder)  # after each, so that a run that is killed can go on from here
                new += made.is_new
                done_us += made.entry.duration_us
                advance(done, len(units), done_us, total_us)
    finally:
        _sweep(folder)  # of workers that were killed
    return Made(folder, manifest, new)


def _present(folder: Path, request: SetRequest) -> Manifest:
    """Return the manifest in a folder, an empty one where there is none.

    Raises:
        SnnPerceptionError: if the folder holds another set, or files that are no set.
    """
    if not (folder / MANIFEST_NAME).exists():
        foreign = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        if set(foreign) - {"train", "val", "test"}:
            raise SnnPerceptionError(f"{folder}: holds other files ({foreign[0]} ...); name an empty or new folder")
        return Manifest(request)
    manifest = read_manifest(folder)
    if manifest.request != request:
        raise SnnPerceptionError(
            f"{folder}: holds another set ({_told(manifest.request)}), not {_told(request)}; name another folder"
        )
    return manifest


def _told(request: SetRequest) -> str:
    duplicates = ", duplicates" if request.duplicates else ""
    return f"{request.size}, {request.format}, seed {request.seed}, {request.frames_per_s} frames/s{duplicates}"


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SnnPerceptionError(f"{folder}: the folder cannot be made: {error.strerror or error}") from error


def _sweep(folder: Path) -> None:
    """Remove temporary files of runs that were killed: nobody else writes here (`held_folder`)."""
    for pattern in (".*_td*.dat", ".*_bbox*.npy", f".{Path(MANIFEST_NAME).stem}.*.json"):
        for path in (*folder.glob(pattern), *folder.glob(f"*/{pattern}")):
            path.unlink(missing_ok=True)


def _check_space(folder: Path, plans: Sequence[RecordingPlan]) -> None:
    """Raise SnnPerceptionError unless the disk has room for what is not there yet."""
    there = sum(path.stat().st_size for path in folder.glob("*/*_td.dat"))
    needed, free = max(bytes_needed(tuple(plans)) - there, 0), shutil.disk_usage(folder).free
    if needed > free:
        raise SnnPerceptionError(
            f"{folder}: the set needs about {amount(needed)} more and {amount(free)} are free; name a folder on a "
            "larger disk, or ask for less (--size, --limit)"
        )
