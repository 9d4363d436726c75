"""Authors' weights to detectors: asks the importers that plugins offer which of them knows a file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from snn_perception.checkpoint import CHECKPOINT_FORMAT, load_weights
from snn_perception.detector import Detector
from snn_perception.errors import CheckpointError, SnnPerceptionError
from snn_perception.foreign import ForeignCheckpoint, read_foreign
from snn_perception.registry import ImportReport, Registry
from snn_perception.spec import ModelSpec

Imported = tuple[ModelSpec, dict[str, Tensor], ImportReport]
Importer = Callable[[Mapping[str, Tensor], Mapping[str, Any]], Imported | None]


@dataclass(frozen=True)
class ImportedModel:
    """A detector with an author's weights, in evaluation mode, and the account of how it came about."""

    detector: Detector
    report: ImportReport
    source: str
    sha256: str

    def run_record(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of its origin: file name, digest, importer, report."""
        return {
            "imported_from": {"file": self.source, "sha256": self.sha256, "importer": self.report.importer},
            "report": {
                **asdict(self.report),
                "defaults": dict(self.report.defaults),
                "windows": dict(self.report.windows),
            },
        }


def import_weights(path: str | Path, registry: Registry, *, importer: str | None = None) -> ImportedModel:
    """Return the detector stored in an author's file, read by the one importer that knows it, or by the one named.

    Nothing in the file is executed.

    Raises:
        CheckpointError: if the file is damaged, is a checkpoint of this project already, no importer or more than one
            knows it, or its tensors do not fit.
        PluginError: if there is no importer of that name, or the model needs a component that is not installed.
    """
    names = [importer] if importer else registry.names("checkpoint_importer")
    foreign = read_foreign(path, inert=_expected_objects(registry, names))
    if "snn_perception" in _metadata(foreign):
        raise CheckpointError(f"{path}: is a checkpoint of this project (format {CHECKPOINT_FORMAT}); use it as it is")
    try:
        spec, weights, report = _ask(foreign, registry, names)
        detector = Detector(spec, registry)
    except SnnPerceptionError as error:
        raise type(error)(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
    load_weights(detector, weights, str(path))
    return ImportedModel(detector.eval(), report, Path(path).name, _sha256(Path(path)))


def _metadata(foreign: ForeignCheckpoint) -> Mapping[str, Any]:
    found = foreign.hints.get("metadata")
    return found if isinstance(found, Mapping) else {}


def _expected_objects(registry: Registry, names: Sequence[str]) -> Callable[[str], bool]:
    """Return what tells the classes whose objects an importer expects in its files, as records without behaviour."""
    expected: list[Callable[[str], bool]] = []
    for name in names:
        try:
            expected.append(registry.build("checkpoint_importer", name).inert)
        except (SnnPerceptionError, AttributeError):  # expects none; one that cannot be made is told of when asked
            continue
    return lambda kind: any(is_expected(kind) for is_expected in expected)


def _ask(foreign: ForeignCheckpoint, registry: Registry, names: Sequence[str]) -> Imported:
    known: dict[str, Imported] = {}
    refused: list[SnnPerceptionError] = []
    for name in names:
        try:
            result = _ask_one(name, registry, foreign)
        except SnnPerceptionError as error:  # of its family but not right; another importer may still know better
            refused.append(error)
            continue
        if result is not None:
            known[name] = result
    if len(known) > 1:
        raise CheckpointError(f"is known to the importers {' and '.join(known)}; choose one with --importer")
    if not known and refused:
        raise refused[0]
    if not known:
        asked = "the importer" if len(names) == 1 else "any of the importers"
        raise CheckpointError(
            f"not known to {asked} {', '.join(names) or '(none)'}; "
            f"it holds {len(foreign.tensors)} tensors: {_some(list(foreign.tensors))}; a plugin may add an importer"
        )
    return next(iter(known.values()))


def _ask_one(name: str, registry: Registry, foreign: ForeignCheckpoint) -> Imported | None:
    importer: Importer = registry.build("checkpoint_importer", name)
    try:
        return importer(foreign.tensors, foreign.hints)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"importer '{name}' failed on it: {type(error).__name__}: {error}") from error


def _some(names: list[str], limit: int = 5) -> str:
    shown = ", ".join(ascii(name[:80]) for name in names[:limit])
    return shown + (", ..." if len(names) > limit else "")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
