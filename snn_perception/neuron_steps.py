"""Steps of an integrate-and-fire neuron in one pass, with the gradient worked out, for training and evaluation.

The plain formula runs some ten tensor operations a step and keeps the results of most of them for the gradient. Here
a step reads the current and the membrane once, and keeps these two alone: the gradient computes the rest again. On a
CPU both directions are compiled loops (`neuron_cpu`) with the bits of the plain formula; elsewhere they are few tensor
operations. What is traced or exported takes the plain formula: see `fusing`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class StepRule:
    """A step ``h = charge(v, x)``, ``s = [h >= v_threshold]``, ``v' = h - s * h`` (hard) or ``h - s * v_threshold``.

    Attributes:
        leak: ``times`` a factor `a` that may be learnt, ``over`` a time constant `tau`, or ``none``.
        decay_input: whether the leak also scales the input: ``h = v + (x - v) * a``, else ``h = v - v * a + x``; with
            ``over``, ``/ tau`` stands for ``* a``. Without a leak ``h = v + x``.
        v_threshold: fires at and above it.
        hard_reset: to 0, else by subtraction of the threshold.
        detach_reset: whether the reset passes no gradient to the spike.
        surrogate: whose gradient stands in for that of the step: ``sigmoid(alpha * u)``, or
            ``atan(pi / 2 * alpha * u) / pi + 1 / 2``, with ``u = h - v_threshold``.
        alpha: its steepness.
    """

    leak: Literal["none", "times", "over"]
    decay_input: bool
    v_threshold: float
    hard_reset: bool
    detach_reset: bool
    surrogate: str
    alpha: float

    def charge(self, v: Tensor, x: Tensor, factor: Tensor | float) -> Tensor:
        """Return the membrane before firing."""
        if self.leak == "none":
            return v + x
        if self.leak == "times":
            return v + (x - v) * factor if self.decay_input else v - v * factor + x
        return v + (x - v) / factor if self.decay_input else v - v / factor + x


def fused_steps(current: Tensor, v: Tensor, rule: StepRule, factor: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """Return spikes [T, B, ...] and the membrane [B, ...] after the last step of currents [T, B, ...].

    The gradient is that of training, through the surrogate; it has no gradient itself.

    Args:
        current, v: for which `can_fuse` holds.
        rule: of the steps.
        factor: of the leak: a scalar tensor of the membrane's dtype that may need a gradient, or a float.
    """
    return in_memory_order(current, v, lambda x, before: _Steps.apply(x, before, factor, rule))  # type: ignore[no-untyped-call]


def in_memory_order(
    current: Tensor, v: Tensor, run: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Return what `run` gives for contiguous currents [T, B, ...] and membrane [B, ...], in the order that these had.

    Memory in the order of channels_last goes through as it lies; neurons do not know their neighbours.
    """
    # Looked at step by step: the same current at every step is one image in memory, repeated by a stride of 0.
    channels_last = current.dim() == 5 and not current.is_contiguous() and current[0].movedim(1, -1).is_contiguous()
    if channels_last:
        current, v = current.movedim(2, -1), v.movedim(1, -1)
    spikes, after = run(current.contiguous(), v.contiguous())
    return (spikes.movedim(-1, 2), after.movedim(-1, 1)) if channels_last else (spikes, after)


