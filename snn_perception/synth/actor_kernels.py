"""Everything that stands or moves in the street: where it is, and how it is drawn.

An actor's model is a run of vertices (right, up, forward; metres) and a run of parts. A part is a row of float64
[12]: shape, first vertex, corners or last vertex, radius, reflectance at the top, at the bottom, normal (right, up,
forward), lamp's brightness, shininess, whether it is seen from both sides.
"""

from __future__ import annotations

import math

import numpy as np

from snn_perception.events.jit import kernel
from snn_perception.synth.ground_kernels import sunlit
from snn_perception.synth.raster_kernels import (
    MOST_CORNERS,
    add_glow,
    fill_bar,
    fill_convex,
    fill_disc,
    is_hidden,
    shade_ground,
)

POLYGON, BAR, DISC = 0, 1, 2
STANDING, ALONG, ACROSS, AHEAD = 0, 1, 2, 3  # how an actor moves
NEAR_M = 0.45
KNOTS = 6
PART_COLUMNS = 12

# Columns of a motion row: kind, s, d, heading against the road, delay (s) and gap (m) behind which the ego drives.
KIND, PLACE_S, PLACE_D, TURN, DELAY, GAP = range(6)
# Columns of a pose row.
X, Y, COS, SIN, SPEED, ROAD_S, ROAD_D, WALKED = range(8)
# Columns of a model row: first vertex, end, first part, end, half length, half width, height, gait (0: rigid).
VERTEX, VERTEX_END, PART, PART_END, HALF_LONG, HALF_WIDE, TALL, GAIT = range(8)
FOOTING = 0.30  # how dark it is right under a thing


@kernel
def _knot_at(t, knots):  # type: ignore[no-untyped-def]
    """Return (place, speed) at time t (s); knots [K, 3] are (time, place, speed), speed linear in between."""
    if t <= knots[0, 0]:
        return knots[0, 1] + knots[0, 2] * (t - knots[0, 0]), knots[0, 2]
    for k in range(len(knots) - 1):
        if t < knots[k + 1, 0]:
            span, ago = knots[k + 1, 0] - knots[k, 0], t - knots[k, 0]
            gain = (knots[k + 1, 2] - knots[k, 2]) / span
            return knots[k, 1] + knots[k, 2] * ago + 0.5 * gain * ago * ago, knots[k, 2] + gain * ago
    last = len(knots) - 1
    return knots[last, 1] + knots[last, 2] * (t - knots[last, 0]), knots[last, 2]


@kernel
def move(t, motions, knots, ego_s, tick, table, start, step, poses):  # type: ignore[no-untyped-def]
    """Fill poses [M, 8] of all actors at time t (s) in the world's frame."""
    for m in range(len(motions)):
        kind = int(motions[m, KIND])
        s, d, speed, walked = motions[m, PLACE_S], motions[m, PLACE_D], 0.0, 0.0
        if kind == AHEAD:
            place = (t + motions[m, DELAY]) / tick
            i = min(max(int(place), 0), len(ego_s) - 2)
            s = ego_s[i] + (place - i) * (ego_s[i + 1] - ego_s[i]) + motions[m, GAP]
            speed = (ego_s[i + 1] - ego_s[i]) / tick
            more, faster = _knot_at(t, knots[m])
            s, speed = s + more, speed + faster
        elif kind != STANDING:
            place, speed = _knot_at(t, knots[m])
            walked = place
            if kind == ALONG:
                s = place
            else:
                d = place
        at = (s - start) / step
        i = min(max(int(at), 0), len(table) - 2)
        w = at - i
        c, sn = (1 - w) * table[i, 2] + w * table[i + 1, 2], (1 - w) * table[i, 3] + w * table[i + 1, 3]
        poses[m, X] = (1 - w) * table[i, 0] + w * table[i + 1, 0] + d * sn
        poses[m, Y] = (1 - w) * table[i, 1] + w * table[i + 1, 1] - d * c
        turn_c, turn_s = math.cos(motions[m, TURN]), math.sin(motions[m, TURN])
        poses[m, COS], poses[m, SIN] = c * turn_c - sn * turn_s, sn * turn_c + c * turn_s
        poses[m, SPEED], poses[m, ROAD_S], poses[m, ROAD_D], poses[m, WALKED] = abs(speed), s, d, abs(walked)


