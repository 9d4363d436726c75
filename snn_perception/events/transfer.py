"""Any recording written as another: the formats that can be written, and the one function that does it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from snn_perception.errors import EventDataError
from snn_perception.events.bag_target import topic_of, write_bag_of
from snn_perception.events.bag_writer import check_bag
from snn_perception.events.column_digest import ColumnDigest, walk_digest
from snn_perception.events.dat_writer import write_dat
from snn_perception.events.passage import Demands, Passage, Selection
from snn_perception.events.recording import Recording, open_recording
from snn_perception.events.statistics import Advance
from snn_perception.events.transfer_options import TransferOptions
from snn_perception.registry import Registry
from snn_perception.types import EventArray, SensorSize
from snn_perception.whole_file import check_writable

__all__ = ["FORMATS", "Format", "Selection", "TransferOptions", "Transferred", "convert_recording", "format_of"]


@dataclass(frozen=True)
class Format:
    """A format that can be written: its name, the suffixes that stand for it, and a word to people."""

    name: str
    suffixes: tuple[str, ...]
    summary: str
    # Returns the number of messages and their stamps' offset to sensor time (ns); zeros where there are none.
    write: Callable[[Path, Passage, TransferOptions], tuple[int, int]]
    demands: Callable[[TransferOptions], Demands]
    holds_triggers: bool = False


@dataclass(frozen=True)
class Transferred:
    """What went over and what did not.

    Attributes:
        path, format, size: what was written. messages: of a bag.
        events, on: written; t_first_us, t_last_us: their earliest and latest time, as written.
        events_read: of the selected time, before duplicates were left out.
        t_shift_us: what was added to all times.
        disordered: events of the source earlier than the one before; moved: those of them moved up to the time
            reached, at most by `furthest_us`.
        duplicates_dropped: left out on demand. triggers_left_out: trigger edges that the target does not hold.
        losses: what of the source was missing or could not be used, by kind; sequence_gaps, restarts: of its packets.
        verified: what was written has been read back and is the same, event for event.
        bytes_in, bytes_out: on disk. seconds: it took. notes: what else a person should know.
    """

    path: Path
    format: str
    size: SensorSize
    messages: int
    events: int
    on: int
    t_first_us: int
    t_last_us: int
    events_read: int
    t_shift_us: int
    disordered: int
    moved: int
    furthest_us: int
    duplicates_dropped: int
    triggers_left_out: int
    losses: dict[str, int]
    sequence_gaps: int
    restarts: int
    verified: bool
    bytes_in: int
    bytes_out: int
    seconds: float
    notes: tuple[str, ...]


def convert_recording(
    recording: Recording,
    destination: str | Path,
    *,
    registry: Registry,
    format: str | None = None,
    options: TransferOptions | None = None,
    advance: Advance | None = None,
) -> Transferred:
    """Return what went over from a recording to a new one at `destination`, which appears only once it is whole.

    Memory stays that of a few pieces, however long the recording. A file that exists is replaced, a bag is not.

    Args:
        format: a name in `FORMATS`; by default the one that `destination`'s suffix stands for.
        advance: called with (done, total) now and then.

    Raises:
        EventDataError: if the source cannot be read, or the format cannot hold its events.
        SnnPerceptionError: if nothing can be put at `destination`.
    """
    kind, options = format_of(destination, format), options or TransferOptions()
    path = Path(destination)
    check_destination(recording, path, kind, options)
    started = perf_counter()
    digest = ColumnDigest() if options.verify else None
    demands = kind.demands(options)
    passage = Passage(recording, registry, options.selection, demands, digest=digest, advance=advance)
    messages, stamp_offset_ns = kind.write(path, passage, options)
    time_offset_ns = stamp_offset_ns if demands.in_ns else 0
    if digest is not None:
        _verify(path, registry, digest, passage.size, in_ns=demands.in_ns, offset_ns=time_offset_ns)
    return Transferred(
        path=path,
        format=kind.name,
        size=passage.size,
        messages=messages,
        events=passage.events,
        on=passage.on,
        t_first_us=passage.t_first_us,
        t_last_us=passage.t_last_us,
        events_read=passage.events_read,
        t_shift_us=passage.t_shift_us,
        disordered=passage.disordered,
        moved=passage.moved,
        furthest_us=passage.furthest_us,
        duplicates_dropped=passage.duplicates,
        triggers_left_out=0 if kind.holds_triggers else passage.triggers,
        losses=passage.losses,
        sequence_gaps=passage.sequence_gaps,
        restarts=passage.restarts,
        verified=options.verify,
        bytes_in=bytes_on_disk(recording.path),
        bytes_out=bytes_on_disk(path),
        seconds=perf_counter() - started,
        notes=tuple(_notes(passage, kind, time_offset_ns)),
    )


def format_of(destination: str | Path, name: str | None = None) -> Format:
    """Return the format called `name`, or the one that the destination's suffix (or final slash) stands for.

    Raises:
        EventDataError: for an unknown name or suffix, with those that are known; for a suffix of another format.
    """
    known = "; ".join(f"{' or '.join(kind.suffixes) or 'no suffix'}: {kind.summary}" for kind in FORMATS.values())
    if name is not None:
        if name not in FORMATS:
            raise EventDataError(f"{destination}: unknown format '{name}'; known: {', '.join(FORMATS)}")
        _refuse_other_suffix(destination, name)
        return FORMATS[name]
    suffix = Path(destination).suffix.lower()
    if not suffix or str(destination).endswith(("/", "\\")):
        return FORMATS["bag"]
    if suffix in (".mcap", ".db3"):
        storage = suffix[1:].replace("db3", "sqlite3")
        raise EventDataError(
            f"{destination}: a ROS 2 bag is a folder that holds such a file; name the folder "
            f"({Path(destination).with_suffix('')}) and its storage (--storage {storage})"
        )
    for kind in FORMATS.values():
        if suffix in kind.suffixes:
            return kind
    raise EventDataError(f"{destination}: '{suffix}' stands for no recording that can be written; {known}")


def _refuse_other_suffix(destination: str | Path, name: str) -> None:
    suffix = Path(destination).suffix.lower()
    other = next((kind.name for kind in FORMATS.values() if suffix in kind.suffixes), name)
    if other != name:
        right = " or ".join(FORMATS[name].suffixes) or "no suffix"
        raise EventDataError(
            f"{destination}: '{suffix}' stands for {other}, not for {name} ({right}); choose one of them"
        )


def check_destination(recording: Recording, path: Path, kind: Format, options: TransferOptions) -> None:
    """Refuse what cannot be written, before any long work. Raises as `convert_recording`."""
    source = recording.path
    if source.resolve() == path.resolve() or (path.exists() and source.exists() and source.samefile(path)):
        raise EventDataError(f"{path}: is the source itself; choose another name")
    if source.is_dir() and source.resolve() in path.resolve().parents:
        raise EventDataError(f"{path}: lies within the source; choose another place")
    if kind.name == "bag":
        check_bag(path, options.storage, topic_of(recording, options))
    else:
        check_writable(path)


def bytes_on_disk(path: Path) -> int:
    """Return the size of a file, or of all files in a folder; 0 of what is neither."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _write_dat(path: Path, passage: Passage, options: TransferOptions) -> tuple[int, int]:
    write_dat(path, passage, passage.size, options.event_type)
    return 0, 0


