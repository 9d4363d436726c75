"""Finding a time in a DAT file without reading all of it."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from snn_perception.events.dat_header import EVENT_BYTES
from snn_perception.events.dat_kernels import mend
from snn_perception.types import I64

STRIDE_EVENTS = 4096
MAX_SAMPLES = 1 << 18  # some tenths of a second to read; a longer file is sampled more widely
FULL_PASS_EVENTS = 1 << 24  # 128 MiB: a tenth of a second
PASS_EVENTS = 1 << 16
SPARSE_US = 1 << 28
_EVERYWHERE_PX = 1 << 14


@dataclass(frozen=True, eq=False)
class TimeSamples:
    """Times along a file, int64 [K] each.

    Attributes:
        at: index of the events sampled.
        t_us: their times, unwrapped. low: the same as the file states them, of 32 bits.
        reached_us: the latest time up to and including each of them.
    """

    at: I64
    t_us: I64
    low: I64
    reached_us: I64

    def before(self, start_us: int) -> tuple[int, int, int]:
        """Return (event index, its 32-bit time, time of its epoch) of the last sample before `start_us` is reached.

        `reached_us` of a file that was read through counts every event; of one that was sampled, the samples: an event
        far out of order that reached `start_us` earlier, between two samples, is passed over there.
        """
        index = int(np.searchsorted(self.reached_us, start_us)) - 1
        if index < 0:
            return 0, 0, 0
        low = int(self.low[index])
        return int(self.at[index]), low, int(self.t_us[index]) - low


def sample_times(file: io.FileIO, offset: int, end: int) -> TimeSamples:
    """Return times of events that lie evenly between the byte `offset` and the byte `end` of a file.

    Between two samples time must not wrap unseen. A file of up to `FULL_PASS_EVENTS` is therefore read through, a
    longer one only if its samples lie far apart in time. (Unseen, 71 minutes would have to pass there in 4096 events.)
    """
    events = max(0, end - offset) // EVENT_BYTES
    if events > FULL_PASS_EVENTS:
        samples = _sparsely(file, offset, events)
        if samples.t_us[0] < SPARSE_US and not (np.abs(np.diff(samples.t_us)) > SPARSE_US).any():
            return samples
    return _all_along(file, offset, events)


def _sparsely(file: io.FileIO, offset: int, events: int) -> TimeSamples:
    stride = max(STRIDE_EVENTS, -(-events // MAX_SAMPLES))
    at = np.arange(0, events, stride)
    words = np.zeros(len(at), np.uint64)
    for k in range(len(at)):
        file.seek(offset + int(at[k]) * EVENT_BYTES)
        words[k] = int.from_bytes(file.read(EVENT_BYTES), "little")
    t_us, _, _ = _unwrapped(words, 0, 0)
    return _samples(at, t_us, words, np.maximum.accumulate(t_us))


def _all_along(file: io.FileIO, offset: int, events: int) -> TimeSamples:
    file.seek(offset)
    parts = [TimeSamples(*np.empty((4, 0), np.int64))]
    last = epoch = 0
    latest = -(1 << 62)
    for start in range(0, events, PASS_EVENTS):
        words = np.frombuffer(file.read(min(PASS_EVENTS, events - start) * EVENT_BYTES), np.uint64)
        t_us, last, epoch = _unwrapped(words, last, epoch)
        reached_us = np.maximum(np.maximum.accumulate(t_us), latest)
        latest = int(reached_us[-1]) if len(t_us) else latest
        at, rows = np.arange(start, start + len(words)), slice(0, None, STRIDE_EVENTS)
        parts.append(_samples(at[rows], t_us[rows], words[rows], reached_us[rows].copy()))
    columns = ("at", "t_us", "low", "reached_us")
    return TimeSamples(*(np.concatenate([getattr(part, name) for part in parts]) for name in columns))


def _unwrapped(words: npt.NDArray[np.uint64], last: int, epoch: int) -> tuple[I64, int, int]:
    """Return the times of words, and the last one with its epoch, from those before them on."""
    n = len(words)
    t_us = np.empty(n, np.int64)
    x, y, p = np.zeros(n, np.uint16), np.zeros(n, np.uint16), np.zeros(n, np.uint8)
    _, _, last, epoch = mend(
        words, _EVERYWHERE_PX, _EVERYWHERE_PX, last, epoch, t_us, x, y, p, np.empty((n, 3), np.int64)
    )
    return t_us, int(last), int(epoch)


def _samples(at: I64, t_us: I64, words: npt.NDArray[np.uint64], reached_us: I64) -> TimeSamples:
    return TimeSamples(at, t_us, (words & np.uint64(0xFFFFFFFF)).astype(np.int64), reached_us)
