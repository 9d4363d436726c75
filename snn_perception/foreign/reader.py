"""One foreign weights file becomes plain tensors and plain hints."""

import stat
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike, fstat
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import torch

from snn_perception.errors import CheckpointError
from snn_perception.foreign.containers import StorageSource, read_legacy, read_zip
from snn_perception.foreign.contents import find_contents
from snn_perception.foreign.hints import HintBuilder
from snn_perception.foreign.limits import MAX_TENSORS, Refusal, damaged, shown, unknown
from snn_perception.foreign.records import TensorRecord
from snn_perception.foreign.weights import check_finite, materialise

_MAX_SAFETENSORS_HEADER = 16 << 20
_EXPECTED = "expected a weights file (.pt, .pth, .ckpt or .safetensors)"

Parts = tuple[dict[str, torch.Tensor], dict[str, Any]]


@dataclass(frozen=True)
class ForeignCheckpoint:
    """What an author's weights file holds."""

    path: Path
    tensors: dict[str, torch.Tensor]
    """Weights by their names in the file: contiguous, finite, on the CPU, no two sharing memory."""
    hints: dict[str, Any]
    """The plain values beside them: None, bool, int, float, str, bytes, and lists and dicts of these.

    Always there: ``state_from``, the key of the weights (or ``mapping``, ``module``, ``safetensors``), and ``skipped``,
    the dotted paths of what was left out. A namespace or another inert record is a dict of its attributes;
    ``modules`` holds those of a pickled module and of all below it by dotted name, with the name of the ``class``.
    """


def read_foreign(
    path: str | PathLike[str], *, inert: Callable[[str], bool] | frozenset[str] = frozenset()
) -> ForeignCheckpoint:
    """Return the tensors and hints of a .pt, .pth, .ckpt or .safetensors file; nothing in it is executed.

    `inert` tells the classes (``package.module.Class``) whose objects may appear as records without behaviour, for
    files that hold whole pickled modules. The format is told from the content, not from the suffix.

    Raises:
        CheckpointError: if the file cannot be read, is truncated or damaged, names anything that is not known, or holds
            weights that are not finite.
    """
    try:
        with _open_regular(Path(path)) as file:
            tensors, hints = _read(file, inert if callable(inert) else inert.__contains__)
    except Refusal as refusal:
        raise CheckpointError(f"{path}: {refusal}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); check path and permissions") from None
    except Exception as error:  # whatever a hostile file may still make a library raise
        message = f"{path}: cannot be read ({type(error).__name__} inside); copy or download it again"
        raise CheckpointError(message) from error
    return ForeignCheckpoint(Path(path), tensors, hints)


def _open_regular(path: Path) -> BinaryIO:
    if "\0" in str(path):
        raise Refusal(f"has a zero character in its path; {_EXPECTED}")
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise Refusal(f"is a folder: {_EXPECTED}; name a file inside it")
    if not stat.S_ISREG(mode):  # told before opening, which would wait for the other end of a pipe
        raise Refusal(f"is a pipe or device: {_EXPECTED}")
    return path.open("rb")


def _read(file: BinaryIO, inert: Callable[[str], bool]) -> Parts:
    size = fstat(file.fileno()).st_size
    head = file.read(512)
    if not head:
        raise damaged(f"is empty, {_EXPECTED}")
    if head.startswith(b"PK"):
        return _plain_parts(*read_zip(file, size, inert), size)
    if head.startswith(b"\x80"):
        return _plain_parts(*read_legacy(file, size, inert), size)
    if head[8:9] == b"{":
        return _read_safetensors(file, head, size)
    if head[257:262] == b"ustar":
        raise unknown("is a tar archive, as torch before 0.1.10 wrote it")
    raise unknown(f"begins with the bytes {head[:8].hex(' ')}, which neither torch nor safetensors write")


def _plain_parts(root: Any, source: StorageSource, file_size: int) -> Parts:
    contents = find_contents(root)
    tensors = materialise(contents.tensors, source, file_size)
    check_finite(tensors)

    def read_tensor(record: TensorRecord) -> torch.Tensor:
        return materialise({"": record}, source, file_size)[""]

    builder = HintBuilder(read_tensor)
    hints = builder.build(contents.others)
    return tensors, {**hints, "state_from": contents.state_from, "skipped": [*contents.skipped, *builder.skipped]}


def _read_safetensors(file: BinaryIO, head: bytes, size: int) -> Parts:
    header = int.from_bytes(head[:8], "little")
    if header > min(size - 8, _MAX_SAFETENSORS_HEADER):
        raise damaged(f"claims a safetensors header of {header} bytes in a file of {size}")
    try:
        with safetensors.safe_open(file.name, framework="pt") as opened:
            names = list(opened.keys())
            if not 0 < len(names) <= MAX_TENSORS:
                raise damaged(f"holds {len(names)} tensors, expected 1 to {MAX_TENSORS}")
            # The library maps the file; a copy does not change when the file does.
            tensors = {name: opened.get_tensor(name).clone() for name in names}
            metadata = opened.metadata() or {}
    except safetensors.SafetensorError as error:
        raise damaged(f"is no valid safetensors file ({shown(str(error))})") from None
    check_finite(tensors)
    return tensors, {"metadata": dict(metadata), "state_from": "safetensors", "skipped": []}
