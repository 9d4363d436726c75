"""``inspect RECORDING``: what a recording holds. The JSON form is exact, so that decoders can be held against it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snn_perception.cli.common import make_parser, print_json, print_rows, progress_bar, registry_of, run

if TYPE_CHECKING:
    from snn_perception.events.recording import Recording
    from snn_perception.events.statistics import EventStatistics, EventWalk


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run(_inspect, _parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("inspect", "Tell what a recording holds: events, times, rates, triggers, losses, a digest.")
    parser.add_argument("recording", metavar="RECORDING", type=Path, help="a DAT file or a ROS 2 bag (folder or file)")
    parser.add_argument("--topic", help="topic of a bag that has several")
    parser.add_argument("--reader", metavar="NAME", help="read the recording as this format")
    parser.add_argument("--size", type=_size, metavar="WxH", help="sensor size in pixels, where the file states none")
    parser.add_argument(
        "--no-digest", action="store_true", help="leave out the SHA-256 of the events (four times as fast)"
    )
    return parser


def _size(text: str) -> tuple[int, int]:
    """Return (height, width)."""
    width, _, height = text.partition("x")
    return int(height), int(width)


_size.__name__ = "size, such as 304x240"  # argparse puts it into "invalid ... value"


def _inspect(arguments: argparse.Namespace) -> None:
    from snn_perception.events.recording import open_recording
    from snn_perception.events.statistics import EventWalk, survey

    registry = registry_of(arguments)
    options = {name: value for name in ("topic", "size") if (value := getattr(arguments, name))}
    recording = open_recording(arguments.recording, registry, reader=arguments.reader, **options)
    walk = EventWalk(recording, registry)
    with progress_bar(recording.path.name) as advance:
        statistics, digest = survey(walk, digest=not arguments.no_digest, advance=advance)
    report = report_of(walk, statistics, digest)
    if arguments.json:
        print_json(report)
    else:
        print_rows(_rows(report))


def report_of(walk: EventWalk, statistics: EventStatistics, digest: str) -> dict[str, Any]:
    """Return what is told of a recording, as JSON holds it."""
    recording, counts = walk.recording, walk.counts
    losses = _losses(walk, statistics)
    ticks = statistics.ticks_per_us
    return {
        "path": str(recording.path),
        "format": recording.format,
        "encoding": recording.encoding,
        "width": recording.size.width,
        "height": recording.size.height,
        "size_inferred": getattr(recording, "size_inferred", False),
        "messages": statistics.messages,
        "events": statistics.events,
        "on": statistics.on,
        "off": statistics.off,
        "t_first_us": statistics.t_min // ticks,
        "t_last_us": statistics.t_max // ticks,
        "duration_us": statistics.duration_us,
        "rate_mean_hz": statistics.rate_mean_hz,
        "rate_peak_hz": statistics.rate_peak_hz,
        "time_unit": statistics.time_unit,
        "t_min": statistics.t_min,
        "t_max": statistics.t_max,
        "sum_t": statistics.sum_t,
        "sum_x": statistics.sum_x,
        "sum_y": statistics.sum_y,
        "max_x": statistics.max_x,
        "max_y": statistics.max_y,
        "time_goes_backwards": statistics.backwards,
        "time_leaps": statistics.leaps,
        "first_events_txyp": statistics.first_events,
        "last_events_txyp": statistics.last_events,
        "triggers": statistics.triggers,
        "trigger_edges": statistics.trigger_edges,
        "trigger_ids": sorted(statistics.trigger_ids),
        "trigger_sum_t": statistics.trigger_sum_t,
        "first_triggers_t_edge_id": statistics.first_triggers,
        "losses": sum(losses.values()),
        "losses_by_kind": losses,
        "sequence_gaps": counts.sequence_gaps,
        "duplicates": counts.duplicates,
        "restarts": counts.restarts,
        "sha256": digest or None,
        "notes": list(getattr(recording, "notes", [])),
        **(_of_messages(recording, statistics) if recording.is_packets else {}),
    }


def _losses(walk: EventWalk, statistics: EventStatistics) -> dict[str, int]:
    """Return what is missing or could not be used: events, words and bytes by decoder, whole messages by reader."""
    return {
        **asdict(statistics.losses),
        "lost_packets": walk.counts.lost_packets,
        "undecodable_packets": walk.undecodable,
        "unreadable_messages": getattr(walk.recording, "skipped", 0),
    }


def _of_messages(recording: Recording, statistics: EventStatistics) -> dict[str, Any]:
    first, last = statistics.first_packet, statistics.last_packet
    return {
        "topic": getattr(recording, "topic", None),
        "message_type": getattr(recording, "message_type", None),
        "encodings": statistics.encodings,
        "frame_id": recording.frame_id,
        "is_bigendian": bool(first and first.is_bigendian),
        "empty_messages": statistics.empty_messages,
        "events_in_first_messages": statistics.events_in_first_messages,
        "events_in_last_message": statistics.events_in_last_message,
        "first_time_base": first.time_base if first else None,
        "first_seq": first.seq if first else None,
        "last_seq": last.seq if last else None,
        "first_stamp_ns": first.stamp_ns if first else None,
        "last_stamp_ns": last.stamp_ns if last else None,
    }


def _rows(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "recording", f"{report['path']} ({report['format']}, {report['encoding']})"
    if "topic" in report:
        yield "topic", f"{report['topic']} ({report['message_type']})"
        yield "messages", f"{report['messages']:,} ({report['empty_messages']:,} without events)"
    yield (
        "sensor",
        f"{report['width']}x{report['height']}" + (" (inferred from the events)" if report["size_inferred"] else ""),
    )
    yield "events", f"{report['events']:,} ({report['on']:,} ON, {report['off']:,} OFF)"
    yield "sensor time", f"{report['t_first_us']:,} to {report['t_last_us']:,} us ({report['duration_us'] / 1e6:.3f} s)"
    yield "event rate", f"mean {_rate(report['rate_mean_hz'])}, peak {_rate(report['rate_peak_hz'])} (over 10 ms)"
    if report["time_goes_backwards"] or report["time_leaps"]:
        yield (
            "disorder",
            f"{report['time_goes_backwards']:,} events before their forerunner, {report['time_leaps']:,} leaps",
        )
    if report["triggers"]:
        falls, rises = report["trigger_edges"]
        yield (
            "triggers",
            f"{report['triggers']:,} (edge 0: {falls:,}, edge 1: {rises:,}; inputs {report['trigger_ids']})",
        )
    losses = ", ".join(
        f"{kind.replace('_', ' ')} {count:,}" for kind, count in report["losses_by_kind"].items() if count
    )
    yield "losses", losses or "none"
    odd = {name: report[name] for name in ("sequence_gaps", "duplicates", "restarts") if report[name]}
    if odd:
        yield "sequence", ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in odd.items())
    yield "sums", f"t {report['sum_t']} {report['time_unit']}, x {report['sum_x']}, y {report['sum_y']}"
    if report["sha256"]:
        yield "sha256", report["sha256"]
    for note in report["notes"]:
        yield "note", note


def _rate(hz: float) -> str:
    return f"{hz / 1e6:.3f} M/s" if hz >= 1e5 else f"{hz:,.0f} /s"


if __name__ == "__main__":
    sys.exit(main())
