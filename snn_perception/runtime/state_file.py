"""A camera's memory in a file: membranes under their names, and where in time they stand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from snn_perception.errors import CheckpointError
from snn_perception.runtime.stream import StreamState
from snn_perception.spec import ModelSpec
from snn_perception.state import from_leaves, named_leaves, outline, to
from snn_perception.tensor_file import read_tensors, write_tensors
from snn_perception.types import SensorSize

FORMAT = "1"
_KEY = "snn_perception_state"
_MEMBRANE = "membrane."


@dataclass(frozen=True)
class SavedStream:
    """A stream as it was saved.

    Attributes:
        stream: its state. stamp_ns: the stamp of its last detections, host or sensor time as the node stamps; 0: none.
    """

    stream: StreamState
    stamp_ns: int = 0


def save_stream(path: str | Path, saved: SavedStream, spec: ModelSpec) -> None:
    """Write a stream's state; the file appears whole or not at all.

    Raises:
        CheckpointError: if it cannot be written; an older one is then as it was.
    """
    stream = saved.stream
    content = {
        "spec": spec.hash(),
        "t_end_us": stream.t_end_us,
        "windows": stream.windows,
        "gaps": stream.gaps,
        "resets": stream.resets,
        "size": None if stream.size is None else [stream.size.height, stream.size.width],
        "stamp_ns": saved.stamp_ns,
        "outline": outline(stream.model),
    }
    tensors = {_MEMBRANE + name: leaf for name, leaf in named_leaves(stream.model)}
    write_tensors(Path(path), tensors, {_KEY: FORMAT, "content": json.dumps(content)})


def load_stream(path: str | Path, spec: ModelSpec, device: torch.device | str = "cpu") -> SavedStream:
    """Return a saved stream, its membranes on `device`.

    Args:
        spec: of the model that is to go on from it.

    Raises:
        CheckpointError: if there is no such file, it is damaged or no saved state, or of another model.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such saved state; the service save_state of a running detector writes one")
    tensors, texts = read_tensors(path)
    if texts.get(_KEY) != FORMAT:
        raise CheckpointError(f"{path}: expected a saved state of format {FORMAT}, got a file with {sorted(texts)[:4]}")
    try:
        content = json.loads(texts["content"])
        saved = SavedStream(_stream(content, tensors, device), int(content["stamp_ns"]))
        of_spec = content["spec"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is no saved state of this version: {error!r:.80}") from error
    if of_spec != spec.hash():
        raise CheckpointError(
            f"{path}: is the state of another model: expected spec {spec.hash()}, got {of_spec}; "
            "load it into the model that it was saved from, or start from rest"
        )
    return saved


def _stream(content: Any, tensors: dict[str, torch.Tensor], device: torch.device | str) -> StreamState:
    leaves = {name.removeprefix(_MEMBRANE): tensor for name, tensor in tensors.items() if name.startswith(_MEMBRANE)}
    for name, leaf in leaves.items():
        if not bool(torch.isfinite(leaf).all()):
            raise ValueError(f"membrane '{name}' is not finite")
    t_end_us, size = content["t_end_us"], content["size"]
    return StreamState(
        model=to(from_leaves(content["outline"], leaves), device),
        t_end_us=None if t_end_us is None else int(t_end_us),
        windows=int(content["windows"]),
        gaps=int(content["gaps"]),
        resets=int(content["resets"]),
        size=None if size is None else SensorSize(*size),
    )
