"""One pass over the memory for a step of an integrate-and-fire neuron, and one for its gradient (CPU, compiled).

A step charges the membrane, ``h = charge(v, x)``, fires ``s = [h >= threshold]`` and resets: ``v' = h - s * h`` (hard)
or ``v' = h - s * threshold`` (soft). The arrays are flat, ``x [T, N]`` and ``v [N]``; every operation rounds once, in
the order written here, so that a step has the bits of the same formula on whole tensors. Work is cut into chunks of
`CHUNK` neurons whatever the number of threads, sums over neurons included: results do not depend on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import IntEnum
from functools import cache
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from snn_perception.events.jit import kernel

BLOCK = 1024  # neurons whose numbers stay in the fastest cache from step to step
CHUNK = 64 * BLOCK  # neurons that one thread takes at a time


class Charge(IntEnum):
    """How a membrane charges, with the leak ``a`` or the time constant ``tau`` as factor."""

    SUM = 0  # v + x
    INPUT_TIMES = 1  # v + (x - v) * a
    INPUT_OVER = 2  # v + (x - v) / tau
    PLAIN_TIMES = 3  # v - v * a + x
    PLAIN_OVER = 4  # v - v / tau + x


class Surrogate(IntEnum):
    """The function whose gradient stands in for that of the step."""

    SIGMOID = 0  # sigmoid(alpha * u)
    ATAN = 1  # atan(pi / 2 * alpha * u) / pi + 1 / 2


_SUM, _INPUT_TIMES, _INPUT_OVER, _PLAIN_TIMES = map(int, list(Charge)[:4])


@numba.njit(nogil=True, error_model="numpy")
def _charge(rule: int, v: Any, x: Any, factor: Any) -> Any:
    if rule == _SUM:
        return v + x
    if rule == _INPUT_TIMES:
        return v + (x - v) * factor
    if rule == _INPUT_OVER:
        return v + (x - v) / factor
    if rule == _PLAIN_TIMES:
        return v - v * factor + x
    return v - v / factor + x


@intrinsic  # type: ignore[untyped-decorator]
def _power_of_two(_context: Any, shifted: Any) -> Any:
    """Return 2**k of ``k + 1.5 * 2**m``, m the bits of the fraction: k then stands in the lowest bits."""
    bits, fraction, bias = (32, 23, 127) if shifted == types.float32 else (64, 52, 1023)
    integer = ir.IntType(bits)

    def build(_context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        k = builder.bitcast(arguments[0], integer)
        exponent = builder.shl(builder.add(k, ir.Constant(integer, bias)), ir.Constant(integer, fraction))
        return builder.bitcast(exponent, arguments[0].type)

    return shifted(shifted), build


@numba.njit(nogil=True, error_model="numpy")
def _step(rule, one, zero, hard, factor, threshold, x, v, spikes):  # type: ignore[no-untyped-def]
    """Advance v [n] by one step, in place."""
    for i in range(len(v)):
        h = _charge(rule, v[i], x[i], factor)
        s = one if h >= threshold else zero
        spikes[i] = s
        v[i] = h - s * (h if hard else threshold)


@numba.njit(nogil=True, error_model="numpy")
def _exp(z: Any, terms: Any, constants: Any) -> Any:
    """Return exp(z) for z <= 0: ``2**k * exp(r)``, |r| <= ln(2) / 2, by its Taylor series; a few ulp off.

    Plain arithmetic, which the compiler turns into vector instructions; a call of the C library it would not.
    """
    lowest, per_log2, shift, log2_high, log2_low = constants
    z = lowest if z < lowest else z  # nan stays
    shifted = z * per_log2 + shift
    k = shifted - shift
    r = z - k * log2_high - k * log2_low
    y = terms[0]
    for i in range(1, len(terms)):
        y = y * r + terms[i]
    return y * _power_of_two(shifted)  # type: ignore[call-arg]  # the context is the compiler's


def _exp_tables(dtype: np.dtype[Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return the series' terms, highest power first, and the constants of `_exp`, all of one type."""
    degree, lowest, fraction = (7, -87.0, 23) if dtype == np.float32 else (13, -708.0, 52)
    # ln(2) in two parts: k times the first is exact, since it has 9 bits.
    constants = (lowest, 1 / math.log(2), 1.5 * 2.0**fraction, 0.693359375, -2.121944400546905827679e-4)
    return tuple(dtype.type(1 / math.factorial(k)) for k in range(degree, -1, -1)), tuple(map(dtype.type, constants))


