"""Upright walls seen by a camera whose verticals are upright too: every column of the image is painted on its own.

Camera rows (float64 [8]) are the world's x and y of the camera, cosine and sine of its heading, focal length, column
and row of the vanishing point (px), height over the ground. Walls are rows of float64 [N, 11]: world x0, y0, x1, y1,
height, texture metres at both ends, texture slot, light, height up to which other houses shade it, light there.
"""

from __future__ import annotations

import math

import numpy as np

from snn_perception.events.jit import kernel

NEAR_M = 0.3
MOST_HITS = 24
LEVELS = 7
_SHARED = 4  # sub-columns where a wall ends inside a column
_MOST_TAPS = 4


@kernel
def project_walls(camera, walls, seen):  # type: ignore[no-untyped-def]
    """Fill seen float64 [N, 7] and return how many walls are in front.

    A row: columns of both ends (left first), 1/z there, texture metres times 1/z there, index of the wall.
    """
    cx, cy, c, s, focal, u0 = camera[0], camera[1], camera[2], camera[3], camera[4], camera[5]
    found = 0
    for n in range(len(walls)):
        dx, dy = walls[n, 0] - cx, walls[n, 1] - cy
        xa, za = dx * s - dy * c, dx * c + dy * s
        dx, dy = walls[n, 2] - cx, walls[n, 3] - cy
        xb, zb = dx * s - dy * c, dx * c + dy * s
        ta, tb = walls[n, 5], walls[n, 6]
        if za < NEAR_M and zb < NEAR_M:
            continue
        if za < NEAR_M:
            w = (NEAR_M - za) / (zb - za)
            xa, za, ta = xa + w * (xb - xa), NEAR_M, ta + w * (tb - ta)
        elif zb < NEAR_M:
            w = (NEAR_M - zb) / (za - zb)
            xb, zb, tb = xb + w * (xa - xb), NEAR_M, tb + w * (ta - tb)
        ua, ub = u0 + focal * xa / za, u0 + focal * xb / zb
        if ua > ub:
            ua, ub, za, zb, ta, tb = ub, ua, zb, za, tb, ta
        if ub - ua < 1e-6:
            continue
        seen[found, 0], seen[found, 1], seen[found, 2], seen[found, 3] = ua, ub, 1.0 / za, 1.0 / zb
        seen[found, 4], seen[found, 5], seen[found, 6] = ta / za, tb / zb, n
        found += 1
    return found


@kernel
def _hits_at(x, seen, count, walls, camera, hit_row, hit_inverse):  # type: ignore[no-untyped-def]
    """Fill the visible hits of a column at `x`, near to far; return (how many, a number that names their walls)."""
    hits = 0
    for k in range(count):
        if not seen[k, 0] <= x < seen[k, 1]:
            continue
        w = (x - seen[k, 0]) / (seen[k, 1] - seen[k, 0])
        inverse = seen[k, 2] + w * (seen[k, 3] - seen[k, 2])
        place = min(hits, MOST_HITS - 1)
        if hits >= MOST_HITS and inverse <= hit_inverse[place]:
            continue
        while place > 0 and hit_inverse[place - 1] < inverse:
            hit_inverse[place], hit_row[place] = hit_inverse[place - 1], hit_row[place - 1]
            place -= 1
        hit_inverse[place], hit_row[place] = inverse, k
        hits = min(hits + 1, MOST_HITS)
    visible, highest, name = 0, -1e18, 0
    for k in range(hits):
        n = int(seen[hit_row[k], 6])
        slope = (walls[n, 4] - camera[7]) * hit_inverse[k]
        if slope > highest:
            highest = slope
            hit_row[visible], hit_inverse[visible] = hit_row[k], hit_inverse[k]
            visible += 1
            name = name * 31 + n + 1
    return visible, name


