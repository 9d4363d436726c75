"""One step of training: a window of every row through the network, and the update where labels are.

Truncated back-propagation through time as published (Cordone, PhD thesis, 2022, ch. 5): membranes go on from window to
window, an update follows each window in which any row has labels, and the gradient is cut behind it. Rows are put to
rest where a recording starts and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from snn_perception.detector import Detector
from snn_perception.ranks import in_company, sum_over_ranks
from snn_perception.state import State, detach, reset_rows
from snn_perception.training.config import TrainConfig
from snn_perception.training.distributed import any_over_ranks
from snn_perception.training.engine import Engine
from snn_perception.training.feed import Batch
from snn_perception.types import SensorSize


@dataclass(frozen=True)
class Taken:
    """What a step did: loss terms of its labelled rows, and the norm of the gradient where weights were updated."""

    losses: dict[str, float]
    grad_norm: float | None = None


class Recurrence:
    """Windows one after the other, with the membranes of every row in between.

    Args:
        engine: updates the weights of `detector`.
        head_size: image that targets are given in.

    Attributes:
        state: membranes of the rows after the latest window.
        is_cut: nothing waits for a gradient: the state is values alone, as a file can hold it.
    """

    def __init__(self, detector: Detector, engine: Engine, config: TrainConfig, head_size: SensorSize) -> None:
        self._detector, self._engine, self._config, self._size = detector, engine, config, head_size
        self._carries = detector.spec.state_policy == "carry"
        self._learns_from_empty = bool(getattr(detector.head, "learns_from_empty", False))
        self._waiting: list[Tensor] = []  # losses of this chunk
        self.state: State = None
        self.is_cut = True

    def take(self, batch: Batch, next_label: int | None, *, ends_chunk: bool, epochs_done: float) -> Taken:
        """Run one window of every row; update the weights where that is due.

        Args:
            next_label: windows from this one to the next with labels, 0 for this one; None if there is none within
                `grad_windows`, or before the gradient is cut anyway. Windows that no gradient will come back to are
                run without.
            ends_chunk: whether the gradient is cut behind this window in any case.
            epochs_done: for the learning rate.
        """
        learns = next_label is not None
        if not learns:
            self.state = detach(self.state)
        with torch.set_grad_enabled(learns), self._engine.precision():
            raw, after = self._detector(self._input(batch), self._before(batch))
        self.state = after if self._carries else None
        self.is_cut = not learns and not self._waiting
        losses: dict[str, float] = {}
        if next_label == 0 and any_over_ranks(self._teaches(batch), self._engine.device):
            terms = self._detector.head.loss(raw, batch.targets, self._size)
            self._waiting.append(torch.stack([term.to(_wide(term)) for term in terms.values()]).sum())
            shown = sum_over_ranks(torch.stack([term.detach() for term in terms.values()]))
            losses = dict(zip(terms, shown.tolist(), strict=True))
        norm = None
        if ends_chunk or (self._config.update == "window" and next_label == 0):
            if self._waiting:
                norm = self._engine.update(torch.stack(self._waiting).mean(), epochs_done)
                self._waiting = []
            self.state, self.is_cut = detach(self.state), True
        return Taken(losses, norm)

    def _teaches(self, batch: Batch) -> bool:
        """Return whether there is anything in a batch to learn from.

        Rows without labels are none. Where all labelled rows are known to be empty, it is for the head to say: a loss
        over background alone is well scaled for some, and for others without meaning.
        """
        known = [targets for targets in batch.targets if targets is not None]
        return any(len(targets) for targets in known) or (self._learns_from_empty and bool(known))

    def _input(self, batch: Batch) -> Tensor:
        return batch.x.to(self._detector.device, self._detector.dtype, non_blocking=True)

    def _before(self, batch: Batch) -> State:
        if self.state is None or (bool(batch.is_start.all()) and not in_company()):
            return None
        # In company even where every row starts: gradients must take the same way in every process, since each norm on
        # it waits for the others.
        return reset_rows(self.state, batch.is_start) if bool(batch.is_start.any()) else self.state


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
