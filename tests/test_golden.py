"""Every golden vector of the authors' models, one test each: ``<family>/<file stem>``."""

from pathlib import Path

import pytest

from snn_perception.errors import SnnPerceptionError
from tests.golden_support.kinds import AWAITED, kind_of
from tests.golden_support.vectors import Vector, find_vectors, golden_dir


def _parameter(path: Path):
    awaited = AWAITED.get(_needs(path))
    mark = pytest.mark.xfail(strict=True, raises=(SnnPerceptionError, ImportError), reason=f"not there yet: {awaited}")
    return pytest.param(path, id=f"{path.parent.name}/{path.stem}", marks=[mark] if awaited else [])


def _needs(path: Path) -> str:
    try:
        vector = Vector(path)
        return kind_of(vector).needs(vector)
    except Exception:  # whatever is wrong with a vector is for its own test to say, not for the collection
        return ""


def test_there_are_vectors():
    families = {path.parent.name for path in find_vectors()}
    assert families, f"no golden vectors under {golden_dir()}"


@pytest.mark.parametrize("path", [_parameter(path) for path in find_vectors()])
def test_golden(path, registry):
    vector = Vector(path)
    kind_of(vector).check(vector, registry)
    assert not vector.unaccounted(), f"{vector}: arrays that nobody compared: {vector.unaccounted()}"
