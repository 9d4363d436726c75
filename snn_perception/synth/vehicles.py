"""Cars, trucks, buses and cyclists, each drawn from its own random numbers."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from snn_perception.synth.shapes import Model, Point, Sketch, ring, within

_BLACK, _GLASS, _RUBBER = 0.02, 0.045, 0.025


def car(rng: np.random.Generator, lamps: float) -> Model:
    """Return a car: hatchback, saloon, estate, SUV or small van; `lamps` is how bright its lights are."""
    body = rng.choice(5, p=[0.34, 0.22, 0.18, 0.18, 0.08])
    long = (rng.uniform(3.7, 4.2), rng.uniform(4.4, 4.9), rng.uniform(4.4, 4.8), rng.uniform(4.1, 4.7), 4.3)[body]
    tall = (1.48, 1.44, 1.47, 1.66, 1.85)[body] * rng.uniform(0.97, 1.04)
    wide = rng.uniform(1.68, 1.86)
    paint = float(rng.choice([0.03, 0.07, 0.16, 0.28, 0.45, 0.65, 0.7]) * rng.uniform(0.8, 1.25))
    floor, belt = rng.uniform(0.18, 0.24), tall * rng.uniform(0.60, 0.65)
    rear, front, half = -long / 2, long / 2, wide / 2
    windscreen = front - rng.uniform(0.95, 1.15) * (0.75 if body == 4 else 1.0)
    bonnet = belt - rng.uniform(0.08, 0.16)
    boot = (rear + 0.10, rear + 0.85, rear + 0.08, rear + 0.1, rear + 0.03)[body]
    roof_rear = boot + (0.38, 0.55, 0.25, 0.3, 0.08)[body]
    roof_front = windscreen - (0.75, 0.8, 0.78, 0.65, 0.55)[body]
    sketch = Sketch()
    profile = [
        (floor, rear + 0.06), (0.36 * tall, rear), (belt - 0.03, rear + 0.05), (belt, windscreen),
        (bonnet, front - 0.22), (0.38 * tall, front), (floor, front - 0.1),
    ]  # fmt: skip
    for side in (-1.0, 1.0):  # mirrors
        at = (side * (half + 0.08), belt + 0.06, windscreen - 0.42)
        sketch.bar(at, (at[0] - side * 0.06, at[1], at[2]), 0.07, paint)
    _wheels(sketch, (rear + 0.78, front - 0.82), half, 0.31, inner=True)
    _hull(sketch, profile, half, paint)
    _car_ends(sketch, rng, profile, half, paint, lamps)
    for z in (rear + 0.78, front - 0.82):
        _arch(sketch, half + 0.005, z, 0.37)
    _wheels(sketch, (rear + 0.78, front - 0.82), half, 0.31, inner=False)
    _sides(sketch, half, paint, rear, front, floor, belt)
    _cabin(sketch, half, tall, belt, (boot, roof_rear, roof_front, windscreen), paint)
    return sketch.model(long / 2, half, tall)


def _hull(sketch: Sketch, profile: list[tuple[float, float]], half: float, paint: float) -> None:
    """Add what a side profile (height, forward), bent outwards everywhere, sweeps from one side to the other."""
    closed = [*profile, profile[0]]
    for (ya, za), (yb, zb) in pairwise(closed):
        normal = (0.0, float(zb - za), float(ya - yb))
        length = math.hypot(normal[1], normal[2])
        normal = (0.0, normal[1] / length, normal[2] / length)
        quad = [(-half, ya, za), (half, ya, za), (half, yb, zb), (-half, yb, zb)]
        sketch.face(quad, normal, paint, lower=paint * 0.8, shine=0.10 if normal[1] > 0.5 else 0.02)
    for side in (-1.0, 1.0):
        flank = [(side * half, y, z) for y, z in profile]
        sketch.face(flank, (side, 0, 0), paint * 1.05, lower=paint * 0.65, shine=0.05)


def _car_ends(
    sketch: Sketch,
    rng: np.random.Generator,
    profile: list[tuple[float, float]],
    half: float,
    paint: float,
    lamps: float,
) -> None:
    """Add lamps, plates, grille and bumpers."""
    (y0, z0), (y1, z1), (y2, z2) = profile[:3]
    tail = [(-half, y1, z1 - 0.01), (half, y1, z1 - 0.01), (half, y2, z2 - 0.01), (-half, y2, z2 - 0.01)]
    lower = [(-half, y0, z0 - 0.01), (half, y0, z0 - 0.01), (half, y1, z1 - 0.01), (-half, y1, z1 - 0.01)]
    tall = rng.uniform(0.35, 0.8)
    for a, b in ((0.03, rng.uniform(0.16, 0.25)), (0.0, 0.0)):
        if b:
            for left, right in ((a, b), (1 - b, 1 - a)):
                lamp = within(tail, left, right, 0.95 - tall, 0.93)
                sketch.face(lamp, (0, 0, -1), 0.13, lower=0.08, lamp=0.3 * lamps)
    sketch.face(within(tail, 0.33, 0.67, 0.2, 0.52), (0, 0, -1), 0.62)
    sketch.face(within(lower, 0.02, 0.98, 0.0, 0.45), (0, 0, -1), _BLACK)
    (y3, z3), (y4, z4), (y5, z5) = profile[4:7]
    nose = [(-half, y4, z4 + 0.01), (half, y4, z4 + 0.01), (half, y3, z3 + 0.01), (-half, y3, z3 + 0.01)]
    chin = [(-half, y5, z5 + 0.01), (half, y5, z5 + 0.01), (half, y4, z4 + 0.01), (-half, y4, z4 + 0.01)]
    for left, right in ((0.04, 0.25), (0.75, 0.96)):
        sketch.face(within(nose, left, right, 0.35, 0.9), (0, 0, 1), 0.6, lower=0.35, lamp=5.0 * lamps)
    sketch.face(within(nose, 0.28, 0.72, 0.3, 0.8), (0, 0, 1), _BLACK)
    sketch.face(within(chin, 0.2, 0.8, 0.1, 0.5), (0, 0, 1), _BLACK)
    sketch.face(within(chin, 0.36, 0.64, 0.6, 0.92), (0, 0, 1), 0.62)


def _sides(sketch: Sketch, half: float, paint: float, rear: float, front: float, floor: float, belt: float) -> None:
    """Add sills, door gaps and handles."""
    middle = 0.5 * (rear + front)
    for side in (-1.0, 1.0):
        x = side * (half + 0.01)
        sketch.face(_pane(x, rear + 1.2, front - 1.25, floor, floor + 0.1), (side, 0, 0), _BLACK)
        for z in (middle - 0.75, middle + 0.2):
            sketch.face(_pane(x, z, z + 0.03, floor + 0.12, belt), (side, 0, 0), paint * 0.35)
            grip = _pane(x, z + 0.1, z + 0.28, belt - 0.17, belt - 0.12)
            sketch.face(grip, (side, 0, 0), min(0.8, paint * 1.8 + 0.05))


def _cabin(
    sketch: Sketch, half: float, tall: float, belt: float, places: tuple[float, float, float, float], paint: float
) -> None:
    """Add roof, pillars and windows; places are forward metres of boot lid, roof's rear, roof's front, windscreen."""
    foot_rear, roof_rear, roof_front, foot_front = places
    low, top, foot = half - 0.03, half - 0.20, belt - 0.03
    rear = [(-low, foot, foot_rear), (low, foot, foot_rear), (top, tall, roof_rear), (-top, tall, roof_rear)]
    front = [(-low, foot, foot_front), (low, foot, foot_front), (top, tall, roof_front), (-top, tall, roof_front)]
    roof = [(-top, tall, roof_rear), (top, tall, roof_rear), (top, tall, roof_front), (-top, tall, roof_front)]
    sketch.face(roof, (0, 1, 0), paint, shine=0.2)
    sketch.face(rear, (0, 0.4, -0.9), paint)
    sketch.face(front, (0, 0.6, 0.8), paint)
    for side in (-1.0, 1.0):
        flank: list[Point] = [
            (side * low, foot, foot_rear), (side * low, foot, foot_front),
            (side * top, tall, roof_front), (side * top, tall, roof_rear),
        ]  # fmt: skip
        sketch.face(flank, (side * 0.96, 0.28, 0), paint)
        for left, right in ((0.07, 0.30), (0.33, 0.62), (0.65, 0.93)):
            pane = within(flank, left, right, 0.12, 0.86)
            sketch.face(pane, (side * 0.96, 0.28, 0), _GLASS, shine=0.20)
    sketch.face(within(rear, 0.09, 0.91, 0.16, 0.88), (0, 0.4, -0.9), _GLASS, shine=0.12)
    sketch.face(within(front, 0.05, 0.95, 0.06, 0.92), (0, 0.6, 0.8), _GLASS, shine=0.30)


def _arch(sketch: Sketch, half: float, z: float, radius: float) -> None:
    for side in (-1.0, 1.0):
        sketch.face(ring(side * half, 0.33, z, radius), (side, 0, 0), _BLACK)


def _wheels(sketch: Sketch, axles: tuple[float, ...], half: float, radius: float, *, inner: bool) -> None:
    """Add treads, which the body hides (`inner`), or the wheels' outer sides."""
    for z in axles:
        for side in (-1.0, 1.0):
            x, x_in = side * (half - 0.02), side * (half - 0.22)
            if inner:
                for end in (-1.0, 1.0):
                    at = z + end * radius * 0.8
                    tread = [(x, 0.0, at), (x_in, 0.0, at), (x_in, 0.5, at), (x, 0.5, at)]
                    sketch.face(tread, (0, 0, end), _RUBBER)
            else:
                sketch.face(ring(side * (half + 0.01), radius, z, radius), (side, 0, 0), _RUBBER)
                sketch.face(ring(side * (half + 0.015), radius, z, 0.62 * radius), (side, 0, 0), 0.30, lower=0.18)
                sketch.face(ring(side * (half + 0.02), radius, z, 0.2 * radius), (side, 0, 0), 0.08)


