"""Where batches come from: lanes of recordings, or windows drawn at random.

A source has ``steps_per_epoch``, in which every recording or window comes once on average; ``batches(first)``, without
end, from any step on, of the rows of this process; and ``labelled(first)``, which tells for each of these steps whether
any row of any process has labels on disk.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from snn_perception.training.feed import Batch, Feed, Sample, stack
from snn_perception.training.plan import Entry, LanePlan, SamplePlan


class Lanes:
    """Each batch row follows a recording from its start to its last label, then the next one; see `LanePlan`.

    Args:
        rows: of a batch, over all processes. own: those that this process feeds; its recordings stay with it.
    """

    def __init__(self, feed: Feed, *, rows: int, own: range, seed: int) -> None:
        self._feed, self._lanes, self._own, self._seed = feed, rows, own, seed
        self.steps_per_epoch = self._plan().steps_per_epoch

    def batches(self, first: int) -> Iterator[Batch]:
        """Yield batches; a resumed lane opens its recording where it was."""
        plan = self._plan()
        walks: list[Iterator[Sample]] = [iter(()) for _ in self._own]
        entries: list[Entry | None] = [None for _ in self._own]
        step = first
        while True:
            samples = []
            for row, lane in enumerate(self._own):
                entry = plan.at(lane, step)
                if entry != entries[row]:
                    entries[row] = entry
                    walks[row] = self._feed.follow(entry.recording, entry.epoch, step - entry.start)
                samples.append(next(walks[row]))
            yield stack(samples, step)
            step += 1

    def labelled(self, first: int) -> Iterator[bool]:
        """Yield whether a lane is at a labelled window."""
        plan, step = self._plan(), first
        windows = [np.zeros(length, bool) for length in self._feed.data.lengths]
        for has_label, labelled in zip(windows, self._feed.data.labelled, strict=True):
            has_label[labelled] = True
        while True:
            entries = [plan.at(lane, step) for lane in range(self._lanes)]
            yield any(windows[entry.recording][step - entry.start] for entry in entries)
            step += 1

    def _plan(self) -> LanePlan:
        return LanePlan(self._feed.data.lengths, self._lanes, self._seed)


class RandomWindows:
    """Labelled windows in random order, each from rest: the training of models that carry no state.

    Args: as `Lanes`.
    """

    def __init__(self, feed: Feed, *, rows: int, own: range, seed: int) -> None:
        self._feed, self._own = feed, own
        self._samples = feed.data.samples
        self._rows, self._seed = rows, seed
        self.steps_per_epoch = self._plan().steps_per_epoch

    def batches(self, first: int) -> Iterator[Batch]:
        """Yield batches, every row of which has labels on disk."""
        plan, step = self._plan(), first
        while True:
            rows = [plan.at(row, step) for row in self._own]
            yield stack([self._feed.pick(*self._samples[sample], epoch) for sample, epoch in rows], step)
            step += 1

    def labelled(self, first: int) -> Iterator[bool]:
        """Yield True for ever."""
        while True:
            yield True

    def _plan(self) -> SamplePlan:
        return SamplePlan(len(self._samples), self._rows, self._seed)
