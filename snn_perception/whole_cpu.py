"""The compiled steps of `whole_kernels` on tensors in main memory, by as many threads as torch uses."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from snn_perception.kernel_threads import in_threads
from snn_perception.neuron_cpu import chunks, flat, rows
from snn_perception.whole_kernels import numbers_of, whole_backward, whole_forward
from snn_perception.whole_steps import WholeRule


class CompiledWholeLoops:
    """One pass over the memory in each direction. The results do not depend on the number of threads."""

    def forward(self, rule: WholeRule, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return spikes and the last membrane."""
        spikes, after, currents = torch.empty_like(x), torch.empty_like(v), rows(x)
        numbers = numbers_of(rule.max_spikes, rule.decay, rule.gain, currents.dtype)
        in_threads(whole_forward(), chunks(v), 2, numbers, currents, flat(v), rows(spikes), flat(after))
        return spikes, after

    def backward(
        self, rule: WholeRule, x: Tensor, v: Tensor, g_spikes: Tensor, g_after: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients of the currents and of the first membrane."""
        g_x, g_v, currents = torch.empty_like(x), torch.empty_like(v), rows(x)
        numbers = numbers_of(rule.max_spikes, rule.decay, rule.gain, currents.dtype)
        nothing = np.empty(0, currents.dtype)
        given = rows(g_spikes.contiguous()), nothing if g_after is None else flat(g_after.contiguous())
        in_threads(whole_backward(), chunks(v), 2, numbers, currents, flat(v), *given, rows(g_x), flat(g_v))
        return g_x, g_v