@kernel
def wall_columns(camera, walls, seen, count, width, names, rows, inverses, hits, depth, top, base, skyline):  # type: ignore[no-untyped-def]
    """Find for each column what it shows of the walls.

    Fills names int64 [W + 1] (of the walls at the columns' edges), rows and inverses [W, MOST_HITS] with hits [W],
    and of the nearest wall depth (m), top and base (rows); skyline is the row of the highest top. Where no wall is,
    depth is large and the rows are the horizon's. A column in which a wall ends has ground and sky all the way.
    """
    scratch_row, scratch_inverse = np.empty(MOST_HITS, np.int64), np.empty(MOST_HITS)
    focal, v0, height = camera[4], camera[6], camera[7]
    for x in range(width + 1):
        _, names[x] = _hits_at(float(x), seen, count, walls, camera, scratch_row, scratch_inverse)
    for x in range(width):
        hits[x], _ = _hits_at(x + 0.5, seen, count, walls, camera, rows[x], inverses[x])
        depth[x], top[x], base[x], skyline[x] = 1e9, v0, v0, v0
        if hits[x]:
            near, far = inverses[x, 0], inverses[x, hits[x] - 1]
            depth[x] = 1.0 / near
            base[x] = v0 + focal * height * near
            top[x] = v0 - focal * (walls[int(seen[rows[x, 0], 6]), 4] - height) * near
            skyline[x] = v0 - focal * (walls[int(seen[rows[x, hits[x] - 1], 6]), 4] - height) * far
            if top[x] > v0:  # so low that the ground behind it is seen
                base[x] = v0
        if names[x] != names[x + 1]:  # parts of the column may see past the wall
            base[x] = skyline[x] = v0


@kernel
def _gather(strip, texture, offset, columns, rows, u, u_step, taps, first, count, weight):  # type: ignore[no-untyped-def]
    """Add `weight` times texels first.. [count] of one level to strip, averaged over `taps` places along u.

    The texture repeats along u and ends along v; its sides are powers of two.
    """
    for k in range(taps):
        at = u + ((k + 0.5) / taps - 0.5) * u_step - 0.5
        i = math.floor(at)
        a = (at - i) * weight / taps
        b = weight / taps - a
        p = offset + (int(i) & (columns - 1)) * rows
        q = offset + ((int(i) + 1) & (columns - 1)) * rows
        for n in range(count):
            j = min(max(first + n, 0), rows - 1)
            strip[n] += b * texture[p + j] + a * texture[q + j]


@kernel
def _paint_hit(out, lower, wall, u, u_step, inverse, camera, textures, shape, veil, strip, coarse):  # type: ignore[no-untyped-def]
    """Blend one wall into out [H] above row `lower`; strip and coarse are scratch.

    `shape` is (texels along u, texels along v, texels per metre); `veil` is (haze length, luminance of haze, distance
    at which walls are lost in it).
    """
    focal, v0, height = camera[4], camera[6], camera[7]
    z = 1.0 / inverse
    low, high = v0 + focal * height * inverse, v0 - focal * (wall[4] - height) * inverse
    first, last = max(0, math.floor(high)), min(len(out), lower, math.floor(low) + 1)
    if first >= last:
        return
    texels_per_row = z / focal * shape[2]
    across = abs(u_step) * shape[2]
    taps = int(min(_MOST_TAPS, max(1, math.ceil(across / max(texels_per_row, 1e-9)))))
    level = min(math.log2(max(1.0, texels_per_row, across / taps)), LEVELS - 1.001)
    fine = int(level)
    blend = level - fine
    columns, rows, offset = shape[0], shape[1], int(wall[7]) * _slot_size(shape[0], shape[1])
    for _ in range(fine):
        offset += columns * rows
        columns, rows = columns // 2, rows // 2
    scale = shape[2] / (1 << fine)
    v_step = z / focal * scale
    v_first = (height + (v0 - first - 0.5) * z / focal) * scale - 0.5
    bottom = math.floor(v_first - (last - 1 - first) * v_step)
    count = min(len(strip) - 1, math.floor(v_first) - bottom + 2)
    strip[:count] = 0.0
    _gather(strip, textures, offset, columns, rows, u * scale, u_step * scale, taps, bottom, count, 1.0 - blend)
    if blend > 0.02:
        below = bottom // 2 - 1
        half = count // 2 + 3
        coarse[:half] = 0.0
        offset += columns * rows
        columns, rows = columns // 2, rows // 2
        _gather(coarse, textures, offset, columns, rows, u * scale / 2, u_step * scale / 2, taps, below, half, blend)
        for n in range(count):
            v = 0.5 * (bottom + n) - 0.25 - below
            j = int(v)
            strip[n] += coarse[j] + (v - j) * (coarse[j + 1] - coarse[j])
    clear = math.exp(-z / veil[0]) * min(1.0, max(0.0, (veil[2] - z) / 40.0))
    mist = veil[1] * (1.0 - clear)
    dark, more, shade, most = wall[10] * clear, (wall[8] - wall[10]) * clear, wall[9], count - 2
    v, up, up_step = v_first - bottom, height + (v0 - first - 0.5) * z / focal, z / focal
    for y in range(first, last):
        j = min(max(int(v), 0), most)
        # The shade of the houses opposite ends softly, over half a metre.
        lit = min(1.0, max(0.0, (up - shade) * 2.0 + 0.5))
        value = (strip[j] + (v - j) * (strip[j + 1] - strip[j])) * (dark + lit * more) + mist
        v -= v_step
        up -= up_step
        if y >= high and y + 1.0 <= low:
            out[y] = value
        else:
            out[y] += min(1.0, y + 1.0 - high) * min(1.0, max(0.0, low - y)) * (value - out[y])


