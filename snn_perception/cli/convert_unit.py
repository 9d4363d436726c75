"""One recording of many that ``convert`` writes: a unit that runs in any process and may be cut off at any time."""

from __future__ import annotations

import errno
import logging
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snn_perception.cli.common import one_line
from snn_perception.cli.convert_plan import Found
from snn_perception.cli.convert_recording import Reading, as_json, warnings_of
from snn_perception.errors import EventDataError, SnnPerceptionError
from snn_perception.whole_file import cannot_write
from snn_perception.work import Ledger, file_identity, unit_key

if TYPE_CHECKING:
    from snn_perception.events.transfer_options import TransferOptions
    from snn_perception.registry import Registry

RECORD = ".converted"  # in the destination: what is done (ledger), and what is under way (partial)
_MADE_BY = 1  # goes up when the same source and options give another output
_NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # no other recording will fare better

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What all recordings of a run share.

    Attributes:
        destination: the folder that they go to.
        format: name of the format to write.
        reading, options: how to read and to write.
        plugins, blocked: as the common options say.
        force: replace what is there.
    """

    destination: Path
    format: str
    reading: Reading
    options: TransferOptions
    plugins: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()
    force: bool = False

    @property
    def ledger(self) -> Ledger:
        """What is done already, by the names of outputs."""
        return Ledger(self.destination / RECORD / "ledger")

    @property
    def partial(self) -> Path:
        """Folder of what is under way."""
        return self.destination / RECORD / "partial"

    def key_of(self, recording: Found) -> str:
        """Return the digest of everything that an output depends on. Raises OSError if the source is gone."""
        source = file_identity(recording.path)
        return unit_key(_MADE_BY, source, self.format, self.reading, self.options, self.plugins, self.blocked)


@dataclass(frozen=True)
class ConvertUnit:
    """One recording and what to do with it."""

    job: Job
    recording: Found

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self.recording.name

    @property
    def output(self) -> Path:
        """Where it goes."""
        return self.job.destination / self.recording.target

    def finished(self) -> dict[str, Any] | None:
        """Return what was told when the output was written; None unless it is there, unchanged and of these options."""
        if self.job.force:
            return None
        entry = self.job.ledger.get(unit_key(self.recording.target))
        try:
            is_same = (
                entry is not None
                and entry["made_from"] == self.job.key_of(self.recording)
                and entry["identity"] == file_identity(self.output)
            )
        except (OSError, KeyError):
            return None
        result: dict[str, Any] | None = entry["result"] if is_same and entry is not None else None
        return result


def convert_unit(unit: ConvertUnit) -> dict[str, Any]:
    """Return what went over, or what was wrong: with `name`, and `status` ``converted`` or ``failed`` and `error`.

    Raises:
        SnnPerceptionError: if the disk is full or may not be written, since that is no fault of the recording.
    """
    try:
        return {"name": unit.name, "status": "converted", **_convert(unit)}
    except (SnnPerceptionError, OSError) as error:
        if _is_without_place(error):
            raise
        return {"name": unit.name, "status": "failed", "error": one_line(error)}


def _convert(unit: ConvertUnit) -> dict[str, Any]:
    from snn_perception.events.transfer import convert_recording

    job, source = unit.job, unit.recording.path
    key = job.key_of(unit.recording)
    registry = _registry(job.plugins, job.blocked, unit.recording.needs_plugins)
    recording = job.reading.open(source, registry)
    if recording.is_packets and recording.encoding not in registry.names("event_decoder"):
        registry = _registry(job.plugins, job.blocked, True)
    _check_replaceable(unit, registry)
    place = job.partial / unit_key(unit.recording.target)[:16]
    staged = place / unit.output.name
    if unit.output.exists() and unit.output.samefile(source):
        raise EventDataError(f"{unit.output}: is the source itself; choose another folder")
    try:
        _made_empty(place)
        done = convert_recording(recording, staged, registry=registry, format=job.format, options=job.options)
        for warning in warnings_of(done):
            log.warning("%s: %s", source, warning)
        told = {"source_format": recording.format, "source_encoding": recording.encoding, **as_json(done)}
        result = {"source": str(source), **told, "output": str(unit.output)}
        entry = {"made_from": key, "identity": file_identity(staged), "result": result}
        job.ledger.put(unit_key(unit.recording.target), entry)  # first: without the output it counts for nothing
        _put_in_place(staged, unit.output)
    except (SnnPerceptionError, OSError) as error:
        if str(staged) not in str(error):
            raise
        raise SnnPerceptionError(str(error).replace(str(staged), str(unit.output))) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return result


@cache
def _registry(plugins: tuple[str, ...], blocked: tuple[str, ...], with_installed: bool) -> Registry:
    from snn_perception.discovery import load_registry

    if with_installed or plugins:
        return load_registry(plugins, blocked=blocked)
    return load_registry(installed=False)


def _check_replaceable(unit: ConvertUnit, registry: Registry) -> None:
    """Refuse to replace a folder, unless it is a bag that an earlier run wrote, or is to be replaced by force."""
    from snn_perception.events.recording import find_reader

    output = unit.output
    if not output.is_dir():
        return
    if find_reader(output, registry) is None or unit.job.format != "bag":
        raise SnnPerceptionError(f"{output}: is a folder; choose another destination")
    if not unit.job.force and unit.job.ledger.get(unit_key(unit.recording.target)) is None:
        raise SnnPerceptionError(f"{output}: exists already; remove it, or replace it with --force")


def _put_in_place(staged: Path, output: Path) -> None:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        if staged.is_dir() and output.is_dir():
            output.rename(staged.parent / ".replaced")
        staged.replace(output)
    except OSError as error:
        raise cannot_write(output, error) from error


def _made_empty(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    try:
        place.mkdir(parents=True)
    except OSError as error:
        raise cannot_write(place, error) from error


def _is_without_place(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_PLACE:
            return True
        error = error.__cause__
    return False
