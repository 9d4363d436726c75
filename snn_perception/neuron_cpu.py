"""The compiled steps of `neuron_kernels` on tensors in main memory, by as many threads as torch uses."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn_perception.kernel_threads import in_threads
from snn_perception.neuron_kernels import CHUNK, Charge, Surrogate, backward_kernel, forward_kernel
from snn_perception.neuron_steps import StepRule

_CHARGES = {
    ("times", True): Charge.INPUT_TIMES,
    ("over", True): Charge.INPUT_OVER,
    ("times", False): Charge.PLAIN_TIMES,
    ("over", False): Charge.PLAIN_OVER,
}


class CompiledLoops:
    """One pass over the memory in each direction. The results do not depend on the number of threads."""

    def forward(self, rule: StepRule, factor: Tensor | float, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return spikes and the last membrane."""
        spikes, after, currents = torch.empty_like(x), torch.empty_like(v), rows(x)
        run = forward_kernel(_charge(rule), currents.dtype)
        numbers = map(currents.dtype.type, (float(factor), rule.v_threshold))
        in_threads(run, chunks(v), 2, currents, flat(v), rule.hard_reset, *numbers, rows(spikes), flat(after))
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
        g_x, g_v, currents = torch.empty_like(x), torch.empty_like(v) if needs_v else None, rows(x)
        surrogate = Surrogate[rule.surrogate.upper()]
        run, reset = backward_kernel(_charge(rule), surrogate, currents.dtype), (rule.hard_reset, rule.detach_reset)
        numbers = map(currents.dtype.type, (float(factor), rule.v_threshold, rule.alpha))
        nothing, g_factor = np.empty(0, currents.dtype), np.zeros(chunks(v))
        given = rows(g_spikes.contiguous()), nothing if g_after is None else flat(g_after.contiguous())
        wanted = rows(g_x), nothing if g_v is None else flat(g_v), g_factor
        in_threads(run, chunks(v), 2, currents, flat(v), *reset, *numbers, *given, *wanted)
        return g_x, g_v, torch.tensor(g_factor.sum(), dtype=x.dtype) if rule.leak == "times" else None


def _charge(rule: StepRule) -> Charge:
    return Charge.SUM if rule.leak == "none" else _CHARGES[rule.leak, rule.decay_input]


def rows(x: Tensor) -> np.ndarray[Any, Any]:
    """Return the memory of contiguous x [T, ...] as an array [T, N]."""
    return x.detach().view(len(x), -1).numpy()


def flat(x: Tensor) -> np.ndarray[Any, Any]:
    """Return the memory of a contiguous tensor as an array [N]."""
    return x.detach().view(-1).numpy()


def chunks(v: Tensor) -> int:
    """Return into how many pieces the kernels cut the work on a membrane."""
    return -(-v.numel() // CHUNK)