@kernel
def _slot_size(columns, rows):  # type: ignore[no-untyped-def]
    """Return the number of texels of one texture with all its levels."""
    total = 0
    for _ in range(LEVELS):
        total += columns * rows
        columns, rows = columns // 2, rows // 2
    return total


@kernel
def _paint_column(out, x, row, inverse, hits, walls, seen, camera, textures, shape, veil, strip, coarse):  # type: ignore[no-untyped-def]
    """Paint the visible walls of one column at `x` into out [H], far ones first."""
    focal, v0, height = camera[4], camera[6], camera[7]
    for k in range(hits - 1, -1, -1):
        wall = walls[int(seen[row[k], 6])]
        lower = len(out)
        if k > 0:
            nearer = walls[int(seen[row[k - 1], 6])]
            lower = math.floor(v0 - focal * (nearer[4] - height) * inverse[k - 1]) + 1
        a = seen[row[k]]
        slope, tilt = (a[5] - a[4]) / (a[1] - a[0]), (a[3] - a[2]) / (a[1] - a[0])
        u = (a[4] + (x - a[0]) * slope) / inverse[k]
        u_step = (slope - u * tilt) / inverse[k]
        _paint_hit(out, lower, wall, u, u_step, inverse[k], camera, textures, shape, veil, strip, coarse)


@kernel
def paint_walls(lum, camera, walls, seen, count, names, rows, inverses, hits, textures, shape, veil):  # type: ignore[no-untyped-def]
    """Paint all walls over the ground and sky in lum float32 [H, W]; columns in which a wall ends are averaged."""
    tall, width = lum.shape
    mixed, mean = np.empty((tall, 2), np.float32), np.empty(tall)
    row, inverse = np.empty(MOST_HITS, np.int64), np.empty(MOST_HITS)
    strip, coarse = np.empty(2 * tall + shape[1] + 8), np.empty(2 * tall + shape[1] + 8)
    for x in range(width):
        if names[x] == names[x + 1]:
            if hits[x]:
                _paint_column(
                    lum[:, x], x + 0.5, rows[x], inverses[x], hits[x], walls, seen, camera, textures, shape, veil,
                    strip, coarse,
                )  # fmt: skip
            continue
        mean[:] = 0.0
        for k in range(_SHARED):
            column = mixed[:, 0]
            for y in range(tall):
                column[y] = lum[y, x]
            at = x + (k + 0.5) / _SHARED
            found, _ = _hits_at(at, seen, count, walls, camera, row, inverse)
            _paint_column(column, at, row, inverse, found, walls, seen, camera, textures, shape, veil, strip, coarse)
            for y in range(tall):
                mean[y] += column[y]
        for y in range(tall):
            lum[y, x] = mean[y] / _SHARED
