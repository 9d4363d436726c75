"""A run as it stands, in one file beside its checkpoints: everything that going on exactly needs.

The file before the last is kept, so that damage to one costs some steps and not the run.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snn_perception.errors import CheckpointError
from snn_perception.state import State, from_leaves, named_leaves, outline
from snn_perception.tensor_file import read_tensors, write_tensors

log = logging.getLogger(__name__)

FORMAT = "1"
STATE_FILE = "training.safetensors"
PREVIOUS_FILE = "training.previous.safetensors"


@dataclass(frozen=True)
class Progress:
    """Where a run is.

    Attributes:
        step: windows done (of every row). epoch: validations done, in epochs.
        best: value of the best validation, with its epoch. last: of the latest one.
        metrics_lines: lines of the metrics file that belong to it.
        run, data: digests of the configuration and of what it is trained on, so that a state is not used for another.
    """

    step: int = 0
    epoch: int = 0
    best: float | None = None
    last: float | None = None
    metrics_lines: int = 0
    run: str = ""
    data: str = ""


@dataclass(frozen=True, eq=False)
class RunState:
    """A run as it stands: its progress, the engine's tensors and numbers, the membranes, the random generators."""

    progress: Progress
    tensors: dict[str, Tensor]
    numbers: dict[str, Any]
    membranes: State = None
    generators: list[dict[str, Tensor]] = field(default_factory=list)


def save_run_state(folder: Path, state: RunState) -> Path:
    """Write the state, keep the one before, return the path.

    Raises:
        CheckpointError: if it cannot be written; the last one is then as it was.
    """
    path = folder / STATE_FILE
    tensors = dict(state.tensors)
    tensors |= {f"membrane.{name}": leaf for name, leaf in named_leaves(state.membranes)}
    for rank, generators in enumerate(state.generators):
        tensors |= {f"generator.{rank}.{name}": value for name, value in generators.items()}
    content = {"progress": asdict(state.progress), "numbers": state.numbers, "tree": outline(state.membranes)}
    fresh = path.with_name(f"fresh.{STATE_FILE}")
    write_tensors(fresh, tensors, {"snn_perception_training": FORMAT, "content": json.dumps(content)})
    if path.exists():
        _keep(path, folder / PREVIOUS_FILE)
    os.replace(fresh, path)
    return path


def load_run_state(folder: Path) -> RunState:
    """Return the newest state in a run's folder that can be read.

    Raises:
        CheckpointError: if there is none, or none is whole.
    """
    errors = []
    for name in (STATE_FILE, PREVIOUS_FILE):
        if not (folder / name).is_file():
            continue
        try:
            state = _read(folder / name)
        except CheckpointError as error:
            log.warning("%s; trying the one before it", error)
            errors.append(str(error))
            continue
        if errors:
            log.warning("going on from %s, step %d", folder / name, state.progress.step)
        return state
    if errors:
        raise CheckpointError(f"{'; '.join(errors)}; start again, from a checkpoint with --set model.checkpoint=PATH")
    raise CheckpointError(f"{folder}: nothing to resume (no {STATE_FILE}); leave --resume out to start a run there")


def _read(path: Path) -> RunState:
    tensors, texts = read_tensors(path)
    if texts.get("snn_perception_training") != FORMAT:
        raise CheckpointError(f"{path}: expected a training state of format {FORMAT}, got {sorted(texts)[:4]}")
    try:
        content = json.loads(texts["content"])
        progress = Progress(**content["progress"])
        membranes = from_leaves(content["tree"], _under("membrane.", tensors))
        ranks = sorted({int(name.split(".")[1]) for name in tensors if name.startswith("generator.")})
        generators = [_under(f"generator.{rank}.", tensors) for rank in ranks]
        engine = {n: t for n, t in tensors.items() if not n.startswith(("membrane.", "generator."))}
        return RunState(progress, engine, content["numbers"], membranes, generators)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: is no training state of this version: {error!r}") from error


def generators_now(device: torch.device) -> dict[str, Tensor]:
    """Return the state of torch's random generators in this process."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_generators(states: dict[str, Tensor], device: torch.device) -> None:
    """Put torch's random generators back to what `generators_now` gave."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def _keep(path: Path, previous: Path) -> None:
    """Let `previous` name what `path` names, without a moment at which `path` is not there."""
    previous.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # a file system without hard links keeps no second state
        os.link(path, previous)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
