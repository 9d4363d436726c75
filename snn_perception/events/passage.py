"""A recording's events on their way into another: cut, put in order, moved in time, checked and counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from snn_perception.errors import EventDataError
from snn_perception.events.column_digest import ColumnDigest
from snn_perception.events.evt3_encode import MAX_SILENCE_US
from snn_perception.events.recording import Recording
from snn_perception.events.span import nothing_between
from snn_perception.events.statistics import Advance
from snn_perception.events.walk import EventWalk
from snn_perception.events.windower import decreases
from snn_perception.registry import Registry
from snn_perception.types import I64, JITTER_US, DecodedEvents, Losses, Packet


class Filter(Protocol):
    """Leaves events out, and counts them."""

    dropped: int

    def filter(self, events: DecodedEvents) -> DecodedEvents:
        """Return the events that stay."""


@dataclass(frozen=True)
class Selection:
    """Which events of a recording go over, and what happens to their times.

    Attributes:
        from_us, to_us: only those at ``[from_us, to_us)`` of sensor time.
        drop_duplicates: leave out events that repeat an earlier one (see `snn_perception.events.duplicates`).
        fix_order: move events that come late up to the time already reached.
        rebase: count time from the first event that goes over, in whole microseconds.
    """

    from_us: int | None = None
    to_us: int | None = None
    drop_duplicates: bool = False
    fix_order: bool = False
    rebase: bool = False

    def __post_init__(self) -> None:
        if self.from_us is not None and self.to_us is not None and self.from_us >= self.to_us:
            raise EventDataError(f"nothing lies from {self.from_us / 1e6} s to {self.to_us / 1e6} s; give a later end")


@dataclass(frozen=True)
class Demands:
    """What a format asks of the events: nanoseconds, order, times within a day of 0."""

    in_ns: bool = False
    order: bool = False
    near_zero: bool = False


class Passage:
    """The events of a recording as the target will hold them, piece by piece; runs once.

    Attributes:
        size: sensor size.
        events, on: that went over. events_read: of the selected time, before any was left out as a duplicate.
        triggers: edges of the selected time; none goes over.
        t_first_us, t_last_us: earliest and latest time that went over.
        t_shift_us: what was added to all times.
        disordered: events of the source earlier than the one before; moved: those of them moved up to the time
            reached, furthest_us the furthest. rounded: events whose time had parts of a microsecond that were cut off.
        duplicates: left out.
        first_packet: the packet of a bag that held the first event, and that event's time in ns as it goes over.
        digest: over what went over, if asked for.
    """

    def __init__(
        self,
        recording: Recording,
        registry: Registry,
        selection: Selection,
        demands: Demands,
        *,
        digest: ColumnDigest | None = None,
        advance: Advance | None = None,
    ) -> None:
        self.recording, self.size = recording, recording.size
        self.events = self.on = self.events_read = self.triggers = 0
        self.t_first_us = self.t_last_us = self.t_shift_us = 0
        self.disordered = self.moved = self.furthest_us = self.rounded = 0
        self.first_packet: tuple[Packet, int] | None = None
        self.digest = digest
        self._registry, self._walk = registry, EventWalk(recording, registry)
        self._selection, self._demands, self._advance = selection, demands, advance
        self._filter = _duplicate_filter() if selection.drop_duplicates else None
        self._losses = Losses()
        self._seen = 0  # events of the source, wherever they lie
        self._last: int | None = None  # time of the latest event, in ticks of the target

    def __iter__(self) -> Iterator[DecodedEvents]:
        """Yield the pieces; time in the unit that the target holds.

        Raises:
            EventDataError: if nothing can be read, or the events do not meet the format's demands.
        """
        for packet, read in self._source():
            self._seen += len(read)
            self._losses += read.losses
            self.triggers += self._triggers_inside(read)
            if self._is_past_end(read):
                break
            kept = self._kept(read)
            if len(kept):
                yield self._passed(kept, packet)
            if self._advance is not None:
                self._advance(*self.recording.progress())
        self._refuse_nothing()

    @property
    def duplicates(self) -> int:
        """Events left out as duplicates."""
        return self._filter.dropped if self._filter else 0

    @property
    def losses(self) -> dict[str, int]:
        """What of the source is missing or could not be used, by kind."""
        return {
            **asdict(self._losses),
            "lost_packets": self._walk.counts.lost_packets,
            "undecodable_packets": self._walk.undecodable,
            "unreadable_messages": getattr(self.recording, "skipped", 0),
        }

    @property
    def sequence_gaps(self) -> int:
        """In how many places packets are missing."""
        return self._walk.counts.sequence_gaps

    @property
    def restarts(self) -> int:
        """How often the driver began anew."""
        return self._walk.counts.restarts

    def _source(self) -> Iterator[tuple[Packet | None, DecodedEvents]]:
        start_us = self._selection.from_us
        if self.recording.is_packets or start_us is None:
            return iter(self._walk)
        return ((None, events) for events in self.recording.chunks(start_us=start_us))

    def _kept(self, events: DecodedEvents) -> DecodedEvents:
        """Return the events that the selection wants."""
        if events.size != self.size:
            raise EventDataError(
                f"{self.recording.path}: expected one sensor, got {self.size} first and {events.size} later; convert "
                "the parts one by one (--from-s, --to-s)"
            )
        first, end = self._bounds(events.us_divisor)
        if len(events) and ((first is not None and _earliest(events) < first) or (end is not None)):
            inside = np.ones(len(events), bool)
            if first is not None:
                inside &= events.t >= first
            if end is not None:
                inside &= events.t < end
            if not inside.all():
                events = _rows(events, inside)
        self.events_read += len(events)
        return self._filter.filter(events) if self._filter and len(events) else events

    def _passed(self, events: DecodedEvents, packet: Packet | None) -> DecodedEvents:
        """Return the events as the target takes them, counted."""
        t, in_order = self._in_order(self._in_unit(events), events.in_order)
        ticks = 1000 if self._demands.in_ns else 1
        if not self.events:
            first_us = int(t[0]) // ticks
            self.t_shift_us = -first_us if self._selection.rebase else 0
            self._require_near_zero(first_us + self.t_shift_us)
        if self.t_shift_us:
            t = t + self.t_shift_us * ticks
        if packet is not None and self.first_packet is None:
            self.first_packet = packet, int(t[0]) * (1000 // ticks)
        unit = "ns" if self._demands.in_ns else "us"
        passed = DecodedEvents(events.x, events.y, events.p, t, self.size, unit, in_order=in_order)
        self._count(passed, ticks)
        return passed

    def _in_unit(self, events: DecodedEvents) -> I64:
        if self._demands.in_ns:
            return events.t if events.time_unit == "ns" else events.t * 1000
        t = events.to_event_array().t
        if events.time_unit == "ns":
            self.rounded += int(np.count_nonzero(t * 1000 != events.t))
        return t

    def _in_order(self, t: I64, known: bool) -> tuple[I64, bool]:
        """Return the times, put in order if that is asked for, and whether they are; count those that were not."""
        last = int(t[0]) if self._last is None else self._last
        late = 0 if known or not decreases(t) else int(np.count_nonzero(t[1:] < t[:-1]))
        in_order = not late
        if late or t[0] < last:
            self.disordered += late + int(t[0] < last)
            if self._selection.fix_order:
                ordered = np.maximum(np.maximum.accumulate(t), last)
                back = ordered - t
                self.moved += int(np.count_nonzero(back))
                self.furthest_us = max(self.furthest_us, int(back.max()) // (1000 if self._demands.in_ns else 1))
                t, in_order = ordered, True
            elif self._demands.order:
                self._refuse_disorder(t, last)
        self._last = int(t[-1])
        return t, in_order

    def _refuse_disorder(self, t: I64, last: int) -> None:
        before = np.concatenate([[last], t[:-1]])
        at = int(np.argmax(t < before))
        unit = "ns" if self._demands.in_ns else "us"
        raise EventDataError(
            f"{self.recording.path}: event {self.events + at} at t={int(t[at])} {unit} precedes t={int(before[at])} "
            f"{unit}, which this format cannot tell; move late events up to the time reached with --fix-order, or "
            "convert to .dat or .h5"
        )

    def _require_near_zero(self, first_us: int) -> None:
        if self._demands.near_zero and not 0 <= first_us <= MAX_SILENCE_US:
            raise EventDataError(
                f"{self.recording.path}: its first event lies at {first_us / 1e6:.6f} s, and EVT3 can tell times "
                "within a day of 0; count time from the first event with --rebase, or convert to another format"
            )

    def _count(self, passed: DecodedEvents, ticks: int) -> None:
        first, last = _earliest(passed) // ticks, _latest(passed) // ticks
        self.t_first_us = min(self.t_first_us, first) if self.events else first
        self.t_last_us = max(self.t_last_us, last) if self.events else last
        self.events += len(passed)
        self.on += int(np.count_nonzero(passed.p))
        if self.digest is not None:
            self.digest.add(passed)

    def _bounds(self, ticks: int) -> tuple[int | None, int | None]:
        first, end = self._selection.from_us, self._selection.to_us
        return None if first is None else first * ticks, None if end is None else end * ticks

    def _is_past_end(self, events: DecodedEvents) -> bool:
        """Return whether all lies so far past the end that nothing late can belong before it."""
        end = self._selection.to_us
        return end is not None and len(events) > 0 and _earliest(events) >= (end + JITTER_US) * events.us_divisor

    def _triggers_inside(self, events: DecodedEvents) -> int:
        t = events.triggers.t
        first, end = self._bounds(events.us_divisor)
        inside = (t >= first) if first is not None else np.ones(len(t), bool)
        return int(np.count_nonzero(inside & (t < end) if end is not None else inside))

    def _refuse_nothing(self) -> None:
        """Raise where there was something to read, or to choose from, and nothing came of it."""
        lost = {kind: count for kind, count in self.losses.items() if count}
        if lost and not self._seen:
            told = ", ".join(f"{kind.replace('_', ' ')} {count}" for kind, count in lost.items())
            raise EventDataError(f"{self.recording.path}: not one event can be read ({told}); 'inspect' tells more")
        chosen = self._selection
        if not self.events and (chosen.from_us is not None or chosen.to_us is not None):
            raise nothing_between(self.recording, self._registry, chosen.from_us, chosen.to_us)


def _rows(events: DecodedEvents, rows: Any) -> DecodedEvents:
    x, y, p, t = (column[rows] for column in (events.x, events.y, events.p, events.t))
    return DecodedEvents(x, y, p, t, events.size, events.time_unit, in_order=events.in_order)


def _earliest(events: DecodedEvents) -> int:
    return int(events.t[0] if events.in_order else events.t.min())


def _latest(events: DecodedEvents) -> int:
    return int(events.t[-1] if events.in_order else events.t.max())


def _duplicate_filter() -> Filter:
    from snn_perception.events.duplicates import DuplicateFilter

    return DuplicateFilter()