@numba.njit(nogil=True, error_model="numpy")
def _step_back(kind, numbers, tables, factor, threshold, alpha, x, v, g_s, g_v, g_x):  # type: ignore[no-untyped-def]
    """Write the gradient of x into `g_x` (of h, where the leak is learnt), and take `g_v` back by one step, in place.

    Few arrays in one loop: with more, the compiler does not prove that they do not overlap, and gives up vectors.
    """
    rule, sigmoid, hard, detach = kind
    zero, half, one, half_pi = numbers
    terms, constants = tables
    for i in range(len(x)):
        h = _charge(rule, v[i], x[i], factor)
        u = h - threshold
        if sigmoid:
            z = alpha * u
            e = _exp(z if z < zero else -z, terms, constants)
            slope = alpha * e / ((one + e) * (one + e))
        else:
            w = half_pi * alpha * u
            slope = alpha * half / (one + w * w)
        kept = (zero if h >= threshold else one) if hard else one
        if not detach:
            kept = kept - slope * (h if hard else threshold)
        g_h = g_s[i] * slope + g_v[i] * kept
        if rule == _SUM:
            g_x[i], g_v[i] = g_h, g_h
        elif rule == _INPUT_OVER:
            g_x[i], g_v[i] = g_h / factor, g_h - g_h / factor
        elif rule in (_INPUT_TIMES, _PLAIN_TIMES):
            g_x[i], g_v[i] = g_h, g_h - g_h * factor
        else:
            g_x[i], g_v[i] = g_h, g_h - g_h / factor


@numba.njit(nogil=True, error_model="numpy")
def _leak_back(rule, factor, x, v, g_x, sums):  # type: ignore[no-untyped-def]
    """Add each neuron's part of the leak's gradient to `sums`, and turn `g_x` from the gradient of h into that of x."""
    for i in range(len(x)):
        if rule == _INPUT_TIMES:
            sums[i] += g_x[i] * (x[i] - v[i])
            g_x[i] = g_x[i] * factor
        else:
            sums[i] -= g_x[i] * v[i]


@numba.njit(nogil=True)
def _total(sums):  # type: ignore[no-untyped-def]
    total = 0.0  # double precision, whatever the sums are
    for i in range(len(sums)):
        total += sums[i]
    return total


@cache
def forward_kernel(charge: Charge, dtype: np.dtype[Any]) -> Callable[..., None]:
    """Return ``run(first, last, x, v, hard, factor, threshold, spikes, after)`` for chunks `first` to `last` - 1.

    Writes spikes [T, N] and the membrane after the last step [N] of currents x [T, N] and a membrane v [N].
    """
    rule, one, zero = int(charge), dtype.type(1), dtype.type(0)

    @kernel
    def forward(first, last, x, v, hard, factor, threshold, spikes, after):  # type: ignore[no-untyped-def]
        for begin in range(first * CHUNK, min(last * CHUNK, len(v)), BLOCK):
            end = min(begin + BLOCK, len(v))
            after[begin:end] = v[begin:end]
            for t in range(len(x)):
                _step(rule, one, zero, hard, factor, threshold, x[t, begin:end], after[begin:end], spikes[t, begin:end])

    return forward


@cache
def backward_kernel(charge: Charge, surrogate: Surrogate, dtype: np.dtype[Any]) -> Callable[..., None]:
    """Return ``run(first, last, x, v, hard, detach, factor, threshold, alpha, g_spikes, g_after, g_x, g_v, g_factor)``.

    From the gradients of the spikes [T, N] and of the last membrane [N] it writes those of the currents [T, N], of the
    first membrane [N] and of the leak, one summand [chunks] for each chunk of neurons (none for a charge without a
    leak to learn). Empty `g_after` stands for zeros, empty `g_v` for a gradient that nobody needs. The membranes
    between the steps are computed again, a block at a time, rather than kept.
    """
    rule, learns = int(charge), charge in (Charge.INPUT_TIMES, Charge.PLAIN_TIMES)
    sigmoid = surrogate == Surrogate.SIGMOID
    zero, half, one, half_pi = map(dtype.type, (0.0, 0.5, 1.0, math.pi / 2))
    numbers = zero, half, one, half_pi
    tables = _exp_tables(dtype)

    @kernel
    def backward(  # type: ignore[no-untyped-def]
        first, last, x, v, hard, detach, factor, threshold, alpha, g_spikes, g_after, g_x, g_v, g_factor
    ):
        kind = rule, sigmoid, hard, detach
        before = np.empty((len(x), BLOCK), v.dtype)  # the membrane that each step finds
        unused, g_membrane, sums = np.empty(BLOCK, v.dtype), np.empty(BLOCK, v.dtype), np.empty(BLOCK, v.dtype)
        for chunk in range(first, last):
            sums[:] = zero
            for begin in range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(v)), BLOCK):
                end = min(begin + BLOCK, len(v))
                n = end - begin
                before[0, :n] = v[begin:end]
                for t in range(len(x) - 1):
                    before[t + 1, :n] = before[t, :n]
                    _step(rule, one, zero, hard, factor, threshold, x[t, begin:end], before[t + 1, :n], unused[:n])
                if len(g_after):
                    g_membrane[:n] = g_after[begin:end]
                else:
                    g_membrane[:n] = zero
                for t in range(len(x) - 1, -1, -1):
                    x_t, v_t, g_s_t, g_x_t = x[t, begin:end], before[t, :n], g_spikes[t, begin:end], g_x[t, begin:end]
                    _step_back(kind, numbers, tables, factor, threshold, alpha, x_t, v_t, g_s_t, g_membrane[:n], g_x_t)
                    if learns:
                        _leak_back(rule, factor, x_t, v_t, g_x_t, sums[:n])
                if len(g_v):
                    g_v[begin:end] = g_membrane[:n]
            if learns:
                g_factor[chunk] = _total(sums)

    return backward
