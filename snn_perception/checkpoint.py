"""A trained detector as one ``.safetensors`` file: weights, and in its metadata the model's description.

A node needs nothing but the path. Nothing in the file is executed. A digest over weights and metadata tells damage.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snn_perception.detector import Detector
from snn_perception.errors import CheckpointError, SnnPerceptionError
from snn_perception.registry import Registry
from snn_perception.spec import ModelSpec
from snn_perception.tensor_file import read_tensors, read_texts, write_tensors

CHECKPOINT_FORMAT = "1"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds: the model's description, its weights, and the record of how they came about."""

    path: Path
    spec: ModelSpec
    weights: dict[str, Tensor]
    run: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(path: str | Path, detector: Detector, *, run: Mapping[str, Any] | None = None) -> None:
    """Write the detector to one file; it appears whole or not at all.

    Raises:
        CheckpointError: if the file cannot be written.
    """
    texts = {
        "snn_perception": CHECKPOINT_FORMAT,
        "spec": detector.spec.to_json(),
        "run": json.dumps(dict(run or {}), sort_keys=True),
    }
    write_tensors(Path(path), detector.state_dict(), texts)


def _in_folder(path: Path) -> str:
    """Return which files of a folder may be meant, such as the best weights of a run; empty if there are none."""
    held = sorted(file.name for file in path.glob("*.safetensors")) if path.is_dir() else []
    return f", such as {path / held[0]}" if held else ""


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Return the contents of a checkpoint file, without building the model.

    Raises:
        CheckpointError: if the file is missing, damaged, or not a checkpoint of this product.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; expected a .safetensors file{_in_folder(path)}")
    texts = read_texts(path)
    if "snn_perception" not in texts or "spec" not in texts:
        raise CheckpointError(
            f"{path}: holds weights but no model description; "
            f"import foreign weights with 'convert {path} -o NEW.safetensors'"
        )
    if texts["snn_perception"] != CHECKPOINT_FORMAT:
        raise CheckpointError(
            f"{path}: checkpoint format {texts['snn_perception']!r}, this version reads {CHECKPOINT_FORMAT!r}; upgrade"
        )
    weights, texts = read_tensors(path)
    try:
        spec = ModelSpec.from_json(texts["spec"])
        run = json.loads(texts.get("run", "{}"))
    except (SnnPerceptionError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return Checkpoint(path, spec, weights, run if isinstance(run, dict) else {})


def read_run_record(path: str | Path) -> dict[str, Any]:
    """Return how a checkpoint's weights came about, without reading them; empty where nothing is said.

    Raises:
        CheckpointError: if the file is missing or no safetensors file.
    """
    try:
        run = json.loads(read_texts(Path(path)).get("run", "{}"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its run record is damaged: {error}; copy it again") from error
    return run if isinstance(run, dict) else {}


def load_checkpoint(
    path: str | Path, *, registry: Registry | None = None, device: str | torch.device = "cpu"
) -> Detector:
    """Return the detector stored at `path`, in evaluation mode.

    Raises:
        CheckpointError: if the file is missing, damaged, foreign, or its weights do not fit its description.
        PluginError: if the model needs a component that is not installed.
    """
    if registry is None:
        from snn_perception.discovery import load_registry

        registry = load_registry()
    checkpoint = read_checkpoint(path)
    try:
        detector = Detector(checkpoint.spec, registry)
    except SnnPerceptionError as error:
        raise type(error)(f"{path}: {error}") from error
    except (RuntimeError, ArithmeticError, LookupError) as error:
        raise CheckpointError(f"{path}: its model description cannot be built: {error}") from error
    load_weights(detector, checkpoint.weights, str(path))
    return detector.to(device).eval()


def load_weights(detector: Detector, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy `weights` into the detector, all of them or none.

    Raises:
        CheckpointError: naming the tensors that are missing, unexpected, of another shape, or not finite.
    """
    own = detector.state_dict()
    missing, unexpected = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if missing or unexpected:
        raise CheckpointError(
            f"{source}: weights do not fit the model: missing {_some(missing)}, unexpected {_some(unexpected)}"
        )
    for name, tensor in weights.items():
        if tensor.shape != own[name].shape or tensor.is_floating_point() != own[name].is_floating_point():
            raise CheckpointError(
                f"{source}: tensor '{name}': expected {own[name].dtype} {list(own[name].shape)}, "
                f"got {tensor.dtype} {list(tensor.shape)}"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{source}: tensor '{name}' holds values that are not finite; the file is damaged")
    detector.load_state_dict(dict(weights))


def _some(names: list[str], limit: int = 3) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(f"'{name}'" for name in names[:limit]) + more
