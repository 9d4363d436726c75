"""What stands along a street and is never labelled: lamps, signs, trees, bins and bushes."""

from __future__ import annotations

import math

import numpy as np

from snn_perception.synth.shapes import Model, Sketch


def pole(rng: np.random.Generator, lamps: float, arm_m: float) -> Model:
    """Return a street lamp whose arm reaches `arm_m` to its right; without an arm (0) it is a plain mast."""
    sketch = Sketch()
    tall, color = rng.uniform(5.0, 7.5), rng.uniform(0.05, 0.4)
    sketch.bar((0.0, 0.0, 0.0), (0.0, 1.2, 0.0), 0.11, color)
    sketch.bar((0.0, 0.0, 0.0), (0.0, tall, 0.0), rng.uniform(0.055, 0.085), color)
    if arm_m:
        sketch.bar((0.0, tall, 0.0), (arm_m, tall + 0.3, 0.0), 0.045, color)
        sketch.bar((arm_m * 0.8, tall + 0.22, 0.0), (arm_m * 1.15, tall + 0.3, 0.0), 0.10, color)
        sketch.disc((arm_m, tall + 0.2, 0.0), 0.11, 0.5, lamp=14.0 * lamps)
    return sketch.model(0.15, 0.12, tall)


def sign(rng: np.random.Generator) -> Model:
    """Return a traffic sign that faces those who come from behind it (its back looks forward)."""
    sketch = Sketch()
    middle, radius = rng.uniform(2.1, 2.7), rng.uniform(0.28, 0.42)
    sketch.bar((0.0, 0.0, 0.0), (0.0, middle + radius, 0.0), 0.035, 0.25)
    corners = int(rng.choice([3, 4, 12]))
    turn = -math.pi / 2 if corners == 3 else math.pi / corners

    def plate(size: float, color: float, z: float, facing: float) -> None:
        angles = [turn + 2 * math.pi * k / corners for k in range(corners)]
        points = [(size * math.cos(a), middle - size * math.sin(a), z) for a in angles]
        sketch.face(points, (0, 0, facing), color)

    plate(radius, 0.2, 0.05, 1.0)
    plate(radius, 0.16, -0.05, -1.0)
    plate(radius * 0.76, 0.75, -0.06, -1.0)
    if rng.random() < 0.6:
        bar = [(-0.5 * radius, middle - 0.08, -0.07), (0.5 * radius, middle - 0.08, -0.07)]
        bar += [(0.5 * radius, middle + 0.08, -0.07), (-0.5 * radius, middle + 0.08, -0.07)]
        sketch.face(bar, (0, 0, -1), 0.04)
    return sketch.model(0.1, 0.1, middle)


def tree(rng: np.random.Generator) -> Model:
    """Return a tree: trunk, branches and a crown of clumps of leaves."""
    sketch = Sketch()
    tall, spread, leaf = rng.uniform(4.5, 8.0), rng.uniform(1.0, 1.9), rng.uniform(0.05, 0.12)
    crown = tall - spread
    sketch.bar((0.0, 0.0, 0.0), (0.0, crown, 0.0), rng.uniform(0.10, 0.18), 0.07, lower=0.05)
    for _ in range(4):
        angle = rng.uniform(0, 6.28)
        tip = (0.7 * spread * math.cos(angle), crown + rng.uniform(-0.3, 0.6), 0.7 * spread * math.sin(angle))
        sketch.bar((0.0, crown - rng.uniform(0.3, 1.0), 0.0), tip, 0.05, 0.05)
    clumps = []
    for _ in range(int(rng.integers(40, 58))):
        direction = rng.standard_normal(3)
        direction *= spread * rng.uniform(0.45, 1.0) / math.sqrt(sum(float(part) ** 2 for part in direction))
        clumps.append((*direction, rng.uniform(0.2, 0.48)))
    # Dark ones inside first, so that the lighter ones lie over them.
    for x, y, z, radius in sorted(clumps, key=lambda clump: clump[0] ** 2 + clump[1] ** 2 + clump[2] ** 2):
        light = 0.6 + 0.4 * (y / spread + 1.0) * rng.uniform(0.6, 1.4)
        sketch.disc((float(x), crown + 0.4 * spread + 0.8 * float(y), float(z)), float(radius), leaf * float(light))
    return sketch.model(spread, spread, tall)


def bush(rng: np.random.Generator) -> Model:
    """Return a bush."""
    sketch = Sketch()
    tall, spread, leaf = rng.uniform(0.7, 1.6), rng.uniform(0.5, 1.0), rng.uniform(0.05, 0.14)
    for _ in range(int(rng.integers(14, 22))):
        x, z = rng.uniform(-spread, spread, 2)
        y = rng.uniform(0.1, 0.85) * tall * math.sqrt(max(0.1, 1.0 - (x * x + z * z) / (2.2 * spread * spread)))
        light = 0.5 + 0.7 * y / tall * rng.uniform(0.6, 1.4)
        sketch.disc((float(x), float(y), float(z)), float(rng.uniform(0.14, 0.32)), leaf * float(light))
    return sketch.model(spread, spread, tall)


def bin_(rng: np.random.Generator) -> Model:
    """Return a litter or wheeled bin, or a switch box."""
    sketch = Sketch()
    half, tall, color = rng.uniform(0.2, 0.38), rng.uniform(0.8, 1.25), float(rng.choice([0.04, 0.1, 0.3]))
    sketch.box((-half, 0.05, -half), (half, tall, half), color, top=color * 1.5)
    sketch.box((-half - 0.04, tall - 0.06, -half - 0.04), (half + 0.04, tall + 0.03, half + 0.04), color * 0.6)
    return sketch.model(half, half, tall)
