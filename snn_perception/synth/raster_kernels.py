"""Smooth-edged shapes on the image: convex polygons, round-ended bars and discs, drawn far to near.

Coverage of a pixel is estimated from its distances to the edges, also for shapes thinner than a pixel. `scene` is
(lum float32 [H, W], ids int32 [H, W], depth [W], top [W]): a pixel is hidden where a wall stands nearer. The few lines
that blend a pixel are written out in each loop: as a function they took ten times as long.
"""

from __future__ import annotations

import math

from snn_perception.events.jit import kernel

MOST_CORNERS = 20


@kernel
def _set_edges(edges, px, py, n):  # type: ignore[no-untyped-def]
    """Fill edges [N, 4] (a, b, c, 1/a; a x + b y + c is the distance to the inside); return how many there are."""
    area = 0.0
    for i in range(n):
        j = i + 1 if i + 1 < n else 0
        area += px[i] * py[j] - px[j] * py[i]
    if abs(area) < 1e-4:
        return 0
    turn, found = (1.0 if area > 0 else -1.0), 0
    for i in range(n):
        j = i + 1 if i + 1 < n else 0
        a, b = -(py[j] - py[i]) * turn, (px[j] - px[i]) * turn
        length = math.sqrt(a * a + b * b)
        if length > 1e-9:
            a, b = a / length, b / length
            edges[found, 0], edges[found, 1], edges[found, 2] = a, b, -a * px[i] - b * py[i]
            edges[found, 3] = 1.0 / a if abs(a) > 1e-9 else 0.0
            found += 1
    return found


@kernel
def fill_convex(scene, px, py, n, edges, z, upper, lower, owner):  # type: ignore[no-untyped-def]
    """Fill the convex polygon of corners px, py [n] (px, either winding), from value `upper` down to `lower`.

    `edges` [MOST_CORNERS, 4] is scratch.

    Returns:
        how many pixels became its owner's.
    """
    lum, ids, depth, top = scene
    high = low = py[0]
    for i in range(n):
        high, low = min(high, py[i]), max(low, py[i])
    sides = _set_edges(edges, px, py, n)
    fade = (lower - upper) / max(1e-6, low - high)
    gained = 0
    for y in range(max(0, math.floor(high - 0.5)), min(lum.shape[0], math.floor(low + 0.5) + 1)):
        row = y + 0.5
        left, right, inner_left, inner_right = -0.5, lum.shape[1] + 0.5, -1e9, 1e9
        for i in range(sides):
            c = edges[i, 1] * row + edges[i, 2]
            reciprocal = edges[i, 3]
            if reciprocal > 0:
                left, inner_left = max(left, (-0.5 - c) * reciprocal), max(inner_left, (0.5 - c) * reciprocal)
            elif reciprocal < 0:
                right, inner_right = min(right, (-0.5 - c) * reciprocal), min(inner_right, (0.5 - c) * reciprocal)
            elif c < -0.5:
                left = 1e9
            elif c < 0.5:
                inner_left = 1e9
        if sides == 0 or left > right:
            continue
        value = upper + fade * (min(low, max(high, row)) - high)
        for x in range(max(0, math.ceil(left - 0.5)), min(lum.shape[1], math.floor(right - 0.5) + 1)):
            cover = 1.0
            if x + 0.5 < inner_left or x + 0.5 > inner_right:
                for i in range(sides):
                    away = edges[i, 0] * (x + 0.5) + edges[i, 1] * row + edges[i, 2]
                    cover -= 1.0 - min(1.0, max(0.0, away + 0.5))
                if cover <= 0.0:
                    continue
            if z > depth[x] and y + 0.5 > top[x]:
                continue
            lum[y, x] += cover * (value - lum[y, x])
            if cover > 0.5 and ids[y, x] != owner:
                ids[y, x] = owner
                gained += 1
    return gained


@kernel
def fill_disc(scene, xm, ym, radius, z, value, owner):  # type: ignore[no-untyped-def]
    """Fill a disc, darker towards its rim; return pixels gained."""
    lum, ids, depth, top = scene
    outer, inner = (radius + 0.5) ** 2, max(0.0, radius - 0.5) ** 2
    gained = 0
    for y in range(max(0, int(ym - radius - 0.5)), min(lum.shape[0], int(ym + radius + 0.5) + 1)):
        dy = y + 0.5 - ym
        for x in range(max(0, int(xm - radius - 0.5)), min(lum.shape[1], int(xm + radius + 0.5) + 1)):
            dx = x + 0.5 - xm
            square = dx * dx + dy * dy
            if square >= outer:
                continue
            shade = 1.0 - 0.3 * square / outer
            cover = 1.0 if square < inner else min(1.0, 2.0 * radius, radius - math.sqrt(square) + 0.5)
            if z > depth[x] and y + 0.5 > top[x]:
                continue
            lum[y, x] += cover * (value * shade - lum[y, x])
            if cover > 0.5 and ids[y, x] != owner:
                ids[y, x] = owner
                gained += 1
    return gained