def truck(rng: np.random.Generator, lamps: float) -> Model:
    """Return a box truck, a delivery van or a bus."""
    body = rng.choice(3, p=[0.45, 0.35, 0.2])
    long = (rng.uniform(6.0, 8.5), rng.uniform(5.2, 6.2), rng.uniform(9.0, 11.0))[body]
    tall = (rng.uniform(2.9, 3.5), rng.uniform(2.3, 2.7), rng.uniform(2.9, 3.1))[body]
    half = (1.2, 1.0, 1.25)[body]
    paint, cab = rng.uniform(0.15, 0.7), rng.uniform(0.08, 0.7)
    rear, front = -long / 2, long / 2
    split = (front - 2.0, front - 1.9, rear)[body]
    sketch = Sketch()
    axles, radius = (rear + 1.4, front - 1.1), (0.46, 0.35, 0.5)[body]
    _wheels(sketch, axles, half, radius, inner=True)
    sketch.box((-half + 0.1, 0.4, rear), (half - 0.1, 0.75, front - 0.1), _BLACK)
    floor = (0.75, 0.4, 0.35)[body]
    boxes = [((-half, floor, rear), (half, tall, split - 0.12), paint)] if body != 2 else []
    cab_top = (min(tall, 2.7), tall - 0.1, tall)[body]
    boxes.append(((-half + 0.03, floor - 0.05, split), (half - 0.03, cab_top, front), cab))
    # Of two boxes the nearer one comes last, as far as that can be said once for all views: the cab.
    for low, high, color in boxes:
        sketch.box(low, high, color, top=color)
    x = half - 0.03 + 0.01
    for side in (-1.0, 1.0):
        if body == 2:
            for k in range(int(long / 1.5)):
                z = rear + 0.4 + 1.5 * k
                sketch.face(_pane(side * x, z, z + 1.25, 1.45, 2.45), (side, 0, 0), _GLASS, shine=0.2)
        else:
            sketch.face(_pane(side * x, split + 0.6, front - 0.4, 1.35, cab_top - 0.3), (side, 0, 0), _GLASS, shine=0.2)
            band = rng.uniform(0.1, 0.7)
            a, b = sorted(rng.uniform(0.2, 0.9, 2) * (tall - floor) + floor)
            sketch.face(_pane(side * (half + 0.01), rear + 0.3, split - 0.5, a, b), (side, 0, 0), band)
    glass = [(-half + 0.15, 1.35, front + 0.01), (half - 0.15, 1.35, front + 0.01)]
    glass += [(half - 0.15, cab_top - 0.25, front + 0.01), (-half + 0.15, cab_top - 0.25, front + 0.01)]
    sketch.face(glass, (0, 0, 1), _GLASS, shine=0.3)
    _truck_ends(sketch, half, rear, front, floor, tall, lamps)
    for z in axles:
        _arch(sketch, half + 0.005, z, radius * 1.15)
    _wheels(sketch, axles, half, radius, inner=False)
    return sketch.model(long / 2, half, tall)