def _write_hdf5(path: Path, passage: Passage, options: TransferOptions) -> tuple[int, int]:
    from snn_perception.events.hdf5_writer import write_hdf5

    write_hdf5(path, _arrays(passage), passage.size)
    return 0, 0


def _write_raw(path: Path, passage: Passage, options: TransferOptions) -> tuple[int, int]:
    from snn_perception.events.raw_writer import write_raw

    write_raw(path, _arrays(passage), passage.size)
    return 0, 0


def _arrays(passage: Passage) -> Iterator[EventArray]:
    return (piece.to_event_array() for piece in passage)


def _verify(
    path: Path, registry: Registry, digest: ColumnDigest, size: SensorSize, *, in_ns: bool, offset_ns: int
) -> None:
    known: dict[str, Any] = {"size": (size.height, size.width)} if in_ns else {}  # point clouds state none
    again = walk_digest(open_recording(path, registry, **known), registry, in_ns=in_ns, offset_ns=offset_ns)
    if again.value() != digest.value():
        raise EventDataError(
            f"{path}: reading it back gives {again.events} events that differ from the {digest.events} written; it is "
            "left for a look, do not use it"
        )


def _notes(passage: Passage, kind: Format, time_offset_ns: int) -> Iterator[str]:
    yield from getattr(passage.recording, "notes", [])
    if passage.rounded:
        yield f"{passage.rounded} events lost the part of their time below a microsecond; point clouds keep it"
    if passage.triggers and not kind.holds_triggers:
        yield f"{passage.triggers} trigger edges were left out: {kind.name} holds none"
    if time_offset_ns:
        yield f"times read from these clouds are {time_offset_ns} ns later than the source's: stamps are part of them"


FORMATS: dict[str, Format] = {
    kind.name: kind
    for kind in (
        Format("dat", (".dat",), "Prophesee DAT", _write_dat, lambda _: Demands()),
        Format("h5", (".h5", ".hdf5"), "plain HDF5", _write_hdf5, lambda _: Demands()),
        Format("raw", (".raw",), "Prophesee RAW, EVT3", _write_raw, lambda _: Demands(order=True)),
        Format(
            "bag",
            (),
            "ROS 2 bag, a folder",
            write_bag_of,
            lambda options: (
                Demands(in_ns=True, order=True)
                if options.message == "pointcloud2"
                else Demands(order=True, near_zero=True)
            ),
        ),
    )
}
