"""The part of ``convert`` that writes recordings."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snn_perception.cli.common import microseconds, print_json, print_rows, progress_bar, registry_of, sensor_size
from snn_perception.cli.opening import ENCODING_HELP, open_asked

if TYPE_CHECKING:
    from snn_perception.events.recording import Recording
    from snn_perception.events.transfer import Transferred
    from snn_perception.events.transfer_options import TransferOptions
    from snn_perception.registry import Registry

# The table in events/transfer.py decides; this is for --help, which shall not wait for numba.
FORMATS = ("dat", "h5", "raw", "bag")
DESTINATIONS = ".dat, .h5 or .hdf5, .raw (EVT3), or a name without suffix for a ROS 2 bag"
OPTIONS_OF = {
    "event_type": ("dat",),
    "storage": ("bag",),
    "message": ("bag",),
    "topic": ("bag",),
    "packet_ms": ("bag",),
    "frame_id": ("bag",),
    "stamp_offset_ns": ("bag",),
    "start_time": ("bag",),
}
OTHER_OPTIONS = (
    *("to", "reader", "encoding", "source_topic", "size", "from_s", "to_s"),
    *("drop_duplicates", "fix_order", "rebase"),
)

log = logging.getLogger(__name__)


def add_options(group: argparse._ArgumentGroup) -> None:
    """Add the options that only recordings have."""
    group.add_argument(
        "--to",
        type=lambda name: "h5" if name == "hdf5" else name,
        choices=FORMATS,
        help="format of DST (default: what its suffix says); h5 may be spelt hdf5",
    )
    group.add_argument("--reader", metavar="NAME", help="read SRC as this format")
    group.add_argument("--encoding", metavar="NAME", help=ENCODING_HELP)
    group.add_argument("--source-topic", metavar="TOPIC", help="topic of a source bag that has several")
    group.add_argument("--size", type=sensor_size, metavar="WxH", help="sensor size in pixels, where SRC states none")
    group.add_argument(
        "--from-s", type=microseconds, metavar="S", help="leave out events before S seconds of sensor time"
    )
    group.add_argument(
        "--to-s", type=microseconds, metavar="S", help="leave out events from S seconds of sensor time on"
    )
    group.add_argument("--rebase", action="store_true", help="count time from the first event on")
    group.add_argument("--fix-order", action="store_true", help="move events that come late up to the time reached")
    group.add_argument("--drop-duplicates", action="store_true", help="leave out events that repeat an earlier one")
    group.add_argument("--verify", action="store_true", help="read DST back and compare every event")
    group.add_argument(
        "--event-type", type=int, choices=(0, 12), help="of .dat: 12 (EventCD, default) or 0 (Event2D, as GEN1 has it)"
    )
    group.add_argument("--storage", choices=("sqlite3", "mcap"), help="of a bag (default: sqlite3)")
    group.add_argument(
        "--message",
        choices=("event_packet", "pointcloud2"),
        help="of a bag: EventPacket with EVT3 words (default), or PointCloud2, which keeps nanoseconds",
    )
    group.add_argument("--topic", help="of a bag (default: the source's, or /event_camera/events or .../points)")
    group.add_argument("--packet-ms", type=microseconds, metavar="MS", help="sensor time of one message (default: 4)")
    group.add_argument("--frame-id", metavar="ID", help="in the messages' headers (default: the source's)")
    stamps = group.add_mutually_exclusive_group()
    stamps.add_argument(
        "--stamp-offset-ns",
        type=int,
        metavar="N",
        help="header stamp minus sensor time (default: that of a source bag, or 0)",
    )
    stamps.add_argument(
        "--start-time",
        type=_stamp,
        metavar="TIME",
        help="header stamp of the first event: seconds since 1970, or a date such as 2026-01-31T12:00:00 (UTC)",
    )


@dataclass(frozen=True)
class Reading:
    """How sources are to be read, as the options of the same names say; plain values, for other processes too."""

    reader: str | None
    encoding: str | None
    source_topic: str | None
    size: tuple[int, int] | None

    @classmethod
    def asked_for(cls, arguments: argparse.Namespace) -> Reading:
        """Return what the command's arguments say."""
        return cls(arguments.reader, arguments.encoding, arguments.source_topic, arguments.size)

    def open(self, path: Path, registry: Registry) -> Recording:
        """Return the recording at `path`; raises as `open_asked`."""
        return open_asked(
            path,
            registry,
            reader=self.reader,
            topic_option="--source-topic",
            topic=self.source_topic,
            size=self.size,
            encoding=self.encoding,
        )


