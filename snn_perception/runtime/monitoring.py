"""Reports of running detector nodes as rows of a table: rates from counters, and who went silent. Knows no ROS."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

LEVELS = ("OK", "WARN", "ERROR", "STALE")  # of diagnostic_msgs/DiagnosticStatus
ACTIVITY = ": activity"  # ends the name of a status about a network's firing rates
RATE_SPAN_S = 0.9  # rates are taken over at least so long, where reports come more often
SILENT_S = 5.0  # without a report, where it is not known how often they come
_MISSED = 3  # reports that did not come make a silence
_LEAST_SILENCE_S = 3.0

_COUNTERS = {
    "packets_per_s": "packets",
    "events_per_s": "events",
    "windows_per_s": "windows published",
    "detections_per_s": "detections",
}
_MARK = "windows published"  # a status with this key is one of our cameras'


@dataclass(frozen=True)
class Report:
    """One status of ``/diagnostics``.

    Attributes:
        name: ``<node>: <camera>``, or ``<node>: <camera>: activity``.
        level: index into `LEVELS`.
        stamp_s: when it was made, on the node's clock. arrived_s: when it came, on our monotonic clock.
    """

    name: str
    level: int
    message: str
    values: Mapping[str, str]
    stamp_s: float
    arrived_s: float

    def number(self, key: str) -> float | None:
        """Return a value as a number; None where there is none."""
        try:
            value = float(self.values[key])
        except (KeyError, ValueError):
            return None
        return value if math.isfinite(value) else None

    def total(self, *keys: str) -> int | None:
        """Return the sum of counters; None where there is none of them."""
        found = [number for key in keys if (number := self.number(key)) is not None]
        return int(sum(found)) if found and math.isfinite(sum(found)) else None


@dataclass(frozen=True)
class Row:
    """One camera of one node as it stands; None is not known, or not measured.

    Attributes:
        state: of the node's life cycle; empty where its service does not answer.
        level: one of `LEVELS`; ``STALE`` for a camera that went silent, empty for a node that has not reported.
        packets_per_s ... detections_per_s: over the last reports, per second of the node's clock.
        latency_p50_ms, latency_p95_ms: from a window's end to its detections, over recent windows.
        waiting: windows in the node's queue. dropped: windows left out under load. failed: windows and messages.
        lost: packets that are missing, came too late, or were of no use. resets: of the state.
        steps: network steps of a window, on average, of a model under a deadline.
        firing_rate: share of all neurons' outputs that were not zero, in the window looked at last.
    """

    node: str
    camera: str = ""
    state: str = ""
    level: str = ""
    message: str = ""
    packets_per_s: float | None = None
    events_per_s: float | None = None
    windows_per_s: float | None = None
    detections_per_s: float | None = None
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    waiting: int | None = None
    dropped: int | None = None
    lost: int | None = None
    failed: int | None = None
    resets: int | None = None
    steps: float | None = None
    firing_rate: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


class Board:
    """Takes reports as they come, and says how things stand.

    Args:
        pattern: of the names of nodes to show, as a shell's: ``/car/*``, or ``detector`` for that name anywhere.
    """

    def __init__(self, pattern: str = "*") -> None:
        self._pattern = pattern
        self._cameras: dict[tuple[str, str], deque[Report]] = {}
        self._activity: dict[tuple[str, str], Report] = {}
        self.others: set[str] = set()  # detector nodes that report and that the pattern leaves out

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes that reported."""
        return tuple(dict.fromkeys(node for node, _ in self._cameras))

    @property
    def is_complete(self) -> bool:
        """Whether some camera reported, and every one that did so twice, so that its rates are known."""
        return bool(self._cameras) and all(len(reports) > 1 for reports in self._cameras.values())

    def shows(self, node: str) -> bool:
        """Return whether a node's name fits the pattern."""
        names = (node, node.lstrip("/"), node.rpartition("/")[2])
        return any(fnmatchcase(name, self._pattern) for name in names)

    def take(self, report: Report) -> None:
        """Take in a report; those of other programs are left aside."""
        is_activity = report.name.endswith(ACTIVITY)
        node, _, camera = report.name.removesuffix(ACTIVITY).partition(": ")
        if not is_activity and _MARK not in report.values:
            return
        if not self.shows(node):
            self.others.add(node)
        elif is_activity:
            self._activity[node, camera] = report
        else:
            self._append(self._cameras.setdefault((node, camera), deque()), report)

    def rows(self, now_s: float, states: Mapping[str, str], also: Iterable[str] = ()) -> list[Row]:
        """Return a row for each camera, by name.

        Args:
            now_s: on the clock of `Report.arrived_s`.
            states: of the nodes' life cycles, where known.
            also: nodes that are there and may not have reported; they get a row that says so.
        """
        rows = [
            _row(node, camera, reports, self._activity.get((node, camera)), states.get(node, ""), now_s)
            for (node, camera), reports in self._cameras.items()
        ]
        mute = {node for node in also if self.shows(node)} - set(self.nodes)
        rows += [Row(node, state=states.get(node, ""), message="no camera has reported") for node in mute]
        return sorted(rows, key=lambda row: (row.node, row.camera))

    @staticmethod
    def _append(reports: deque[Report], report: Report) -> None:
        if reports and _went_back(reports[-1], report):
            reports.clear()  # the node began anew
        reports.append(report)
        while len(reports) > 2 and report.arrived_s - reports[1].arrived_s >= RATE_SPAN_S:
            reports.popleft()


