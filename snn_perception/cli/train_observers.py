"""Who else hears of a training run: a sink of figures, and the signals that ask it to stop."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from snn_perception.training.reports import Observer, RunInfo, Silent, StepReport, ValidationReport

if TYPE_CHECKING:
    from snn_perception.training.metrics import ScalarSink


class ToSink(Silent):
    """Passes every figure on to a sink, such as a TensorBoard file, which is opened once the first step is known."""

    def __init__(self, open_sink: Callable[[int], ScalarSink]) -> None:
        self._open = open_sink
        self._sink: ScalarSink | None = None

    def __enter__(self) -> ToSink:
        return self

    def __exit__(self, *_: object) -> None:
        if self._sink is not None:
            self._sink.close()

    def on_start(self, info: RunInfo) -> None:
        self._sink = self._open(info.start_step)

    def on_step(self, report: StepReport) -> None:
        values = {f"loss/{name}": value for name, value in report.losses.items()}
        if values:
            values["loss"] = sum(report.losses.values())
        if report.grad_norm is not None:
            values |= {"grad_norm": report.grad_norm, "lr": report.lr}
        self._pass(report.step, values)

    def on_validation(self, report: ValidationReport) -> None:
        plain = {f"val/{name}": value for name, value in report.scores.items() if type(value) in (int, float)}
        self._pass(report.step, {**plain, f"val/{report.metric}": report.value})

    def _pass(self, step: int, values: dict[str, Any]) -> None:
        if self._sink is not None and values:
            self._sink.scalars(step, values)


class Interrupts(Silent):
    """Stops a run in order at the first Ctrl-C or SIGTERM once it is under way, and at once at the second.

    Attributes:
        signal: the one that came; None while none did.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    @property
    def was_terminated(self) -> bool:
        """Whether it was SIGTERM, as schedulers of clusters send it before they end a job."""
        return self.signal == signal.SIGTERM

    def watch(self) -> None:
        """Take the signals over; before, they end the process as they always do, and nothing is lost by it."""
        if threading.current_thread() is threading.main_thread() and not self._before:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._take)

    def on_start(self, info: RunInfo) -> None:
        self.watch()

    def should_stop(self) -> bool:
        return self.signal is not None

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        print("stopping after this step; once more stops at once", file=sys.stderr, flush=True)


class Several:
    """Tells several observers; asks to stop when any of them does."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def on_start(self, info: RunInfo) -> None:
        for observer in self._observers:
            observer.on_start(info)

    def on_step(self, report: StepReport) -> None:
        for observer in self._observers:
            observer.on_step(report)

    def on_validation(self, report: ValidationReport) -> None:
        for observer in self._observers:
            observer.on_validation(report)

    def on_saved(self, path: Path) -> None:
        for observer in self._observers:
            observer.on_saved(path)

    def should_stop(self) -> bool:
        return any(observer.should_stop() for observer in self._observers)