@kernel
def _limb(joints, first, hip_x, hip_y, long, swing, bend):  # type: ignore[no-untyped-def]
    """Set three joints of a limb of two parts of length `long`, hanging from a hip or shoulder."""
    joints[first, 0], joints[first, 1], joints[first, 2] = hip_x, hip_y, 0.0
    y, z = hip_y - long * math.cos(swing), long * math.sin(swing)
    joints[first + 1, 0], joints[first + 1, 1], joints[first + 1, 2] = hip_x, y, z
    joints[first + 2, 0] = hip_x
    joints[first + 2, 1] = y - long * math.cos(swing + bend)
    joints[first + 2, 2] = z + long * math.sin(swing + bend)


@kernel
def walk(joints, tall, wide, walked, speed):  # type: ignore[no-untyped-def]
    """Set the 12 joints of legs and arms (left and right; hip, knee, foot, shoulder, elbow, hand) of one who walks."""
    phase = 2 * math.pi * walked / (0.85 * tall)
    swing = min(0.55, 0.38 * speed)
    for side in range(2):
        turn = phase + math.pi * side
        x = (side * 2 - 1) * wide
        stride = swing * math.sin(turn)
        _limb(joints, 3 * side, 0.42 * x, 0.5 * tall, 0.245 * tall, stride, -1.5 * swing * max(0.0, math.cos(turn)))
        arm = -0.8 * swing * math.sin(turn)
        _limb(joints, 6 + 3 * side, x, 0.80 * tall, 0.17 * tall, arm, 0.25 + 0.5 * swing)


@kernel
def _project_polygon(view, first, corners, camera, px, py):  # type: ignore[no-untyped-def]
    """Project corners view [first:first + corners] (x, y up, z), cut at the near plane; return how many are left."""
    focal, u0, v0, height = camera[4], camera[5], camera[6], camera[7]
    n = 0
    for i in range(corners):
        a, b = first + i, first + (i + 1 if i + 1 < corners else 0)
        if view[a, 2] >= NEAR_M:
            px[n], py[n] = u0 + focal * view[a, 0] / view[a, 2], v0 - focal * (view[a, 1] - height) / view[a, 2]
            n += 1
        if (view[a, 2] >= NEAR_M) != (view[b, 2] >= NEAR_M):
            w = (NEAR_M - view[a, 2]) / (view[b, 2] - view[a, 2])
            x, y = view[a, 0] + w * (view[b, 0] - view[a, 0]), view[a, 1] + w * (view[b, 1] - view[a, 1])
            px[n], py[n] = u0 + focal * x / NEAR_M, v0 - focal * (y - height) / NEAR_M
            n += 1
    return n


@kernel
def _lit(part, cos, sin, sun, ambient, share):  # type: ignore[no-untyped-def]
    """Return the light on a part of an actor that looks along (cos, sin): sky from above, and its share of sun."""
    if part[6] == 0.0 and part[7] == 0.0 and part[8] == 0.0:
        return ambient + 0.45 * sun[3] * share
    nx, ny = part[6] * sin + part[8] * cos, part[8] * sin - part[6] * cos
    toward = max(0.0, nx * sun[0] + ny * sun[1] + part[7] * sun[2])
    return ambient * (0.75 + 0.35 * part[7]) + sun[3] * share * toward


@kernel
def _widen(box, x, y, radius):  # type: ignore[no-untyped-def]
    """Widen a box (left, top, right, bottom) so that it holds a disc."""
    box[0], box[1] = min(box[0], x - radius), min(box[1], y - radius)
    box[2], box[3] = max(box[2], x + radius), max(box[3], y + radius)


