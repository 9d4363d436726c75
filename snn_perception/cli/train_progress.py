"""What ``train`` shows while it runs: figures that keep up, drawn on a terminal or told as lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from snn_perception.cli.common import duration
from snn_perception.training.reports import Observer, RunInfo, Silent, StepReport, ValidationReport

if TYPE_CHECKING:
    from rich.console import RenderableType

SMOOTHING = 0.98  # of losses, per labelled step
_RATE_SMOOTHING = 0.95


class Figures:
    """The figures of a run so far.

    Args:
        rows: windows in one step. epochs: of the run.
        clock: seconds that only grow.

    Attributes:
        losses: by term, each an average that forgets old steps; empty before the first labelled step.
        windows_per_s: lately, without the time of validations. eta_s: seconds to the end at the pace so far, all
            included. None where not known yet.
    """

    def __init__(self, rows: int, epochs: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rows, self._clock = rows, clock
        self.epochs = epochs
        self.info: RunInfo | None = None
        self.step: StepReport | None = None
        self.validation: ValidationReport | None = None
        self.seconds_per_step: float | None = None
        self._sums: dict[str, float] = {}
        self._weight = 0.0
        self._began = self._latest = clock()
        self._first: tuple[int, float] | None = None  # the first step compiles, and says nothing about pace

    def start(self, info: RunInfo) -> None:
        self.info, self._latest = info, self._clock()

    def add(self, report: StepReport) -> None:
        """Take a step in."""
        now = self._clock()
        if self._first is None:
            self._first = (report.step, now)
        else:
            took, before = now - self._latest, self.seconds_per_step
            mix = _RATE_SMOOTHING if before is not None else 0.0
            self.seconds_per_step = mix * (before or 0.0) + (1 - mix) * took
        self._latest, self.step = now, report
        if report.losses:
            self._weight = SMOOTHING * self._weight + 1 - SMOOTHING
            for name, value in report.losses.items():
                self._sums[name] = SMOOTHING * self._sums.get(name, 0.0) + (1 - SMOOTHING) * value

    def add_validation(self, report: ValidationReport) -> None:
        """Take a validation in; its time does not count as a step's."""
        self.validation, self._latest = report, self._clock()

    @property
    def losses(self) -> dict[str, float]:
        return {name: value / self._weight for name, value in self._sums.items()}

    @property
    def windows_per_s(self) -> float | None:
        return self._rows / self.seconds_per_step if self.seconds_per_step else None

    @property
    def eta_s(self) -> float | None:
        if self.info is None or self.step is None or self._first is None or self.step.step == self._first[0]:
            return None
        pace = (self._clock() - self._first[1]) / (self.step.step - self._first[0])
        return pace * (self.info.total_steps - self.step.step)

    @property
    def elapsed_s(self) -> float:
        """Seconds since this was made."""
        return self._clock() - self._began

    def parts(self) -> Iterator[str]:
        """Yield the figures in words, each by itself."""
        if self.info is None:
            return
        done = self.step.step if self.step else self.info.start_step
        epoch = self.step.epoch if self.step else done // self.info.steps_per_epoch
        yield f"epoch {min(epoch + 1, self.epochs)}/{self.epochs}"
        yield f"step {done:,}/{self.info.total_steps:,}"
        if self.losses:
            terms = ", ".join(f"{name} {value:.3f}" for name, value in self.losses.items())
            yield f"loss {sum(self.losses.values()):.3f}" + (f" ({terms})" if len(self.losses) > 1 else "")
        if self.step:
            yield f"lr {self.step.lr:.2e}"
        if self.validation:
            yield f"{self.validation.metric} {self.validation.value:.3f} (best {self.validation.best:.3f})"
        if self.windows_per_s is not None:
            yield f"{self.windows_per_s:,.1f} windows/s"
        if self.eta_s is not None:
            yield f"{duration(self.eta_s)} left"


def told_start(info: RunInfo) -> str:
    """Return a line about a run that begins or goes on."""
    labelled = f" ({info.labelled_windows:,} labelled windows)" if info.labelled_windows is not None else ""
    resumed = f"; going on after step {info.start_step:,}" if info.start_step else ""
    return (
        f"training {info.parameters:,} parameters on {info.recordings:,} recordings{labelled}, "
        f"validating on {info.val_recordings:,}; {info.total_steps:,} steps in all{resumed}"
    )


def told_validation(report: ValidationReport) -> str:
    """Return a line about a validation."""
    best = "the best so far" if report.is_best else f"best {report.best:.3f}"
    return f"after epoch {report.epoch}: {report.metric} {report.value:.3f}, {best}"


class Lines(Silent):
    """Tells of a run in plain lines, one every so many seconds.

    Args:
        every_s: seconds between lines; validations are always told.
    """

    def __init__(self, figures: Figures, *, every_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._figures, self._every, self._clock = figures, every_s, clock
        self._told = -float("inf")

    def on_start(self, info: RunInfo) -> None:
        self._figures.start(info)
        self._tell(told_start(info))

    def on_step(self, report: StepReport) -> None:
        self._figures.add(report)
        if self._clock() - self._told >= self._every:
            self._told = self._clock()
            self._tell("  ".join(self._figures.parts()))

    def on_validation(self, report: ValidationReport) -> None:
        self._figures.add_validation(report)
        self._tell(told_validation(report))

    def _tell(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class Drawing(Silent):
    """Draws a run on a terminal: a bar, and the figures under it; validations stay above it as lines."""

    def __init__(self, figures: Figures, stream: TextIO | None = None) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.progress import BarColumn, Progress, TaskProgressColumn

        self._figures = figures
        console = Console(file=stream or sys.stderr, highlight=False, markup=False, emoji=False)
        self._bar = Progress(BarColumn(bar_width=None), TaskProgressColumn(), console=console, expand=True)
        self._task = self._bar.add_task("", total=None)
        self._live = Live(get_renderable=self._drawn, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Drawing:
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def on_start(self, info: RunInfo) -> None:
        self._figures.start(info)
        self._bar.update(self._task, total=info.total_steps, completed=info.start_step)
        self._live.start()
        self._live.console.print(told_start(info))

    def on_step(self, report: StepReport) -> None:
        self._figures.add(report)
        self._bar.update(self._task, completed=report.step)

    def on_validation(self, report: ValidationReport) -> None:
        self._figures.add_validation(report)
        self._live.console.print(told_validation(report))

    def _drawn(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        return Group(self._bar, Text("  ".join(self._figures.parts())))


@contextmanager
def shown(figures: Figures, *, on_terminal: bool, every_s: float) -> Iterator[Observer]:
    """Yield what shows a run on stderr: drawn where that is a terminal, in lines elsewhere."""
    if not on_terminal:
        yield Lines(figures, every_s=every_s)
        return
    with Drawing(figures) as drawing:
        yield drawing
