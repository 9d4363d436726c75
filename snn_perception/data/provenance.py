"""Where a data set comes from: synthetic recordings must never pass for real ones, in no report and no checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from snn_perception.errors import EventDataError

MANIFEST_NAME = "manifest.json"
_PREFIX = "synthetic-"
_LEVELS = 4  # a recording lies in its split's folder, which lies in the set's


def synthetic_version(root: str | Path) -> str | None:
    """Return the generator of a synthetic set, such as ``synthetic-gen1/1``; None for data that is not synthetic.

    Args:
        root: the folder of a set, of one of its splits, or one of its files.

    Raises:
        EventDataError: for the manifest of a synthetic set that is damaged.
    """
    place = Path(root).absolute()
    for folder in (place, *place.parents)[:_LEVELS]:
        path = folder / MANIFEST_NAME
        if path.is_file():
            version = _generator_in(path)
            if version is not None:
                return version
    return None


def _generator_in(path: Path) -> str | None:
    """Return what a manifest says, None if it is somebody else's file of that name."""
    try:
        text = path.read_text("utf-8", errors="replace")
    except OSError as error:
        raise EventDataError(f"{path}: cannot be read: {error.strerror or error}; check its permissions") from error
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        if f'"{_PREFIX}' not in text:
            return None
        raise EventDataError(
            f"{path}: expected the manifest of a synthetic set, got damaged JSON ({error}); make the set again"
        ) from error
    generator = content.get("generator") if isinstance(content, dict) else None
    return generator if isinstance(generator, str) and generator.startswith(_PREFIX) else None
