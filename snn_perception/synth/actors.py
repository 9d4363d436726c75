"""Who is in the street, how they move, and the arrays that the kernels draw from."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from snn_perception.synth import furniture, people, vehicles
from snn_perception.synth.actor_kernels import ACROSS, AHEAD, ALONG, KNOTS, STANDING
from snn_perception.synth.shapes import Model
from snn_perception.synth.style import DriveStyle, generator

F64 = npt.NDArray[np.float64]
Knot = tuple[float, float, float]  # time (s), place (m), speed (m/s)

CLASSES = {"car": 0, "pedestrian": 1}
_MODEL_STREAM = 11
_PASSED_M = 14.0  # this far behind the camera a thing is forgotten


@dataclass(frozen=True)
class Motion:
    """How an actor moves against the road.

    Attributes:
        kind: STANDING, ALONG the road (`knots` give s), ACROSS it (they give d), or AHEAD of the ego car, which
            drives `delay_s` and `gap_m` behind it (they give what is added to the gap).
        turn_rad: heading against the road's, to the left.
    """

    kind: int
    s_m: float
    d_m: float
    turn_rad: float = 0.0
    knots: tuple[Knot, ...] = ((0.0, 0.0, 0.0),)
    delay_s: float = 0.0
    gap_m: float = 0.0


def standing(s_m: float, d_m: float, turn_rad: float = 0.0) -> Motion:
    """Return the motion of what stands still."""
    return Motion(STANDING, s_m, d_m, turn_rad)


def along(d_m: float, turn_rad: float, *knots: Knot) -> Motion:
    """Return a motion along the road."""
    return Motion(ALONG, 0.0, d_m, turn_rad, knots)


def across(s_m: float, *knots: Knot) -> Motion:
    """Return a motion straight across the road, looking where it goes."""
    return Motion(ACROSS, s_m, 0.0, -np.pi / 2 if knots[0][2] > 0 else np.pi / 2, knots)


def ahead(d_m: float, delay_s: float, gap_m: float, *knots: Knot) -> Motion:
    """Return the motion of a vehicle that the ego car follows (Newell's car following, seen from behind)."""
    return Motion(AHEAD, 0.0, d_m, 0.0, knots or ((0.0, 0.0, 0.0),), delay_s, gap_m)


@dataclass(frozen=True)
class Actor:
    """One thing in the street.

    Attributes:
        kind: car, pedestrian, truck, cyclist, pole, sign, tree, bin or bush.
        from_us, until_us: when it is in the street.
        at_m: s where it is forgotten once the camera has passed; infinite for one that is bound by time alone.
        number: which random numbers its looks come from, within the recording.
        arm_m: of a street lamp.
    """

    kind: str
    motion: Motion
    number: int
    from_us: int = 0
    until_us: int = 1 << 62
    at_m: float = np.inf
    arm_m: float = 0.0


def build_model(actor: Actor, style: DriveStyle, recording: int) -> Model:
    """Return an actor's looks, the same whenever they are asked for."""
    rng = generator(style.seed, recording, _MODEL_STREAM, actor.number)
    driven = 0.0 if actor.motion.kind == STANDING else 1.0  # the lamps of a parked car are off
    if actor.kind == "car":
        return vehicles.car(rng, style.lamps * driven)
    if actor.kind == "truck":
        return vehicles.truck(rng, style.lamps * driven)
    if actor.kind == "pole":
        return furniture.pole(rng, style.lamps, actor.arm_m)
    makers = {
        "cyclist": vehicles.cyclist,
        "pedestrian": people.pedestrian,
        "sign": furniture.sign,
        "tree": furniture.tree,
        "bush": furniture.bush,
        "bin": furniture.bin_,
    }
    return makers[actor.kind](rng)


@dataclass(eq=False)
class Cast:
    """The actors that are in the street now, and those who wait for their time; arrays are rebuilt on a change only."""

    style: DriveStyle
    recording: int
    present: list[tuple[int, Actor, Model]] = field(default_factory=list)
    motions: F64 = field(default_factory=lambda: np.zeros((0, 6)))
    knots: F64 = field(default_factory=lambda: np.zeros((0, KNOTS, 3)))
    models: F64 = field(default_factory=lambda: np.zeros((0, 8)))
    vertices: F64 = field(default_factory=lambda: np.zeros((0, 3)))
    parts: F64 = field(default_factory=lambda: np.zeros((0, 12)))
    pools: F64 = field(default_factory=lambda: np.zeros(0))
    _waiting: list[tuple[int, int, Actor]] = field(default_factory=list)
    _tracks: int = 0
    _next_change: tuple[float, float] = (-np.inf, np.inf)  # time (us) and place (m) at which someone leaves

    def add(self, actors: Iterable[Actor]) -> None:
        """Let actors come at their time."""
        for actor in actors:
            heapq.heappush(self._waiting, (actor.from_us, actor.number, actor))

    def advance(self, t_us: int, s_m: float) -> None:
        """Let those come whose time it is, and forget those who are behind or gone."""
        leaving = t_us >= self._next_change[0] or s_m >= self._next_change[1]
        if not leaving and not (self._waiting and self._waiting[0][0] <= t_us):
            return
        self.present = [row for row in self.present if row[1].until_us > t_us and row[1].at_m + _PASSED_M > s_m]
        while self._waiting and self._waiting[0][0] <= t_us:
            actor = heapq.heappop(self._waiting)[2]
            if actor.until_us > t_us:
                self._tracks += 1
                self.present.append((self._tracks, actor, build_model(actor, self.style, self.recording)))
        times = [float(actor.until_us) for _, actor, _ in self.present]
        places = [actor.at_m + _PASSED_M for _, actor, _ in self.present]
        self._next_change = min(times, default=np.inf), min(places, default=np.inf)
        self._rebuild()

    def _rebuild(self) -> None:
        """Fill the arrays from who is present."""
        count = len(self.present)
        self.motions, self.knots, self.models = np.zeros((count, 6)), np.zeros((count, KNOTS, 3)), np.zeros((count, 8))
        self.pools = np.zeros(count)
        vertices, parts, at, part = [], [], 0, 0
        for m, (_, actor, model) in enumerate(self.present):
            motion = actor.motion
            self.motions[m] = motion.kind, motion.s_m, motion.d_m, motion.turn_rad, motion.delay_s, motion.gap_m
            self.knots[m] = [*motion.knots, *[motion.knots[-1]] * (KNOTS - len(motion.knots))]
            ends = at + len(model.vertices), part + len(model.parts)
            size = model.half_long_m, model.half_wide_m, model.tall_m, model.gait_m
            self.models[m] = at, ends[0], part, ends[1], *size
            own = model.parts.copy()
            own[:, 1] += at
            own[:, 2] += np.where(own[:, 0] == 1, at, 0)  # a bar's second vertex; corners of a polygon are a count
            vertices.append(model.vertices)
            parts.append(own)
            at, part = ends
            if actor.arm_m:
                self.pools[m] = 2.2 * self.style.lamps
        if count:
            self.vertices, self.parts = np.concatenate(vertices), np.concatenate(parts)
