"""``manifest.json`` of a synthetic set: what it was made from, what it holds, and the digest of every file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from snn_perception.data.provenance import MANIFEST_NAME
from snn_perception.errors import EventDataError
from snn_perception.synth.sizes import FORMATS, RecordingPlan, SetRequest, plan_set
from snn_perception.whole_file import cannot_write, whole_file


@dataclass(frozen=True)
class FileEntry:
    """One file: path relative to the set's folder, length and SHA-256."""

    path: str
    bytes: int
    sha256: str

    @staticmethod
    def of(path: Path, name: str) -> FileEntry:
        """Return the entry `name` of a file, read once."""
        digest, length = hashlib.sha256(), 0
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
                length += len(block)
        return FileEntry(name, length, digest.hexdigest())


@dataclass(frozen=True)
class RecordingEntry:
    """What one recording holds.

    Attributes:
        label_hz: how often it is labelled; `label_times`: at how many times something is.
        boxes: kind -> number of labels.
        passing: labels that pass the size filter of the format.
    """

    name: str
    split: str
    drive: int
    recording: int
    duration_us: int
    robustness: bool
    events: int
    on: int
    label_hz: int
    label_times: int
    boxes: Mapping[str, int]
    passing: int
    files: tuple[FileEntry, ...]


@dataclass(frozen=True)
class Manifest:
    """A set, as far as it is made.

    Attributes:
        styles: ``<split>/<drive>`` -> the style that was drawn for it.
        recordings: those that are whole, by split and name.
        complete: all recordings of the size are there.
    """

    request: SetRequest
    styles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    recordings: tuple[RecordingEntry, ...] = ()

    @property
    def generator(self) -> str:
        return FORMATS[self.request.format].generator

    @property
    def complete(self) -> bool:
        return {plan.name for plan in plan_set(self.request)} <= {entry.name for entry in self.recordings}

    def with_recording(self, entry: RecordingEntry, style: Mapping[str, Any]) -> Manifest:
        """Return the manifest with one recording more, or in place of an older one of its name."""
        others = [other for other in self.recordings if other.name != entry.name]
        ordered = sorted([*others, entry], key=lambda one: (_SPLIT_ORDER[one.split], one.drive, one.recording))
        styles = {**self.styles, f"{entry.split}/{entry.drive}": style}
        return Manifest(self.request, {key: styles[key] for key in _styles_of(ordered)}, tuple(ordered))

    def plans(self) -> tuple[RecordingPlan, ...]:
        """Return what makes the recordings again."""
        request = self.request
        return tuple(
            RecordingPlan(
                entry.split,
                entry.drive,
                entry.recording,
                entry.duration_us,
                request.format,
                request.frames_per_s,
                request.duplicates,
            )
            for entry in self.recordings
        )


_SPLIT_ORDER = {"train": 0, "val": 1, "test": 2}


def _styles_of(entries: Sequence[RecordingEntry]) -> list[str]:
    return list(dict.fromkeys(f"{entry.split}/{entry.drive}" for entry in entries))


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write ``manifest.json`` into a folder, in place of an older one.

    Raises:
        SnnPerceptionError: if it cannot be put there.
    """
    sensor = FORMATS[manifest.request.format].sensor
    content = {
        "generator": manifest.generator,
        "complete": manifest.complete,
        "request": asdict(manifest.request),
        "width": sensor.width,
        "height": sensor.height,
        "classes": dict(FORMATS[manifest.request.format].numbers),
        "recordings": [asdict(entry) for entry in manifest.recordings],
        "styles": manifest.styles,
    }
    path = folder / MANIFEST_NAME
    try:
        with whole_file(path) as partial:
            partial.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    except OSError as error:  # a full disk, for instance
        raise cannot_write(path, error) from error


def read_manifest(path: str | Path) -> Manifest:
    """Return a manifest, from its file or the folder that holds it.

    Raises:
        EventDataError: if there is none, it is damaged, or of another version of the generator.
    """
    path = Path(path)
    path = path / MANIFEST_NAME if path.is_dir() else path
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise EventDataError(f"{path}: no manifest can be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise EventDataError(f"{path}: expected the manifest of a synthetic set, got no JSON: {error}") from error
    try:
        manifest = _manifest_from(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EventDataError(
            f"{path}: expected the manifest of a synthetic set, got something else ({type(error).__name__}: {error})"
        ) from error
    if content["generator"] != manifest.generator:
        raise EventDataError(
            f"{path}: made by {content['generator']!r:.60}, this is '{manifest.generator}': the two do not make the "
            "same set; install the version that made it"
        )
    return manifest


def _manifest_from(content: dict[str, Any]) -> Manifest:
    recordings = tuple(
        RecordingEntry(**{**entry, "files": tuple(_file_from(file) for file in entry["files"])})
        for entry in content["recordings"]
    )
    manifest = Manifest(SetRequest(**content["request"]), dict(content["styles"]), recordings)
    manifest.plans()  # a split that does not exist shows here
    return manifest


def _file_from(content: dict[str, Any]) -> FileEntry:
    file = FileEntry(**content)
    parts = Path(file.path).parts
    if Path(file.path).is_absolute() or ".." in parts or not parts:  # a manifest names nothing outside its folder
        raise ValueError(f"path {file.path!r}")
    return file
