"""Events of filled shapes that move over a plain background, with the boxes of the shapes as known truth.

Each pixel fires when an edge passes its centre: the time follows from the motion in closed form, so nothing is
rendered and a second of sensor time takes some hundred milliseconds to make. Shapes are transparent to one another. The
same arguments give the same events, to the bit, however they are cut into chunks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from snn_perception.types import F32, I64, EventArray, SensorSize

F64 = npt.NDArray[np.float64]
SHAPE_CLASSES = ("rectangle", "disc")

LEG_US = 200_000  # a shape keeps its velocity for so long at most
SLAB_US = 50_000  # events are made, sorted and held for so long at a time
_LATENCY_US = 150.0  # mean delay of an event after its cause, and between events of one crossing


@dataclass(frozen=True)
class ShapeTrack:
    """The path of one shape: where its box is at any time.

    Attributes:
        kind: ``rectangle`` or ``disc`` (class 0 or 1 of `SHAPE_CLASSES`).
        width_px, height_px: sides of its box; a disc's are equal.
        is_bright: brighter than the background: its leading edge fires ON, its trailing edge OFF.
        contrast: events that a pixel fires when an edge passes.
        t_us: int64 [K] times at which the velocity changes; the first and last bound the scene.
        centre_px: float64 [K, 2], x and y of the centre at those times.
    """

    kind: Literal["rectangle", "disc"]
    width_px: float
    height_px: float
    is_bright: bool
    contrast: int
    t_us: I64
    centre_px: F64

    @property
    def class_id(self) -> int:
        """Index into `SHAPE_CLASSES`."""
        return SHAPE_CLASSES.index(self.kind)

    def centre_at(self, t_us: float | npt.NDArray[Any]) -> F64:
        """Return [..., 2], x and y of the centre in pixels, at times [...]."""
        return np.stack([np.interp(t_us, self.t_us, self.centre_px[:, axis]) for axis in (0, 1)], axis=-1)

    def box_at(self, t_us: float | npt.NDArray[Any]) -> F32:
        """Return float32 [..., 4], the half-open box xyxy in sensor pixels, at times [...]."""
        half = np.array([self.width_px, self.height_px]) / 2
        centre = self.centre_at(t_us)
        return np.concatenate([centre - half, centre + half], axis=-1).astype(np.float32)


@dataclass(frozen=True)
class MovingShapes:
    """A scene: iterate over it for its events, ask `tracks` for the truth.

    Attributes:
        size: sensor size. duration_us: the scene spans ``[t_start_us, t_start_us + duration_us)``.
        seed: decides everything that is drawn.
        shapes: how many, rectangles and discs in turn.
        pause: (from, to) as shares of the duration, while nothing moves and only noise fires; None for no pause.
        noise_hz: background events per pixel and second.
        chunk_us: sensor time per yielded array.
    """

    size: SensorSize
    duration_us: int
    seed: int = 0
    shapes: int = 3
    pause: tuple[float, float] | None = (0.55, 0.65)
    noise_hz: float = 0.3
    chunk_us: int = 10_000
    t_start_us: int = 0

    def __post_init__(self) -> None:
        if self.duration_us <= 0 or self.chunk_us <= 0:
            raise ValueError(f"duration and chunk must be positive, got {self.duration_us} and {self.chunk_us} us")
        if self.shapes < 0 or not 0 <= self.noise_hz < 1e4:
            raise ValueError(f"expected shapes >= 0 and noise 0..10000 Hz, got {self.shapes} and {self.noise_hz}")
        if self.pause is not None and not 0 <= self.pause[0] <= self.pause[1] <= 1:
            raise ValueError(f"the pause must be two shares of the duration in order, got {self.pause}")

    @property
    def pause_us(self) -> tuple[int, int] | None:
        """Sensor time from and to which nothing moves."""
        if self.pause is None:
            return None
        begin, end = (self.t_start_us + int(share * self.duration_us) for share in self.pause)
        return begin, end

    def tracks(self) -> tuple[ShapeTrack, ...]:
        """Return the path of each shape."""
        rng = np.random.default_rng([self.seed, 0])
        knots = self._knots()
        return tuple(self._track(rng, ("rectangle", "disc")[i % 2], knots) for i in range(self.shapes))

    def __iter__(self) -> Iterator[EventArray]:
        """Yield the events in time order, `chunk_us` of sensor time each; a chunk without events is left out."""
        rng = np.random.default_rng([self.seed, 1])
        tracks = self.tracks()
        late = EventArray.empty(self.size)
        end_us = self.t_start_us + self.duration_us
        for start in range(self.t_start_us, end_us, SLAB_US):
            stop = min(start + SLAB_US, end_us)
            parts = [late, _noise(rng, self.size, start, stop, self.noise_hz)]
            for track in tracks:
                parts += _edges(rng, self.size, track, start, stop)
            events = EventArray.concatenate(parts, self.size)
            events = events[np.argsort(events.t, kind="stable")]
            now = int(np.searchsorted(events.t, stop))
            late = events[now:]
            yield from self._chunks(events[:now], start, stop)

    def _chunks(self, events: EventArray, start_us: int, stop_us: int) -> Iterator[EventArray]:
        cuts = np.searchsorted(events.t, np.arange(start_us + self.chunk_us, stop_us, self.chunk_us)).tolist()
        for begin, end in pairwise([0, *cuts, len(events)]):
            if end > begin:
                yield events[begin:end]

    def _knots(self) -> I64:
        """Return the times at which velocities may change."""
        end_us = self.t_start_us + self.duration_us
        return np.unique(np.array([*range(self.t_start_us, end_us, LEG_US), end_us, *(self.pause_us or ())], np.int64))

    def _track(self, rng: np.random.Generator, kind: Literal["rectangle", "disc"], t_us: I64) -> ShapeTrack:
        """Return a random path that stays on the sensor: straight legs, turned a little at each knot, off the walls."""
        side = min(self.size.width, self.size.height)
        width, height = rng.uniform(0.12, 0.33, 2) * side
        height = width if kind == "disc" else height
        low = np.array([width, height]) / 2
        high = np.array([self.size.width, self.size.height]) - low
        heading, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 2.0) * side * 1e-6  # px per us
        velocity = speed * np.array([np.cos(heading), np.sin(heading)])
        centres = [rng.uniform(low, high)]
        for leg_us, is_pause in zip(np.diff(t_us), self._is_pause(t_us), strict=True):
            turn = rng.uniform(-0.4, 0.4)
            velocity = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ velocity
            ahead = centres[-1] + velocity * leg_us
            velocity = np.where((ahead < low) | (ahead > high), -velocity, velocity)
            centres.append(centres[-1] if is_pause else np.clip(centres[-1] + velocity * leg_us, low, high))
        bright, contrast = bool(rng.integers(2)), int(rng.integers(3, 7))
        return ShapeTrack(kind, float(width), float(height), bright, contrast, t_us, np.array(centres))

    def _is_pause(self, t_us: I64) -> list[bool]:
        begin, end = self.pause_us or (0, 0)
        return [begin <= t < end for t in t_us[:-1].tolist()]


def moving_shapes(size: SensorSize, duration_us: int, seed: int = 0, **options: Any) -> Iterator[EventArray]:
    """Return the events of `MovingShapes` in time order; `options` are its fields."""
    return iter(MovingShapes(size, duration_us, seed, **options))


def _noise(rng: np.random.Generator, size: SensorSize, start_us: int, stop_us: int, rate_hz: float) -> EventArray:
    """Return background events of one interval, unsorted: each pixel fires by chance, either polarity."""
    count = int(rng.poisson(rate_hz * size.width * size.height * (stop_us - start_us) * 1e-6))
    return EventArray(
        rng.integers(size.width, size=count, dtype=np.uint16),
        rng.integers(size.height, size=count, dtype=np.uint16),
        rng.integers(2, size=count, dtype=np.uint8),
        rng.integers(start_us, stop_us, size=count, dtype=np.int64),
        size,
    )


def _edges(
    rng: np.random.Generator, size: SensorSize, track: ShapeTrack, start_us: int, stop_us: int
) -> Iterator[EventArray]:
    """Yield the events of one shape's edges in one interval, unsorted; the last ones may come after it."""
    turns = track.t_us[(track.t_us > start_us) & (track.t_us < stop_us)].tolist()
    for begin, end in pairwise([start_us, *turns, stop_us]):
        x, y, enters, leaves = _crossings(track, size, begin, end)
        for at, is_leading in ((enters, True), (leaves, False)):
            hit = (at >= 0) & (at < end - begin)
            yield _fire(rng, size, x[hit], y[hit], begin + at[hit], track, is_leading)