def _pane(x: float, rear: float, front: float, low: float, high: float) -> list[Point]:
    return [(x, low, rear), (x, low, front), (x, high, front), (x, high, rear)]


def _truck_ends(
    sketch: Sketch, half: float, rear: float, front: float, floor: float, tall: float, lamps: float
) -> None:
    """Add lamps, bumpers, the gap between the rear doors."""

    def plate(left: float, right: float, low: float, high: float, back: bool, color: float, lamp: float = 0.0) -> None:
        z = rear - 0.01 if back else front + 0.01
        corners = [(left, low, z), (right, low, z), (right, high, z), (left, high, z)]
        sketch.face(corners, (0, 0, -1 if back else 1), color, lamp=lamp)

    plate(-half, half, 0.4, floor + 0.08, True, _BLACK)
    plate(-0.02, 0.02, floor + 0.1, tall - 0.1, True, 0.05)
    plate(-0.28, 0.28, floor - 0.1, floor + 0.05, True, 0.6)
    plate(-half + 0.05, half - 0.05, 0.35, 0.72, False, 0.06)
    for side in (-1.0, 1.0):
        a, b = sorted((side * (half - 0.05), side * (half - 0.35)))
        plate(a, b, floor - 0.12, floor + 0.08, True, 0.12, 0.3 * lamps)
        plate(a, b, 0.6, 0.85, False, 0.55, 5.0 * lamps)


