"""A single synthetic recording in a folder of its own, made once and then found there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from snn_perception.errors import EventDataError, SnnPerceptionError
from snn_perception.synth.drive import Unit, file_names, make_recording
from snn_perception.synth.manifest import Manifest, RecordingEntry, read_manifest, write_manifest
from snn_perception.synth.sizes import RecordingPlan, SetRequest


@dataclass(frozen=True)
class OneDrive:
    """A recording that is there.

    Attributes:
        folder: of the set that it alone makes up; ``NAME:FOLDER`` opens it as a data set.
        plan, entry: what it was made from and what it holds.
        events: its file.
        is_new: it was made just now.
    """

    folder: Path
    plan: RecordingPlan
    entry: RecordingEntry
    events: Path
    is_new: bool

    @property
    def digest(self) -> str:
        """SHA-256 of the events."""
        return self.entry.files[0].sha256


def one_drive(folder: str | Path, plan: RecordingPlan, on_time: Callable[[int], None] = lambda us: None) -> OneDrive:
    """Return a recording in `folder`, made unless it is there whole, as the manifest beside it tells.

    Args:
        on_time: called now and then with the microseconds that are made.

    Raises:
        SnnPerceptionError: if the folder or a file cannot be written.
    """
    folder = Path(folder)
    try:
        (folder / plan.split).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SnnPerceptionError(f"{folder}: the folder cannot be made: {error.strerror or error}") from error
    made = make_recording(Unit(plan, folder, _known(folder, plan)), on_time)
    if made.is_new:
        manifest = Manifest(SetRequest("tiny", plan.format, 0, plan.frames_per_s, plan.duplicates))
        write_manifest(manifest.with_recording(made.entry, made.style), folder)
    return OneDrive(folder, plan, made.entry, folder / file_names(plan)[0], made.is_new)


def _known(folder: Path, plan: RecordingPlan) -> RecordingEntry | None:
    """Return what the manifest in a folder says of a recording; None if it says nothing, or is of another version."""
    try:
        entries = read_manifest(folder).recordings
    except EventDataError:
        return None
    return next((entry for entry in entries if entry.name == plan.name), None)
