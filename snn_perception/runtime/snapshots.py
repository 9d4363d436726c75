"""Short looks into a recording: which intervals to show, and the events of each as a small picture's counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from snn_perception.events.jit import kernel
from snn_perception.events.pixel_statistics import MAX_PIXELS
from snn_perception.events.walk import EventWalk
from snn_perception.types import I64, JITTER_US, U8, DecodedEvents

Span = tuple[int, int]  # half-open, sensor time in us


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The events of one interval ``[t_start_us, t_end_us)``.

    Attributes:
        counts: OFF and ON events, uint8 [2, h, w], saturated; of the sensor shrunk to h x w, each place holding the
            largest count of its pixels, so that a single event stays as bright as it was.
        events: number of events.
    """

    t_start_us: int
    t_end_us: int
    counts: U8
    events: int


def spread_evenly(t_first_us: int, t_last_us: int, window_us: int, frames: int) -> list[Span]:
    """Return at most `frames` spans of `window_us`, evenly over the recording and apart; one for a short recording."""
    duration = t_last_us - t_first_us + 1
    n = max(1, min(frames, duration // window_us))
    starts = [t_first_us + max(0, (2 * i + 1) * duration // (2 * n) - window_us // 2) for i in range(n)]
    return [(start, start + window_us) for start in starts]


def before_labels(label_t_us: I64, t_first_us: int, t_last_us: int, window_us: int, frames: int) -> list[Span]:
    """Return at most `frames` spans that end just after a labelled time, evenly over those inside the recording.

    Args:
        label_t_us: times of labels, any order, with repeats.
    """
    times = np.unique(label_t_us)
    times = times[(times >= t_first_us) & (times <= t_last_us + window_us)]
    if not len(times):
        return []
    chosen = np.unique(np.linspace(0, len(times) - 1, min(frames, len(times))).round().astype(int))
    return [(int(t) + 1 - window_us, int(t) + 1) for t in times[chosen].tolist()]


def snapshots(walk: EventWalk, spans: Sequence[Span], shape: tuple[int, int]) -> Iterator[Snapshot]:
    """Yield a snapshot of each span in order, holding no more than the spans under way.

    A file recording is read from each span's start; a packet recording in one pass from its front. Events that come
    more than `JITTER_US` late may be missed.

    Args:
        spans: in order of their starts; they may overlap.
        shape: (h, w) of the counts; see `Snapshot.counts`.

    Raises:
        EventDataError: if the recording cannot be read.
    """
    groups = [spans] if walk.recording.is_packets else [[span] for span in spans]
    for group in groups:
        yield from _in_one_pass(walk, group, shape)


def shrink(counts: U8, shape: tuple[int, int]) -> U8:
    """Return counts [..., h, w] of counts [..., H, W], with the largest of each block; never enlarged."""
    for axis, length in ((-2, shape[0]), (-1, shape[1])):
        whole = counts.shape[axis]
        if length < whole:
            counts = np.maximum.reduceat(counts, np.arange(length) * whole // length, axis=axis)
    return counts


def _in_one_pass(walk: EventWalk, spans: Sequence[Span], shape: tuple[int, int]) -> Iterator[Snapshot]:
    waiting = [_Open(span) for span in spans]
    under_way: list[_Open] = []
    for events in walk.since(spans[0][0]):
        if not len(events):
            continue
        first, last = (int(t) // events.us_divisor for t in (events.t.min(), events.t.max()))
        while under_way and under_way[0].span[1] + JITTER_US < first:
            yield under_way.pop(0).closed(shape)
        while waiting and waiting[0].span[0] <= last:
            under_way.append(waiting.pop(0))
        if not waiting and not under_way:
            return
        for snapshot in under_way:
            snapshot.add(events)
    for snapshot in under_way + waiting:
        yield snapshot.closed(shape)


class _Open:
    """A snapshot under way: counts of the whole sensor, or of every so-many-th pixel's block of one beyond reason."""

    def __init__(self, span: Span) -> None:
        self.span = span
        self._events = 0
        self._counts = np.zeros((2, 0, 0), np.uint8)
        self._block = 1

    def add(self, events: DecodedEvents) -> None:
        """Count those of the events that lie in the span."""
        size = events.size
        if not self._events:
            while size.height * size.width > MAX_PIXELS * self._block**2:
                self._block *= 2
        height, width = -(-size.height // self._block), -(-size.width // self._block)
        if height > self._counts.shape[1] or width > self._counts.shape[2]:
            self._counts = _padded(self._counts, (height, width))
        begin, end = (t * events.us_divisor for t in self.span)
        self._events += _count(events.t, events.x, events.y, events.p, begin, end, self._block, self._counts)

    def closed(self, shape: tuple[int, int]) -> Snapshot:
        """Return the snapshot, shrunk."""
        counts: U8 = shrink(_padded(self._counts, shape), shape)
        return Snapshot(*self.span, counts, int(self._events))


def _padded(counts: U8, shape: tuple[int, int]) -> U8:
    """Return counts [2, h, w] with zeros at the bottom and the right, at least as large as `shape`."""
    height, width = counts.shape[1:]
    missing = max(0, shape[0] - height), max(0, shape[1] - width)
    return np.pad(counts, ((0, 0), (0, missing[0]), (0, missing[1]))) if any(missing) else counts


@kernel
def _count(t, x, y, p, begin, end, block, counts):  # type: ignore[no-untyped-def]
    """Add the events of a span to the counts; returns how many they are."""
    n = np.int64(0)
    for i in range(len(t)):
        if begin <= t[i] < end:
            n += 1
            side, row, column = (1 if p[i] != 0 else 0), y[i] // block, x[i] // block
            if counts[side, row, column] < 255:
                counts[side, row, column] += 1
    return n
