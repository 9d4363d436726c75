"""Triton's kernels give the tensor operations' bits and gradients: in its interpreter, and on a GPU."""

import itertools
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from snn_perception import neuron_triton
from snn_perception.neuron_steps import StepRule, TensorOperations, engine_for
from snn_perception.neuron_triton import BLOCK, TritonSteps, TritonWholeSteps, trusted
from snn_perception.whole_steps import WholeRule, WholeTensorOperations, whole_engine_for
from tests.paths import ROOT

HAS_TRITON = find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.mark.skipif(not HAS_TRITON or INTERPRETED, reason="Triton is not installed")
def test_the_kernels_in_the_interpreter():
    """It is chosen when Triton is imported, so that it needs a process of its own."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__).relative_to(ROOT))]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    child = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert child.returncode == 0, child.stdout + child.stderr
    assert " passed" in child.stdout


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 1.5 + 0.5


def agree(found, expected):
    """Assert the same bits of spikes and membrane, and gradients that differ by rounding alone."""
    for one, other in zip(found[:2], expected[:2], strict=True):
        assert torch.equal(one, other)
    for one, other in zip(found[2:], expected[2:], strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert other.any()
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


RULES = [
    StepRule(leak, decay, 1.1, hard, detach, surrogate, 3.0)
    for (leak, decay), hard, detach, surrogate in itertools.product(
        [("times", True), ("times", False), ("over", True), ("over", False), ("none", False)],
        [True, False],
        [True, False],
        ["sigmoid", "atan"],
    )
]


class TestInTheInterpreter:
    """Collected in the process of `test_the_kernels_in_the_interpreter` alone."""

    __test__ = HAS_TRITON and INTERPRETED

    @pytest.mark.parametrize("rule", RULES, ids=str)
    def test_steps(self, rule):
        size = BLOCK // 2 + 5
        x, v, g = numbers(3, 2, size), numbers(2, size, seed=1) * 0.5, numbers(3, 2, size, seed=2)
        factor = torch.tensor(0.4) if rule.leak == "times" else 2.5
        found, expected = (
            (*engine.forward(rule, factor, x, v), *engine.backward(rule, factor, x, v, g, v, True))
            for engine in (TritonSteps(), TensorOperations())
        )
        assert 0.05 < expected[0].mean() < 0.9
        agree(found, expected)
        engines = TritonSteps(), TensorOperations()
        without, plain = (engine.backward(rule, factor, x, v, g, None, False) for engine in engines)
        assert without[1] is None and torch.allclose(without[0], plain[0], rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("rule", [WholeRule(4, 0.25), WholeRule(4, 0.5, 0.5), WholeRule(1, 0.5)], ids=str)
    @pytest.mark.parametrize("size", [1, BLOCK, BLOCK + 3])
    def test_whole_numbers(self, rule, size):
        x, v, g = numbers(4, size) * 2, numbers(size, seed=1), numbers(4, size, seed=2)
        for g_after in (v, None):
            found, expected = (
                (*engine.forward(rule, x, v), *engine.backward(rule, x, v, g, g_after))
                for engine in (TritonWholeSteps(), WholeTensorOperations())
            )
            assert expected[0].max() >= 1
            for one, other in zip(found, expected, strict=True):
                assert torch.equal(one, other), "powers of two leave nothing to round"

    def test_ties_go_to_even(self):
        x = torch.tensor([[-3.0, -0.5, 0.5, 1.5, 2.5, 3.5, 4.5, 100.0, float("inf")]])
        spikes, _ = TritonWholeSteps().forward(WholeRule(4, 0.25), x, torch.zeros(9))
        assert spikes.tolist() == [[0, 0, 0, 2, 2, 4, 4, 4, 4]]

    def test_double_precision_takes_the_operations(self):
        rule, x, v = RULES[0], numbers(3, 40).double(), numbers(40, seed=1).double()
        factor = torch.tensor(0.4, dtype=torch.float64)
        spikes, after = TritonSteps().forward(rule, factor, x, v)
        expected = TensorOperations().forward(rule, factor, x, v)
        assert torch.equal(spikes, expected[0]) and torch.equal(after, expected[1]) and after.dtype == torch.float64

    def test_kernels_that_agree_are_trusted_and_others_are_not(self, monkeypatch, caplog):
        assert trusted(torch.device("cpu"))
        monkeypatch.setattr(neuron_triton, "_whole_numbers", lambda rule, x: (3.0, rule.decay, rule.gain))
        assert not trusted(torch.device("cpu"))
        assert "whole numbers; plain operations run instead" in caplog.text

    def test_kernels_that_do_not_compile_are_not_trusted(self, monkeypatch, caplog):
        def broken():
            raise RuntimeError("no such instruction")

        monkeypatch.setattr(neuron_triton, "_kernels", broken)
        assert not trusted(torch.device("cpu"))
        assert "RuntimeError: no such instruction" in caplog.text


@pytest.mark.gpu
def test_on_a_gpu_the_kernels_are_used():
    device = torch.device("cuda", 0)
    assert trusted(device)
    assert isinstance(engine_for(device), TritonSteps) and isinstance(whole_engine_for(device), TritonWholeSteps)
