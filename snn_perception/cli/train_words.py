"""What ``train`` says besides its progress: an introduction, what a run would be, and how it ended."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snn_perception.registry import Registry
    from snn_perception.training.config import RunConfig
    from snn_perception.training.reports import TrainResult

COMMAND = "python -m snn_perception"
SYNTHETIC = "data/synthetic"  # where the introduction suggests to make the set


def explanation() -> str:
    """Return what to do first, for someone who gave no arguments."""
    from snn_perception.training.recipes import recipes, summary_of

    known = recipes()
    listed = [f"  {name:<{max(map(len, known))}}  {summary_of(path)}".rstrip() for name, path in known.items()]
    return "\n".join(
        [
            f"usage: {COMMAND} train RUN.yaml|RECIPE [--data NAME:PATH] [--set KEY=VALUE ...] [-o DIR]",
            "",
            "Teaches a detector on labelled recordings. A stopped run goes on exactly where it was (--resume).",
            "Without data of your own, make the synthetic driving set and train on it:",
            f"  {COMMAND} synth -o {SYNTHETIC} --size small",
            f"  {COMMAND} train {_example(known)} --data gen1:{SYNTHETIC} -o runs/first",
            "",
            "Recipes:" if known else "No recipes are installed; 'plugins preset' lists the models for --preset.",
            *listed,
            "",
            "--dry-run tells what a run would be; --help lists all options.",
        ]
    )


def _example(known: dict[str, Path]) -> str:
    """Return the arguments that name a model to try on the synthetic set: a recipe for it, or one for a detector."""
    from snn_perception.training.run_file import load_run

    own = next((name for name in known if "synthetic" in name), None)
    return own or next((name for name, path in known.items() if load_run(path).train.mode == "lanes"), "--preset NAME")


def dry_run(config: RunConfig, folder: Path, registry: Registry) -> dict[str, Any]:
    """Return everything there is to know about a run before it starts. Raises as the run itself would."""
    from snn_perception.cost import cost_of
    from snn_perception.training.distributed import Ranks
    from snn_perception.training.material import gather_material
    from snn_perception.training.memory import estimate_memory
    from snn_perception.training.model import make_detector
    from snn_perception.training.run_file import run_as_dict

    detector = make_detector(config.model, registry, config.train.seed)
    cost = cost_of(detector)
    material = gather_material(config, detector, registry, Ranks())
    steps = material.source.steps_per_epoch
    windows = None
    if config.train.mode == "classification":  # as many as a sample has, which its events tell
        windows = len(next(material.source.batches(0)).windows)
    return {
        "run": run_as_dict(config),
        "folder": str(folder),
        "model": {
            "spec": json.loads(detector.spec.to_json()),
            "parameters": cost.parameters,
            "state_elements": cost.state_elements,
            "dense_operations": cost.dense_operations,
        },
        "data": {
            **material.description,
            "recordings": material.recordings,
            "validation_recordings": material.val_recordings,
            "labelled_windows": material.labelled,
        },
        "metric": material.validator.metric if material.validator else None,
        "steps_per_epoch": steps,
        "total_steps": steps * config.train.epochs,
        "memory_bytes": estimate_memory(detector, config.train, windows).as_dict(),
    }


def dry_run_rows(told: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the names and values of `dry_run` for people."""
    model, data, memory, run = told["model"], told["data"], told["memory_bytes"], told["run"]
    spec = model["spec"]
    size = f"{spec['sensor_size']['width']}x{spec['sensor_size']['height']}"
    yield "model", f"{run['model']['preset'] or run['model']['checkpoint']}: {model['parameters']:,} parameters"
    yield "window", f"{spec['window_us'] / 1000:g} ms of {size} px, state: {spec['state_policy']}"
    yield "state", f"{model['state_elements']:,} numbers per row"
    yield "operations", f"{model['dense_operations']:,} per window, forward"
    yield (
        "data",
        f"{data['data_set']}: {data['recordings']:,} recordings, {data['labelled_windows']:,} labelled windows",
    )
    judged = f"{data['validation_recordings']:,} recordings, judged by {told['metric']}"
    yield "validation", judged if told["metric"] else "none"
    yield "steps", f"{told['steps_per_epoch']:,} an epoch, {told['total_steps']:,} in all"
    yield (
        "memory",
        f"about {mebibytes(memory['total'])}: {mebibytes(memory['activations'])} for {memory['windows']} windows of "
        f"{run['train']['lanes']} rows, the rest for weights and their update; libraries and data on top",
    )
    yield "folder", told["folder"]


def end(config: RunConfig, result: TrainResult, seconds: float) -> dict[str, Any]:
    """Return how a run ended, and what to do next."""
    best = result.best_checkpoint or result.last_checkpoint
    return {
        "folder": str(result.folder),
        "stopped": result.stopped,
        "steps": result.steps,
        "epochs": result.epochs,
        "seconds": round(seconds, 3),
        "metric": result.metric,
        "best": result.best,
        "last": result.last,
        "files": {
            "best": _text(result.best_checkpoint),
            "last": _text(result.last_checkpoint),
            "metrics": str(result.folder / "metrics.jsonl"),
            "run": str(result.folder / "run.yaml"),
        },
        "commands": _commands(config, result.folder, best) if best else {},
    }


def end_rows(told: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the names and values of `end` for people."""
    from snn_perception.cli.common import duration

    yield "run", ("stopped" if told["stopped"] else "done") + f" in {told['folder']}"
    yield "trained", f"{told['epochs']:,} epochs, {told['steps']:,} steps; this time {duration(told['seconds'])}"
    for which in ("best", "last"):
        if told[which] is not None:
            yield f"{which} {told['metric']}", f"{told[which]:.4f}"
    for name, path in told["files"].items():
        if path:
            yield f"{name} in", path
    for name, command in told["commands"].items():
        yield f"to {name}", command


def mebibytes(count: int) -> str:
    """Return a number of bytes in MiB, or in GiB where that is shorter."""
    return f"{count / 2**30:.1f} GiB" if count >= 10 * 2**30 else f"{count / 2**20:,.1f} MiB"


def _commands(config: RunConfig, folder: Path, checkpoint: Path) -> dict[str, str]:
    data = config.data.val or config.data.train
    evaluate = ["evaluate", str(checkpoint), "--data", data, "--split", "test", "-o", str(folder / "report")]
    replay = ["replay", str(checkpoint), "RECORDING", "--video", str(folder / "boxes.mp4")]
    return {name: f"{COMMAND} {shlex.join(words)}" for name, words in (("evaluate", evaluate), ("replay", replay))}


def _text(path: Path | None) -> str | None:
    return str(path) if path is not None else None
