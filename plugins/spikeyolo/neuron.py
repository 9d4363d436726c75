"""I-LIF, the integer leaky integrate-and-fire neuron (Luo et al., SpikeYOLO, ECCV 2024, sec. 3.3).

It fires a whole number of spikes at once, which a spiking machine unrolls into as many binary steps. The two published
source trees use two different neurons under this one name; which one weights were trained with cannot be seen from
their shapes, and the wrong one ruins them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from snn_perception.api import State, WholeRule, can_fuse, fused_whole_steps, membrane

MAX_SPIKES = 4  # the paper's D
FUSED_SPIKES = 1 << 20  # the most for which the fused step rounds as the plain one
# decay of the residue and whether the input is scaled by the rest, by the authors' source tree
COCO_LEAK: dict[str, Any] = {"decay": 0.25, "decay_input": False}
GEN1_LEAK: dict[str, Any] = {"decay": 0.5, "decay_input": True}  # a time constant of 2 steps


class ILIF(nn.Module):
    """Integer leaky integrate-and-fire neuron with soft reset.

    Per step ``u = decay * v + x``, or ``decay * v + (1 - decay) * x`` with `decay_input`; then
    ``s = round(clamp(u, 0, max_spikes))``, ties to even, and ``v = u - s``. Rest is 0. What exceeds `max_spikes` stays
    in the membrane, and so does what lies below 0. The gradient of `s` is 1 where ``0 <= u <= max_spikes`` and 0
    elsewhere; the subtraction passes none.

    Published are ``decay=0.25`` (COCO models, by default) and ``decay=0.5, decay_input=True`` (GEN1: a time constant of
    2 steps that halves the input too, so that a lone input must exceed 1 to fire).

    Args:
        max_spikes: the most that one step fires, the paper's D; with 1 the neuron is binary.
        decay: share of the membrane that is left one step later, in [0, 1).
        decay_input: whether the input is scaled by ``1 - decay``.
    """

    def __init__(self, *, max_spikes: int = MAX_SPIKES, decay: float = 0.25, decay_input: bool = False) -> None:
        super().__init__()
        if type(max_spikes) is not int or max_spikes < 1:
            raise ValueError(f"max_spikes must be a whole number from 1, got {max_spikes!r}")
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        self.max_spikes, self.decay = max_spikes, float(decay)
        self.gain = 1.0 - self.decay if decay_input else 1.0

    @property
    def whole_rule(self) -> WholeRule:
        """What one step does, for kernels."""
        return WholeRule(self.max_spikes, self.decay, self.gain)

    def forward(self, current: Tensor, v: State = None) -> tuple[Tensor, Tensor]:
        """Return spikes [T, B, ...], 0 to `max_spikes` in the input's dtype, and the membrane [B, ...] after them."""
        before = membrane(v, current)
        currents = current.to(before.dtype)
        # In evaluation a spike has no gradient; the fused step has that of training.
        may_fuse = self.training or not (torch.is_grad_enabled() and (currents.requires_grad or before.requires_grad))
        if may_fuse and self.max_spikes <= FUSED_SPIKES and can_fuse(currents, before):
            train, after = fused_whole_steps(currents, before, self.whole_rule)
        else:
            train, residue = self._plain_steps(currents, None if v is None else before)
            after = before if residue is None else residue
        return train.to(current.dtype), after

    def _plain_steps(self, currents: Tensor, residue: Tensor | None) -> tuple[Tensor, Tensor | None]:
        spikes = []
        for x in currents if self.gain == 1.0 else currents * self.gain:
            u = x if residue is None else torch.add(x, residue, alpha=self.decay)
            s = self._fire(u)
            residue = u - s.detach()
            spikes.append(s)
        return spikes[0].unsqueeze(0) if len(spikes) == 1 else torch.stack(spikes), residue

    def leak(self, v: Tensor, steps: int) -> Tensor:
        """Return what is left of a membrane after steps without input that do not fire."""
        return v * self.decay**steps

    def _fire(self, u: Tensor) -> Tensor:
        if self.training and u.requires_grad:
            return _Rounded.apply(u, float(self.max_spikes))  # type: ignore[no-any-return,no-untyped-call]
        return u.clamp(0, self.max_spikes).round()

    def extra_repr(self) -> str:
        """Return the options, for the module's printed form."""
        return f"max_spikes={self.max_spikes}, decay={self.decay}, gain={self.gain}"


class _Rounded(torch.autograd.Function):
    """``round(clamp(u, 0, limit))`` whose gradient is that of the clamp; of `u` one byte per element is kept."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, limit: float) -> Tensor:
        ctx.save_for_backward((u >= 0) & (u <= limit))
        return u.clamp(0, limit).round_()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors
        return g * inside, None