def _went_back(before: Report, after: Report) -> bool:
    pairs = [(before.number(key), after.number(key)) for key in _COUNTERS.values()]
    return any(old is not None and new is not None and new < old for old, new in pairs)


def _row(node: str, camera: str, reports: deque[Report], activity: Report | None, state: str, now_s: float) -> Row:
    last, silence_s = reports[-1], now_s - reports[-1].arrived_s
    silent = silence_s > _silence_limit_s(reports)
    level, message, firing = last.level, last.message, None
    if activity is not None:
        firing = activity.number("firing rate")
        if activity.level > level:
            level, message = activity.level, activity.message
    return Row(
        node=node,
        camera=camera,
        state=state,
        level="STALE" if silent else LEVELS[min(level, len(LEVELS) - 1)],
        message=f"no report for {silence_s:.0f} s" if silent else message,
        **({} if silent else _rates(reports)),  # type: ignore[arg-type]
        latency_p50_ms=last.number("latency p50 ms"),
        latency_p95_ms=last.number("latency p95 ms"),
        waiting=last.total("windows waiting"),
        dropped=last.total("dropped windows"),
        lost=last.total("lost packets", "late packets", "bad packets"),
        failed=last.total("failed windows", "failed messages"),
        resets=last.total("state resets"),
        steps=last.number("network steps mean"),
        firing_rate=firing,
    )


def _silence_limit_s(reports: deque[Report]) -> float:
    """Return how long a camera may be silent, given how often it has reported."""
    if len(reports) < 2:
        return SILENT_S
    span_s = reports[-1].arrived_s - reports[0].arrived_s
    return max(_LEAST_SILENCE_S, _MISSED * span_s / (len(reports) - 1))


def _rates(reports: deque[Report]) -> dict[str, float | None]:
    """Return what happened per second between the oldest report at hand and the newest."""
    first, last = reports[0], reports[-1]
    span_s = last.stamp_s - first.stamp_s
    if span_s <= 0:  # the node's clock stands still or was set back
        span_s = last.arrived_s - first.arrived_s
    rates: dict[str, float | None] = {}
    for name, key in _COUNTERS.items():
        before, after = first.number(key), last.number(key)
        rates[name] = None
        if before is not None and after is not None and span_s > 0:
            rate = (after - before) / span_s
            rates[name] = round(rate, 3) if math.isfinite(rate) else None
    return rates
