"""The loops of augmentation over events: moving and dropping them, and putting two streams together."""

from __future__ import annotations

import numpy as np

from snn_perception.events.jit import kernel
from snn_perception.types import EventArray

ZOOM_STEPS = 1 << 12  # enlargements are whole multiples of 1 / ZOOM_STEPS, so that places are integers
_BLOCK = 1024
I, U = np.int32, np.uint32  # noqa: E741  # numba widens results of these, and vectors then hold fewer


def move_events(
    events: EventArray, zoom: int, left: int, top: int, flipped: bool, swapped: bool, drop_below: int, seed: int
) -> EventArray:
    """Return the events that stay in the image, where they come to lie; see `augment.Transform`.

    Args:
        zoom: in steps of 1 / ZOOM_STEPS. left, top: pixels.
        drop_below: events whose hash is below are left out, of 2^32.
        seed: 32 bits, of the hash over an event's own numbers.
    """
    n, size = len(events), events.size
    x, y, p, t = np.empty(n, np.uint16), np.empty(n, np.uint16), np.empty(n, np.uint8), np.empty(n, np.int64)
    kept = _move(
        *(events.x, events.y, events.p, events.t, U(size.width), U(size.height)),
        *(I(zoom), I(left), I(top), flipped, np.uint8(swapped)),
        *(np.uint64(drop_below), U(seed), x, y, p, t),
    )
    return EventArray(x[:kept], y[:kept], p[:kept], t[:kept], size)


def merge_events(a: EventArray, b: EventArray) -> EventArray:
    """Return the events of both in time order; at equal times those of `a` come first. Both must be in time order."""
    if not len(a) or not len(b):
        return a if len(a) else b
    n = len(a) + len(b)
    x, y, p, t = np.empty(n, np.uint16), np.empty(n, np.uint16), np.empty(n, np.uint8), np.empty(n, np.int64)
    _merge(a.x, a.y, a.p, a.t, b.x, b.y, b.p, b.t, x, y, p, t)
    return EventArray(x, y, p, t, a.size)


@kernel
def _mixed(h):  # type: ignore[no-untyped-def]
    """Return 32 bits of which each depends on each of h (the finaliser of MurmurHash3, public domain)."""
    h = U(U(h ^ U(h >> U(16))) * U(0x85EBCA6B))
    h = U(U(h ^ U(h >> U(13))) * U(0xC2B2AE35))
    return U(h ^ U(h >> U(16)))


@kernel
def _move(  # type: ignore[no-untyped-def]
    x, y, p, t, width, height, zoom, left, top, flipped, swap, drop_below, seed, to_x, to_y, to_p, to_t
):
    """Fill to_x, to_y, to_p, to_t and return how many stayed.

    Many short loops over a block, each with few columns and in 32 bits: only such become vector instructions.
    """
    columns, rows, stays = np.empty(_BLOCK, U), np.empty(_BLOCK, U), np.empty(_BLOCK, np.uint8)
    chance, at = np.zeros(_BLOCK, U), np.empty(_BLOCK, U)
    spread = I(0) if zoom == ZOOM_STEPS else zoom
    base, sign = (I(width - 1), I(-1)) if flipped else (I(0), I(1))
    kept = 0
    for start in range(0, len(t), _BLOCK):
        xs, ys = x[start : start + _BLOCK], y[start : start + _BLOCK]
        ps, ts = p[start : start + _BLOCK], t[start : start + _BLOCK]
        if spread or drop_below:
            for k in range(len(xs)):
                chance[k] = _mixed(U(U(U(xs[k]) | U(U(ys[k]) << U(16))) ^ seed))
            for k in range(len(xs)):
                chance[k] = _mixed(U(chance[k] ^ U(U(ts[k]) ^ U(U(ps[k]) << U(31)))))
        for k in range(len(xs)):  # what lies left of the image or above it wraps to beyond any
            across = I(I(chance[k] & U(0xFFF)) * spread)
            columns[k] = U(I(base + I(sign * I(I(I(I(I(xs[k]) * zoom) + I(across >> I(12))) >> I(12)) + left))))
        for k in range(len(xs)):
            down = I(I(U(chance[k] >> U(12)) & U(0xFFF)) * spread)
            rows[k] = U(I(I(I(I(I(ys[k]) * zoom) + I(down >> I(12))) >> I(12)) + top))
        for k in range(len(xs)):
            stays[k] = np.uint8((columns[k] < width) & (rows[k] < height))
        if drop_below:
            for k in range(len(xs)):  # other bits than those that chose the place
                stays[k] &= np.uint8(_mixed(U(chance[k] ^ U(0x9E3779B9))) >= drop_below)
        count = 0
        for k in range(len(xs)):
            at[count] = U(k)  # of one that does not stay the next takes the place
            count += int(stays[k])
        _take(at[:count], columns, to_x[kept : kept + count], U(0))
        _take(at[:count], rows, to_y[kept : kept + count], U(0))
        _take(at[:count], ps, to_p[kept : kept + count], swap)
        _take(at[:count], ts, to_t[kept : kept + count], 0)
        kept += count
    return kept


@kernel
def _take(at, column, taken, flip):  # type: ignore[no-untyped-def]
    """Fill `taken` with the entries `at` of a column, in the type of `taken`, with the bits `flip` turned over."""
    if len(at) == len(column):
        for k in range(len(at)):
            taken[k] = column[k] ^ flip
    else:
        for k in range(len(at)):
            taken[k] = column[at[k]] ^ flip


@kernel
def _merge(ax, ay, ap, at, bx, by, bp, bt, x, y, p, t):  # type: ignore[no-untyped-def]
    """Fill x, y, p, t [len(a) + len(b)] with both, in time order."""
    i, k = 0, 0
    for j in range(len(bt)):
        while i < len(at) and at[i] <= bt[j]:
            x[k], y[k], p[k], t[k] = ax[i], ay[i], ap[i], at[i]
            i += 1
            k += 1
        x[k], y[k], p[k], t[k] = bx[j], by[j], bp[j], bt[j]
        k += 1
    n = len(at) - i
    x[k : k + n], y[k : k + n], p[k : k + n], t[k : k + n] = ax[i:], ay[i:], ap[i:], at[i:]
