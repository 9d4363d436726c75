"""The ground and the sky, pixel by pixel, every pattern averaged over what a pixel sees of it.

Aliased detail would be a storm of events that no camera shows, so stripes are box filtered by formula and textures
are read from levels that fit the pixel's footprint along and across the road.
"""

from __future__ import annotations

import math

import numpy as np

from snn_perception.events.jit import kernel

CELL_PX = 16  # columns between places that are found exactly; linear in between
TILE_LEVELS_S, TILE_LEVELS_D = 8, 6

# Places in the float64 [..] list of a street's numbers, see `Ground.numbers`.
LANE, KERB, WALL, ASPHALT, CONTRAST, PAINT, PAVEMENT, SLAB, SUN, LIGHT, HAZE, MIST, BEAM, VERGE, DASH = range(15)


@kernel
def _inside(low, high, at, width):  # type: ignore[no-untyped-def]
    """Return the share of a footprint of `width` around `at` that lies between two edges."""
    half = 0.5 * width
    return max(0.0, min(high, at + half) - max(low, at - half)) / width


@kernel
def _periodic(at, width, period, mark):  # type: ignore[no-untyped-def]
    """Return the share of a footprint that lies on marks of length `mark`, one per period from 0."""
    a, b = (at - 0.5 * width) / period, (at + 0.5 * width) / period
    share = mark / period
    i, j = math.floor(a), math.floor(b)
    return ((j * share + min(b - j, share)) - (i * share + min(a - i, share))) / (b - a)


@kernel
def locate(x_m, z_m, camera, table, start, step, guess):  # type: ignore[no-untyped-def]
    """Return (s, d, cosine, sine of the road's heading there) of a place in the camera's frame, from a guess of s."""
    wx = camera[0] + z_m * camera[2] + x_m * camera[3]
    wy = camera[1] + z_m * camera[3] - x_m * camera[2]
    s, d, c, sn = guess, 0.0, 1.0, 0.0
    for _ in range(3):
        place = (s - start) / step
        i = min(max(int(place), 0), len(table) - 2)
        w = place - i
        c, sn = (1 - w) * table[i, 2] + w * table[i + 1, 2], (1 - w) * table[i, 3] + w * table[i + 1, 3]
        dx = wx - (1 - w) * table[i, 0] - w * table[i + 1, 0]
        dy = wy - (1 - w) * table[i, 1] - w * table[i + 1, 1]
        s += dx * c + dy * sn
        d = dx * sn - dy * c
    return s, d, c, sn


@kernel
def _paving(road, s, side, d, fs, fd, noise, kerb, wall, slab, pavement, verge):  # type: ignore[no-untyped-def]
    """Return the reflectance beside a road of reflectance `road`: gutter, kerb, slabs and what lies beyond.

    `noise` is the texture times its contrast.
    """
    slabs = _periodic(s, fs, slab, 0.03) + _periodic(d, fd, slab, 0.03)
    paved = pavement * (1.0 + 0.5 * noise) * (1.0 - 0.45 * min(1.0, slabs))
    if side + fd > wall:
        green = verge * (1.0 + 2.2 * noise)
        paved += _inside(wall, 1e3, side, fd) * (green - paved)
    edge = _inside(kerb, kerb + 0.16, side, fd)
    gutter = _inside(kerb - 0.10, kerb, side, fd)
    beyond = _inside(kerb + 0.16, 1e3, side, fd)
    return road * (1.0 - 0.6 * gutter) + beyond * (paved - road) + edge * (1.7 * pavement - road)


@kernel
def _paint(s, d, side, fs, fd, lane, kerb, dash, open_side, zebra_s, line_s):  # type: ignore[no-untyped-def]
    """Return the share of road paint: centre line, edge lines, zebra and stop line."""
    worn = 0.0
    if side < 0.5:
        worn = _inside(-0.07, 0.07, d, fd) * _periodic(s, fs, dash, 0.45 * dash)
    elif side > lane - 0.5:
        worn = _inside(lane - 0.06, lane + 0.06, side, fd) * (1.0 - open_side)
    if zebra_s - 1.0 < s + fs and s - fs < zebra_s + 5.0:
        worn *= 1.0 - _inside(zebra_s - 0.5, zebra_s + 4.0, s, fs)
        stripes = _inside(zebra_s, zebra_s + 3.0, s, fs) * _inside(-kerb, kerb, d, fd)
        worn += stripes * _periodic(d, fd, 1.0, 0.5)
        worn += _inside(line_s, line_s + 0.35, s, fs) * _inside(0.0, lane, d, fd)
    return min(1.0, worn)


