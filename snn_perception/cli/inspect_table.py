"""What `inspect` tells of a recording, as lines for people."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from snn_perception.cli.common import output_columns
from snn_perception.runtime.rate_plot import ASCII_BLOCKS, BLOCKS, rate_text, text_bars

_NAME_COLUMNS = 24  # the longest name, and a table's frame
_LEAST_COLUMNS = 16  # of the plot, where the terminal leaves less; its lines are folded then
_PLOT_ROWS = 4
_SHOWN_HOT = 5
_TELLING_EVENTS = 20  # per column or row, on average, before its silence means anything

Rows = Iterator[tuple[str, str]]


def rows_of(report: dict[str, Any]) -> Rows:
    """Yield (name, value) of everything worth a line; what is usual and what was not counted gets none."""
    yield from _what_it_is(report)
    yield from _events(report)
    yield from _rate(report)
    yield from _time(report)
    yield from _pixels(report)
    yield from _losses(report)
    yield from _labels(report["labels"])
    if report["sha256"]:
        yield "sha256", report["sha256"]
    for note in report["notes"]:
        yield "note", note
    if report.get("png"):
        yield "picture in", report["png"]


def facts_of(report: dict[str, Any]) -> str:
    """Return the most important facts in one line."""
    parts = [
        _format(report),
        f"{report['width']}x{report['height']}",
        f"{report['duration_us'] / 1e6:.3f} s" + (" (limited)" if report["limit_s"] else ""),
        f"{report['events']:,} events" + (f" ({report['on_share']:.0%} ON)" if report["events"] else ""),
        f"mean {rate_text(report['rate_mean_hz'])}",
        f"peak {rate_text(report['rate_peak_hz'])}",
    ]
    return "  |  ".join(parts)


def _format(report: dict[str, Any]) -> str:
    return ", ".join(dict.fromkeys((report["format"], report["encoding"])))


def _what_it_is(report: dict[str, Any]) -> Rows:
    yield "recording", f"{report['path']} ({_format(report)})"
    if report["limit_s"]:
        yield "looked at", f"the first {report['limit_s']:g} s only"
    if "topic" in report:
        yield "topic", f"{report['topic']} ({report['message_type']})"
        yield "messages", f"{report['messages']:,} ({report['empty_messages']:,} without events)"
    if "windows" in report:
        yield "windows", f"{report['windows']:,} of {report['window_us'] / 1000:g} ms"
        if report["saturated_cells"]:
            yield "saturated cells", f"{report['saturated_cells']:,}, where events were left out of the counts"
    inferred = " (inferred from the events)" if report["size_inferred"] else ""
    yield "sensor", f"{report['width']}x{report['height']}{inferred}"


def _events(report: dict[str, Any]) -> Rows:
    share = "" if report["on_share"] is None else f", {report['on_share']:.1%} ON"
    yield "events", f"{report['events']:,} ({report['on']:,} ON, {report['off']:,} OFF{share})"
    begin, end = report["t_first_us"], report["t_last_us"]
    span = f"{begin / 1e6:.3f} to {end / 1e6:.3f} s ({report['duration_us'] / 1e6:.3f} s)"
    yield "sensor time", f"{span}, in us: {begin:,} to {end:,}"


def _rate(report: dict[str, Any]) -> Rows:
    burst = report["burst"]
    over_us = burst["duration_us"] if burst else report["window_us"]
    mean, peak = rate_text(report["rate_mean_hz"]), rate_text(report["rate_peak_hz"])
    yield "event rate", f"mean {mean}, peak {peak} (over {over_us / 1000:g} ms)"
    rate = report["rate"]
    if not sum(rate["events"]):
        return
    columns = max(output_columns() - _NAME_COLUMNS, _LEAST_COLUMNS)
    lines = text_bars(np.array(rate["events"]), columns, _PLOT_ROWS, _blocks())
    begin, end = (
        (rate["t_start_us"] + k * rate["bin_us"] - report["t_first_us"]) / 1e6 for k in (0, len(rate["events"]))
    )
    axis = f"{max(begin, 0):.3g} s".ljust(len(lines[0]) - 8) + f"{end:.3g} s".rjust(8)
    top = f"{rate_text(max(rate['events']) * 1e6 / rate['bin_us'])} at the top, {rate['bin_us'] / 1000:g} ms a bin"
    yield "rate over time", "\n".join([top, *lines, axis])
    if burst and burst["events"]:
        at = (burst["t_start_us"] - report["t_first_us"]) / 1e6
        yield "largest burst", f"{burst['events']:,} events in {burst['duration_us'] / 1000:g} ms at {max(at, 0):.3f} s"


def _blocks() -> str:
    """Return the characters for bars that the output can show."""
    try:
        BLOCKS.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return ASCII_BLOCKS
    return BLOCKS


def _time(report: dict[str, Any]) -> Rows:
    if report["time_goes_backwards"] or report["time_leaps"]:
        back, leaps = report["time_goes_backwards"], report["time_leaps"]
        yield "disorder", f"{back:,} events before their forerunner, {leaps:,} leaps"
    gaps = report["gaps"]
    if gaps and gaps["silences"]:
        at = (gaps["longest_t_us"] - report["t_first_us"]) / 1e6
        yield (
            "gaps",
            f"{gaps['silences']:,} silence{'s' * (gaps['silences'] > 1)} above {gaps['longer_than_us'] / 1000:g} ms, "
            f"{gaps['silent_us'] / 1e6:.3f} s in all; the longest {gaps['longest_us'] / 1e6:.3f} s, from {at:.3f} s",
        )
    elif gaps:
        yield "gaps", f"no silence above {gaps['longer_than_us'] / 1000:g} ms"
    if report["triggers"]:
        falls, rises = report["trigger_edges"]
        edges = f"edge 0: {falls:,}, edge 1: {rises:,}"
        yield "triggers", f"{report['triggers']:,} ({edges}; inputs {report['trigger_ids']})"


def _pixels(report: dict[str, Any]) -> Rows:
    found = report["duplicate_events"]
    if found is not None:
        text = f"{found:,} ({report['duplicate_share']:.2%} of the events)" if found else "none"
        yield "exact duplicates", text
    pixels = report["pixels"]
    if not pixels:
        return
    yield "active pixels", f"{pixels['active']:,} ({pixels['active_share']:.1%} of the sensor)"
    if pixels["hot"]:
        worst = [f"({p['x']}, {p['y']}) {p['rate_hz']:,.0f}/s" for p in pixels["hot_worst"][:_SHOWN_HOT]]
        more = ", ..." if pixels["hot"] > len(worst) else ""
        yield "hot pixels", f"{pixels['hot']:,} ({pixels['hot_share']:.1%} of the events): {', '.join(worst)}{more}"
    else:
        yield "hot pixels", "none"
    for name, sides in (("columns", report["width"]), ("rows", report["height"])):
        silent = pixels[f"silent_{name}"]
        if silent and report["events"] >= _TELLING_EVENTS * sides:
            shown = ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in silent[:_SHOWN_HOT])
            total = sum(b - a + 1 for a, b in silent)
            yield f"silent {name}", f"{total:,}: {shown}" + (", ..." if len(silent) > _SHOWN_HOT else "")


def _losses(report: dict[str, Any]) -> Rows:
    if report["losses_by_kind"] is not None:
        losses = [f"{kind.replace('_', ' ')} {count:,}" for kind, count in report["losses_by_kind"].items() if count]
        yield "losses", ", ".join(losses) or "none"
    odd = {name: report[name] for name in ("sequence_gaps", "late_packets", "duplicates", "restarts") if report[name]}
    if odd:
        yield "sequence", ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in odd.items())


def _labels(labels: dict[str, Any] | None) -> Rows:
    if labels is None:
        return
    yield "labels", labels["path"]
    if "error" in labels:
        yield "label health", f"cannot be read: {labels['error']}"
        return
    rate = f", {labels['rate_hz']:.3g} a second" if labels["rate_hz"] else ""
    yield "labelled", f"{labels['boxes']:,} boxes of {labels['tracks']:,} tracks at {labels['frames']:,} times{rate}"
    classes = [f"{name} {count:,}" for name, count in labels["per_class"].items() if count]
    yield "classes", ", ".join(classes) or "none"
    faults = [f"{name.replace('_', ' ')} {count:,}" for name, count in labels["faults"].items()]
    yield "label health", ", ".join(faults) or "no faults"
    for note in labels["notes"]:
        yield "label note", note
