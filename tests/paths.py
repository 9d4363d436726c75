"""Where test data lies."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def recordings_dir() -> Path:
    """Return the folder of real recordings, which are not part of this repository; it may not exist."""
    return Path(os.environ.get("SNN_RECORDINGS_DIR", ROOT.parent / "shared" / "recordings"))


def recording_path(name: str) -> Path:
    """Return the path of a real recording, or skip the test where there is none."""
    path = recordings_dir() / name
    if not path.exists():
        pytest.skip(f"no recording {name} in {recordings_dir()}; set SNN_RECORDINGS_DIR to a folder that holds it")
    return path
