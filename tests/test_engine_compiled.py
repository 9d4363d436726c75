"""The compiled step: the contract of engines, and a second start that compiles nothing."""

from functools import partial

import pytest

from snn_perception.engine.compiled import CompiledEngine, library_of
from snn_perception.engine.engines import Settings
from snn_perception.errors import ExportError
from tests.engine_support import (
    CHECKS,
    ST_VGG,
    STEPPED,
    assert_has_the_detectors_numbers,
    awake_preset,
    check_a_second_start_makes_nothing,
    oracle,
    tiny_detector,
)


@pytest.fixture(scope="module")
def tiny():
    return tiny_detector()


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return Settings(cache=tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="module")
def case(tiny, settings):
    detector, inputs = tiny
    return CompiledEngine(detector, settings), oracle(detector, inputs[0]), inputs


@pytest.mark.parametrize("check", CHECKS)
def test_it_keeps_the_contract(check, case):
    check(*case)


def test_a_second_start_compiles_nothing(tiny, settings, monkeypatch):
    detector, inputs = tiny
    making = "snn_perception.engine.compiled.compile_step"
    check_a_second_start_makes_nothing(partial(CompiledEngine, detector), settings, inputs, making, monkeypatch)


def test_a_damaged_library_is_deleted_and_said(tiny, settings, tmp_path):
    detector, _ = tiny
    name = library_of(detector, settings).name
    (tmp_path / name).write_bytes(b"PK\x03\x04 not a library")
    with pytest.raises(ExportError, match="it is deleted"):
        CompiledEngine(detector, Settings(cache=tmp_path))
    assert not (tmp_path / name).exists()


def test_without_a_compiler_it_says_what_to_install(tiny, tmp_path, monkeypatch):
    import torch._inductor.cpp_builder as builder
    from torch._inductor.exc import InvalidCxxCompiler

    def none():
        raise InvalidCxxCompiler

    monkeypatch.setattr(builder, "get_cpp_compiler", none)
    with pytest.raises(ExportError, match="install g"):
        CompiledEngine(tiny[0], Settings(cache=tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "options"), [ST_VGG, ("spikeyolo_s_gen1", {**STEPPED[0][1], "steps": 1})])
def test_families_have_the_detectors_numbers(preset, options, registry, tmp_path):
    detector, inputs = awake_preset(preset, options, registry)
    assert_has_the_detectors_numbers(CompiledEngine(detector, Settings(cache=tmp_path)), detector, inputs)
