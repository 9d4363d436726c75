"""Named tensors with texts beside them in one safetensors file, which appears whole or not at all.

A digest over everything in the file tells damage. Nothing in it is executed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from snn_perception.errors import CheckpointError, SnnPerceptionError
from snn_perception.whole_file import whole_file

DIGEST = "sha256"
_NUMPY_TYPES = {"BOOL", "I8", "I16", "I32", "I64", "U8", "F16", "F32", "F64"}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> None:
    """Write tensors, from any device, and texts to one file.

    Raises:
        CheckpointError: if the file cannot be written; an older one of this name is then as it was.
    """
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = dict(texts)
    metadata[DIGEST] = _digest(held, metadata)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            save_file(held, temporary, metadata)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be written: {error}") from error
    except SnnPerceptionError as error:
        raise CheckpointError(str(error)) from error


def read_texts(path: Path) -> dict[str, str]:
    """Return the texts of a file, without its tensors and not checked against its digest.

    Raises:
        CheckpointError: if it is no safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError, RuntimeError, OverflowError, RecursionError) as error:
        raise _unreadable(path, error) from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors, on the CPU, and the texts that `write_tensors` wrote.

    Raises:
        CheckpointError: if it is no safetensors file, or damaged.
    """
    try:
        with safe_open(path, framework="np") as plain, safe_open(path, framework="pt") as others:
            texts = dict(plain.metadata() or {})
            tensors = {name: _tensor(name, plain, others) for name in plain.keys()}  # noqa: SIM118  (not a mapping)
        is_whole = texts.get(DIGEST) == _digest(tensors, texts)
    except (SafetensorError, OSError, ValueError, RuntimeError, OverflowError, RecursionError) as error:
        raise _unreadable(path, error) from error
    if not is_whole:
        raise CheckpointError(f"{path}: is damaged: its digest does not fit its contents; copy it again")
    return tensors, texts


def _tensor(name: str, plain: Any, others: Any) -> Tensor:
    """Return a tensor of a file that is open for NumPy and for torch.

    safetensors 0.8 loses two numbers with every tensor that it makes for torch, so that a node which is configured over
    and over would grow; with arrays it does not.
    """
    if plain.get_slice(name).get_dtype() in _NUMPY_TYPES:
        return torch.from_numpy(plain.get_tensor(name))
    tensor: Tensor = others.get_tensor(name)
    return tensor


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    remedy = "authors' .pt/.ckpt/.pth files go through 'convert'"
    if path.suffix == ".safetensors":
        remedy = "it is cut off or damaged, copy it again"
    return CheckpointError(f"{path}: not a readable safetensors file ({error}); {remedy}")


def _digest(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> str:
    """Return the sha256 of a file's contents: texts but for the digest itself, names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    digest.update(json.dumps({key: texts[key] for key in sorted(texts) if key != DIGEST}).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
