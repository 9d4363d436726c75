"""The street block by block: houses, parked cars, people on the pavement, trees, lamps. Made when it comes in sight."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from snn_perception.synth.actors import Actor, Motion, along, standing
from snn_perception.synth.facades import GARDEN, HEDGES, HOUSES, PLAIN, FacadeBank
from snn_perception.synth.route import STEP_M, TICK_US, EgoMotion, Route
from snn_perception.synth.style import DriveStyle, generator
from snn_perception.synth.traffic import Junction

_HOUSE_DEPTH_M, _SIDE_STREET_M = 9.0, 38.0
_CORNER_M = 5.0  # no parking this close to a side street

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Block:
    """The street between two junctions: walls float64 [N, 11] (see `wall_kernels`) and who stands there."""

    start_m: float
    end_m: float
    walls: F64
    actors: tuple[Actor, ...]


@dataclass(frozen=True)
class Light:
    """The day's light: ambient strength, strength of the sun and the unit vector towards it (world x, y, up)."""

    ambient: float
    sun: float
    toward: tuple[float, float, float]


class Street:
    """Makes the blocks of one recording; a block depends on its number alone, not on when it is made.

    Attributes:
        edges: float64 [N, 2] along the route's table: the ground is shaded left of the first d and right of the
            second. Filled as blocks are made.
    """

    def __init__(
        self,
        style: DriveStyle,
        recording: int,
        route: Route,
        ego: EgoMotion,
        junctions: tuple[Junction, ...],
        bank: FacadeBank,
        light: Light,
    ) -> None:
        self._style, self._recording, self._route, self._ego = style, recording, route, ego
        self._bank, self._light = bank, light
        self.kerb_m = style.lane_m + style.parking_m
        self.wall_m = self.kerb_m + style.pavement_m
        starts = [route.start_m + 4.0, *(junction.end_m for junction in junctions)]
        ends = [*(junction.start_m for junction in junctions), route.end_m - 4.0]
        self._spans = [(a, b) for a, b in zip(starts, ends, strict=True) if b > a + 1.0]
        self._junctions = junctions
        self.edges = np.empty((len(route.heading), 2))
        self.edges[:] = -1e3, 1e3

    def span(self, number: int) -> tuple[float, float] | None:
        """Return where a block begins and ends; None after the last."""
        return self._spans[number] if number < len(self._spans) else None

    def block(self, number: int) -> Block:
        """Return a block, and cast its shadows."""
        rng = generator(self._style.seed, self._recording, 5, number)
        start, end = self._spans[number]
        walls: list[list[float]] = []
        actors: list[Actor] = []
        for side in (-1.0, 1.0):
            self._row_of_houses(rng, walls, side, start, end)
            self._parked(rng, actors, number, side, start + _CORNER_M, end - _CORNER_M - 2.0)
            self._pavement(rng, actors, number, side, start, end)
        return Block(start, end, np.array(walls, np.float64).reshape(-1, 11), tuple(actors))

    def _add(
        self, actors: list[Actor], number: int, kind: str, motion: Motion, at_m: float, arm_m: float = 0.0
    ) -> None:
        actors.append(Actor(kind, motion, number * 1000 + len(actors), at_m=at_m, arm_m=arm_m))

    def _row_of_houses(
        self, rng: np.random.Generator, walls: list[list[float]], side: float, start: float, end: float
    ) -> None:
        """Add houses of differing width, height and distance, with gardens in between."""
        at, first = start, True
        while at < end - 1.0:
            wide = min(float(rng.uniform(6.0, 17.0)), end - at)
            if end - at - wide < 5.0:
                wide = end - at
            d = self.wall_m + (rng.uniform(0.5, 4.0) if rng.random() < 0.3 else rng.uniform(0.0, 0.4))
            if not first and rng.random() < 0.16 and wide < 14.0:
                self._garden(rng, walls, side, at, at + wide)
            else:
                self._house(rng, walls, side, at, at + min(wide, 19.0), d, corner=(first, at + wide >= end - 0.1))
            at += wide
            first = False

    def _house(
        self,
        rng: np.random.Generator,
        walls: list[list[float]],
        side: float,
        a: float,
        b: float,
        d: float,
        corner: tuple[bool, bool],
    ) -> None:
        slot = int(rng.choice(list(HOUSES)))
        floors = max(1, round(self._style.building_floors + rng.normal(0.0, 0.9)))
        tall = min(19.0, floors * self._bank.storey_m[slot] + rng.uniform(0.25, 0.6))
        gain, shift = rng.uniform(0.8, 1.2), rng.uniform(0.0, 20.0)
        self._wall(walls, (a, side * d), (b, side * d), tall, slot, gain, shift)
        gable = int(rng.choice(list(PLAIN)))
        for place, is_corner in ((a, corner[0]), (b, corner[1])):
            # Along a side street the row of houses goes on.
            deep = _SIDE_STREET_M if is_corner else _HOUSE_DEPTH_M
            near, far = (place, side * d), (place, side * (d + deep))
            self._wall(walls, near, far, tall, slot if is_corner else gable, gain, shift, along_street=False)
        self._shadow(side, a, b, d, tall)

    def _garden(self, rng: np.random.Generator, walls: list[list[float]], side: float, a: float, b: float) -> None:
        hedge = rng.random() < 0.5
        slot = int(rng.choice(list(HEDGES if hedge else GARDEN)))
        d = side * (self.wall_m + 0.2)
        self._wall(walls, (a, d), (b, d), float(rng.uniform(0.9, 2.0)), slot, 1.0, float(rng.uniform(0, 20)))
        back = d + side * rng.uniform(9.0, 16.0)
        house = int(rng.choice(list(HOUSES)))
        self._wall(walls, (a - 6.0, back), (b + 6.0, back), 2 * self._bank.storey_m[house] + 0.4, house, 0.9, 3.0)

    def _wall(
        self,
        walls: list[list[float]],
        start: tuple[float, float],
        end: tuple[float, float],
        tall: float,
        slot: int,
        gain: float,
        shift: float,
        *,
        along_street: bool = True,
    ) -> None:
        """Add a wall between two places (s, d); its light follows from the side that looks at the street."""
        (sa, da), (sb, db) = start, end
        xa, ya = self._route.world(sa, da)
        if along_street:
            xb, yb = self._route.world(sb, db)
        else:  # straight away from the road
            angle = self._route.at(sa)[2]
            xb, yb = xa + (db - da) * math.sin(angle), ya - (db - da) * math.cos(angle)
        long = math.hypot(xb - xa, yb - ya)
        if long < 0.2:
            return
        nx, ny = (yb - ya) / long, (xa - xb) / long
        wx, wy = self._route.world(sa, 0.0)
        if (wx - xa) * nx + (wy - ya) * ny < 0:
            nx, ny = -nx, -ny
        toward = self._light.toward
        facing = max(0.0, nx * toward[0] + ny * toward[1])
        if not along_street:
            facing = abs(nx * toward[0] + ny * toward[1]) * 0.5
        dark = self._light.ambient * 0.8 * gain
        lit = dark + self._light.sun * facing * gain
        flat = max(0.05, abs(nx * toward[0] + ny * toward[1]))
        opposite = 3.0 * self._style.building_floors
        shade = max(0.0, opposite - 2 * self.wall_m * toward[2] / flat) if along_street else 0.0
        walls.append([xa, ya, xb, yb, tall, shift, shift + long, slot, lit, shade, dark])

    def _shadow(self, side: float, a: float, b: float, d: float, tall: float) -> None:
        """Shade the ground beside a house where it stands between it and the sun."""
        if self._light.sun <= 0:
            return
        angle = self._route.at(0.5 * (a + b))[2]
        x, y, up = self._light.toward
        right, forward = x * math.sin(angle) - y * math.cos(angle), x * math.cos(angle) + y * math.sin(angle)
        if right * side <= 0.02:
            return
        edge = side * (d - tall * abs(right) / up)
        shift = -0.5 * tall * forward / up
        first, last = (int((place + shift - self._route.start_m) / STEP_M) for place in (a, b))
        row = self.edges[max(0, first) : max(0, last), 1 if side > 0 else 0]
        row[:] = np.minimum(row, edge) if side > 0 else np.maximum(row, edge)

    def _parked(
        self, rng: np.random.Generator, actors: list[Actor], number: int, side: float, start: float, end: float
    ) -> None:
        """Fill parking places with cars, mostly, and a few trucks."""
        at = start + rng.uniform(0.0, 3.0)
        while at + 5.4 < end:
            if rng.random() < self._style.parked:
                long = 9.0 if rng.random() < 0.05 else 5.2
                if at + long > end:
                    break
                d = side * (self._style.lane_m + 0.5 * self._style.parking_m + rng.uniform(0.0, 0.2))
                turn = (0.0 if side > 0 or rng.random() < 0.2 else math.pi) + rng.normal(0.0, 0.02)
                place = at + long / 2
                self._add(actors, number, "truck" if long > 6 else "car", standing(place, d, turn), place)
                at += long
            at += rng.uniform(0.5, 1.6) if rng.random() < 0.7 else rng.uniform(5.0, 14.0)

    def _pavement(
        self, rng: np.random.Generator, actors: list[Actor], number: int, side: float, start: float, end: float
    ) -> None:
        """Add people, trees, lamps, signs, bins and bushes."""
        density, pavement = self._style.density, self._style.pavement_m
        for _ in range(rng.poisson(self._style.pedestrians * (end - start) / 20.0)):
            self._person(rng, actors, number, side, float(rng.uniform(start, end)))
        near, far = side * (self.kerb_m + 0.55), side * (self.wall_m - 0.5)
        if rng.random() < 0.5 and pavement > 2.4:
            for place in np.arange(start + rng.uniform(3.0, 9.0), end - 3.0, rng.uniform(9.0, 16.0) / density):
                self._add(actors, number, "tree", standing(float(place), near), float(place))
        for place in np.arange(start + rng.uniform(2.0, 20.0), end, rng.uniform(24.0, 34.0)):
            turn = math.pi if side > 0 else 0.0  # the arm reaches over the road
            self._add(actors, number, "pole", standing(float(place), near, turn), float(place), rng.uniform(1.0, 2.0))
        if side > 0 and rng.random() < 0.7:
            self._add(actors, number, "sign", standing(end - 2.0, near, rng.normal(0.0, 0.1)), end - 2.0)
        for kind, rate, d in (("sign", 0.012, near), ("bin", 0.03, near), ("bin", 0.03, far), ("bush", 0.05, far)):
            for _ in range(rng.poisson(rate * density * (end - start))):
                place = float(rng.uniform(start + 1.0, end - 1.0))
                self._add(actors, number, kind, standing(place, d, rng.normal(0.0, 0.2)), place)

    def _person(self, rng: np.random.Generator, actors: list[Actor], number: int, side: float, place: float) -> None:
        """Add someone on the pavement, walking or standing, who is at `place` when the ego comes by."""
        d = side * rng.uniform(self.kerb_m + 0.4, self.wall_m - 0.5)
        if rng.random() < 0.4:
            motion = standing(place, d, rng.uniform(0.0, 2 * math.pi))
        else:
            passed = float(np.searchsorted(self._ego.s, place)) * TICK_US / 1e6
            speed = rng.uniform(0.9, 1.6) * (1.0 if rng.random() < 0.5 else -1.0)
            motion = along(d, 0.0 if speed > 0 else math.pi, (passed, place, speed))
        self._add(actors, number, "pedestrian", motion, place)
