"""How the commands open a recording: options are checked against what its reader takes and what it states."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from snn_perception.errors import EventDataError, SnnPerceptionError

if TYPE_CHECKING:
    from snn_perception.events.recording import Recording
    from snn_perception.registry import Registry
    from snn_perception.types import SensorSize

_LOOKED_AT = 1_000  # entries of a folder
_TOLD = 5

ENCODING_HELP = "of a RAW file, where its header states none: evt2, evt21, evt21e or evt3"


def open_asked(
    path: Path, registry: Registry, *, reader: str | None = None, topic_option: str = "--topic", **asked: object
) -> Recording:
    """Return the recording at `path`, opened with those of the asked options (topic, size, encoding) that are not None.

    Args:
        topic_option: how the command spells the option for `topic`.

    Raises:
        EventDataError: as `open_recording`; of a folder that is no recording it tells the recordings in it.
        SnnPerceptionError: for an option that this kind of recording does not take, and for a size other than stated.
    """
    from snn_perception.events.recording import find_reader, open_recording
    from snn_perception.types import SensorSize

    name = reader or (find_reader(path, registry) if path.exists() else None)
    if name is None and path.is_dir():
        raise EventDataError(told_of_folder(path, registry))
    options = {option: value for option, value in asked.items() if value is not None}
    if name is not None:
        taken = registry.find("event_reader", name).component.signature().parameters.values()
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken)
        for option in options.keys() - {parameter.name for parameter in taken}:
            if not takes_any:
                spelt = topic_option if option == "topic" else f"--{option}"
                raise SnnPerceptionError(f"{path}: {spelt} is not for recordings of format {name}; leave it out")
    recording = open_recording(path, registry, reader=name, **options)
    if "size" in options:
        without = {option: value for option, value in options.items() if option != "size"}
        _refuse_other_size(SensorSize(*options["size"]), path, registry, name, without)  # type: ignore[misc]
    return recording


def told_of_folder(path: Path, registry: Registry) -> str:
    """Return what to say of a folder that is no recording: which ones it holds."""
    names = list(islice(_recordings_in(path, registry), _LOOKED_AT))
    if names:
        shown = ", ".join(names[:_TOLD]) + (", ..." if len(names) > _TOLD else "")
        if len(names) == 1:
            return f"{path}: is a folder with one recording ({shown}): name it"
        return f"{path}: is a folder with {len(names):,} recordings ({shown}): name one"
    trees = [entry for entry in _entries(path) if entry.is_dir()]
    inside = next((tree for tree in trees if next(_recordings_in(tree, registry), None)), None)
    if inside is not None:
        return (
            f"{path}: is a folder whose folders hold recordings ({inside.name}, for instance): name one of them; for a "
            "whole data set see open_dataset in docs/events.md"
        )
    return f"{path}: is a folder, and no recording that is known here"


def _recordings_in(path: Path, registry: Registry) -> Iterator[str]:
    """Yield the names of the recordings directly in a folder, in order."""
    from snn_perception.events.recording import find_reader

    return (entry.name for entry in _entries(path) if find_reader(entry, registry))


def _entries(path: Path) -> list[Path]:
    try:
        return sorted(islice(path.iterdir(), _LOOKED_AT))
    except OSError:
        return []


def _refuse_other_size(
    given: SensorSize, path: Path, registry: Registry, name: str | None, without: dict[str, object]
) -> None:
    """Refuse a given size where the recording states another one: its events would be left out, or lie wrong."""
    from snn_perception.events.recording import open_recording

    try:
        plain = open_recording(path, registry, reader=name, **without)
    except EventDataError:  # what it states is impossible; that is what the option is for
        return
    if getattr(plain, "size_inferred", False):
        return
    if plain.size != given:
        says = "it states" if plain.is_packets else "its header says"
        raise SnnPerceptionError(f"{path}: {says} {plain.size}; --size is for recordings that state none")
