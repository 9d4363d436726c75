"""Where exported and compiled steps are kept, so that a start-up finds them made.

A name in the cache holds everything on which the content depends: the detector's weights and options, the form that was
made of it, the versions of the software, and the processor or GPU. Nothing is ever found that does not fit; what is no
longer used can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from snn_perception.errors import SnnPerceptionError

VARIABLE = "SNN_PERCEPTION_CACHE"
_LENGTH = 24  # hex digits of a name


def cache_folder(chosen: Path | None = None) -> Path:
    """Return the folder, made if it is not there: `chosen`, ``$SNN_PERCEPTION_CACHE``, or the user's cache.

    Raises:
        SnnPerceptionError: if it cannot be made.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = chosen or Path(os.environ.get(VARIABLE) or Path(base) / "snn_perception" / "engines")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SnnPerceptionError(
            f"{folder}: the cache of engines cannot be made: {error.strerror}; set {VARIABLE} to a writable folder"
        ) from error
    return folder


def cache_name(weights: str, form: str, packages: tuple[str, ...], device: str, **more: object) -> str:
    """Return the name of something made of weights: letters and digits.

    Args:
        weights: digest of the detector. form: what was made, such as ``onnx``.
        packages: whose versions it depends on. device: on which, see `processor`.
        more: whatever else changes it.
    """
    key: Mapping[str, object] = {
        "weights": weights,
        "form": form,
        "versions": {name: installed_version(name) for name in packages},
        "device": device,
        **more,
    }
    return hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:_LENGTH]


def installed_version(package: str) -> str:
    """Return the version of an installed package, '' if it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def processor() -> str:
    """Return what tells this machine's processor from another: its name and its instructions, where Linux says."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    first = text.split("\n\n", maxsplit=1)[0].splitlines()
    return " ".join(line.partition(":")[2].strip() for line in first if line.startswith(wanted)) or platform.machine()
