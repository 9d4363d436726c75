"""One recording: a world drives by, the sensor sees it, an annotator labels it, and two files come of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from snn_perception.data.label_filters import kept_by, named_filter
from snn_perception.data.labels import Labels, write_labels
from snn_perception.errors import EventDataError, SnnPerceptionError
from snn_perception.events.dat_writer import write_dat
from snn_perception.synth.labelling import FURTHEST_M, Annotator, Scene
from snn_perception.synth.manifest import FileEntry, RecordingEntry
from snn_perception.synth.sensor import DvsSensor
from snn_perception.synth.sizes import FORMATS, RecordingPlan
from snn_perception.synth.style import DriveStyle, draw_style
from snn_perception.synth.world import World
from snn_perception.types import EventArray
from snn_perception.whole_file import whole_file

EVENTS_SUFFIX, LABELS_SUFFIX = "_td.dat", "_bbox.npy"
_PIECE_US = 100_000  # of sensor time go to the writer at once


@dataclass(frozen=True)
class Unit:
    """Work on one recording.

    Attributes:
        plan: what to make; `folder`: of the set.
        known: what a manifest says of the recording. Where the files are already there with its digests, nothing is
            made.
        must_match: what is made must have the digests of `known`.
    """

    plan: RecordingPlan
    folder: Path
    known: RecordingEntry | None = None
    must_match: bool = False

    @property
    def name(self) -> str:
        """What errors call it."""
        return self.plan.name


@dataclass(frozen=True)
class Made:
    """A recording that is there: its entry in the manifest, its style, and whether it was made just now."""

    entry: RecordingEntry
    style: dict[str, Any]
    is_new: bool


def make_recording(unit: Unit, on_time: Callable[[int], None] = lambda us: None) -> Made:
    """Return what a recording holds, after making it unless it is there. Both files appear whole or not at all.

    Args:
        on_time: called now and then with the microseconds of the recording that are made.

    Raises:
        EventDataError: if it must match a manifest and does not; it names the file, which is not kept.
        SnnPerceptionError: if a file cannot be put there.
    """
    style = draw_style(unit.plan.split, unit.plan.drive)
    if unit.known is not None and all(is_as_listed(unit.folder, file) for file in unit.known.files):
        return Made(unit.known, asdict(style), is_new=False)
    return Made(_write(unit, style, on_time), asdict(style), is_new=True)


def is_as_listed(folder: Path, file: FileEntry) -> bool:
    """Return whether a file is there with the length and digest that a manifest tells."""
    path = folder / file.path
    return path.is_file() and path.stat().st_size == file.bytes and FileEntry.of(path, file.path) == file


def file_names(plan: RecordingPlan) -> tuple[str, str]:
    """Return the paths of events and labels, relative to the set's folder."""
    return f"{plan.split}/{plan.name}{EVENTS_SUFFIX}", f"{plan.split}/{plan.name}{LABELS_SUFFIX}"


def _write(unit: Unit, style: DriveStyle, on_time: Callable[[int], None]) -> RecordingEntry:
    plan, form = unit.plan, FORMATS[unit.plan.format]
    events_name, labels_name = file_names(plan)
    drive = Drive(plan, style)
    with whole_file(unit.folder / labels_name) as labels_path, whole_file(unit.folder / events_name) as events_path:
        with _named(events_path, unit.folder / events_name), _named(labels_path, unit.folder / labels_name):
            write_dat(events_path, drive.pieces(on_time), form.sensor, event_type=0)
            labels = drive.annotator.labels()
            write_labels(labels_path, labels, form.name)
        files = FileEntry.of(events_path, events_name), FileEntry.of(labels_path, labels_name)
        if unit.must_match and unit.known is not None:
            _compare(files, unit.known.files, unit.folder)
    return RecordingEntry(
        plan.name,
        plan.split,
        plan.drive,
        plan.recording,
        plan.duration_us,
        style.robustness,
        drive.events,
        drive.on,
        drive.annotator.label_hz,
        len(np.unique(labels.t_us)),
        {kind: int((labels.class_id == number).sum()) for kind, number in form.numbers.items()},
        passing(labels, form.size_filter),
        files,
    )


def passing(labels: Labels, size_filter: str) -> int:
    """Return how many labels have the least sizes of a label filter, whenever they are."""
    rule = replace(named_filter(size_filter), after_us=None)
    return int(kept_by(labels, rule).sum())


@contextmanager
def _named(temporary: Path, path: Path) -> Iterator[None]:
    """Let errors that tell of a temporary file name the one that it would have become."""
    try:
        yield
    except SnnPerceptionError as error:
        raise type(error)(str(error).replace(str(temporary), str(path))) from error


def _compare(made: tuple[FileEntry, ...], known: tuple[FileEntry, ...], folder: Path) -> None:
    for ours, theirs in zip(made, known, strict=True):
        if ours != theirs:
            raise EventDataError(
                f"{folder / theirs.path}: differs from the manifest: expected {theirs.bytes} bytes with SHA-256 "
                f"{theirs.sha256:.16}..., made {ours.bytes} with {ours.sha256:.16}...; the set was made by another "
                "version of this package or of NumPy"
            )


class Drive:
    """One recording as it comes to be, counted on the way; memory does not grow with its length, but for labels."""

    def __init__(self, plan: RecordingPlan, style: DriveStyle) -> None:
        form = FORMATS[plan.format]
        self.plan = plan
        self.events, self.on = 0, 0
        self.step_us = 1_000_000 // plan.frames_per_s
        self.annotator = Annotator(
            form.numbers,
            form.sensor,
            form.label_hz,
            f"{plan.split} {plan.drive} {plan.recording}",
            grid_us=self.step_us,
            furthest_m=min(FURTHEST_M, style.label_range_m),
        )
        self._world = World(style, plan.recording, form.sensor, plan.duration_us)
        self._sensor = DvsSensor(style, form.sensor, style.seed, noise_seed=plan.recording, duplicates=plan.duplicates)

    def pieces(self, on_time: Callable[[int], None] = lambda us: None) -> Iterator[EventArray]:
        """Yield the events of the recording, and label it; tell how far it is."""
        size = self._sensor.size
        pending: list[EventArray] = []
        piece_end_us = _PIECE_US
        for t_us, is_labelled in self._moments():
            scene: Scene = self._world.view(t_us)
            events = self._sensor.events(scene.luminance, t_us)
            if is_labelled:
                self.annotator.look(scene, t_us)
            self.events += len(events)
            self.on += int(np.count_nonzero(events.p))
            pending.append(events)
            if t_us + 1 >= piece_end_us:
                yield EventArray.concatenate(pending, size)
                pending, piece_end_us = [], t_us + 1 + _PIECE_US
                on_time(t_us)
        yield EventArray.concatenate(pending, size)

    def _moments(self) -> Iterator[tuple[int, bool]]:
        """Yield the times of all frames and whether each is labelled: a frame is rendered for every label."""
        duration_us, step_us = self.plan.duration_us, self.step_us
        due = self.annotator.times(duration_us)
        label_us = next(due, None)
        last_us = -1
        for regular_us in (0, *range(step_us - 1, duration_us, step_us)):
            while label_us is not None and label_us <= regular_us:
                if label_us > last_us:
                    yield label_us, True
                    last_us = label_us
                label_us = next(due, None)
            if regular_us > last_us:
                yield regular_us, False
                last_us = regular_us
