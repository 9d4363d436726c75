"""Models of things in the street, put together from polygons, bars and discs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from snn_perception.synth.actor_kernels import BAR, DISC, PART_COLUMNS, POLYGON

Point: TypeAlias = "tuple[float, float, float]"
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Model:
    """One thing, standing at the origin and looking forward.

    Attributes:
        vertices: float64 [V, 3], metres to the right, up and forward.
        parts: float64 [P, 12], see `actor_kernels`, in the order in which they are drawn; vertices count from 0.
        half_long_m, half_wide_m, tall_m: its extent; half_wide_m 0 means that it throws no shadow.
        gait_m: half the width between the shoulders of one who walks; 0 for what is rigid.
    """

    vertices: F64
    parts: F64
    half_long_m: float
    half_wide_m: float
    tall_m: float
    gait_m: float = 0.0


class Sketch:
    """Collects the parts of a model in drawing order: what may hide something comes after it."""

    def __init__(self) -> None:
        self._vertices: list[Point] = []
        self._parts: list[list[float]] = []

    def joints(self, count: int) -> None:
        """Reserve vertices that move; they come first."""
        self._vertices += [(0.0, 0.0, 0.0)] * count

    def face(
        self,
        corners: Sequence[Point],
        normal: Point,
        color: float,
        *,
        lower: float | None = None,
        lamp: float = 0.0,
        shine: float = 0.0,
        both: bool = False,
    ) -> None:
        """Add a convex polygon that is seen from the side its normal points to, from `color` down to `lower`."""
        ordered = list(corners) if _turn(corners, normal) > 0 else list(corners)[::-1]
        first = len(self._vertices)
        self._vertices += ordered
        down = color if lower is None else lower
        self._add(POLYGON, first, len(ordered), 0.0, color, down, normal, lamp, shine, both)

    def bar(self, a: Point, b: Point, radius: float, color: float, *, lower: float | None = None) -> None:
        """Add a round-ended bar from `a` (color) to `b` (lower)."""
        first = len(self._vertices)
        self._vertices += [a, b]
        self.limb(first, first + 1, radius, color, lower=lower)

    def limb(self, a: int, b: int, radius: float, color: float, *, lower: float | None = None) -> None:
        """Add a bar between two vertices that are there already."""
        down = color if lower is None else lower
        self._add(BAR, a, b, radius, color, down, (0.0, 0.0, 0.0), 0.0, 0.0, True)

    def disc(self, middle: Point, radius: float, color: float, *, lamp: float = 0.0) -> None:
        """Add a ball."""
        self._vertices.append(middle)
        self._add(DISC, len(self._vertices) - 1, 0, radius, color, color, (0.0, 0.0, 0.0), lamp, 0.0, True)

    def box(self, low: Point, high: Point, color: float, *, top: float | None = None) -> None:
        """Add the five faces of an upright box that can be seen."""
        (x0, y0, z0), (x1, y1, z1) = low, high
        lower = color * 0.8
        self.face([(x0, y1, z0), (x1, y1, z0), (x1, y1, z1), (x0, y1, z1)], (0, 1, 0), top or color)
        self.face([(x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0)], (0, 0, -1), color, lower=lower)
        self.face([(x0, y0, z1), (x1, y0, z1), (x1, y1, z1), (x0, y1, z1)], (0, 0, 1), color, lower=lower)
        self.face([(x0, y0, z0), (x0, y0, z1), (x0, y1, z1), (x0, y1, z0)], (-1, 0, 0), color, lower=lower)
        self.face([(x1, y0, z0), (x1, y0, z1), (x1, y1, z1), (x1, y1, z0)], (1, 0, 0), color, lower=lower)

    def model(self, half_long_m: float, half_wide_m: float, tall_m: float, gait_m: float = 0.0) -> Model:
        """Return what has been collected."""
        vertices, parts = np.array(self._vertices, np.float64), np.array(self._parts, np.float64)
        return Model(vertices, parts, half_long_m, half_wide_m, tall_m, gait_m)

    def _add(
        self,
        shape: int,
        first: int,
        last: int,
        radius: float,
        upper: float,
        lower: float,
        normal: Point,
        lamp: float,
        shine: float,
        both: bool,
    ) -> None:
        part = [shape, first, last, radius, upper, lower, *normal, lamp, shine, float(both)]
        assert len(part) == PART_COLUMNS
        self._parts.append([float(number) for number in part])


def _turn(corners: Sequence[Point], normal: Point) -> float:
    """Return a number whose sign says which way round the corners run, seen against the normal."""
    total = 0.0
    for (x, y, z), (u, v, w) in zip(corners, [*corners[1:], corners[0]], strict=True):
        total += normal[0] * (y * w - z * v) + normal[1] * (z * u - x * w) + normal[2] * (x * v - y * u)
    return total


def within(corners: Sequence[Point], left: float, right: float, low: float, high: float) -> list[Point]:
    """Return a rectangle inside a four-cornered face (lower left, lower right, upper right, upper left), in shares."""
    a, b, c, d = corners

    def at(u: float, v: float) -> Point:
        shares = (1 - v) * (1 - u), (1 - v) * u, v * u, v * (1 - u)
        x, y, z = (sum(share * corner[k] for share, corner in zip(shares, (a, b, c, d), strict=True)) for k in range(3))
        return x, y, z

    return [at(left, low), at(right, low), at(right, high), at(left, high)]


def ring(x: float, y: float, z: float, radius: float, corners: int = 12) -> list[Point]:
    """Return the corners of an upright disc that faces sideways."""
    angles = [2.0 * math.pi * k / corners for k in range(corners)]
    return [(x, y + radius * math.sin(a), z + radius * math.cos(a)) for a in angles]
