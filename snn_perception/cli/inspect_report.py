"""What `inspect` tells of a recording, as one object of plain values."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from snn_perception.events.pixel_statistics import hot_pixels, silent_ranges
from snn_perception.events.statistics import PEAK_US, SILENCE_US

if TYPE_CHECKING:
    from snn_perception.events.pixel_statistics import PixelStatistics
    from snn_perception.events.recording import Recording
    from snn_perception.events.statistics import EventStatistics
    from snn_perception.events.walk import EventWalk
    from snn_perception.types import I64

WORST = 10  # hot pixels that are listed


def report_of(walk: EventWalk, statistics: EventStatistics, digest: str) -> dict[str, Any]:
    """Return what is told of a recording, as JSON holds it. Times without a unit in their name are in `time_unit`."""
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
        "limit_s": walk.limit_us / 1e6 if walk.limit_us else None,
        "messages": statistics.messages,
        "events": statistics.events,
        "on": statistics.on,
        "off": statistics.off,
        "on_share": share_of(statistics.on, statistics.events),
        "t_first_us": statistics.t_min // ticks,
        "t_last_us": statistics.t_max // ticks,
        "duration_us": statistics.duration_us,
        "rate_mean_hz": statistics.rate_mean_hz,
        "rate_peak_hz": statistics.rate_peak_hz,
        "rate": rate_of(statistics),
        "burst": dict(zip(("t_start_us", "events"), statistics.burst, strict=True), duration_us=PEAK_US),
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
        "gaps": _gaps(statistics),
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
        "late_packets": counts.late_packets,
        "duplicates": counts.duplicates,
        "restarts": counts.restarts,
        **_duplicate_events(statistics),
        "pixels": _pixels(statistics.pixels, statistics.duration_us),
        "labels": None,
        "sha256": digest or None,
        "notes": list(getattr(recording, "notes", [])),
        **(_of_messages(recording, statistics) if recording.is_packets else {}),
    }


def pixels_of(counts: I64, duration_us: int) -> dict[str, Any]:
    """Return what events per pixel, int64 [H, W], tell: how many fire, which are hot, which columns and rows silent."""
    hot, total = hot_pixels(counts, duration_us), int(counts.sum())
    active = int((counts > 0).sum())
    return {
        "active": active,
        "active_share": active / counts.size,
        "hot": len(hot),
        "hot_share": share_of(sum(pixel.events for pixel in hot), total),
        "hot_worst": [asdict(pixel) for pixel in hot[:WORST]],
        "silent_columns": silent_ranges(counts.sum(axis=0)),
        "silent_rows": silent_ranges(counts.sum(axis=1)),
    }


def share_of(part: int, whole: int) -> float | None:
    """Return a share in 0..1; None of nothing."""
    return part / whole if whole else None


def rate_of(statistics: EventStatistics) -> dict[str, Any]:
    """Return the events over time."""
    rate = statistics.rate
    return {
        "bin_us": rate.bin_us,
        "t_start_us": rate.t_start_us,
        "events": rate.events.tolist(),
        "on": rate.on.tolist(),
    }


def _gaps(statistics: EventStatistics) -> dict[str, Any]:
    """Return the silences: steps from one event to the next of more than a tenth of a second."""
    begin_us, length_us = statistics.longest_silence_us
    return {
        "longer_than_us": SILENCE_US,
        "silences": statistics.silences,
        "silent_us": statistics.silent_us,
        "longest_us": length_us,
        "longest_t_us": begin_us if statistics.silences else None,
    }


def _duplicate_events(statistics: EventStatistics) -> dict[str, Any]:
    if not statistics.pixels.is_counted:
        return {"duplicate_events": None, "duplicate_share": None}
    found = statistics.pixels.duplicates
    return {"duplicate_events": found, "duplicate_share": share_of(found, statistics.events)}


def _pixels(pixels: PixelStatistics, duration_us: int) -> dict[str, Any] | None:
    return pixels_of(pixels.counts, duration_us) if pixels.is_counted and pixels.counts.size else None


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
