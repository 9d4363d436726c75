"""Which recording or window each batch row sees at each step: plain arithmetic on counts and a seed.

The order is a function of the seed and the step alone. A resumed run goes on where it was, and the processes that train
together agree without talking.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from snn_perception.types import I64


@dataclass(frozen=True)
class Entry:
    """A recording in a lane: steps ``start <= step < start + length``, in the `epoch`-th pass over the set."""

    recording: int
    epoch: int
    start: int
    length: int


class LanePlan:
    """Lanes of recordings without end: pass after pass, each recording goes to the lane that is the shortest so far.

    A lane never waits for another, so that every row of every batch is a window that someone recorded; an epoch is as
    many steps as the lanes need for the set on average.

    Args:
        lengths: windows of each recording. lanes: batch rows. seed: of the order.

    Raises:
        ValueError: if there is no recording, or an empty one.
    """

    def __init__(self, lengths: Sequence[int], lanes: int, seed: int) -> None:
        if not lengths or min(lengths) < 1:
            raise ValueError(f"expected recordings of at least one window, got lengths {list(lengths)[:5]}")
        self.lengths, self.lanes, self.seed = tuple(lengths), lanes, seed
        self.steps_per_epoch = -(-sum(lengths) // lanes)
        self._ends = [0] * lanes
        self._entries: list[list[Entry]] = [[] for _ in range(lanes)]
        self._epoch = 0

    def at(self, lane: int, step: int) -> Entry:
        """Return the recording that a lane follows at a step (counted from 0); steps must not go far back."""
        while self._ends[lane] <= step:
            self._deal()
        entries = self._entries[lane]
        while entries[0].start + entries[0].length <= step:
            entries.pop(0)  # what is behind is not kept: a run may have millions of steps
        if entries[0].start > step:
            raise ValueError(f"step {step} of lane {lane} lies behind; make a new plan")
        return next(entry for entry in entries if step < entry.start + entry.length)

    def _deal(self) -> None:
        """Give out one pass over the set."""
        for recording in shuffled(len(self.lengths), self.seed, self._epoch).tolist():
            lane = self._ends.index(min(self._ends))
            length = self.lengths[recording]
            self._entries[lane].append(Entry(recording, self._epoch, self._ends[lane], length))
            self._ends[lane] += length
        self._epoch += 1


class SamplePlan:
    """Samples drawn without replacement, pass after pass; a batch may span two passes.

    Args:
        count: samples in the set. rows: of a batch. seed: of the order.
    """

    def __init__(self, count: int, rows: int, seed: int) -> None:
        if count < 1:
            raise ValueError("expected at least one sample")
        self.count, self.rows, self.seed = count, rows, seed
        self.steps_per_epoch = -(-count // rows)
        self._order: dict[int, I64] = {}

    def at(self, row: int, step: int) -> tuple[int, int]:
        """Return (sample, pass over the set) of a row at a step (counted from 0)."""
        epoch, place = divmod(step * self.rows + row, self.count)
        if epoch not in self._order:
            self._order = {e: order for e, order in self._order.items() if e == epoch - 1}
            self._order[epoch] = shuffled(self.count, self.seed, epoch)
        return int(self._order[epoch][place]), epoch


def shuffled(count: int, seed: int, epoch: int) -> I64:
    """Return the order of one pass over `count` things, the same on every machine."""
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(count)


def look_ahead(labelled: Iterator[bool], reach: int) -> Iterator[tuple[bool, int | None]]:
    """Yield for each step whether it is labelled, and the distance to the next labelled one within `reach` (or None).

    The distance of a labelled step is 0.
    """
    ahead: list[bool] = []
    done = False
    while True:
        while not done and len(ahead) <= reach:
            try:
                ahead.append(next(labelled))
            except StopIteration:
                done = True
        if not ahead:
            return
        yield ahead[0], next((k for k, is_labelled in enumerate(ahead[: reach + 1]) if is_labelled), None)
        ahead.pop(0)
