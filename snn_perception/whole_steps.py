"""Steps of a neuron that fires whole numbers (I-LIF) in one pass, with the straight-through gradient worked out.

A step is ``u = decay * v + gain * x``, ``s = round(clamp(u, 0, max_spikes))`` (ties to even) and ``v' = u - s``. As
`neuron_steps` does for binary spikes, the gradient keeps currents and the first membrane alone and computes the rest
again. On a CPU both directions are compiled loops (`whole_kernels`); elsewhere they are few tensor operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from snn_perception.neuron_steps import has_kernels, in_memory_order

MOST_SPIKES = 1 << 20  # of one step, for which the rounding of the compiled loops holds in float32


@dataclass(frozen=True)
class WholeRule:
    """What a step does; see the module.

    Attributes:
        max_spikes: the most that one step fires, up to `MOST_SPIKES`. decay: of the membrane. gain: of the current.
    """

    max_spikes: int
    decay: float
    gain: float = 1.0


def fused_whole_steps(current: Tensor, v: Tensor, rule: WholeRule) -> tuple[Tensor, Tensor]:
    """Return spikes [T, B, ...], whole numbers, and the membrane [B, ...] after the last step of currents [T, B, ...].

    The gradient of a spike is 1 where ``0 <= u <= max_spikes`` and 0 elsewhere; its subtraction passes none. It has no
    gradient itself.

    Args:
        current, v: for which `can_fuse` holds.
    """
    return in_memory_order(current, v, lambda x, before: _Steps.apply(x, before, rule))  # type: ignore[no-untyped-call]


class WholeEngine(Protocol):
    """What computes contiguous steps on one kind of device, and their gradients."""

    def forward(self, rule: WholeRule, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return spikes [T, B, ...] and the last membrane [B, ...], in memory of their own."""
        ...

    def backward(
        self, rule: WholeRule, x: Tensor, v: Tensor, g_spikes: Tensor, g_after: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients of the currents and of the first membrane; no `g_after` stands for zeros."""
        ...


def whole_engine_for(device: torch.device) -> WholeEngine:
    """Return the engine of a device."""
    if device.type == "cpu":
        from snn_perception.whole_cpu import CompiledWholeLoops  # numba loads when the first neuron runs

        return CompiledWholeLoops()
    if has_kernels(device):
        from snn_perception.neuron_triton import TritonWholeSteps

        return TritonWholeSteps()
    return WholeTensorOperations()


class WholeTensorOperations:
    """Steps by tensor operations, on any device."""

    def forward(self, rule: WholeRule, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return spikes and the last membrane."""
        spikes = torch.empty_like(x)
        for t, x_t in enumerate(x):
            v = _advance(rule, x_t, v, spikes[t])[1]
        return spikes, v

    def backward(
        self, rule: WholeRule, x: Tensor, v: Tensor, g_spikes: Tensor, g_after: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients of the currents and of the first membrane."""
        inside, spikes = [], torch.empty_like(v)
        for x_t in x:
            u, v = _advance(rule, x_t, v, spikes)
            inside.append((u >= 0) & (u <= rule.max_spikes))
        g_x, g_v = torch.empty_like(x), g_after
        for t in range(len(x) - 1, -1, -1):
            g_u = g_spikes[t] * inside[t]
            g_u = g_u if g_v is None else g_u + g_v
            torch.mul(g_u, rule.gain, out=g_x[t])
            g_v = g_u * rule.decay
        assert g_v is not None
        return g_x, g_v


def _advance(rule: WholeRule, x: Tensor, v: Tensor, spikes: Tensor) -> tuple[Tensor, Tensor]:
    """Return u of one step and the membrane after it; write the spikes."""
    u = torch.add(x if rule.gain == 1.0 else x * rule.gain, v, alpha=rule.decay)
    torch.clamp(u, 0, rule.max_spikes, out=spikes)
    return u, u - spikes.round_()


class _Steps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, current: Tensor, v: Tensor, rule: WholeRule) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(current, v)
        ctx.rule = rule
        ctx.set_materialize_grads(False)
        return whole_engine_for(current.device).forward(rule, current, v)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, g_spikes: Tensor | None, g_after: Tensor | None) -> tuple[Tensor | None, ...]:
        current, v = ctx.saved_tensors
        g_spikes = torch.zeros_like(current) if g_spikes is None else g_spikes
        g_current, g_v = whole_engine_for(current.device).backward(ctx.rule, current, v, g_spikes, g_after)
        return g_current, g_v if ctx.needs_input_grad[1] else None, None
