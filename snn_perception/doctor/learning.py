"""Training for a few minutes on a tiny synthetic set: does the loss fall, does the model find what it was shown?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from snn_perception.doctor.finding import Bench, Finding, Skip
from snn_perception.training.reports import RunInfo, Silent, StepReport
from snn_perception.zoo import find_checkpoint

if TYPE_CHECKING:
    from snn_perception.training.config import ModelConfig, RunConfig

EPOCHS = 30
# The loss as a share of that at the start, and AP50 by the gen1 protocol on the drives that were shown. Where this was
# measured, a 16-channel network came to less than 0.01 and to 0.31; an untrained one has an AP50 of 0.00.
HIGHEST_LOSS, LEAST_AP50 = 0.5, 0.15
SHARE = 8  # the first and the last eighth of the updates are compared


def learning(bench: Bench, *, epochs: int = EPOCHS, on_step: Callable[[int, int], None] = lambda *_: None) -> Finding:
    """Whether a model learns here: on four drives of 3 s, scored on the two it was shown."""
    from snn_perception.checkpoint import load_checkpoint
    from snn_perception.data.dataset import open_dataset
    from snn_perception.evaluation.protocol import named_protocol
    from snn_perception.evaluation.run import evaluate_detector
    from snn_perception.synth.generate import generate
    from snn_perception.synth.sizes import SetRequest
    from snn_perception.training.loop import train

    registry, model = bench.need("registry"), _model(bench)
    made = generate(bench.folder / "tiny", SetRequest("tiny"))
    config = _config(model, str(made.folder), epochs)
    losses = _Losses(on_step)
    result = train(config, registry, bench.folder / "run", observer=losses)
    detector = load_checkpoint(result.last_checkpoint or "", registry=registry)
    shown = open_dataset(config.data.train, "train", registry)
    evaluation = evaluate_detector(detector, shown, registry, named_protocol("gen1"), score_threshold=0.01)
    fall, ap50 = losses.fall(), float(evaluation.scores["AP50"])
    facts = {
        "model": model.preset,
        "steps": result.steps,
        "updates": len(losses.totals),
        "loss_fell_to": round(fall, 4),
        "AP50": round(ap50, 4),
        "least_AP50": LEAST_AP50,
        "data": made.manifest.generator,
    }
    told = f"{model.preset}: {len(losses.totals)} updates, loss at {fall:.0%}, AP50 {ap50:.2f} on what it was shown"
    if fall > HIGHEST_LOSS or ap50 < LEAST_AP50:
        told = f"{told}; expected at most {HIGHEST_LOSS:.0%} and at least {LEAST_AP50:g}"
        return Finding("failed", told, "compare the versions in the report with those that are supported", facts)
    return Finding("ok", told, facts=facts)


def _model(bench: Bench) -> ModelConfig:
    """Return the model to train: of the shipped weights or checkpoint as its run record tells, or a preset."""
    from snn_perception.checkpoint import read_checkpoint
    from snn_perception.training.config import ModelConfig
    from snn_perception.training.run_file import run_from_dict

    name = bench.need("model")
    path = find_checkpoint(name)
    if path is None:
        return ModelConfig(preset=name)
    record = read_checkpoint(path).run.get("config")
    model = run_from_dict(record, str(path)).model if isinstance(record, dict) else ModelConfig()
    if not model.preset:
        raise Skip(f"'{name}' does not tell which preset it was trained from; name one with --model")
    return replace(model, checkpoint=None)


def _config(model: ModelConfig, folder: str, epochs: int) -> RunConfig:
    from snn_perception.training.config import DataConfig, EvalConfig, RunConfig, TrainConfig

    return RunConfig(
        model=model,
        data=DataConfig(train=f"gen1:{folder}", filter="gen1"),  # boxes that a person would miss teach nothing here
        train=TrainConfig(lanes=2, epochs=epochs, lr=3e-3, schedule_by="step", warmup_epochs=1.0),
        eval=EvalConfig(protocol="gen1", every_epochs=0),
    )


class _Losses(Silent):
    """Keeps the loss of every update."""

    def __init__(self, tell: Callable[[int, int], None]) -> None:
        self.totals: list[float] = []
        self._tell, self._steps = tell, 0

    def fall(self) -> float:
        """Return the mean loss of the last updates over that of the first."""
        count = max(len(self.totals) // SHARE, 1)
        return sum(self.totals[-count:]) / max(sum(self.totals[:count]), 1e-12)

    def on_start(self, info: RunInfo) -> None:
        self._steps = info.total_steps

    def on_step(self, report: StepReport) -> None:
        if report.losses:
            self.totals.append(sum(report.losses.values()))
        self._tell(report.step, self._steps)