@kernel
def _draw(scene, camera, view, parts, first, owner, cos, sin, z, lights, share, box, glows, glow_count):  # type: ignore[no-untyped-def]
    """Draw one actor whose vertices are in the camera's frame; return (pixels it has, lamps so far).

    `lights` is (sun direction x, y, up, strength, ambient, haze length, luminance of haze).
    """
    focal, u0, v0, height = camera[4], camera[5], camera[6], camera[7]
    px, py, edges = np.empty(MOST_CORNERS), np.empty(MOST_CORNERS), np.empty((MOST_CORNERS, 4))
    clear = math.exp(-z / lights[5])
    mist = lights[6] * (1.0 - clear)
    gained = 0
    for k in range(len(parts)):
        part = parts[k]
        light = _lit(part, cos, sin, lights, lights[4], share)
        upper, lower = part[4] * light + part[10] * lights[4] + part[9], part[5] * light + part[9]
        upper, lower = upper * clear + mist, lower * clear + mist
        a = int(part[1]) - first
        if part[0] == POLYGON:
            n = _project_polygon(view, a, int(part[2]), camera, px, py)
            if n < 3:
                continue
            area = 0.0
            for i in range(n):
                j = i + 1 if i + 1 < n else 0
                area += px[i] * py[j] - px[j] * py[i]
                _widen(box, px[i], py[i], 0.0)
            if area < 0.0 and part[11] == 0.0:
                continue  # its back
            if abs(area) < 0.02:
                continue  # too small to change a pixel
            gained += fill_convex(scene, px, py, n, edges, z, upper, lower, owner)
            x, y, size = (px[0] + px[2]) / 2, (py[0] + py[2]) / 2, math.sqrt(abs(area) / 2)
        else:
            b = int(part[2]) - first if part[0] == BAR else a
            if view[a, 2] < NEAR_M or view[b, 2] < NEAR_M:
                continue
            x, y = u0 + focal * view[a, 0] / view[a, 2], v0 - focal * (view[a, 1] - height) / view[a, 2]
            ra = focal * part[3] / view[a, 2]
            size = 2 * ra
            _widen(box, x, y, ra)
            if part[0] == BAR:
                xb, yb = u0 + focal * view[b, 0] / view[b, 2], v0 - focal * (view[b, 1] - height) / view[b, 2]
                rb = focal * part[3] / view[b, 2]
                _widen(box, xb, yb, rb)
                gained += fill_bar(scene, x, y, ra, xb, yb, rb, z, upper, lower, owner)
            elif ra > 0.1:
                gained += fill_disc(scene, x, y, ra, z, upper, owner)
        if part[9] > 0.0 and glow_count < len(glows):
            glows[glow_count, 0], glows[glow_count, 1], glows[glow_count, 2] = x, y, size
            glows[glow_count, 3], glows[glow_count, 4] = part[9] * clear, owner
            glow_count += 1
    return gained, glow_count


@kernel
def choose(camera, poses, models, farthest, depth, top):  # type: ignore[no-untyped-def]
    """Return who may be in the image, far to near (int64 [K]), and how far their middle is (m, float64 [K]).

    Those whom walls hide (depth and top of the nearest wall of each column) are left out.
    """
    c, s = camera[2], camera[3]
    order, away, found = np.empty(len(poses), np.int64), np.empty(len(poses)), 0
    for m in range(len(poses)):
        dx, dy = poses[m, X] - camera[0], poses[m, Y] - camera[1]
        x, z = dx * s - dy * c, dx * c + dy * s
        reach = models[m, HALF_LONG] + models[m, HALF_WIDE] + 1.0
        if z + reach < NEAR_M or z > farthest or abs(x) - reach > (z + reach) * (camera[5] / camera[4]) * 1.05:
            continue
        radius = math.sqrt(models[m, HALF_LONG] ** 2 + models[m, HALF_WIDE] ** 2) + 2.2
        if is_hidden(camera, depth, top, x, z, radius, models[m, TALL] + 1.0):
            continue
        distance = math.sqrt(x * x + z * z)
        place = found
        while place > 0 and away[place - 1] < distance:
            away[place], order[place] = away[place - 1], order[place - 1]
            place -= 1
        away[place], order[place] = distance, m
        found += 1
    return order[:found], away[:found]


