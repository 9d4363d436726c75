"""Where the road runs and how the ego car drives along it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from snn_perception.synth.route_kernels import drive_speed, sway, trace
from snn_perception.synth.style import DriveStyle, generator

STEP_M = 0.5  # of the tables along the road
BEHIND_M, AHEAD_M = 60.0, 170.0  # of road beyond what is driven
TICK_US = 10_000  # of the tables over time
MARGIN_US = 20_000_000  # the ego's motion is known this long after the end, since the car ahead is earlier
_TURN_SMOOTHING_M = 14.0
_MOST_ACCELERATION, _MOST_BRAKING = 1.9, 2.9  # m/s^2

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Route:
    """The centre line of the road, in steps of `STEP_M` from ``s = start_m``.

    Attributes:
        table: float64 [N, 4]: x and y in metres in the world's frame, cosine and sine of the heading.
        heading: float64 [N], radians, not wrapped.
    """

    start_m: float
    table: F64
    heading: F64

    @property
    def end_m(self) -> float:
        """Return where the tables end."""
        return self.start_m + STEP_M * (len(self.heading) - 1)

    def at(self, s_m: float) -> tuple[float, float, float]:
        """Return (x, y, heading) of the centre line, linear between the table's points."""
        place = (s_m - self.start_m) / STEP_M
        i = min(max(int(place), 0), len(self.heading) - 2)
        w = place - i
        x, y = (1 - w) * self.table[i, :2] + w * self.table[i + 1, :2]
        return float(x), float(y), float((1 - w) * self.heading[i] + w * self.heading[i + 1])

    def world(self, s_m: float, d_m: float) -> tuple[float, float]:
        """Return the world's (x, y) of a place `d_m` to the right of the centre line."""
        place = (s_m - self.start_m) / STEP_M
        i = min(max(int(place), 0), len(self.heading) - 2)
        w = place - i
        x, y, c, s = (1 - w) * self.table[i] + w * self.table[i + 1]
        return float(x + d_m * s), float(y - d_m * c)