def _crossings(track: ShapeTrack, size: SensorSize, begin_us: int, end_us: int) -> tuple[I64, I64, F64, F64]:
    """Return pixels x, y [N] near the path from `begin_us` to `end_us`, and when the shape enters and leaves each.

    Times are microseconds after `begin_us`, NaN for pixels that the line of motion does not meet.
    """
    boxes = track.box_at(np.array([begin_us, end_us])).astype(np.float64)
    low = np.maximum(np.floor(boxes[:, :2].min(axis=0)).astype(int), 0)
    high = np.minimum(np.ceil(boxes[:, 2:].max(axis=0)).astype(int), [size.width, size.height])
    y, x = (axis.ravel() for axis in np.mgrid[low[1] : high[1], low[0] : high[0]])
    origin, target = track.centre_at(np.array([begin_us, end_us]))
    velocity = (target - origin) / (end_us - begin_us)
    if not velocity.any():
        return x, y, np.full(len(x), np.nan), np.full(len(x), np.nan)
    offset = np.stack([x, y], axis=-1) + 0.5 - origin
    if track.kind == "disc":
        return x, y, *_disc_times(offset, velocity, track.width_px / 2)
    return x, y, *_box_times(offset, velocity, np.array([track.width_px, track.height_px]) / 2)


def _box_times(offset: F64, velocity: F64, half: F64) -> tuple[F64, F64]:
    """Return when a moving box of half sides `half`, centred at 0 at time 0, enters and leaves the points `offset`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = (offset - half) / velocity, (offset + half) / velocity  # +-inf along an axis without motion
    enters, leaves = np.minimum(first, second).max(axis=-1), np.maximum(first, second).min(axis=-1)
    never = ~(enters < leaves)
    return np.where(never, np.nan, enters), np.where(never, np.nan, leaves)


def _disc_times(offset: F64, velocity: F64, radius: float) -> tuple[F64, F64]:
    """Return when a moving disc, centred at 0 at time 0, enters and leaves the points `offset` (|offset - v t| = r)."""
    square = velocity @ velocity
    nearest = offset @ velocity / square
    with np.errstate(invalid="ignore"):  # NaN where the disc passes by
        spread = np.sqrt(nearest**2 - ((offset**2).sum(axis=-1) - radius**2) / square)
    return nearest - spread, nearest + spread


def _fire(
    rng: np.random.Generator, size: SensorSize, x: I64, y: I64, at_us: F64, track: ShapeTrack, is_leading: bool
) -> EventArray:
    """Return `contrast` events per crossing, each a little later than the one before."""
    delay = rng.exponential(_LATENCY_US, (len(x), track.contrast)).cumsum(axis=1)
    polarity = np.uint8(track.is_bright == is_leading)
    return EventArray(
        np.repeat(x, track.contrast).astype(np.uint16),
        np.repeat(y, track.contrast).astype(np.uint16),
        np.full(delay.size, polarity, np.uint8),
        (at_us[:, None] + delay).ravel().astype(np.int64),
        size,
    )
