"""What moves: vehicles ahead, oncoming and crossing, and the junctions at which the ego car meets them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from snn_perception.synth.actors import Actor, Knot, Motion, across, ahead, along, standing
from snn_perception.synth.route import EgoMotion
from snn_perception.synth.style import DriveStyle, generator

_BRAKING, _PULL_AWAY = 2.5, 2.0  # m/s^2, of other drivers
_SEEN_M, _PASSED_M = 110.0, 12.0
_SIDE_STREET_M = 42.0  # how far into a side street its cars are followed


@dataclass(frozen=True)
class Junction:
    """A side street that crosses the road from `start_m` to `end_m`, with a zebra and a stop line before it.

    Attributes:
        closed_s: from when to when (seconds) the ego's road has to wait; None where nobody stops.
    """

    start_m: float
    end_m: float
    zebra_m: float
    line_m: float
    closed_s: tuple[float, float] | None = None


@dataclass(frozen=True)
class Traffic:
    """The junctions of a recording in their order, and everyone who moves by the clock."""

    junctions: tuple[Junction, ...]
    actors: tuple[Actor, ...]


class _Planner:
    """Draws the traffic of one recording."""

    def __init__(self, style: DriveStyle, recording: int, ego: EgoMotion, duration_us: int) -> None:
        self.style, self.ego, self.duration_s = style, ego, duration_us / 1e6
        self.rng = generator(style.seed, recording, 4)
        self.actors: list[Actor] = []
        self.junctions: list[Junction] = []
        self.lead: tuple[float, float, tuple[Knot, ...]] | None = None  # gap to its rear, length, what is added

    def add(self, kind: str, motion: Motion, from_s: float, until_s: float, at_m: float = np.inf) -> None:
        """Add an actor that is there from a time to a time."""
        times = round(from_s * 1e6), round(until_s * 1e6)
        self.actors.append(Actor(kind, motion, 1_000_000 + len(self.actors), *times, at_m=at_m))

    def vehicle(self, trucks: float) -> tuple[str, float]:
        """Return kind and length of the next vehicle."""
        return ("truck", 8.0) if self.rng.random() < trucks else ("car", 4.5)

    def leads(self) -> None:
        """Add one or two vehicles that the ego follows, catches up with, or loses."""
        rng = self.rng
        if rng.random() > self.style.lead:
            return
        kind, long = self.vehicle(0.12)
        delay, gap, d = rng.uniform(0.55, 0.95), rng.uniform(3.6, 6.0), self.ego.lane_d_m + rng.uniform(-0.3, 0.3)
        knots: tuple[Knot, ...] = ((0.0, 0.0, 0.0),)
        fate, at = rng.random(), rng.uniform(0.2, 0.8) * self.duration_s
        until = 1e9
        if fate < 0.2 and self.duration_s > 8:
            for stop in self.ego.stops:
                if stop.start_us / 1e6 - 6.0 < at < stop.end_us / 1e6 + 1.0:
                    at = stop.end_us / 1e6 + 1.0
            knots = ((at, 0.0, 0.0), (at + 5.0, 12.5, 5.0), (at + 6.0, 17.5, 5.0))
            until = at + 26.0
        elif fate < 0.4 and self.duration_s > 8:
            first = rng.uniform(15.0, 40.0)
            knots = ((0.0, first, -4.0), ((first - 8.0) / 4.0, 8.0, -4.0), ((first - 8.0) / 4.0 + 4.0, 0.0, 0.0))
        self.lead = gap, long, knots
        self.add(kind, ahead(d, delay, gap + long / 2, *knots), -1.0, until)
        if rng.random() < 0.5:
            second, more = self.vehicle(0.1)
            further = gap + long + rng.uniform(3.0, 5.0) + more / 2
            self.add(second, ahead(d + rng.uniform(-0.3, 0.3), 2 * delay, further, *knots), -1.0, until)

    def lead_at(self, t_s: float) -> float | None:
        """Return how far the leading vehicle's front is before the camera when both stand; None without one."""
        if self.lead is None:
            return None
        gap, long, knots = self.lead
        times, places = [knot[0] for knot in knots], [knot[1] for knot in knots]
        extra = float(np.interp(t_s, times, places)) + max(0.0, t_s - times[-1]) * knots[-1][2]
        return None if extra > 40.0 else gap + long + extra

    def lay_junctions(self, length_m: float) -> None:
        """Put a junction before most standstills and others in between."""
        rng = self.rng
        for stop in self.ego.stops:
            front = self.lead_at(stop.start_us / 1e6)
            line = stop.s_m + (rng.uniform(2.2, 4.0) if front is None else front + rng.uniform(0.8, 2.0))
            if self.junctions and line < self.junctions[-1].end_m + 18.0:
                continue
            start = line + rng.uniform(5.5, 7.0)
            closed = stop.start_us / 1e6, stop.end_us / 1e6
            self.junctions.append(Junction(start, start + rng.uniform(8.0, 12.0), line + 1.2, line, closed))
        at = rng.uniform(-15.0, 30.0)
        taken = list(self.junctions)
        while at < length_m:
            end = at + rng.uniform(7.0, 10.0)
            if all(end + 28.0 < other.line_m or at - 34.0 > other.end_m for other in taken):
                zebra = at - 4.8 if rng.random() < 0.4 else -1e9
                self.junctions.append(Junction(at, end, zebra, at - 6.0 if zebra > 0 else -1e9))
            at = end + rng.uniform(32.0, 80.0)
        self.junctions.sort(key=lambda junction: junction.start_m)

    def oncoming(self) -> None:
        """Add the other lane's vehicles: a stream of one speed, without those that would meet cross traffic."""
        rng, speed = self.rng, self.rng.uniform(6.0, 12.0)
        at = -4.0 + rng.exponential(1.0 / self.style.oncoming_hz)
        while at < self.duration_s + 12.0:
            kind, _ = self.vehicle(0.14)
            meet = self.ego.s_at(max(0.0, at) * 1e6)
            if not any(self._blocked(junction, meet, at, speed) for junction in self.junctions):
                first, last = self._while_near(meet, at, -speed)
                d = -self.ego.lane_d_m + rng.uniform(-0.3, 0.3)
                self.add(kind, along(d, np.pi, (at, meet, -speed)), first, last)
            at += 1.5 + rng.exponential(1.0 / self.style.oncoming_hz)

    def _blocked(self, junction: Junction, meet_m: float, at_s: float, speed: float) -> bool:
        """Return whether an oncoming vehicle would drive while a junction is closed to it."""
        if junction.closed_s is None:
            return False
        enter, leave = ((meet_m - place) / speed + at_s for place in (junction.end_m + 22.0, junction.zebra_m - 3.0))
        return enter < junction.closed_s[1] + 3.0 and leave > junction.closed_s[0] - 3.0

    def _while_near(self, meet_m: float, at_s: float, speed: float) -> tuple[float, float]:
        """Return from when to when a vehicle at steady speed is near the camera."""
        first = last = at_s
        for step in (-0.25, 0.25):
            t = at_s
            for _ in range(240):
                away = meet_m + speed * (t - at_s) - self.ego.s_at(max(0.0, t) * 1e6)
                if not -_PASSED_M < away < _SEEN_M or t < -1.0:
                    break
                t += step
            first, last = (t, last) if step < 0 else (first, t)
        return first, last

    def at_junctions(self) -> None:
        """Add who crosses while the ego stands, who waits on the other side, and who waits in side streets."""
        for junction in self.junctions:
            if junction.closed_s is None:
                self._quiet(junction)
                continue
            begin, end = junction.closed_s
            self._crossing_cars(junction, begin, end)
            self._crossing_people(junction, begin, end)
            place = junction.end_m + 3.0
            for share in (0.7, 0.3):
                if self.rng.random() > share:
                    break
                kind, long = self.vehicle(0.1)
                self._waits(kind, place + long / 2, begin, end)
                place += long + self.rng.uniform(1.2, 2.5)

    def _crossing_cars(self, junction: Junction, begin: float, end: float) -> None:
        rng, free = self.rng, {1.0: begin - 1.0, -1.0: begin - 1.0}
        middle, quarter = 0.5 * (junction.start_m + junction.end_m), 0.25 * (junction.end_m - junction.start_m)
        for _ in range(12):
            way = 1.0 if rng.random() < 0.5 else -1.0
            at = free[way] + 0.9 + rng.exponential(2.0)
            if at > end - 0.7:
                continue
            free[way] = at + 0.6
            kind, _ = self.vehicle(0.1)
            speed = rng.uniform(6.0, 8.5)
            reach = _SIDE_STREET_M / speed
            motion = across(middle - way * quarter, (at, 0.0, way * speed))
            self.add(kind, motion, at - reach, at + reach, junction.end_m)

    def _crossing_people(self, junction: Junction, begin: float, end: float) -> None:
        rng = self.rng
        for _ in range(int(rng.choice([0, 1, 2, 3], p=[0.4, 0.35, 0.17, 0.08]))):
            way, speed = (1.0 if rng.random() < 0.5 else -1.0), rng.uniform(1.0, 1.6)
            at = rng.uniform(begin - 1.0, max(begin, end - 1.2))  # in the middle of the ego's lane
            reach = (self.style.lane_m + self.style.parking_m + 5.0) / speed
            place = junction.zebra_m + rng.uniform(0.4, 2.6)
            motion = across(place, (at, self.ego.lane_d_m, way * speed))
            self.add("pedestrian", motion, at - 1.6 * reach, at + 1.6 * reach, junction.end_m)

    def _waits(self, kind: str, place: float, begin: float, end: float) -> None:
        """Add an oncoming vehicle that comes, waits while the junction is closed, and goes on."""
        rng, speed = self.rng, self.rng.uniform(6.0, 9.0)
        stands, goes = begin + rng.uniform(-3.0, 0.5), end + rng.uniform(-0.2, 0.8)
        knots = (
            (stands - speed / _BRAKING, place + speed * speed / (2 * _BRAKING), -speed),
            (stands, place, 0.0),
            (goes, place, 0.0),
            (goes + speed / _PULL_AWAY, place - speed * speed / (2 * _PULL_AWAY), -speed),
        )
        motion = along(-self.ego.lane_d_m, np.pi, *knots)
        self.add(kind, motion, stands - 14.0, goes + 20.0)

    def _quiet(self, junction: Junction) -> None:
        """Add cars that wait in the mouths of a side street, and sometimes one that crosses well before the ego."""
        rng, kerb = self.rng, self.style.lane_m + self.style.parking_m
        middle, quarter = 0.5 * (junction.start_m + junction.end_m), 0.25 * (junction.end_m - junction.start_m)
        comes = float(np.searchsorted(self.ego.s, junction.start_m - rng.uniform(10.0, 24.0))) * 0.01
        crossing = rng.random() < 0.45 and self.lead is None and comes < self.duration_s
        for side in (-1.0, 1.0):
            if rng.random() < 0.4 and not crossing:
                place = middle + side * quarter
                waits = standing(place, side * (kerb + rng.uniform(2.8, 4.0)), side * np.pi / 2)
                self.add("car", waits, -1.0, 1e9, place)
        if crossing:
            way, speed = (1.0 if rng.random() < 0.5 else -1.0), rng.uniform(7.0, 10.0)
            motion = across(middle - way * quarter, (comes, 0.0, way * speed))
            reach = _SIDE_STREET_M / speed
            self.add("car", motion, comes - reach, comes + reach, junction.end_m)

    def cyclists(self) -> None:
        """Add cyclists on the ego's side, whom it overtakes or who pass while it stands."""
        rng = self.rng
        for _ in range(rng.poisson(0.035 * self.style.density * self.duration_s)):
            at, speed = rng.uniform(0.0, self.duration_s), rng.uniform(3.5, 5.5)
            meet = self.ego.s_at(at * 1e6)
            first, last = self._while_near(meet, at, speed)
            self.add("cyclist", along(self.style.lane_m + 0.1, 0.0, (at, meet, speed)), first, last)


def plan_traffic(style: DriveStyle, recording: int, ego: EgoMotion, duration_us: int, length_m: float) -> Traffic:
    """Return a recording's traffic. Nobody drives into another: who would is left out."""
    planner = _Planner(style, recording, ego, duration_us)
    planner.leads()
    planner.lay_junctions(length_m)
    planner.oncoming()
    planner.at_junctions()
    planner.cyclists()
    return Traffic(tuple(planner.junctions), tuple(planner.actors))
