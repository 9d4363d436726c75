"""People on foot: build, clothes and bags drawn at random, legs and arms that walk."""

from __future__ import annotations

import numpy as np

from snn_perception.synth.shapes import Model, Sketch

LEFT_LEG, RIGHT_LEG, LEFT_ARM, RIGHT_ARM = range(3), range(3, 6), range(6, 9), range(9, 12)


def pedestrian(rng: np.random.Generator) -> Model:
    """Return a person whose first 12 vertices are the joints that `actor_kernels.walk` sets."""
    tall, build = rng.normal(1.71, 0.09), rng.uniform(0.85, 1.25)
    if rng.random() < 0.08:
        tall *= rng.uniform(0.65, 0.85)  # a child
    tall = float(min(1.95, max(1.1, tall)))
    top, legs, skin = rng.choice([0.03, 0.08, 0.2, 0.5]) * rng.uniform(0.8, 1.3), rng.uniform(0.02, 0.22), 0.28
    shoulder = 0.118 * tall * build
    sketch = Sketch()
    sketch.joints(12)
    _leg(sketch, LEFT_LEG, tall, build, legs)
    _arm(sketch, LEFT_ARM, tall, build, top, skin)
    _leg(sketch, RIGHT_LEG, tall, build, legs)
    waist, chest = 0.50 * tall, 0.775 * tall
    if rng.random() < 0.35:  # a coat
        sketch.bar((0.0, 0.40 * tall, 0.0), (0.0, waist, 0.0), 0.095 * tall * build, top * 0.8, lower=top)
    for x in (-0.35, 0.35):
        sketch.bar((x * shoulder, waist, 0.0), (x * shoulder, chest, 0.0), 0.072 * tall * build, top * 0.85, lower=top)
    sketch.bar((-0.72 * shoulder, chest, 0.0), (0.72 * shoulder, chest, 0.0), 0.055 * tall * build, top)
    sketch.bar((0.0, 0.80 * tall, 0.0), (0.0, 0.86 * tall, 0.01), 0.032 * tall, skin)
    if rng.random() < 0.3:  # a rucksack
        sketch.bar((0.0, 0.60 * tall, -0.16), (0.0, 0.74 * tall, -0.16), 0.085 * tall, rng.uniform(0.02, 0.5))
    sketch.disc((0.0, 0.925 * tall, 0.02), 0.062 * tall, skin)
    sketch.disc((0.0, 0.942 * tall, -0.012), 0.062 * tall, rng.uniform(0.015, 0.25))
    _arm(sketch, RIGHT_ARM, tall, build, top, skin)
    if rng.random() < 0.3:  # a bag in the hand
        at = (shoulder * 1.15, 0.36 * tall, 0.0)
        sketch.bar((at[0], 0.44 * tall, 0.02), at, 0.02, 0.05)
        sketch.bar((at[0], at[1], -0.09), (at[0], at[1], 0.09), 0.11, rng.uniform(0.03, 0.6))
    return sketch.model(0.24, 0.30, tall, gait_m=shoulder)


def _leg(sketch: Sketch, joints: range, tall: float, build: float, color: float) -> None:
    hip, knee, foot = joints
    sketch.limb(hip, knee, 0.050 * tall * build, color)
    sketch.limb(knee, foot, 0.036 * tall * build, color * 0.9, lower=0.02)


def _arm(sketch: Sketch, joints: range, tall: float, build: float, color: float, skin: float) -> None:
    shoulder, elbow, hand = joints
    sketch.limb(shoulder, elbow, 0.030 * tall * build, color * 0.95)
    sketch.limb(elbow, hand, 0.025 * tall * build, color * 0.9, lower=skin)
