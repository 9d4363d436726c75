"""The fused steps of both kinds of neuron as Triton kernels: one pass over a GPU's memory in each direction.

Every neuron's membrane stays in a register from step to step. Products and sums round as those of torch do: nothing is
contracted, and divisions are exact. A program takes `BLOCK` neurons, so that sums do not depend on the device.

The kernels are checked against the plain operations when a process first uses them (`trusted`); where that fails, the
operations stand in.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import torch
from torch import Tensor

from snn_perception.neuron_steps import StepRule, TensorOperations
from snn_perception.whole_steps import WholeRule, WholeTensorOperations

BLOCK = 1024
_CHARGES = {("times", True): 1, ("over", True): 2, ("times", False): 3, ("over", False): 4}

log = logging.getLogger(__name__)


class TritonSteps(TensorOperations):
    """One launch forward and one back, in float32; other types take the tensor operations."""

    def forward(self, rule: StepRule, factor: Tensor | float, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return spikes and the last membrane."""
        if x.dtype != torch.float32:
            return super().forward(rule, factor, x, v)
        spikes, after = torch.empty_like(x), torch.empty_like(v)
        numbers = _numbers(rule, factor, v)
        _launch(_kernels().forward, v, x, v, spikes, after, *numbers)
        return spikes, after

    def backward(
        self,
        rule: StepRule,
        factor: Tensor | float,
        x: Tensor,
        v: Tensor,
        g_spikes: Tensor,
        g_after: Tensor | None,
        needs_v: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the gradients of the currents, of the first membrane and of the leak."""
        if x.dtype != torch.float32:
            return super().backward(rule, factor, x, v, g_spikes, g_after, needs_v)
        g_x, g_v, before = torch.empty_like(x), torch.empty_like(v), torch.empty_like(x)
        sums = torch.empty(_programs(v), device=x.device)
        given = g_spikes.contiguous(), v if g_after is None else g_after.contiguous()
        flags = {"HAS_AFTER": g_after is not None, "DETACH": rule.detach_reset, "SIGMOID": rule.surrogate == "sigmoid"}
        tensors = x, v, before, *given, g_x, g_v, sums
        _launch(_kernels().backward, v, *tensors, float(rule.alpha), *_numbers(rule, factor, v), **flags)
        learns = rule.leak == "times"
        return g_x, g_v if needs_v else None, sums.sum(dtype=torch.float64).to(x.dtype) if learns else None


class TritonWholeSteps(WholeTensorOperations):
    """The same for whole numbers."""

    def forward(self, rule: WholeRule, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return spikes and the last membrane."""
        if x.dtype != torch.float32:
            return super().forward(rule, x, v)
        spikes, after = torch.empty_like(x), torch.empty_like(v)
        _launch(_kernels().whole_forward, v, x, v, spikes, after, *_whole_numbers(rule, x))
        return spikes, after

    def backward(
        self, rule: WholeRule, x: Tensor, v: Tensor, g_spikes: Tensor, g_after: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients of the currents and of the first membrane."""
        if x.dtype != torch.float32:
            return super().backward(rule, x, v, g_spikes, g_after)
        g_x, g_v, before = torch.empty_like(x), torch.empty_like(v), torch.empty_like(x)
        given = g_spikes.contiguous(), v if g_after is None else g_after.contiguous()
        tensors = x, v, before, *given, g_x, g_v
        _launch(_kernels().whole_backward, v, *tensors, *_whole_numbers(rule, x), HAS_AFTER=g_after is not None)
        return g_x, g_v


def trusted(device: torch.device) -> bool:
    """Return whether the kernels give the operations' numbers on a device, tried now; if not, the log says where."""
    try:
        wrong = next((name for name, same in _trials(device) if not same), None)
    except Exception as error:  # whatever a compiler meets on an unknown device
        wrong = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error).strip() else ''}"
    if wrong is not None:
        log.warning("Triton kernels are not used on %s: %s; plain operations run instead", device, wrong)
    return wrong is None


def _trials(device: torch.device) -> Any:
    """Yield (what was tried, whether kernel and operations agree) on currents that make many neurons fire."""
    generator = torch.Generator().manual_seed(0)
    x, g = (torch.randn(3, BLOCK + 7, generator=generator).to(device) * 1.5 + 0.5 for _ in range(2))
    v, factor = x[0] * 0.3, torch.tensor(0.4, device=device)
    for rule in (
        StepRule("times", True, 1.0, True, True, "sigmoid", 4.0),
        StepRule("over", False, 1.0, False, False, "atan", 2.0),
    ):
        leak = factor if rule.leak == "times" else 2.5
        one, other = (
            (*engine.forward(rule, leak, x, v), *engine.backward(rule, leak, x, v, g, v, True))
            for engine in (TritonSteps(), TensorOperations())
        )
        yield f"steps '{rule.leak}'", _agree(one, other)
    whole = WholeRule(4, 0.25)
    whole_one, whole_other = (
        (*engine.forward(whole, x, v), *engine.backward(whole, x, v, g, v))
        for engine in (TritonWholeSteps(), WholeTensorOperations())
    )
    yield "whole numbers", _agree(whole_one, whole_other)


def _agree(found: tuple[Any, ...], expected: tuple[Any, ...]) -> bool:
    """Return whether spikes and membranes have the same bits, and gradients, which come after them, are close."""
    same = all(torch.equal(a, b) for a, b in zip(found[:2], expected[:2], strict=True))
    pairs = [(a, b) for a, b in zip(found[2:], expected[2:], strict=True) if b is not None]
    return same and all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in pairs)


def _programs(v: Tensor) -> int:
    return -(-v.numel() // BLOCK)


def _launch(kernel: Any, v: Tensor, *arguments: Any, **flags: Any) -> None:
    steps = len(arguments[0])
    constants = {"BLOCK": BLOCK, "num_warps": 4, "enable_fp_fusion": False, **flags}
    on = torch.cuda.device(v.device) if v.device.type == "cuda" else torch.no_grad()
    with on:
        kernel[(_programs(v),)](*arguments, steps=steps, n=v.numel(), **constants)


def _numbers(rule: StepRule, factor: Tensor | float, v: Tensor) -> tuple[Any, ...]:
    """Return the leak, where it is learnt and as a number, the threshold, and what is fixed for a kernel."""
    learnt = isinstance(factor, Tensor)
    charge = 0 if rule.leak == "none" else _CHARGES[rule.leak, rule.decay_input]
    leak = (factor, 1.0) if learnt else (v, float(factor))
    return (*leak, float(rule.v_threshold), charge, learnt, rule.hard_reset)


def _whole_numbers(rule: WholeRule, x: Tensor) -> tuple[float, float, float]:
    return float(rule.max_spikes), float(rule.decay), float(rule.gain)


@cache
def _kernels() -> Any:
    """Return the compiled functions; Triton is imported when the first neuron runs on a GPU."""
    from snn_perception import triton_kernels

    return triton_kernels