@kernel
def sunlit(s, d, fs, fd, edges, start, step):  # type: ignore[no-untyped-def]
    """Return the share of direct sun at (s, d); edges [N, 2]: shaded left of the first d and right of the second."""
    taps = int(min(4.0, max(1.0, fs / step)))
    width = max(fd, 0.15)
    total = 0.0
    for k in range(taps):
        place = (s + ((k + 0.5) / taps - 0.5) * fs - start) / step
        i = min(max(int(place), 0), len(edges) - 2)
        w = place - i
        left = (1 - w) * edges[i, 0] + w * edges[i + 1, 0]
        right = (1 - w) * edges[i, 1] + w * edges[i + 1, 1]
        shaded = (left - d) / width + 0.5 if left > -100.0 else 0.0
        other = (d - right) / width + 0.5 if right < 100.0 else 0.0
        total += 1.0 - min(1.0, max(0.0, shaded, other))
    return total / taps


@kernel
def _share_of(low, high, left_d, right_d, edges, start, step):  # type: ignore[no-untyped-def]
    """Return the share of sun of all places with s from low to high and d from left_d to right_d, -1 if they differ."""
    first, last = int((low - start) / step), int((high - start) / step) + 1
    lit, dark = True, True
    for i in range(max(first, 0), min(last + 1, len(edges))):
        left, right = edges[i, 0], edges[i, 1]
        if (left > -100.0 and left_d < left) or (right < 100.0 and right_d > right):
            lit = False
        if not ((left > -100.0 and right_d < left) or (right < 100.0 and left_d > right)):
            dark = False
    return 1.0 if lit else (0.0 if dark else -1.0)


