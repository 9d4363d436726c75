"""Whether results come fast enough and often enough, under the key names that Autoware's nodes report.

Written by the thread that publishes; read by a timer, so that silence is reported as well.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NOT_YET = "n/a"  # before the first result
FINE, SLOW, LATE = 0, 1, 2  # levels of diagnostic_msgs/DiagnosticStatus: OK, WARN, ERROR


@dataclass(frozen=True)
class PaceLimits:
    """What is allowed, in milliseconds; 0 allows everything.

    Attributes:
        processing_ms: of one result (``max_allowed_processing_time_ms``).
        delay_ms: without any result that kept to it (``max_acceptable_consecutive_delay_ms``).
    """

    processing_ms: float = 0.0
    delay_ms: float = 0.0

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> PaceLimits:
        """Return what the node's parameters say."""
        return cls(settings["max_allowed_processing_time_ms"], settings["max_acceptable_consecutive_delay_ms"])


@dataclass(frozen=True)
class PaceReport:
    """Level (`FINE`, `SLOW`, `LATE`), what to say where it is not fine, and the figures by Autoware's names."""

    level: int
    message: str
    values: dict[str, str] = field(default_factory=dict)


class Pace:
    """Processing and cyclic time of one camera's results."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last_ns: int | None = None
        self._in_time_ns: int | None = None  # of the last result in time; of the first result while none was
        self._processing_ms: float | None = None
        self._cyclic_ms: float | None = None
        self._worst_ms = 0.0  # since the last report

    def published(self, now_ns: int, processing_ms: float, limits: PaceLimits) -> None:
        """Take in that a result was published at a time of the monotonic clock, and what its processing took."""
        with self._lock:
            if self._last_ns is not None:
                self._cyclic_ms = (now_ns - self._last_ns) / 1e6
            in_time = not limits.processing_ms or processing_ms <= limits.processing_ms
            if in_time or self._in_time_ns is None:
                self._in_time_ns = now_ns
            self._last_ns, self._processing_ms = now_ns, processing_ms
            self._worst_ms = max(self._worst_ms, processing_ms)

    def report(self, now_ns: int, limits: PaceLimits) -> PaceReport:
        """Return how things stand; a slow result counts once, a delay for as long as it lasts."""
        with self._lock:
            worst_ms, self._worst_ms = self._worst_ms, 0.0
            delay_ms = None if self._in_time_ns is None else (now_ns - self._in_time_ns) / 1e6
            processing_ms, cyclic_ms = self._processing_ms, self._cyclic_ms
        values = {"processing_time_ms": _text(processing_ms), "cyclic_time_ms": _text(cyclic_ms)}
        values["consecutive_processing_delay_ms"] = _text(delay_ms)
        slow = bool(limits.processing_ms) and worst_ms > limits.processing_ms
        late = bool(limits.delay_ms) and delay_ms is not None and delay_ms > limits.delay_ms
        if limits.processing_ms:
            values["is_processing_time_ms_in_expected_range"] = str(not slow)
        if limits.delay_ms:
            values["is_consecutive_processing_delay_in_range"] = str(not late)
        if late:
            told = f"no result in time for {delay_ms:.0f} ms, max_acceptable_consecutive_delay_ms: {limits.delay_ms:g}"
            return PaceReport(LATE, told, values)
        if slow:
            told = f"processing took {worst_ms:.1f} ms, max_allowed_processing_time_ms: {limits.processing_ms:g}"
            return PaceReport(SLOW, told, values)
        return PaceReport(FINE, "", values)


def _text(value_ms: float | None) -> str:
    return NOT_YET if value_ms is None else f"{value_ms:.3f}"
