"""The windows of a recording, whatever its format: the one way from a file to what a model sees."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from snn_perception.errors import EventDataError
from snn_perception.events.recording import Recording, from_time_on
from snn_perception.events.shown_duplicates import ShownDuplicates
from snn_perception.events.stream import PacketWindows
from snn_perception.events.stream_counts import StreamCounts
from snn_perception.events.walk import EventWalk
from snn_perception.events.windower import Windower, moved_up
from snn_perception.registry import Registry
from snn_perception.types import NO_LOSSES, DecodedEvents, EventArray, EventWindow, SensorSize

if TYPE_CHECKING:
    from snn_perception.events.filling import Filler

log = logging.getLogger(__name__)

DEFAULT_MAX_GAP_US = 1_000_000
PIECE_EVENTS = 1 << 18  # 2 MiB of DAT; most windows lie within one piece


class WindowSource:
    """The windows of a recording, in order, and what was lost on the way.

    A packet recording is decoded and cut exactly as the live node does it; a file recording is complete, so that
    silence in it is silence, however long.

    Args:
        window_us, stride_us: length of the windows, and from one to the next (by default their length).
        max_gap_us: what counts as an interruption of a packet recording.
        t_start_us: start of the first window; by default the window that holds the first event.
        start_us: leave out the windows before the one that holds this time. File recordings seek it; the time of
            packets is known only by decoding those before them. What follows is what a pass from the front gives.
        stop_us: leave out the windows that begin at or after this time.
        drop_duplicates: leave out events that are equal to another in all columns (see `events.duplicates`).
        make_filler: returns what fills a model's grids while events of a sensor size are read (`events.filling`).
    """

    def __init__(
        self,
        recording: Recording,
        registry: Registry,
        window_us: int,
        *,
        stride_us: int | None = None,
        max_gap_us: int = DEFAULT_MAX_GAP_US,
        t_start_us: int | None = None,
        start_us: int | None = None,
        stop_us: int | None = None,
        drop_duplicates: bool = False,
        make_filler: Callable[[SensorSize], Filler | None] | None = None,
    ) -> None:
        self.recording = recording
        self._stride_us = stride_us = window_us if stride_us is None else stride_us
        self._start_us = None if start_us is None else start_us // stride_us * stride_us
        # Overlapping windows reach back to before it.
        self._read_from_us = None if self._start_us is None else self._start_us - (window_us - stride_us)
        self._stop_us = stop_us
        self.packets: PacketWindows | None = None
        self._windower: Windower | None = None
        self._events = self._triggers = 0
        self._losses = NO_LOSSES
        self._duplicates = ShownDuplicates() if drop_duplicates else None
        if recording.is_packets:
            self.packets = PacketWindows(
                registry,
                window_us,
                stride_us=stride_us,
                max_gap_us=max_gap_us,
                size=recording.size,
                topic=str(recording.path),
                make_filler=make_filler,
            )
            self.packets.duplicates = self._duplicates
        else:
            self._windower = Windower(
                window_us,
                recording.size,
                stride_us=stride_us,
                t_start_us=self._first_start_us(t_start_us),
                filler=make_filler(recording.size) if make_filler else None,
            )

    @property
    def counts(self) -> StreamCounts:
        """What was read and what could not be used, so far."""
        if self.packets is not None:
            return self.packets.stream.counts
        return StreamCounts(events=self._events, triggers=self._triggers, losses=self._losses)

    @property
    def duplicate_events(self) -> int:
        """Events left out because they are equal to another, from the first window's start to the latest one's end."""
        return self._duplicates.shown if self._duplicates is not None else 0

    @property
    def windower(self) -> Windower | None:
        """What cuts the windows, and counts gaps and disorder; None before the first packet."""
        return self._windower if self.packets is None else self.packets.windower

    def __iter__(self) -> Iterator[EventWindow]:
        """Yield every window, the last partial one included."""
        windows = self._from_events(self._windower) if self._windower else self._from_packets(self.packets)
        begun = self._start_us is None
        for window in windows:
            begins_us = window.t_end_us - self._stride_us  # what it adds to the window before
            begun = begun or self._start_us is None or begins_us >= self._start_us
            if self._stop_us is not None and begins_us >= self._stop_us:
                return
            if self._duplicates is not None:
                see = self._duplicates.show if begun else self._duplicates.pass_over
                see(window)
            if begun:
                yield window
        if self._duplicates is not None:
            self._duplicates.finish()

    def _from_events(self, windower: Windower) -> Iterator[EventWindow]:
        for chunk in self.recording.chunks(PIECE_EVENTS, start_us=self._read_from_us, align_us=self._stride_us):
            if self._duplicates is not None:
                chunk = self._duplicates.filter(chunk)
            self._count(chunk)
            yield from windower.push(chunk)
        yield from windower.flush()

    def _first_start_us(self, t_start_us: int | None) -> int | None:
        """Return where the first window begins; None for that of the first event."""
        begin_us = self._read_from_us
        if begin_us is None or (t_start_us is not None and t_start_us >= begin_us):
            return t_start_us
        if t_start_us is not None:
            return begin_us
        first = next((chunk for chunk in self.recording.chunks(1) if len(chunk)), None)
        return begin_us if first is not None and int(first.t[0]) // first.us_divisor < begin_us else None

    def _from_packets(self, packets: PacketWindows | None) -> Iterator[EventWindow]:
        """Yield what the packets give; one that cannot be read is counted and passed over, as the node does."""
        assert packets is not None
        last_error: EventDataError | None = None
        for packet in self.recording.packets():
            try:
                yield from packets.push(packet)
            except EventDataError as error:
                if self.counts.bad_packets == 1:
                    log.warning("%s: a packet cannot be read: %s", self.recording.path, error)
                last_error = error
        if self.counts.bad_packets and not self.counts.packets:
            raise EventDataError(f"{self.recording.path}: no packet can be read: {last_error}")
        yield from packets.flush()

    def _count(self, chunk: DecodedEvents) -> None:
        self._events += len(chunk)
        self._triggers += len(chunk.triggers)
        if chunk.losses is not NO_LOSSES:
            self._losses += chunk.losses


def events_between(
    recording: Recording, registry: Registry, start_us: int, stop_us: int, *, is_closed: bool = False
) -> EventArray:
    """Return the events of a recording at ``start_us <= t < stop_us``, in order of time.

    Out of order events are moved up to the time reached, as in windows; where time jumps back, they end. `is_closed`
    includes those at `stop_us` itself
    (as RVT's preprocessing does).
    """
    end_us, reached_us = stop_us + is_closed, start_us
    parts: list[EventArray] = []
    for piece in from_time_on(EventWalk(recording, registry).since(start_us), start_us):
        if not len(piece):
            continue
        back = piece.leaps[piece.leaps[:, 1] > piece.leaps[:, 2]]
        kept = piece.split(int(back[0, 0]))[0] if len(back) else piece
        if len(kept):
            events, _ = moved_up(kept.to_event_array(), reached_us)
            parts.append(events[: int(np.searchsorted(events.t, end_us))])
            reached_us = int(events.t[-1])
        if reached_us >= end_us or len(back):
            break
    return EventArray.concatenate(parts, recording.size)