@kernel
def _paint_cell(  # type: ignore[no-untyped-def]
    row, x0, x1, places, ends, light_by_x, noises, edges, start, step, crossings, tiles, starts, shape, numbers
):
    """Paint pixels x0 to x1 of one row; places is (s, d at x0, their steps per pixel, footprint along, across)."""
    s0, d0, s_step, d_step, fs, fd = places
    clear, mist, beam = ends
    level_s = int(min(TILE_LEVELS_S - 1.0, max(0.0, math.log2(max(1.0, fs * shape[2])) + 0.5)))
    level_d = int(min(TILE_LEVELS_D - 1.0, max(0.0, math.log2(max(1.0, fd * shape[2])) + 0.5)))
    first, columns, rows = starts[level_s, level_d], shape[0] >> level_s, shape[1] >> level_d
    per_s, per_d = shape[2] / (1 << level_s), shape[2] / (1 << level_d)
    s1, d1 = s0 + s_step * (x1 - x0), d0 + d_step * (x1 - x0)
    low, high = min(s0, s1) - fs, max(s0, s1) + fs
    widest, nearest = max(abs(d0), abs(d1)) + fd, (0.0 if d0 * d1 < 0 else min(abs(d0), abs(d1))) - fd
    lane = numbers[LANE]
    from_s, to_s, zebra_s, line_s = 1e9, 1e9, -1e9, -1e9
    for k in range(len(crossings)):
        if crossings[k, 0] - 12.0 < high and low < crossings[k, 1] + 2.0:
            from_s, to_s, zebra_s, line_s = crossings[k, 0], crossings[k, 1], crossings[k, 2], crossings[k, 3]
    marked = nearest < 0.5 or (nearest < lane + 0.5 and widest > lane - 0.5)
    marked = marked or (nearest < numbers[KERB] and zebra_s - 1.0 < high and low < zebra_s + 5.0)
    paved, opens = widest > numbers[KERB] - 0.2, from_s < high
    spread = 0.5 * max(fd, 0.15) + abs(d_step)
    share = 1.0
    if numbers[SUN] > 0.0:
        share = _share_of(low - step, high + step, min(d0, d1) - spread, max(d0, d1) + spread, edges, start, step)
    kerb, wall, slab, dash = numbers[KERB], numbers[WALL], numbers[SLAB], numbers[DASH]
    pavement, verge, asphalt, contrast = numbers[PAVEMENT], numbers[VERGE], numbers[ASPHALT], numbers[CONTRAST]
    bright, sun, colour = numbers[LIGHT], numbers[SUN], numbers[PAINT]
    taps, last = int(min(4.0, max(1.0, fs / step))), len(edges) - 2
    per_step, per_width = 1.0 / step, 1.0 / max(fd, 0.15)
    columns, rows = columns - 1, rows - 1  # masks, since a texture repeats and its sides are powers of two
    for x in range(x0, x1):
        u, v = (s0 + s_step * (x - x0)) * per_s - 0.5, (d0 + d_step * (x - x0)) * per_d - 0.5
        i, j = math.floor(u), math.floor(v)
        a, b = u - i, v - j
        p, q = first + (i & columns) * (rows + 1), first + ((i + 1) & columns) * (rows + 1)
        j0, j1 = j & rows, (j + 1) & rows
        near = tiles[p + j0] + b * (tiles[p + j1] - tiles[p + j0])
        noises[x - x0] = contrast * (near + a * (tiles[q + j0] + b * (tiles[q + j1] - tiles[q + j0]) - near))
    if share >= 0.0 and not (marked or paved or opens):  # most of the road
        steady = bright + sun * share
        for x in range(x0, x1):
            value = max(0.01, asphalt * (1.0 + noises[x - x0]))
            row[x] = value * (steady + beam * light_by_x[x]) * clear + mist
        return
    for x in range(x0, x1):
        s, d, noise = s0 + s_step * (x - x0), d0 + d_step * (x - x0), noises[x - x0]
        value = road = asphalt * (1.0 + noise)
        side = abs(d)
        open_side = _inside(from_s, to_s, s, fs) if opens else 0.0
        if paved and open_side < 1.0:
            value = _paving(road, s, side, d, fs, fd, noise, kerb, wall, slab, pavement, verge)
            value += open_side * (road - value)
        if marked:
            worn = _paint(s, d, side, fs, fd, lane, kerb, dash, open_side, zebra_s, line_s)
            value += worn * (colour * (1.0 + 0.8 * noise) - value)
        lit = share
        if share < 0.0:  # as in `sunlit`, written out since a call would cost more than it does
            lit = 0.0
            for k in range(taps):
                place = (s + ((k + 0.5) / taps - 0.5) * fs - start) * per_step
                i0 = min(max(int(place), 0), last)
                w = place - i0
                left = edges[i0, 0] + w * (edges[i0 + 1, 0] - edges[i0, 0])
                right = edges[i0, 1] + w * (edges[i0 + 1, 1] - edges[i0, 1])
                shaded = (left - d) * per_width + 0.5 if left > -100.0 else 0.0
                other = (d - right) * per_width + 0.5 if right < 100.0 else 0.0
                lit += (1.0 - min(1.0, max(0.0, shaded, other))) / taps
        light = bright + beam * light_by_x[x] + sun * lit
        row[x] = max(0.01, value) * light * clear + mist