def given_options(arguments: argparse.Namespace) -> list[str]:
    """Return the options of recordings that were given, as they are spelt."""
    names = [*OPTIONS_OF, *OTHER_OPTIONS, "verify"]
    return [f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name) not in (None, False)]


def is_recording_name(output: str) -> bool:
    """Return whether a destination is the name of a recording with a suffix."""
    from snn_perception.events.transfer import FORMATS as KINDS

    return Path(output).suffix.lower() in {suffix for kind in KINDS.values() for suffix in kind.suffixes}


def convert(arguments: argparse.Namespace, registry: Registry) -> None:
    """Write the recording and tell what went over."""
    from snn_perception.errors import SnnPerceptionError
    from snn_perception.events.transfer import check_destination, convert_recording, format_of

    options = options_of(arguments)
    if arguments.to is None and Path(arguments.output).suffix == ".safetensors":
        raise SnnPerceptionError(f"{arguments.source}: is a recording, not weights; DST is {DESTINATIONS}")
    kind = format_of(arguments.output, arguments.to)
    refuse_foreign_options(arguments, kind.name)
    recording = Reading.asked_for(arguments).open(arguments.source, registry)
    if recording.is_packets and recording.encoding not in registry.names("event_decoder"):
        registry = registry_of(arguments)  # the core alone was asked so far
    check_destination(recording, Path(arguments.output), kind, options)
    with progress_bar(recording.path.name, enabled=not arguments.json) as advance:
        transferred = convert_recording(
            recording, arguments.output, registry=registry, format=kind.name, options=options, advance=advance
        )
    result = {
        "source": str(recording.path),
        "source_format": recording.format,
        "source_encoding": recording.encoding,
        **as_json(transferred),
    }
    for warning in warnings_of(transferred):
        log.warning("%s: %s", recording.path, warning)
    if arguments.json:
        print_json(result)
    else:
        print_rows(_rows(result))


def as_json(done: Transferred) -> dict[str, Any]:
    """Return what went over, as JSON holds it."""
    return {
        "output": str(done.path),
        "format": done.format,
        "width": done.size.width,
        "height": done.size.height,
        "messages": done.messages,
        "events": done.events,
        "on": done.on,
        "off": done.events - done.on,
        "t_first_us": done.t_first_us,
        "t_last_us": done.t_last_us,
        "duration_us": done.t_last_us - done.t_first_us,
        "events_read": done.events_read,
        "t_shift_us": done.t_shift_us,
        "disordered": done.disordered,
        "moved": done.moved,
        "moved_at_most_us": done.furthest_us,
        "dropped_duplicates": done.duplicates_dropped,
        "triggers_left_out": done.triggers_left_out,
        "losses": sum(done.losses.values()),
        "losses_by_kind": done.losses,
        "sequence_gaps": done.sequence_gaps,
        "restarts": done.restarts,
        "verified": done.verified,
        "bytes_in": done.bytes_in,
        "bytes_out": done.bytes_out,
        "seconds": round(done.seconds, 3),
        "notes": list(done.notes),
    }


