"""The inner loops of the representations: one pass over the columns, into a buffer that the caller owns.

All take the same description of where an event goes. `edges` int64 [B + 1] are the times at which bins begin; an event
at t lies in bin b where ``edges[b] <= t < edges[b + 1]``, and nowhere outside. `planes` int64 [2, B] says where in the
flat buffer the image of a polarity and bin begins. Events are nearly always in order of time, so a bin is looked up
only when time leaves it; any order gives the right result.

Cells are found for a block of events first and touched then: the first loop becomes vector instructions, and the second
one's cache misses overlap. Events outside the image raise ValueError.
"""

from __future__ import annotations

import numpy as np

from snn_perception.events.jit import kernel

BLOCK = 1024
MISPLACED = "an event lies outside its sensor, or its polarity is neither 0 nor 1; EventArray.validate() tells which"


@kernel
def find_bin(edges, t):  # type: ignore[no-untyped-def]
    """Return the bin of a time; -1 before the first and B after the last."""
    b = 0
    while b < len(edges) and t >= edges[b]:
        b += 1
    return b - 1


@kernel
def next_block(start, height, width, x, y, p, t, edges, planes, cells):  # type: ignore[no-untyped-def]
    """Fill `cells` uint32 [BLOCK] for the next events that lie in one bin; return (first of them, how many)."""
    n, bins = len(t), len(edges) - 1
    b = -1
    while start < n:
        b = find_bin(edges, t[start])
        if 0 <= b < bins:
            break
        start += 1
    if start == n:
        return start, 0
    begin, end = edges[b], edges[b + 1]
    count = min(n - start, BLOCK)
    ts = t[start : start + count]
    outside = False
    for k in range(count):
        outside |= (ts[k] < begin) | (ts[k] >= end)
    if outside:
        count = 1
        while begin <= ts[count] < end:
            count += 1
    xs, ys, ps = x[start : start + count], y[start : start + count], p[start : start + count]
    off = np.uint32(planes[0, b])
    step = np.uint32(planes[1, b]) - off  # to the ON image; wraps where that lies before
    wide, high = np.uint32(width), np.uint32(height)
    beyond = np.uint32(0)
    for k in range(count):
        column, row = np.uint32(xs[k]), np.uint32(ys[k])
        beyond |= np.uint32(column >= wide) | np.uint32(row >= high) | np.uint32(ps[k] > 1)
        cells[k] = off + np.uint32(ps[k]) * step + row * wide + column
    if beyond:
        raise ValueError(MISPLACED)
    return start, count


@kernel
def count_events(limit, grid, height, width, x, y, p, t, edges, planes):  # type: ignore[no-untyped-def]
    """Add each event to its cell of the flat `grid`, up to `limit`, a number of the grid's dtype."""
    cells = np.empty(BLOCK, np.uint32)
    start, count = next_block(0, height, width, x, y, p, t, edges, planes, cells)
    while count:
        for k in range(count):
            value = grid[cells[k]]
            grid[cells[k]] = value + (value < limit)
        start, count = next_block(start + count, height, width, x, y, p, t, edges, planes, cells)


@kernel
def count_in_images(limit, grid, height, width, x, y, p, off, on):  # type: ignore[no-untyped-def]
    """Add events of one bin to the images that begin at `off` and `on` of the flat `grid`, without looking at time."""
    cells = np.empty(BLOCK, np.uint32)
    first, step = np.uint32(off), np.uint32(on) - np.uint32(off)
    wide, high = np.uint32(width), np.uint32(height)
    for start in range(0, len(x), BLOCK):
        xs, ys, ps = x[start : start + BLOCK], y[start : start + BLOCK], p[start : start + BLOCK]
        beyond = np.uint32(0)
        for k in range(len(xs)):
            column, row = np.uint32(xs[k]), np.uint32(ys[k])
            beyond |= np.uint32(column >= wide) | np.uint32(row >= high) | np.uint32(ps[k] > 1)
            cells[k] = first + np.uint32(ps[k]) * step + row * wide + column
        if beyond:
            raise ValueError(MISPLACED)
        for k in range(len(xs)):
            value = grid[cells[k]]
            grid[cells[k]] = value + (value < limit)


@kernel
def mark_events(values, grid, height, width, x, y, p, t, edges, planes):  # type: ignore[no-untyped-def]
    """Set the cell of each event in the flat `grid` to ``values[p]``; the last event of a cell stands."""
    cells = np.empty(BLOCK, np.uint32)
    start, count = next_block(0, height, width, x, y, p, t, edges, planes, cells)
    while count:
        ps = p[start : start + count]
        for k in range(count):
            grid[cells[k]] = values[ps[k]]
        start, count = next_block(start + count, height, width, x, y, p, t, edges, planes, cells)


@kernel
def keep_latest(times, height, width, x, y, p, t, edges, planes):  # type: ignore[no-untyped-def]
    """Keep in each cell of the flat int64 `times` the time of the latest event."""
    cells = np.empty(BLOCK, np.uint32)
    start, count = next_block(0, height, width, x, y, p, t, edges, planes, cells)
    while count:
        ts = t[start : start + count]
        for k in range(count):
            times[cells[k]] = max(times[cells[k]], ts[k])
        start, count = next_block(start + count, height, width, x, y, p, t, edges, planes, cells)


@kernel
def spread_signed(grid, height, width, bins, x, y, p, t, first, last):  # type: ignore[no-untyped-def]
    """Add each event's sign to the two nearest time bins of the flat float `grid`, by its distance to them."""
    plane = height * width
    for i in range(len(t)):
        if x[i] >= width or y[i] >= height:
            raise ValueError(MISPLACED)
        at = bins * (t[i] - first) / max(last - first, 1)
        b = int(at)
        sign = 1.0 if p[i] else -1.0
        cell = y[i] * width + x[i]
        if b < bins:
            grid[b * plane + cell] += sign * (1.0 - (at - b))
        if b + 1 < bins:
            grid[(b + 1) * plane + cell] += sign * (at - b)
