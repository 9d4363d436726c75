"""The trained weights that come with this package, by name.

Each is ``NAME.safetensors`` with a card about it, ``NAME.md``, and what it must give on a known drive,
``NAME.expected.json``, which `doctor` compares with.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from snn_perception.errors import CheckpointError

FOLDER = Path(__file__).resolve().parent / "weights"
_WEIGHTS, _CARD, _EXPECTED = ".safetensors", ".md", ".expected.json"


def shipped() -> tuple[str, ...]:
    """Return the names of the weights that come with this package, sorted; none where the folder is empty."""
    return tuple(sorted(path.stem for path in FOLDER.glob(f"*{_WEIGHTS}") if not path.name.startswith(".")))


def shipped_path(name: str) -> Path:
    """Return the checkpoint of shipped weights.

    Raises:
        CheckpointError: if there are none of that name, with those there are.
    """
    if name in shipped():
        return FOLDER / f"{name}{_WEIGHTS}"
    close = difflib.get_close_matches(name, shipped(), n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    raise CheckpointError(f"no weights '{name}' come with this package{hint}; {told()}")


def card_path(name: str) -> Path:
    """Return where the model card of shipped weights is."""
    return FOLDER / f"{name}{_CARD}"


def expected_path(name: str) -> Path:
    """Return where the results are that shipped weights gave when they were released."""
    return FOLDER / f"{name}{_EXPECTED}"


def find_checkpoint(text: str) -> Path | None:
    """Return the checkpoint that a user names: a path, or else shipped weights; None for any other bare name."""
    path = Path(text).expanduser()
    if path.suffix or path.is_file() or len(path.parts) > 1:
        return path
    return shipped_path(text) if text in shipped() else None


def checkpoint_path(text: str) -> Path:
    """Return the checkpoint that a user names: a path, which may lead nowhere, or else shipped weights.

    Raises:
        CheckpointError: for a bare name that no shipped weights have.
    """
    return find_checkpoint(text) or shipped_path(text)


def told() -> str:
    """Return in words which weights are shipped."""
    return f"shipped: {', '.join(shipped())}" if shipped() else "this version ships none"