def lay_route(style: DriveStyle, recording: int, length_m: float) -> Route:
    """Return a winding road of at least `length_m` from ``s = 0``: straights and arcs with smooth transitions."""
    rng = generator(style.seed, recording, 1)
    points = int((BEHIND_M + length_m + AHEAD_M) / STEP_M) + 2
    curvature = np.zeros(points)
    at = int((BEHIND_M + rng.uniform(-10.0, 50.0)) / STEP_M)
    while at < points:
        radius, angle = 50.0 * (5.0 ** rng.random()), rng.uniform(0.15, 0.75)
        bend = max(1, int(radius * angle / STEP_M))
        curvature[at : at + bend] = style.curviness * (1.0 if rng.random() < 0.5 else -1.0) / radius
        at += bend + int(rng.uniform(15.0, 75.0) / STEP_M)
    width = int(_TURN_SMOOTHING_M / STEP_M)
    sums = np.cumsum(np.concatenate([np.zeros(width), curvature, np.zeros(width)]))
    smooth = (sums[width:] - sums[:-width])[: points + width // 2][-points:] / width
    table, heading = np.empty((points, 4)), np.empty(points)
    trace(smooth, STEP_M, table, heading)
    return Route(-BEHIND_M, table, heading)


@dataclass(frozen=True)
class Stop:
    """One standstill of the ego car: when, and where its camera is."""

    start_us: int
    end_us: int
    s_m: float


@dataclass(frozen=True)
class Pose:
    """The camera at one instant, on the road.

    Attributes:
        s_m, d_m: along the road and to the right of its centre line.
        yaw_rad: to the right, against the road's heading.
        pitch_rad: nose up.
        speed_mps: of the car.
    """

    s_m: float
    d_m: float
    height_m: float
    yaw_rad: float
    pitch_rad: float
    speed_mps: float


@dataclass(frozen=True, eq=False)
class EgoMotion:
    """How the ego car drives one recording, in ticks of `TICK_US` from time 0.

    Attributes:
        speed, s: float64 [N], metres per second and metres.
        shake: float64 [N, 4]: lateral offset in metres, yaw, pitch in radians and height in metres.
    """

    height_m: float
    lane_d_m: float
    speed: F64
    s: F64
    shake: F64
    stops: tuple[Stop, ...]

    def s_at(self, t_us: float) -> float:
        """Return the distance driven at a time, from 0 to `MARGIN_US` after the recording; straight on beyond."""
        place = t_us / TICK_US
        i = min(max(int(place), 0), len(self.s) - 2)
        w = place - i
        return float(self.s[i] + w * (self.s[i + 1] - self.s[i]))

    def at(self, t_us: int) -> Pose:
        """Return the camera's pose."""
        place = t_us / TICK_US
        i = min(int(place), len(self.s) - 2)
        w = place - i
        d, yaw, pitch, lift = (1 - w) * self.shake[i] + w * self.shake[i + 1]
        speed = (1 - w) * self.speed[i] + w * self.speed[i + 1]
        s = self.s[i] + w * (self.s[i + 1] - self.s[i])
        return Pose(
            float(s), self.lane_d_m + float(d), self.height_m + float(lift), float(yaw), float(pitch), float(speed)
        )


def plan_ego(style: DriveStyle, recording: int, duration_us: int) -> EgoMotion:
    """Return the ego car's motion: 0 to 15 m/s in pieces, with standstills in which nothing of it moves."""
    rng = generator(style.seed, recording, 2)
    duration = duration_us / 1e6
    halts = _short_halts(rng, duration) if duration < 8.0 else _halts(rng, duration)
    ticks = (duration_us + MARGIN_US) // TICK_US + 2
    targets = _targets(rng, ticks, calm=duration < 8.0)
    speed = np.empty(ticks)
    flat = np.array(halts, np.float64).reshape(-1, 2)
    drive_speed(targets, flat, TICK_US / 1e6, _MOST_ACCELERATION, _MOST_BRAKING, speed)
    s = np.concatenate([[0.0], np.cumsum((speed[1:] + speed[:-1]) * 0.5 * (TICK_US / 1e6))])
    shake = np.empty((ticks, 4))
    sway(speed, rng.standard_normal((ticks, 3)), rng.uniform(0.0, 6.28, 6), style.vibration, TICK_US / 1e6, shake)
    return EgoMotion(style.camera.height_m, style.lane_m / 2, speed, s, shake, _stops(speed, s))


def _halts(rng: np.random.Generator, duration: float) -> list[tuple[float, float]]:
    """Return the wanted standstills of a long recording, (start, end) in seconds."""
    halts, at = [], rng.uniform(2.5, max(3.0, min(9.0, 0.5 * duration)))
    while at < duration - 1.0:
        end = at + rng.uniform(1.5, 6.0)
        halts.append((at, end))
        at = end + rng.uniform(6.0, 16.0)
    return halts


def _short_halts(rng: np.random.Generator, duration: float) -> list[tuple[float, float]]:
    """Return one standstill in half of the recordings that are too short for the usual plan."""
    share, length, some = rng.uniform(0.1, 0.45), rng.uniform(0.4, 0.55), rng.random() < 0.5
    return [(share * duration, (share + length) * duration)] if some else []


def _targets(rng: np.random.Generator, ticks: int, *, calm: bool) -> F64:
    """Return the speed the driver would like, in pieces of 2 to 6 s."""
    targets, at = np.empty(ticks), 0
    while at < ticks:
        piece = int(rng.uniform(2.0, 6.0) * 1e6 / TICK_US)
        targets[at : at + piece] = rng.uniform(3.0, 9.0) if calm else rng.choice([5.0, 8.0, 11.0]) + 4.0 * rng.random()
        at += piece
    return targets


def _stops(speed: F64, s: F64) -> tuple[Stop, ...]:
    """Return where the car really stands."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], (speed == 0.0).astype(np.int8), [0]])))
    pairs: Any = edges.reshape(-1, 2)
    return tuple(Stop(int(a) * TICK_US, int(b - 1) * TICK_US, float(s[a])) for a, b in pairs if b - a > 20)