class Engine(Protocol):
    """What computes contiguous steps on one kind of device, and their gradients."""

    def forward(self, rule: StepRule, factor: Tensor | float, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return spikes [T, B, ...] and the last membrane [B, ...], in memory of their own."""
        ...

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
        """Return the gradients of the currents [T, B, ...], of the first membrane [B, ...] and of the leak, a scalar.

        The second is None unless `needs_v`, the third None unless the leak is a factor (``times``). No `g_after`
        stands for zeros.
        """
        ...


def engine_for(device: torch.device) -> Engine:
    """Return the engine of a device: compiled loops on the CPU, Triton's kernels on a GPU where they can be used."""
    if device.type == "cpu":
        from snn_perception.neuron_cpu import CompiledLoops  # numba loads when the first neuron runs

        return CompiledLoops()
    if has_kernels(device):
        from snn_perception.neuron_triton import TritonSteps

        return TritonSteps()
    return TensorOperations()


@cache
def has_kernels(device: torch.device) -> bool:
    """Return whether Triton's kernels can be used on a device: a GPU on which they give the operations' numbers."""
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    from snn_perception.neuron_triton import trusted

    return trusted(device)


class TensorOperations:
    """Steps by tensor operations, on any device; nothing waits for the device."""

    def forward(self, rule: StepRule, factor: Tensor | float, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return spikes and the last membrane."""
        spikes = []
        for x_t in x:
            s, v = _advance(rule, factor, x_t, v)
            spikes.append(s)
        return spikes[0].unsqueeze(0) if len(spikes) == 1 else torch.stack(spikes), v

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
        before = [v]
        for x_t in x[:-1]:
            before.append(_advance(rule, factor, x_t, before[-1])[1])
        g_x, g_leak = torch.empty_like(x), torch.zeros((), dtype=x.dtype, device=x.device)
        g_v = g_after
        for t in range(len(x) - 1, -1, -1):
            h = rule.charge(before[t], x[t], factor)
            g_h = _through_spike(rule, h, g_spikes[t], g_v)
            g_x[t] = g_h
            g_v = g_h
            if rule.leak != "none":
                leaked = g_h * factor if rule.leak == "times" else g_h / factor
                g_v = g_h - leaked
                if rule.decay_input:
                    g_x[t] = leaked
            if rule.leak == "times":
                g_leak += (g_h * (x[t] - before[t] if rule.decay_input else -before[t])).sum()
        return g_x, g_v if needs_v else None, g_leak if rule.leak == "times" else None


def _advance(rule: StepRule, factor: Tensor | float, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return the spikes of one step and the membrane after it."""
    h = rule.charge(v, x, factor)
    s = (h >= rule.v_threshold).to(h.dtype)
    return s, h - s * (h if rule.hard_reset else rule.v_threshold)


def _through_spike(rule: StepRule, h: Tensor, g_spikes: Tensor, g_after: Tensor | None) -> Tensor:
    """Return the gradient of the membrane before firing, from those of the spikes and of the membrane after."""
    u = h - rule.v_threshold
    if rule.surrogate == "sigmoid":
        slope = u.mul(rule.alpha).sigmoid_()
        slope = (1 - slope).mul_(slope).mul_(rule.alpha)
    else:
        slope = u.mul(math.pi / 2 * rule.alpha).square_().add_(1).reciprocal_().mul_(rule.alpha / 2)
    g_h = g_spikes * slope
    if g_after is None:
        return g_h
    kept: Tensor | int = (u < 0).to(h.dtype) if rule.hard_reset else 1
    if not rule.detach_reset:
        kept = kept - slope * (h if rule.hard_reset else rule.v_threshold)
    return g_h.add_(g_after * kept)


class _Steps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, current: Tensor, v: Tensor, factor: Tensor | float, rule: StepRule) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(current, v, factor if isinstance(factor, Tensor) else None)
        ctx.rule, ctx.number = rule, None if isinstance(factor, Tensor) else factor
        ctx.set_materialize_grads(False)
        return engine_for(current.device).forward(rule, factor, current, v)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, g_spikes: Tensor | None, g_after: Tensor | None) -> tuple[Tensor | None, ...]:
        current, v, leak = ctx.saved_tensors
        factor = ctx.number if leak is None else leak
        g_spikes = torch.zeros_like(current) if g_spikes is None else g_spikes
        needs_v = ctx.needs_input_grad[1]
        g_current, g_v, g_leak = engine_for(current.device).backward(
            ctx.rule, factor, current, v, g_spikes, g_after, needs_v
        )
        return g_current, g_v, g_leak if leak is not None else None, None
