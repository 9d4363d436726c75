"""``inspect RECORDING``: what a recording holds. The JSON form is exact, so that decoders can be held against it."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snn_perception.cli.common import (
    make_parser,
    positive_int,
    print_json,
    print_rows,
    progress_bar,
    reading_registry_of,
    registry_of,
    run,
    sensor_size,
)
from snn_perception.cli.opening import ENCODING_HELP, open_asked
from snn_perception.errors import EventDataError, SnnPerceptionError

if TYPE_CHECKING:
    from snn_perception.cli.inspect_labels import JudgedLabels
    from snn_perception.data.rvt import RvtSequence
    from snn_perception.events.recording import Recording
    from snn_perception.events.statistics import EventStatistics
    from snn_perception.events.walk import EventWalk
    from snn_perception.registry import Registry
    from snn_perception.types import SensorSize

log = logging.getLogger(__name__)

MOST_FRAMES = 100


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run(_inspect, _parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "inspect", "Tell what a recording holds: events, rate over time, faults, labels, a digest; draw it on a page."
    )
    parser.add_argument("recording", metavar="RECORDING", type=Path, help="a file of events or a ROS 2 bag")
    parser.add_argument("--topic", help="topic of a bag that has several")
    parser.add_argument("--reader", metavar="NAME", help="read the recording as this format")
    parser.add_argument("--encoding", metavar="NAME", help=ENCODING_HELP)
    parser.add_argument(
        "--size", type=sensor_size, metavar="WxH", help="sensor size in pixels, where the file states none"
    )
    parser.add_argument(
        "--no-digest", action="store_true", help="leave out the SHA-256 of the events (four times as fast)"
    )
    parser.add_argument(
        "--limit-s",
        "--quick",
        type=_seconds,
        metavar="SECONDS",
        help="look at the first seconds of sensor time only, without a digest",
    )
    labels = parser.add_mutually_exclusive_group()
    labels.add_argument("--labels", type=Path, metavar="FILE", help="labels; by default NAME_bbox.npy for NAME_td.dat")
    labels.add_argument("--no-labels", action="store_true", help="look for no labels")
    page = parser.add_argument_group("a page with moments of the recording and its labels")
    page.add_argument("--png", type=Path, metavar="OUT.png", help="draw it into this file")
    page.add_argument("--frames", type=_frames, default=12, metavar="N", help="at most so many moments (default: 12)")
    page.add_argument(
        "--window-ms", type=positive_int, default=50, metavar="MS", help="how much of a moment is seen (default: 50)"
    )
    page.add_argument("--theme", choices=("dark", "light"), default="dark", help="colours (default: dark)")
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 1e-6 <= value <= 1e9:
        raise argparse.ArgumentTypeError(f"must lie in 1e-6..1e9, got {text}")
    return value


def _frames(text: str) -> int:
    value = int(text)
    if not 1 <= value <= MOST_FRAMES:
        raise argparse.ArgumentTypeError(f"must lie in 1..{MOST_FRAMES}, got {text}")
    return value


_seconds.__name__ = "number of seconds"
_frames.__name__ = "number of moments"


def _inspect(arguments: argparse.Namespace) -> None:
    _check_output(arguments)
    report = _report(arguments)
    if arguments.json:
        print_json(report)
    else:
        from snn_perception.cli.inspect_table import rows_of

        print_rows(rows_of(report))


def _check_output(arguments: argparse.Namespace) -> None:
    """Refuse what cannot be written before any long work."""
    if arguments.png is None:
        return
    from snn_perception.runtime.sheet import check_sheet
    from snn_perception.whole_file import check_writable

    check_writable(check_sheet(arguments.png))
    inputs = [arguments.recording, *([arguments.labels] if arguments.labels else [])]
    if arguments.png.resolve() in [path.resolve() for path in inputs]:
        raise SnnPerceptionError(f"{arguments.png}: is an input of this command; name another file for its output")


def _report(arguments: argparse.Namespace) -> dict[str, Any]:
    """Read the recording, draw the page if one is wanted, and return what is to be told."""
    sequence = _sequence(arguments)
    report = _of_recording(arguments) if sequence is None else _of_sequence(arguments, sequence)
    return report if arguments.png is None else {**report, "png": str(arguments.png)}


def _of_recording(arguments: argparse.Namespace) -> dict[str, Any]:
    from snn_perception.cli.inspect_report import report_of

    registry = reading_registry_of(arguments, arguments.recording, arguments.reader)
    recording = _opened(arguments, registry)
    if recording.is_packets and recording.encoding not in registry.names("event_decoder"):
        registry = registry_of(arguments)
    walk, statistics, digest = _surveyed(arguments, recording, registry)
    if walk.unknown_encodings and len(registry.plugins) == 1:  # the core alone was asked so far
        walk, statistics, digest = _surveyed(arguments, recording, registry_of(arguments))
    report = report_of(walk, statistics, digest)
    labels = _add_labels(report, arguments, recording.size)
    if arguments.png is not None:
        from snn_perception.cli.inspect_sheet import chosen_spans, sheet_of, tiles_of
        from snn_perception.runtime.sheet import tile_shape, write_sheet
        from snn_perception.runtime.snapshots import snapshots

        spans = chosen_spans(report, labels, frames=arguments.frames, window_us=arguments.window_ms * 1000)
        tiles = tiles_of(list(snapshots(walk, spans, tile_shape(recording.size))), labels)
        page = sheet_of(report, recording.size, tiles, labels.classes if labels else ())
        write_sheet(page, arguments.png, arguments.theme)
    return report


def _of_sequence(arguments: argparse.Namespace, sequence: RvtSequence) -> dict[str, Any]:
    from snn_perception.cli.inspect_sequence import add_labels, report_of_sequence, tiles_of_sequence

    with progress_bar(sequence.path.name) as advance:
        report = report_of_sequence(sequence, limit_us=_limit_us(arguments), advance=advance)
    labels = None if arguments.no_labels else add_labels(report, sequence)
    if arguments.png is not None:
        from snn_perception.cli.inspect_sheet import sheet_of
        from snn_perception.runtime.sheet import write_sheet

        tiles = tiles_of_sequence(sequence, labels, windows=report["windows"], frames=arguments.frames)
        page = sheet_of(report, sequence.sensor_size, tiles, labels.classes if labels else ())
        write_sheet(page, arguments.png, arguments.theme)
    return report


def _sequence(arguments: argparse.Namespace) -> RvtSequence | None:
    """Return the preprocessed sequence at the path, None if it is something else."""
    if arguments.reader or not arguments.recording.is_dir():
        return None
    from snn_perception.data.rvt import RvtSequence

    if not RvtSequence.claims(arguments.recording):
        return None
    for name in ("topic", "size", "encoding", "labels"):
        if getattr(arguments, name):
            raise SnnPerceptionError(f"{arguments.recording}: a preprocessed sequence takes no --{name}; leave it out")
    return RvtSequence(arguments.recording)


def _opened(arguments: argparse.Namespace, registry: Registry) -> Recording:
    return open_asked(
        arguments.recording,
        registry,
        reader=arguments.reader,
        topic=arguments.topic,
        size=arguments.size,
        encoding=arguments.encoding,
    )


def _surveyed(
    arguments: argparse.Namespace, recording: Recording, registry: Registry
) -> tuple[EventWalk, EventStatistics, str]:
    from snn_perception.events.statistics import survey
    from snn_perception.events.walk import EventWalk

    limit_us = _limit_us(arguments)
    walk = EventWalk(recording, registry, limit_us=limit_us)
    with progress_bar(recording.path.name) as advance:
        statistics, digest = survey(walk, digest=not arguments.no_digest and limit_us is None, advance=advance)
    return walk, statistics, digest


def _limit_us(arguments: argparse.Namespace) -> int | None:
    return None if arguments.limit_s is None else max(1, round(arguments.limit_s * 1e6))


def _add_labels(report: dict[str, Any], arguments: argparse.Namespace, size: SensorSize) -> JudgedLabels | None:
    """Return the labels of the recording and put what is told of them into the report; damaged ones are told of too."""
    from snn_perception.cli.inspect_labels import judged_labels, labels_beside

    path = None if arguments.no_labels else arguments.labels or labels_beside(arguments.recording)
    if path is None:
        return None
    try:
        labels = judged_labels(path, arguments.recording, size, None if report["limit_s"] else report["t_last_us"])
    except EventDataError as error:
        if arguments.labels:
            raise
        log.warning("%s", error)
        report["labels"] = {"path": str(path), "error": str(error)}
        return None
    report["labels"] = labels.as_dict()
    return labels


if __name__ == "__main__":
    sys.exit(main())
