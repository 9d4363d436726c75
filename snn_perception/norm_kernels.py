"""The sums over pixels that a batch norm needs, forward and backward, and its arithmetic per channel (CPU, compiled).

Sums are float64 and over one channel at a time, in a fixed order: results do not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from snn_perception.events.jit import kernel

LANES = 32  # sums side by side, so that they become vector instructions


@kernel
def pixel_statistics(first: int, last: int, x: Any, means: Any, squares: Any) -> None:
    """Write mean and sum of squared distances from it of channels `first` to `last` - 1 of x [B, C, H * W]."""
    lanes = np.empty(LANES)
    for c in range(first, last):
        lanes[:] = 0.0
        for b in range(len(x)):
            _add(x[b, c], lanes)
        means[c] = _total(lanes) / (x.shape[0] * x.shape[2])
        lanes[:] = 0.0
        for b in range(len(x)):
            _add_squares(x[b, c], means[c], lanes)
        squares[c] = _total(lanes)


@kernel
def norm_terms(
    means: Any, squares: Any, pixels: int, zeros: int, eps: float, gamma: Any, beta: Any, terms: Any
) -> None:
    """Write for each channel mean, biased variance, 1 / deviation, scale and shift to terms [5, C] (float64).

    Args:
        means, squares: of the `pixels` of a channel, beside which stand `zeros` zeros (its padding).
    """
    share = pixels / (pixels + zeros)
    for c in range(len(means)):
        mean = means[c] * share
        variance = squares[c] / (pixels + zeros) + means[c] * means[c] * share * (1.0 - share)
        inverse = 1.0 / np.sqrt(variance + eps)
        scale = gamma[c] * inverse
        terms[0, c], terms[1, c], terms[2, c] = mean, variance, inverse
        terms[3, c], terms[4, c] = scale, beta[c] - mean * scale


@kernel
def norm_gradients(terms: Any, g_scale: Any, g_shift: Any, count: int, g_gamma: Any, slope: Any, offset: Any) -> None:
    """Write the gradient of gamma, and what a pixel x adds to its own: ``slope * x + offset`` of its channel.

    From the gradients of scale and shift, where a channel has `count` values. That of beta is that of the shift.
    """
    for c in range(len(g_scale)):
        mean, inverse, scale = terms[0, c], terms[2, c], terms[3, c]
        g_total = g_scale[c] - g_shift[c] * mean  # shift = beta - mean * scale
        g_gamma[c] = g_total * inverse
        g_variance = -0.5 * g_total * scale * inverse * inverse
        slope[c] = 2.0 * g_variance / count
        offset[c] = -(g_shift[c] * scale + 2.0 * g_variance * mean) / count


@kernel
def add_pixel_gradients(first: int, last: int, slope: Any, offset: Any, x: Any, g_x: Any) -> None:
    """Add ``slope * x + offset`` to g_x [B, C, H * W], for channels `first` to `last` - 1."""
    for b in range(len(x)):
        for c in range(first, last):
            _add_line(slope[c], offset[c], x[b, c], g_x[b, c])


@numba.njit(nogil=True)
def _add(x, lanes):  # type: ignore[no-untyped-def]
    whole = len(x) // LANES * LANES
    for begin in range(0, whole, LANES):
        part = x[begin : begin + LANES]
        for lane in range(LANES):
            lanes[lane] += part[lane]
    for i in range(whole, len(x)):
        lanes[i - whole] += x[i]


@numba.njit(nogil=True)
def _add_squares(x, middle, lanes):  # type: ignore[no-untyped-def]
    whole = len(x) // LANES * LANES
    for begin in range(0, whole, LANES):
        part = x[begin : begin + LANES]
        for lane in range(LANES):
            d = part[lane] - middle
            lanes[lane] += d * d
    for i in range(whole, len(x)):
        d = x[i] - middle
        lanes[i - whole] += d * d


@numba.njit(nogil=True)
def _add_line(slope, offset, x, y):  # type: ignore[no-untyped-def]
    for i in range(len(x)):
        y[i] += slope * x[i] + offset


@numba.njit(nogil=True)
def _total(lanes):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(len(lanes)):
        total += lanes[i]
    return total
