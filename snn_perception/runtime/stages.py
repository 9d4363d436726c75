"""Where the time from a window's end to its published detections goes, stage by stage."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

STAGES = ("sensor", "host", "decode", "window", "waiting", "inference", "publish")
# Of a stage that two clocks tell; anything else says that they are not the same clock.
LEAST_PLAUSIBLE_NS, MOST_PLAUSIBLE_NS = -2_000_000_000, 10_000_000_000


@dataclass(frozen=True)
class Arrival:
    """How the message that closed a window came; ns of the monotonic clock, or durations.

    Attributes:
        taken_ns: its callback began. decoded_ns: its events were there.
        sensor_ns: from the window's end, in host time, until this host had the message. The stamps that map it tell
            when a packet's first event was there, and the delay that every packet has is in them: so it may be below 0,
            by what a packet lasts. host_ns: from there until the callback began. None where the clocks do not tell.
    """

    taken_ns: int
    decoded_ns: int
    sensor_ns: int | None = None
    host_ns: int | None = None


def arrival(taken_ns: int, decoded_ns: int, received_ns: int, window_end_ns: int) -> Arrival:
    """Return how a message came, as far as the system's clock tells.

    Args:
        taken_ns, decoded_ns: as of `Arrival`.
        received_ns: the system clock when the message reached this host; 0 where that is not known.
        window_end_ns: when the window ended, on the clock of the message stamps. If that is not this host's, or the
            stamps are of another day (a recording), the stage is not told.
    """
    taken_at_ns = time.time_ns() - (time.monotonic_ns() - taken_ns)
    host_ns = _plausible(taken_at_ns - received_ns)
    sensor_ns = _plausible(taken_at_ns - (host_ns or 0) - window_end_ns, LEAST_PLAUSIBLE_NS)
    return Arrival(taken_ns, decoded_ns, sensor_ns, host_ns)


def _plausible(duration_ns: int, least_ns: int = 0) -> int | None:
    return duration_ns if least_ns <= duration_ns <= MOST_PLAUSIBLE_NS else None


@dataclass(frozen=True)
class Stages:
    """What each stage of one window took, in ns; None: not known. One begins where the one before ends.

    Attributes:
        sensor, host: until this host had the message that closed the window, and until its callback; as of `Arrival`.
        decode: of its payload.
        window: from there until the window was closed, with its grid and the windows before it of the same message.
        waiting: for its turn. inference: representation, network and boxes. publish: the message.
        whole: from the first stage that is known to the end of the last. With the first it is what lies between the
            stamp of the detections and their being out.
    """

    sensor: int | None
    host: int | None
    decode: int
    window: int
    waiting: int
    inference: int
    publish: int
    whole: int


def stages_of(arrived: Arrival, closed_ns: int, begun_ns: int, inferred_ns: int, published_ns: int) -> Stages:
    """Return the stages of a window that was closed, begun, inferred and published at these times (monotonic, ns)."""
    before_ns = (arrived.sensor_ns or 0) + (arrived.host_ns or 0)
    return Stages(
        arrived.sensor_ns,
        arrived.host_ns,
        arrived.decoded_ns - arrived.taken_ns,
        closed_ns - arrived.decoded_ns,
        begun_ns - closed_ns,
        inferred_ns - begun_ns,
        published_ns - inferred_ns,
        published_ns - arrived.taken_ns + before_ns,
    )


def stage_texts(stages: Stages) -> dict[str, str]:
    """Return each stage as ``<stage>_ms`` and their sum as ``total_ms``, ``nan`` where it is not known."""
    values = {f"{name}_ms": _ms(getattr(stages, name)) for name in STAGES}
    return {**values, "total_ms": _ms(stages.whole)}


_ALL = attrgetter(*STAGES, "whole")


def stage_summary(recent: Iterable[Stages]) -> Mapping[str, str]:
    """Return median and 95th percentile of every stage that is known, in ms, for diagnostics; nothing before the
    first window."""
    rows = [_ALL(one) for one in recent]
    if not rows:
        return {}
    columns = np.sort(np.array(rows, np.float64).T / 1e6)  # None becomes NaN, which is sorted to the end
    known = np.count_nonzero(~np.isnan(columns), axis=1)
    medians, p95s = (_quantiles(columns, known, share) for share in (0.5, 0.95))
    values: dict[str, str] = {}
    for name, count, median, p95 in zip((*STAGES, "total"), known, medians, p95s, strict=True):
        if count:
            values |= {f"stage {name} p50 ms": f"{median:.3f}", f"stage {name} p95 ms": f"{p95:.3f}"}
    return values


def _quantiles(columns: np.ndarray, known: np.ndarray, share: float) -> np.ndarray:
    """Return a quantile of the first `known` values of each sorted row, between two of them as `np.percentile` has it:
    all at once, since diagnostics hold up detection while they are made."""
    at = share * np.maximum(known - 1, 0)
    below = at.astype(np.intp)
    above = np.minimum(below + 1, np.maximum(known - 1, 0))
    rows = np.arange(len(columns))
    return np.asarray(columns[rows, below] + (at - below) * (columns[rows, above] - columns[rows, below]))


def _ms(duration_ns: int | None) -> str:
    return "nan" if duration_ns is None else f"{duration_ns / 1e6:.3f}"
