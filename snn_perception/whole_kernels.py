"""One pass over the memory for the steps of a neuron that fires whole numbers, and one for their gradient (compiled).

As in `neuron_kernels` the arrays are flat, work is cut into chunks whatever the number of threads, and every operation
rounds as that of the formula on whole tensors, where ``decay * v + x`` rounds once (`torch.add` with ``alpha``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
from numba.core import types
from numba.extending import intrinsic

from snn_perception.events.jit import kernel
from snn_perception.neuron_kernels import BLOCK, CHUNK


@intrinsic  # type: ignore[untyped-decorator]
def _multiply_add(_context: Any, a: Any, b: Any, c: Any) -> Any:
    """Return ``a * b + c``, rounded once."""

    def build(_context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return (a(a, b, c), build) if isinstance(a, types.Float) and a == b == c else None


@numba.njit(nogil=True, error_model="numpy")
def _advance(numbers, x, v, spikes):  # type: ignore[no-untyped-def]
    """Advance v [n] by one step, in place."""
    zero, limit, shift, decay, gain = numbers
    for i in range(len(v)):
        u: Any = _multiply_add(v[i], decay, x[i] * gain)  # type: ignore[call-arg]  # the context is the compiler's
        s = zero if u < zero else u  # nan stays
        s = limit if s > limit else s
        s = (s + shift) - shift  # the nearest whole number, ties to even: what lies below does not fit
        spikes[i] = s
        v[i] = u - s


@numba.njit(nogil=True, error_model="numpy")
def _step_back(numbers, x, v, g_s, g_v, g_x):  # type: ignore[no-untyped-def]
    """Write the gradient of x, and take `g_v` back by one step, in place."""
    zero, limit, _, decay, gain = numbers
    for i in range(len(v)):
        u: Any = _multiply_add(v[i], decay, x[i] * gain)  # type: ignore[call-arg]
        g_u = g_v[i] + (g_s[i] if (u >= zero and u <= limit) else zero)
        g_x[i] = g_u * gain
        g_v[i] = g_u * decay


def numbers_of(max_spikes: int, decay: float, gain: float, dtype: np.dtype[Any]) -> tuple[Any, ...]:
    """Return what the kernels compute with, all of one type."""
    fraction = 23 if dtype == np.float32 else 52
    return tuple(map(dtype.type, (0.0, max_spikes, 1.5 * 2.0**fraction, decay, gain)))


@cache
def whole_forward() -> Callable[..., None]:
    """Return ``run(first, last, numbers, x, v, spikes, after)`` for chunks `first` to `last` - 1.

    Writes spikes [T, N] and the membrane after the last step [N] of currents x [T, N] and a membrane v [N].
    """

    @kernel
    def forward(first, last, numbers, x, v, spikes, after):  # type: ignore[no-untyped-def]
        for begin in range(first * CHUNK, min(last * CHUNK, len(v)), BLOCK):
            end = min(begin + BLOCK, len(v))
            after[begin:end] = v[begin:end]
            for t in range(len(x)):
                _advance(numbers, x[t, begin:end], after[begin:end], spikes[t, begin:end])

    return forward


@cache
def whole_backward() -> Callable[..., None]:
    """Return ``run(first, last, numbers, x, v, g_spikes, g_after, g_x, g_v)``.

    From the gradients of the spikes [T, N] and of the last membrane [N], empty for zeros, it writes those of the
    currents [T, N] and of the first membrane [N].
    """

    @kernel
    def backward(first, last, numbers, x, v, g_spikes, g_after, g_x, g_v):  # type: ignore[no-untyped-def]
        before = np.empty((len(x), BLOCK), v.dtype)  # the membrane that each step finds
        unused = np.empty(BLOCK, v.dtype)
        for begin in range(first * CHUNK, min(last * CHUNK, len(v)), BLOCK):
            end = min(begin + BLOCK, len(v))
            n = end - begin
            before[0, :n] = v[begin:end]
            for t in range(len(x) - 1):
                before[t + 1, :n] = before[t, :n]
                _advance(numbers, x[t, begin:end], before[t + 1, :n], unused[:n])
            if len(g_after):
                g_v[begin:end] = g_after[begin:end]
            else:
                g_v[begin:end] = 0
            for t in range(len(x) - 1, -1, -1):
                _step_back(
                    numbers, x[t, begin:end], before[t, :n], g_spikes[t, begin:end], g_v[begin:end], g_x[t, begin:end]
                )

    return backward
