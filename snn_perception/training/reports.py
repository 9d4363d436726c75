"""What a training run tells while it goes on, and who listens."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class RunInfo:
    """A run about to start or go on.

    Attributes:
        folder: where its files are.
        parameters: numbers that training changes.
        recordings, val_recordings: in the training and validation splits (of all processes together).
        labelled_windows: training windows with at least one target, None where it is not known beforehand.
        steps_per_epoch: windows (batches of them) in one epoch.
        start_step: steps done already; above 0 where a run is resumed.
        total_steps: in the whole run.
    """

    folder: Path
    parameters: int
    recordings: int
    val_recordings: int
    labelled_windows: int | None
    steps_per_epoch: int
    start_step: int
    total_steps: int


@dataclass(frozen=True)
class StepReport:
    """One step: one window of every batch row.

    Attributes:
        step, epoch: counted from 1 and from 0. updates: optimizer updates so far.
        losses: of the labelled rows by term; empty where no row had labels.
        lr: learning rate. grad_norm: before clipping; None where nothing was updated.
    """

    step: int
    epoch: int
    updates: int
    losses: dict[str, float]
    lr: float
    grad_norm: float | None = None


@dataclass(frozen=True)
class ValidationReport:
    """A validation: `metric` names what `best` is judged by, `scores` are all figures in plain types."""

    epoch: int
    step: int
    metric: str
    value: float
    best: float
    is_best: bool
    scores: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainResult:
    """A finished or stopped run. `stopped` tells that it was asked to stop before its end; it can be resumed."""

    folder: Path
    steps: int
    epochs: int
    stopped: bool
    metric: str = ""
    best: float | None = None
    last: float | None = None
    best_checkpoint: Path | None = None
    last_checkpoint: Path | None = None


class Observer(Protocol):
    """Hears of a run. Called in the process that trains, on rank 0 only."""

    def on_start(self, info: RunInfo) -> None: ...

    def on_step(self, report: StepReport) -> None: ...

    def on_validation(self, report: ValidationReport) -> None: ...

    def on_saved(self, path: Path) -> None: ...

    def should_stop(self) -> bool: ...


class Silent:
    """Hears and says nothing."""

    def on_start(self, info: RunInfo) -> None: ...

    def on_step(self, report: StepReport) -> None: ...

    def on_validation(self, report: ValidationReport) -> None: ...

    def on_saved(self, path: Path) -> None: ...

    def should_stop(self) -> bool:
        return False
