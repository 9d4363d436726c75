"""A training run, from its configuration to its best checkpoint."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from snn_perception.checkpoint import save_checkpoint
from snn_perception.errors import SnnPerceptionError
from snn_perception.registry import Registry
from snn_perception.state import to
from snn_perception.training.config import RunConfig
from snn_perception.training.denormals import flushed_denormals
from snn_perception.training.distributed import (
    Ranks,
    any_over_ranks,
    company,
    exact_arithmetic,
    gather,
    gather_rows,
    local_device,
    own_rows,
    same_weights,
    share_norms,
    wait_for_all,
)
from snn_perception.training.engine import Engine, learning_rate
from snn_perception.training.feed import Batch
from snn_perception.training.folder import RunFolder
from snn_perception.training.material import Material, gather_material
from snn_perception.training.model import make_detector
from snn_perception.training.plan import look_ahead
from snn_perception.training.prefetch import prefetched
from snn_perception.training.reports import Observer, RunInfo, Silent, StepReport, TrainResult, ValidationReport
from snn_perception.training.run_file import run_as_dict, run_digest
from snn_perception.training.run_state import Progress, RunState, generators_now, set_generators

log = logging.getLogger(__name__)

LOG_EVERY = 20  # steps that one line of the metrics file stands for


def train(
    config: RunConfig,
    registry: Registry,
    folder: str | Path,
    *,
    resume: bool = False,
    observer: Observer | None = None,
    device: str = "cpu",
) -> TrainResult:
    """Train a model and return where its checkpoints are.

    Args:
        folder: gets ``run.yaml``, ``metrics.jsonl``, ``best.safetensors``, ``last.safetensors`` and the training state.
        resume: go on with the run in `folder`; what follows equals, bit for bit, what had followed without the stop.

    Raises:
        SnnPerceptionError: naming what is wrong with the configuration, the data, the folder or its checkpoint. What
            was saved before stays.
    """
    place = local_device(device)
    with company(place) as ranks, _same_generators(place), exact_arithmetic(place), flushed_denormals():
        home = RunFolder(Path(folder), writes=ranks.leads)
        run = _Run(config, registry, home, ranks, place, observer or Silent(), resume)
        with home.held():
            return run.go(resume)


class _Run:
    """One run in one process."""

    def __init__(
        self,
        config: RunConfig,
        registry: Registry,
        folder: RunFolder,
        ranks: Ranks,
        device: torch.device,
        observer: Observer,
        resume: bool,
    ) -> None:
        self.config, self.registry, self.folder, self.ranks, self.device = config, registry, folder, ranks, device
        self.observer: Observer = observer if ranks.leads else Silent()
        self.should_stop = observer.should_stop  # asked in every process: a signal may come to any
        detector = make_detector(config.model, registry, config.train.seed, fresh=not resume)
        self.material: Material = gather_material(config, detector, registry, ranks)
        self.detector = detector.to(device)
        self.shown = copy.deepcopy(self.detector).eval()  # carries the weights to validate and to save
        same_weights(self.detector)
        if ranks.world > 1:
            share_norms(self.detector)
        self.engine = Engine(self.detector, config.train, device)
        self.steps = self.material.make_steps(self.detector, self.engine)
        self.progress = Progress(run=run_digest(config), data=self.material.fingerprint)
        self.window_losses: list[dict[str, float]] = []  # since the last line of the metrics
        self.saved_step = 0

    @property
    def _metric(self) -> str:
        return self.material.validator.metric if self.material.validator is not None else ""

    @property
    def steps_per_epoch(self) -> int:
        return self.material.source.steps_per_epoch

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.config.train.epochs

    def go(self, resume: bool) -> TrainResult:
        """Train to the end, or until the observer asks to stop."""
        if resume:
            self._restore()
        else:
            self.folder.begin(self.config)
            torch.manual_seed(self.config.train.seed + self.ranks.rank)
        wait_for_all()
        self.observer.on_start(self._info())
        self._validate_if_due()  # a stop may have come between an epoch's end and its validation
        stopped = self._train() if self.progress.step < self.total_steps else False
        if stopped and self.ranks.leads:
            self._save_model(self.folder.last, {})
        return TrainResult(
            folder=self.folder.path,
            steps=self.progress.step,
            epochs=self.progress.step // self.steps_per_epoch,
            stopped=stopped,
            metric=self._metric,
            best=self.progress.best,
            last=self.progress.last,
            best_checkpoint=self.folder.best if self.folder.best.exists() else None,
            last_checkpoint=self.folder.last if self.folder.last.exists() else None,
        )

    def _train(self) -> bool:
        """Run the remaining steps; return whether the observer asked to stop before the last."""
        first = self.progress.step
        source, reach = self.material.source, self.config.train.grad_windows
        with prefetched(source.batches(first), self.config.train.prefetch) as batches:
            for batch, (_, next_label) in zip(batches, look_ahead(source.labelled(first), reach), strict=False):
                self._step(batch, next_label)
                if self.progress.step % self.steps_per_epoch == 0:
                    self._save()
                    if self._is_to_stop():
                        return True
                    self._validate_if_due()
                elif self.steps.is_cut and self._is_save_due():
                    self._save()
                if self.progress.step == self.total_steps:
                    return False
                if self.steps.is_cut and self._is_to_stop():
                    self._save()
                    return True
        raise AssertionError("a source of batches has no end")

    def _is_to_stop(self) -> bool:
        return any_over_ranks(self.should_stop(), self.device)

    def _step(self, batch: Batch, next_label: int | None) -> None:
        """Run one step, count it, tell of it."""
        step = batch.step
        left = self._steps_left_in_chunk(step)
        taken = self.steps.take(
            batch,
            next_label if next_label is not None and next_label <= left else None,
            ends_chunk=left == 0,
            epochs_done=step / self.steps_per_epoch,
        )
        self.progress = replace(self.progress, step=step + 1)
        if taken.losses:
            self.window_losses.append(taken.losses)
        if (step + 1) % LOG_EVERY == 0 or left == 0:
            self._log_losses()
        self.observer.on_step(
            StepReport(
                step=step + 1,
                epoch=step // self.steps_per_epoch,
                updates=self.engine.updates,
                losses=taken.losses,
                lr=learning_rate(self.config.train, step / self.steps_per_epoch),
                grad_norm=taken.grad_norm,
            )
        )

    def _steps_left_in_chunk(self, step: int) -> int:
        """Return how many steps after this one the gradient may still come back from."""
        left = self.steps_per_epoch - 1 - step % self.steps_per_epoch
        if self.config.train.update == "chunk":
            chunk = self.config.train.chunk_windows
            left = min(left, chunk - 1 - step % self.steps_per_epoch % chunk)
        return left

    def _is_save_due(self) -> bool:
        every = self.config.train.save_every_steps
        return self.progress.step // every > self.saved_step // every

    def _log_losses(self) -> None:
        if not self.window_losses:
            return
        names = self.window_losses[0]
        mean = {name: sum(one[name] for one in self.window_losses) / len(self.window_losses) for name in names}
        self._log("train", step=self.progress.step, updates=self.engine.updates, lr=self.engine.lr, losses=mean)
        self.window_losses = []

    def _log(self, kind: str, **values: Any) -> None:
        if self.ranks.leads:
            lines = self.folder.log(kind, values)
            self.progress = replace(self.progress, metrics_lines=lines)

    def _validate_if_due(self) -> None:
        """Validate, and save the best, if an epoch has ended since the last validation."""
        epoch = self.progress.step // self.steps_per_epoch
        if self.progress.step % self.steps_per_epoch or epoch <= self.progress.epoch:
            return
        is_last, every = epoch == self.config.train.epochs, self.config.eval.every_epochs
        self.progress = replace(self.progress, epoch=epoch)
        if self.material.validator is not None and (epoch % every == 0 or is_last):
            self._validate(epoch)
        if self.ranks.leads:
            self._save_model(self.folder.last, {})
        self._save()

    def _validate(self, epoch: int) -> None:
        self._show_weights()
        with _same_generators(self.device):
            assert self.material.validator is not None
            value, scores = self.material.validator(self.shown)
        is_best = self.progress.best is None or value > self.progress.best
        best = value if is_best else self.progress.best
        self.progress = replace(self.progress, best=best, last=value)
        self._log("validation", step=self.progress.step, epoch=epoch, scores=scores)
        if self.ranks.leads and is_best:
            self._save_model(self.folder.best, scores)
        assert best is not None
        self.observer.on_validation(
            ValidationReport(epoch, self.progress.step, self._metric, value, best, is_best, scores)
        )

    def _show_weights(self) -> None:
        self.shown.load_state_dict(self.engine.weights())

    def _save_model(self, path: Path, scores: dict[str, Any]) -> None:
        self._show_weights()
        record = {
            "config": run_as_dict(self.config),
            "data": self.material.description,
            "steps": self.progress.step,
            "updates": self.engine.updates,
            "epochs": self.progress.step / self.steps_per_epoch,
            "validation": scores,
        }
        save_checkpoint(path, self.shown, run=record)
        self.observer.on_saved(path)

    def _save(self) -> None:
        """Save the run as it stands; every process takes part."""
        membranes = gather_rows(self.steps.state)
        generators = gather(generators_now(self.device))
        self.saved_step = self.progress.step
        if self.ranks.leads:
            numbers = {**self.engine.numbers(), "window_losses": self.window_losses}
            state = RunState(self.progress, self.engine.tensors(), numbers, membranes, generators)
            self.observer.on_saved(self.folder.save(state))
        wait_for_all()

    def _restore(self) -> None:
        """Take up the run in the folder."""
        state = self.folder.resume(self.progress)
        self.progress = state.progress
        self.saved_step = state.progress.step
        self.window_losses = state.numbers["window_losses"]
        try:
            self.engine.restore(state.tensors, state.numbers)
        except (KeyError, RuntimeError, ValueError) as error:
            raise SnnPerceptionError(f"{self.folder.path}: its training state is of another model: {error}") from error
        rows = self.config.train.lanes
        membranes = own_rows(state.membranes, rows, self.ranks.own_rows(rows))
        self.steps.state = to(membranes, self.device)
        if self.ranks.rank < len(state.generators):
            set_generators(state.generators[self.ranks.rank], self.device)
        else:
            torch.manual_seed(self.config.train.seed + self.ranks.rank)

    def _info(self) -> RunInfo:
        return RunInfo(
            folder=self.folder.path,
            parameters=sum(p.numel() for p in self.engine.parameters),
            recordings=self.material.recordings,
            val_recordings=self.material.val_recordings,
            labelled_windows=self.material.labelled,
            steps_per_epoch=self.steps_per_epoch,
            start_step=self.progress.step,
            total_steps=self.total_steps,
        )


@contextmanager
def _same_generators(device: torch.device) -> Iterator[None]:
    """Leave torch's random generators as they were."""
    before = generators_now(device)
    try:
        yield
    finally:
        set_generators(before, device)