def cyclist(rng: np.random.Generator) -> Model:
    """Return one who rides a bicycle."""
    sketch = Sketch()
    frame, top, legs = rng.uniform(0.04, 0.5), rng.uniform(0.04, 0.6), rng.uniform(0.03, 0.25)
    for z in (-0.52, 0.52):
        rim = ring(0.0, 0.34, z, 0.33, 14)
        for a, b in zip(rim, [*rim[1:], rim[0]], strict=True):
            sketch.bar(a, b, 0.022, _RUBBER)
    pedal, saddle, grip = (0.0, 0.32, 0.02), (0.0, 0.95, -0.2), (0.0, 1.02, 0.42)
    hubs = (0.0, 0.34, -0.52), (0.0, 0.34, 0.52)
    for a, b in ((pedal, saddle), (pedal, grip), (saddle, grip), (hubs[0], pedal), (hubs[1], grip)):
        sketch.bar(a, b, 0.025, frame)
    sketch.bar((-0.25, 1.05, 0.42), (0.25, 1.05, 0.42), 0.02, _BLACK)
    for side, foot in ((-1.0, 0.18), (1.0, 0.48)):
        knee = (side * 0.13, 0.62 + 0.5 * foot, 0.22)
        sketch.bar((side * 0.1, 0.98, -0.18), knee, 0.085, legs)
        sketch.bar(knee, (side * 0.12, foot, 0.05), 0.06, legs * 0.9, lower=_BLACK)
    lean = rng.uniform(0.15, 0.35)
    shoulder = (0.0, 1.48, -0.15 + lean)
    sketch.bar((0.0, 1.0, -0.18), shoulder, 0.18, top * 0.9, lower=top)
    for side in (-1.0, 1.0):
        sketch.bar((side * 0.19, 1.45, shoulder[2]), (side * 0.24, 1.06, 0.4), 0.05, top)
    sketch.disc((0.0, 1.68, shoulder[2] + 0.06), 0.12, 0.22)
    sketch.disc((0.0, 1.73, shoulder[2] + 0.03), 0.12, rng.uniform(0.03, 0.5))
    return sketch.model(0.8, 0.22, 1.8)