@kernel
def paint_ground(lum, camera, base, table, start, step, ahead, edges, crossings, tiles, starts, shape, numbers):  # type: ignore[no-untyped-def]
    """Paint lum float32 [H, W] below the walls' feet base [W] with the ground.

    `ahead` is the camera's own s; crossings [K, 4]: side street from, to, zebra at, stop line at.
    """
    tall, width = lum.shape
    focal, u0, v0, height = camera[4], camera[5], camera[6], camera[7]
    cells = (width + CELL_PX - 1) // CELL_PX + 1
    place_s, place_d, along, sideways = np.empty(cells), np.empty(cells), np.empty(cells), np.empty(cells)
    light_by_x, noises = np.empty(width), np.empty(CELL_PX)  # of the head lamps; of a cell
    for x in range(width):
        aside = (x + 0.5 - u0) / focal / 0.45
        light_by_x[x] = 1.0 / (1.0 + aside * aside)
    for y in range(max(0, int(v0) + 1), tall):
        z = min(400.0, focal * height / max(0.35, y + 0.5 - v0))
        deeper, wider = z * z / (focal * height), z / focal
        for k in range(cells):
            slope = (k * CELL_PX + 0.5 - u0) / focal
            s, d, c, sn = locate(slope * z, z, camera, table, start, step, ahead + z)
            place_s[k], place_d[k] = s, d
            # One row farther and one column to the right, turned into the road's directions.
            cos, sin = c * camera[2] + sn * camera[3], sn * camera[2] - c * camera[3]
            along[k] = deeper * abs(cos - slope * sin) + wider * abs(sin)
            sideways[k] = deeper * abs(sin + slope * cos) + wider * abs(cos)
        clear = math.exp(-z / numbers[HAZE])
        ends = (clear, numbers[MIST] * (1.0 - clear), numbers[BEAM] * (z / (4.0 + z)) / (1.0 + z * z / 250.0))
        for k in range(cells - 1):
            s_step, d_step = (place_s[k + 1] - place_s[k]) / CELL_PX, (place_d[k + 1] - place_d[k]) / CELL_PX
            fs, fd = 0.5 * (along[k] + along[k + 1]), 0.5 * (sideways[k] + sideways[k + 1])
            places = (place_s[k], place_d[k], s_step, d_step, fs, fd)
            x0 = k * CELL_PX
            x1 = min(width, x0 + CELL_PX)
            foot = base[x0]
            for x in range(x0 + 1, x1):
                foot = min(foot, base[x])
            if y + 1 < foot:  # all behind walls; what is so in part, the walls are painted over
                continue
            _paint_cell(
                lum[y], x0, x1, places, ends, light_by_x, noises, edges, start, step, crossings, tiles, starts,
                shape, numbers,
            )  # fmt: skip


@kernel
def paint_sky(lum, camera, skyline, heading, sky, tiles, starts, shape, hills):  # type: ignore[no-untyped-def]
    """Paint lum above the walls with sky, clouds and a far skyline.

    `sky` is (luminance at the horizon, factor at the zenith, contrast of clouds, luminance of the skyline); hills [N]
    are tangents of elevation around the whole horizon.
    """
    tall, width = lum.shape
    focal, u0, v0 = camera[4], camera[5], camera[6]
    rows = shape[1] >> 2
    for x in range(width):
        end = min(tall, int(max(skyline[x], 0.0)) + 2)
        turn = heading - math.atan((x + 0.5 - u0) / focal)
        place = (turn / (2 * math.pi)) * len(hills)
        i = math.floor(place)
        w = place - i
        ridge = (1 - w) * hills[i % len(hills)] + w * hills[(i + 1) % len(hills)]
        crest = v0 - focal * ridge
        p = starts[3, 2] + (math.floor(turn * 24.0) % (shape[0] >> 3)) * rows
        q = starts[3, 2] + (int(math.floor(turn * 24.0) + 1) % (shape[0] >> 3)) * rows
        a = turn * 24.0 - math.floor(turn * 24.0)
        for y in range(end):
            up = (v0 - y) / focal
            v = up * 30.0
            j = math.floor(v)
            b = v - j
            j0, j1 = j & (rows - 1), (j + 1) & (rows - 1)
            cloud = (1 - a) * ((1 - b) * tiles[p + j0] + b * tiles[p + j1])
            cloud += a * ((1 - b) * tiles[q + j0] + b * tiles[q + j1])
            value = sky[0] * (1.0 + (sky[1] - 1.0) * min(1.0, max(0.0, up))) * (1.0 + sky[2] * cloud)
            below = min(1.0, max(0.0, y + 1.0 - crest))
            lum[y, x] = value + below * (sky[3] - value)