def options_of(arguments: argparse.Namespace) -> TransferOptions:
    """Return how the recording is to be written, as the options say."""
    from snn_perception.events.passage import Selection
    from snn_perception.events.transfer_options import TransferOptions

    selection = Selection(
        from_us=arguments.from_s,
        to_us=arguments.to_s,
        drop_duplicates=arguments.drop_duplicates,
        fix_order=arguments.fix_order,
        rebase=arguments.rebase,
    )
    given = {name: getattr(arguments, name) for name in ("event_type", "storage", "message", "topic", "frame_id")}
    if arguments.packet_ms is not None:
        given["packet_us"] = arguments.packet_ms // 1000
    return TransferOptions(
        selection,
        stamp_offset_ns=arguments.stamp_offset_ns,
        first_stamp_ns=arguments.start_time,
        verify=arguments.verify,
        **{name: value for name, value in given.items() if value is not None},
    )


def refuse_foreign_options(arguments: argparse.Namespace, format: str) -> None:
    """Raise SnnPerceptionError for an option that is for other formats than this one."""
    from snn_perception.errors import SnnPerceptionError

    for name, formats in OPTIONS_OF.items():
        if getattr(arguments, name) is not None and format not in formats:
            option = f"--{name.replace('_', '-')}"
            raise SnnPerceptionError(f"{arguments.output}: {option} is for {' and '.join(formats)}, not for {format}")


def warnings_of(done: Transferred) -> Iterator[str]:
    """Yield what may be wrong with the source, a line each."""
    lost = _counted({**done.losses, "sequence_gaps": done.sequence_gaps, "restarts": done.restarts})
    if lost:
        yield f"not all of it could be read: {lost}"
    if done.moved:
        yield f"{done.moved} late events moved up to the time reached, by at most {done.furthest_us} us"
    elif done.disordered:
        yield f"{done.disordered} events precede the one before them; they are written as they are"


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{kind.replace('_', ' ')} {count:,}" for kind, count in counts.items() if count)


def _rows(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "source", f"{result['source']} ({result['source_format']}, {result['source_encoding']})"
    messages = f", {result['messages']:,} messages" if result["messages"] else ""
    yield "written", f"{result['output']} ({result['format']}{messages})"
    yield "sensor", f"{result['width']}x{result['height']}"
    yield "events", f"{result['events']:,} ({result['on']:,} ON, {result['off']:,} OFF)"
    if result["events_read"] != result["events"]:
        yield "events read", f"{result['events_read']:,}"
    begin, end = result["t_first_us"], result["t_last_us"]
    span = f"{begin / 1e6:.3f} to {end / 1e6:.3f} s ({result['duration_us'] / 1e6:.3f} s)"
    yield "sensor time", f"{span}, in us: {begin:,} to {end:,}"
    if result["t_shift_us"]:
        yield "time shifted by", f"{result['t_shift_us']:,} us"
    if result["dropped_duplicates"]:
        yield "duplicates left out", f"{result['dropped_duplicates']:,}"
    if result["disordered"]:
        yield "out of order", f"{result['disordered']:,} ({result['moved']:,} moved up to the time reached)"
    yield "losses of the source", _counted(result["losses_by_kind"]) or "none"
    if result["verified"]:
        yield "read back", "the same, event for event"
    speed = result["events"] / result["seconds"] / 1e6 if result["seconds"] else 0.0
    yield "bytes", f"{result['bytes_in']:,} read, {result['bytes_out']:,} written"
    yield "took", f"{result['seconds']:.1f} s ({speed:.1f} M events/s)"
    for note in result["notes"]:
        yield "note", note


def _stamp(text: str) -> int:
    """Return a time as ns since 1970."""
    try:
        value = Decimal(text) * 1_000_000_000
    except InvalidOperation:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        since = (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)) - datetime.fromtimestamp(
            0, timezone.utc
        )
        return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1000
    if not value.is_finite() or not 0 <= value < 1 << 62:
        raise argparse.ArgumentTypeError(f"must lie after 1970, got {text}")
    return int(value)


_stamp.__name__ = "time"