@kernel
def shade_actors(lum, camera, base, order, poses, models, sun, pools):  # type: ignore[no-untyped-def]
    """Darken the ground under actors and where they keep the sun off; lighten it (pools [M]) under lamps."""
    c, s = camera[2], camera[3]
    for k in range(len(order)):
        m = order[k]
        dx, dy = poses[m, X] - camera[0], poses[m, Y] - camera[1]
        x, z = dx * s - dy * c, dx * c + dy * s
        long, wide, tall = models[m, HALF_LONG], models[m, HALF_WIDE], models[m, TALL]
        if z > 70.0 or z < -8.0 or wide <= 0.0:
            continue
        cos, sin = poses[m, COS] * c + poses[m, SIN] * s, poses[m, COS] * s - poses[m, SIN] * c
        if pools[m] > 0.0:
            shade_ground(lum, camera, base, x, z, 1.0, 0.0, 2.0, 2.0, 5.0, pools[m])
        if sun[3] > 0.0:
            away = min(3.0, 0.5 * tall * math.sqrt(max(0.0, 1.0 - sun[2] * sun[2])) / sun[2])
            flat = math.sqrt(sun[0] * sun[0] + sun[1] * sun[1]) + 1e-9
            px, py = -sun[0] / flat * away, -sun[1] / flat * away
            ox, oz = px * s - py * c, px * c + py * s
            dark = -0.85 * sun[3] / (1.0 + sun[3])
            shade_ground(lum, camera, base, x + ox, z + oz, cos, sin, long + 0.3 * away, wide + 0.3 * away, 0.25, dark)
        shade_ground(lum, camera, base, x, z, cos, sin, long, wide, 0.45, -1.0 + FOOTING)


@kernel
def draw_actors(  # type: ignore[no-untyped-def]
    scene, camera, order, poses, models, vertices, parts, lights, edges, start, step, flicker, boxes, counts
):
    """Draw actors in the order given (far to near), then the glare of lamps that are not hidden.

    Fills, in that order, boxes [K, 4] with the extents of what is before the camera (left, top, right, bottom; px;
    left > right for none) and counts [K] with the pixels each had before nearer ones were drawn over it. A pixel's id
    is the place in the order.
    """
    c, s = camera[2], camera[3]
    view, glows, lamps = np.empty((len(vertices) + 1, 3)), np.empty((256, 5)), 0
    for k in range(len(order)):
        m = order[k]
        boxes[k, 0], boxes[k, 1], boxes[k, 2], boxes[k, 3] = 1e9, 1e9, -1e9, -1e9
        dx, dy = poses[m, X] - camera[0], poses[m, Y] - camera[1]
        x0, z0 = dx * s - dy * c, dx * c + dy * s
        cos, sin = poses[m, COS] * c + poses[m, SIN] * s, poses[m, COS] * s - poses[m, SIN] * c
        first, end = int(models[m, VERTEX]), int(models[m, VERTEX_END])
        local = vertices[first:end]
        if models[m, GAIT] > 0.0:
            walk(local, models[m, TALL], models[m, GAIT], poses[m, WALKED], poses[m, SPEED])
        for i in range(end - first):
            view[i, 0] = x0 + local[i, 0] * cos + local[i, 2] * sin
            view[i, 1] = local[i, 1]
            view[i, 2] = z0 + local[i, 2] * cos - local[i, 0] * sin
        own = parts[int(models[m, PART]) : int(models[m, PART_END])]
        share = sunlit(poses[m, ROAD_S], poses[m, ROAD_D], 1.0, 1.5, edges, start, step) if lights[3] > 0.0 else 0.0
        counts[k], lamps = _draw(
            scene,
            camera,
            view,
            own,
            first,
            k,
            poses[m, COS],
            poses[m, SIN],
            max(NEAR_M, z0),
            lights,
            share,
            boxes[k],
            glows,
            lamps,
        )
    lum, ids = scene[0], scene[1]
    for k in range(lamps):
        x, y = int(glows[k, 0]), int(glows[k, 1])
        if 0 <= x < lum.shape[1] and 0 <= y < lum.shape[0] and ids[y, x] == int(glows[k, 4]):
            radius = min(0.06 * lum.shape[1], max(0.7, 0.8 * glows[k, 2]))
            add_glow(lum, glows[k, 0], glows[k, 1], radius, 0.6 * glows[k, 3] * flicker)
