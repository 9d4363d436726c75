"""Golden vectors: what a recipe (JSON) and its numbers (NPZ) hold, and what has been compared so far."""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import os
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from tests.paths import ROOT

# Arrays that are not compared: name pattern -> reason.
EXCLUDED = {
    "quirk_*": "class-agnostic suppression of the reference's fused inference path, which is an error there",
}
TOLERANCE = {"float64": 1e-9, "float32": 1e-5}  # absolute below 1, relative above


class Vector:
    """One golden vector. Every array must be read as an input, compared, or excluded: see `unaccounted`."""

    def __init__(self, path: Path) -> None:
        self.path, self.json = path, json.loads(path.read_text())
        with np.load(path.with_suffix(".npz")) as stored:
            self.arrays = {name: stored[name] for name in stored.files}
        self._seen: set[str] = set()

    def __str__(self) -> str:
        return f"{self.path.parent.name}/{self.path.stem}"

    def input(self, name: str) -> np.ndarray:
        """Return an array that the test feeds in rather than compares."""
        self._seen.add(name)
        return self.arrays[name]

    def sibling(self, key: str) -> Vector:
        """Return the vector that this one's recipe names under `key`."""
        return Vector(self.path.with_name(self.json[key]))

    def compare(self, name: str, actual: Any) -> None:
        """Assert that an array equals `actual`: integers exactly, floats within their dtype's tolerance."""
        self._seen.add(name)
        self._close(name, self.arrays[name], actual)

    def compare_value(self, actual: Any, *keys: Any) -> None:
        """Assert the same of a value of the recipe, found by `keys`."""
        expected = self.json
        for key in keys:
            expected = expected[key]
        self._close("/".join(map(str, keys)), np.asarray(expected), actual)

    def unaccounted(self) -> list[str]:
        """Return the arrays that were neither read nor compared and are not excluded."""
        names = [name for name in self.arrays if not any(fnmatch.fnmatch(name, pattern) for pattern in EXCLUDED)]
        return sorted(set(names) - self._seen)

    def _close(self, name: str, expected: np.ndarray, actual: Any) -> None:
        actual = actual.detach().numpy() if isinstance(actual, torch.Tensor) else np.asarray(actual)
        where = f"{self}: {name}"
        assert actual.shape == expected.shape, f"{where}: expected shape {expected.shape}, got {actual.shape}"
        if expected.dtype.kind in "iub":
            np.testing.assert_array_equal(actual, expected, err_msg=where)
            return
        limit = TOLERANCE[expected.dtype.name] * np.maximum(1.0, np.abs(expected))
        off = np.abs(actual.astype(np.float64) - expected)
        worst = np.unravel_index(np.argmax(off / limit), off.shape) if off.size else ()
        assert (off <= limit).all(), (
            f"{where}{list(map(int, worst))}: expected {expected[worst]}, got {actual[worst]}; "
            f"{(~(off <= limit)).sum()} of {off.size} differ"
        )


def golden_dir() -> Path:
    """Return the folder of golden vectors, one subfolder for each family."""
    return Path(os.environ.get("SNN_GOLDEN_DIR", ROOT / "tests" / "golden"))


def find_vectors() -> list[Path]:
    """Return every recipe under the folder."""
    return sorted(golden_dir().glob("*/*.json"))


@lru_cache(maxsize=1)
def golden_fill() -> ModuleType:
    """Return the given module with the fill rule of weights and inputs."""
    path = ROOT / "tests" / "golden" / "golden_fill.py"
    spec = importlib.util.spec_from_file_location("golden_fill", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def filled_state(vector: Vector) -> dict[str, torch.Tensor]:
    """Return the authors' state_dict of a model vector: the fill rule, kernels times the weight gain."""
    fill, gain = golden_fill().fill, vector.json["weight_gain"]
    state = {}
    for name, shape, dtype in vector.json["state"]:
        value = fill(name, tuple(shape)) * (gain if len(shape) >= 2 else 1)
        state[name] = torch.from_numpy(np.asarray(value)).to(getattr(torch, dtype))
    return state


def event_counts(seed: int, shape: list[int]) -> torch.Tensor:
    """Return the input window with this seed, as one time step [1, B, C, H, W]."""
    return torch.from_numpy(golden_fill().events(seed=seed, shape=tuple(shape)))[None]