@kernel
def is_hidden(camera, depth, top, x, z, reach, tall):  # type: ignore[no-untyped-def]
    """Return whether walls hide all of what stands within `reach` of (x, z) and is at most `tall`; metres."""
    if z - reach < 1.0:
        return False
    near = z - reach
    left = min((x - reach) / near, (x - reach) / (z + reach))
    right = max((x + reach) / near, (x + reach) / (z + reach))
    high = camera[6] - camera[4] * (tall - camera[7]) / near
    first, last = int(camera[5] + camera[4] * left), int(camera[5] + camera[4] * right) + 1
    for k in range(max(0, first), min(len(depth), last + 1)):  # noqa: SIM110 (the compiler knows no generators)
        if depth[k] >= near or top[k] > high:
            return False
    return True


@kernel
def fill_bar(scene, xa, ya, ra, xb, yb, rb, z, upper, lower, owner):  # type: ignore[no-untyped-def]
    """Fill a round-ended bar between two points (px), its radius going from ra to rb; return pixels gained.

    Upper is the colour of the first end, lower that of the second.
    """
    lum, ids, depth, top = scene
    most = max(ra, rb) + 0.5
    left, right = math.floor(min(xa, xb) - most), math.floor(max(xa, xb) + most) + 1
    dx, dy = xb - xa, yb - ya
    square = dx * dx + dy * dy
    scale, rim = 1.0 / max(1e-9, square), 1.0 / max(1e-06, ra, rb)
    gained = 0
    for y in range(max(0, int(min(ya, yb) - most)), min(lum.shape[0], int(max(ya, yb) + most) + 1)):
        ey = y + 0.5 - ya
        for x in range(max(0, left), min(lum.shape[1], right)):
            ex = x + 0.5 - xa
            w = min(1.0, max(0.0, (ex * dx + ey * dy) * scale))
            fx, fy = ex - w * dx, ey - w * dy
            radius = ra + w * (rb - ra)
            gap = fx * fx + fy * fy
            if gap >= (radius + 0.5) ** 2:
                continue
            away = radius - math.sqrt(gap)
            # A bar thinner than a pixel covers no more than its width of it.
            cover = min(1.0, 2.0 * radius, away + 0.5)
            side = 1.0 - 0.35 * min(1.0, max(0.0, 0.6 - away * rim))
            if z > depth[x] and y + 0.5 > top[x]:
                continue
            lum[y, x] += cover * ((upper + w * (lower - upper)) * side - lum[y, x])
            if cover > 0.5 and ids[y, x] != owner:
                ids[y, x] = owner
                gained += 1
    return gained


@kernel
def shade_ground(lum, camera, base, x_m, z_m, cos, sin, half_long, half_wide, soft, amount):  # type: ignore[no-untyped-def]
    """Multiply the ground by 1 + amount inside a soft box on it, given in the camera's frame (metres).

    (cos, sin) is the direction of its long side against the view's (forward, right).
    """
    focal, u0, v0, height = camera[4], camera[5], camera[6], camera[7]
    reach = math.sqrt(half_long * half_long + half_wide * half_wide) + soft
    near, far = max(0.9, z_m - reach), z_m + reach
    if far <= 1.0:
        return
    top, bottom = int(v0 + focal * height / far), int(v0 + focal * height / near) + 1
    for y in range(max(0, top, int(v0) + 1), min(lum.shape[0], bottom + 1)):
        z = focal * height / max(0.4, y + 0.5 - v0)
        if not near <= z <= far:
            continue
        edge = max(soft, z * z / (focal * height))
        left, right = int(u0 + focal * (x_m - reach) / z), int(u0 + focal * (x_m + reach) / z) + 1
        for x in range(max(0, left), min(lum.shape[1], right + 1)):
            if y + 1 < base[x]:
                continue
            dx, dz = (x + 0.5 - u0) * z / focal - x_m, z - z_m
            along, across = abs(dz * cos + dx * sin), abs(dx * cos - dz * sin)
            p = min(1.0, max(0.0, (half_long - along) / edge + 0.5))
            q = min(1.0, max(0.0, (half_wide - across) / edge + 0.5))
            if p > 0.0 and q > 0.0:
                lum[y, x] *= 1.0 + amount * p * q


@kernel
def add_glow(lum, x_px, y_px, radius, amount):  # type: ignore[no-untyped-def]
    """Add the glare of a lamp: a bright core with wide, weak skirts."""
    reach = 6.0 * radius
    for y in range(max(0, int(y_px - reach)), min(lum.shape[0], int(y_px + reach) + 1)):
        for x in range(max(0, int(x_px - reach)), min(lum.shape[1], int(x_px + reach) + 1)):
            dx, dy = (x + 0.5 - x_px) / radius, (y + 0.5 - y_px) / radius
            square = dx * dx + dy * dy
            if square < 36.0:
                # Falls to exactly zero at its reach, so that a passing skirt has no edge.
                skirt = 1.0 / (1.0 + square) - 1.0 / 37.0
                lum[y, x] += amount * skirt * skirt
