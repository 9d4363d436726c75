"""A synthetic street as a camera sees it: luminance, who is in each pixel, and where everyone is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from snn_perception.errors import EventDataError
from snn_perception.synth import ground_kernels as ground
from snn_perception.synth.actor_kernels import choose, draw_actors, move, shade_actors
from snn_perception.synth.actors import CLASSES, Cast
from snn_perception.synth.facades import facade_bank
from snn_perception.synth.route import MARGIN_US, STEP_M, TICK_US, Pose, lay_route, plan_ego
from snn_perception.synth.street import Light, Street
from snn_perception.synth.style import PEOPLE_RANGE, REFERENCE_WIDTH_PX, DriveStyle, generator
from snn_perception.synth.textures import ground_tile
from snn_perception.synth.traffic import plan_traffic
from snn_perception.synth.wall_kernels import MOST_HITS, paint_walls, project_walls, wall_columns
from snn_perception.types import F32, SensorSize

_SIGHT_M = 150.0  # blocks are made when they come this near
_ACTORS_M = 100.0  # nobody is drawn beyond
_BEHIND_M = 16.0  # and forgotten when their end is this far behind

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ActorView:
    """One thing that may be seen in a view.

    Attributes:
        track_id: unique in the recording and the same in all its views.
        kind: car, pedestrian, truck, cyclist, pole, sign, tree, bin or bush.
        class_id: 0 car, 1 pedestrian, None for what is not labelled (also cars and people too far to make out).
        xyxy: left, top, right, bottom of all of it in pixels, not clipped to the image.
        distance_m: from the camera to its middle.
        speed_mps: over ground.
        drawn_px: pixels of the image it would have if nothing stood before it but walls.
    """

    track_id: int
    kind: str
    class_id: int | None
    xyxy: tuple[float, float, float, float]
    distance_m: float
    speed_mps: float
    drawn_px: int = 0


@dataclass(frozen=True, eq=False)
class View:
    """What the camera sees at one instant.

    Attributes:
        luminance: float32 [H, W], linear, positive: the scene's luminance times the drive's illumination.
        ids: int32 [H, W], index into `actors` of what a pixel shows; -1 for street, houses and sky.
        actors: far to near.
    """

    luminance: F32
    ids: npt.NDArray[np.int32]
    actors: tuple[ActorView, ...]


class World:
    """One recording's street, seen frame after frame.

    The same arguments give the same views bit for bit. What is far behind is forgotten and what is far ahead is not
    made yet, so a frame costs the same however long the route is.

    Args:
        style: of the drive.
        recording: number of the recording within the drive.
        size: of the sensor; the focal length grows with its width.
        duration_us: of the recording.
    """

    def __init__(self, style: DriveStyle, recording: int, size: SensorSize, duration_us: int) -> None:
        if recording < 0 or duration_us <= 0:
            raise EventDataError(
                f"synthetic recording: expected a number from 0 and a positive length, got recording {recording} of "
                f"{duration_us} us"
            )
        self.style, self.size, self.duration_us = style, size, duration_us
        self.ego = plan_ego(style, recording, duration_us)
        length_m = float(self.ego.s[(duration_us + MARGIN_US // 2) // TICK_US])
        self.route = lay_route(style, recording, length_m)
        traffic = plan_traffic(style, recording, self.ego, duration_us, length_m + 100.0)
        self._light = _daylight(style)
        self._bank = facade_bank(style, size)
        self._tile = ground_tile(generator(style.seed, 6))
        self._street = Street(style, recording, self.route, self.ego, traffic.junctions, self._bank, self._light)
        rows = [(j.start_m, j.end_m, j.zebra_m, j.line_m) for j in traffic.junctions]
        self._junctions = np.array(rows, np.float64).reshape(-1, 4)
        self._cast = Cast(style, recording)
        self._cast.add(traffic.actors)
        self._blocks: list[tuple[float, F64]] = []
        self._next_block = 0
        self._walls = np.zeros((0, 11))
        self._last_us = -1
        rng = generator(style.seed, 7)
        self._hills = _skyline(rng)
        self._numbers = _ground_numbers(style, self._light, self._street, rng)
        self._sky = np.array(
            [
                style.sky * (1.0 - 0.93 * style.lamps) * 1.6,
                rng.uniform(0.55, 0.9),
                rng.uniform(0.01, 0.06),
                self._numbers[ground.MIST],
            ]
        )
        self._buffers = _Buffers(size)

    def view(self, t_us: int) -> View:
        """Return what the camera sees at a time.

        Raises:
            EventDataError: if the time is not after that of the view before, or outside the recording.
        """
        if t_us <= self._last_us:
            raise EventDataError(
                f"synthetic view: times must increase, got {t_us} us after {self._last_us} us; "
                "make a new World to go back"
            )
        if t_us > self.duration_us:
            raise EventDataError(f"synthetic view: the recording ends at {self.duration_us} us, got {t_us} us")
        self._last_us = t_us
        pose = self.ego.at(t_us)
        self._follow(t_us, pose.s_m)
        camera, heading = self._camera(pose)
        lum = np.empty((self.size.height, self.size.width), np.float32)
        self._paint_street(lum, camera, heading, pose)
        ids, actors = self._draw_actors(lum, camera, t_us)
        lum *= np.float32(self.style.illumination)
        return View(lum, ids, actors)

    def _follow(self, t_us: int, s_m: float) -> None:
        """Make the blocks that come in sight and forget those that are passed."""
        changed = False
        while (span := self._street.span(self._next_block)) is not None and span[0] < s_m + _SIGHT_M:
            block = self._street.block(self._next_block)
            self._blocks.append((block.end_m, block.walls))
            self._cast.add(block.actors)
            self._next_block += 1
            changed = True
        if self._blocks and self._blocks[0][0] + _BEHIND_M < s_m:
            self._blocks = [row for row in self._blocks if row[0] + _BEHIND_M >= s_m]
            changed = True
        if changed:
            self._walls = np.concatenate([np.zeros((0, 11)), *(walls for _, walls in self._blocks)])
        self._cast.advance(t_us, s_m)

    def _camera(self, pose: Pose) -> tuple[F64, float]:
        """Return the camera row of the kernels (see `wall_kernels`) and its heading in the world's frame."""
        width, height = self.size.width, self.size.height
        focal = self.style.camera.focal_px * width / REFERENCE_WIDTH_PX
        x, y = self.route.world(pose.s_m, pose.d_m)
        heading = self.route.at(pose.s_m)[2] - pose.yaw_rad
        row = self.style.camera.horizon * height + focal * pose.pitch_rad
        turn = math.cos(heading), math.sin(heading)
        return np.array([x, y, *turn, focal, width / 2, row, pose.height_m]), heading

    def _paint_street(self, lum: F32, camera: F64, heading: float, pose: Pose) -> None:
        """Paint sky, ground and walls."""
        buffers, tile, route = self._buffers, self._tile, self.route
        seen = np.empty((len(self._walls), 7))
        count = project_walls(camera, self._walls, seen)
        columns = (buffers.names, buffers.rows, buffers.inverses, buffers.hits)
        wall_columns(
            camera, self._walls, seen, count, self.size.width, *columns, buffers.depth, buffers.top, buffers.base,
            buffers.skyline,
        )  # fmt: skip
        textures = (tile.texels, tile.starts, tile.shape)
        ground.paint_sky(lum, camera, buffers.skyline, heading, self._sky, *textures, self._hills)
        near = (self._junctions[:, 1] > pose.s_m - 20.0) & (self._junctions[:, 0] < pose.s_m + _SIGHT_M)
        ground.paint_ground(
            lum, camera, buffers.base, route.table, route.start_m, STEP_M, pose.s_m, self._street.edges,
            self._junctions[near], *textures, self._numbers,
        )  # fmt: skip
        veil = (self.style.haze_m, float(self._numbers[ground.MIST]), _SIGHT_M)
        paint_walls(lum, camera, self._walls, seen, count, *columns, self._bank.texels, self._bank.shape, veil)

    def _draw_actors(self, lum: F32, camera: F64, t_us: int) -> tuple[npt.NDArray[np.int32], tuple[ActorView, ...]]:
        """Draw everyone and return ids and views."""
        cast, route, light = self._cast, self.route, self._light
        poses = np.empty((len(cast.present), 8))
        along_road = (route.table, route.start_m, STEP_M)
        move(t_us / 1e6, cast.motions, cast.knots, self.ego.s, TICK_US / 1e6, *along_road, poses)
        order, distance = choose(camera, poses, cast.models, _ACTORS_M, self._buffers.depth, self._buffers.top)
        lights = (*light.toward, light.sun, light.ambient, self.style.haze_m, float(self._numbers[ground.MIST]))
        shade_actors(lum, camera, self._buffers.base, order, poses, cast.models, lights, cast.pools)
        ids = np.full(lum.shape, -1, np.int32)
        boxes, counts = np.empty((len(order), 4)), np.zeros(len(order), np.int64)
        flicker = 1.0 + self.style.flicker * self.style.lamps * math.sin(2 * math.pi * 100.0 * t_us / 1e6)
        draw_actors(
            (lum, ids, self._buffers.depth, self._buffers.top), camera, order, poses, cast.models, cast.vertices,
            cast.parts, lights, self._street.edges, route.start_m, STEP_M, flicker, boxes, counts,
        )  # fmt: skip
        return self._views(ids, order, distance, poses, boxes, counts)

    def _views(
        self,
        ids: npt.NDArray[np.int32],
        order: npt.NDArray[np.int64],
        distance: F64,
        poses: F64,
        boxes: F64,
        counts: npt.NDArray[np.int64],
    ) -> tuple[npt.NDArray[np.int32], tuple[ActorView, ...]]:
        """Return ids and the views of those who are before the camera."""
        shown = boxes[:, 0] < boxes[:, 2]
        views = []
        for k, m in enumerate(order.tolist()):
            if not shown[k]:
                continue
            track, actor, _ = self._cast.present[m]
            away = float(distance[k])
            range_m = self.style.label_range_m * (PEOPLE_RANGE if actor.kind == "pedestrian" else 1.0)
            class_id = CLASSES.get(actor.kind) if away <= range_m else None
            left, top, right, bottom = boxes[k].tolist()
            speed = float(poses[m, 4])
            views.append(
                ActorView(track, actor.kind, class_id, (left, top, right, bottom), away, speed, int(counts[k]))
            )
        if not shown.all():
            lookup = np.full(len(order) + 1, -1, np.int32)  # the last one is the street's -1
            lookup[:-1][shown] = np.arange(len(views))
            ids = lookup[ids]
        return ids, tuple(views)


class _Buffers:
    """What the wall kernels fill anew for every frame."""

    def __init__(self, size: SensorSize) -> None:
        width = size.width
        self.names, self.hits = np.empty(width + 1, np.int64), np.empty(width, np.int64)
        self.rows, self.inverses = np.empty((width, MOST_HITS), np.int64), np.empty((width, MOST_HITS))
        self.depth, self.top, self.base, self.skyline = (np.empty(width) for _ in range(4))


def _daylight(style: DriveStyle) -> Light:
    """Return the light of a drive; the sum of sky and sun on level ground is about 1 by day."""
    up = math.sin(style.sun_elevation_rad)
    flat = math.cos(style.sun_elevation_rad)
    ambient = (1.0 - 0.6 * style.lamps) / (1.0 + style.sun * up)
    toward = flat * math.cos(style.sun_azimuth_rad), flat * math.sin(style.sun_azimuth_rad), up
    return Light(ambient, ambient * style.sun, toward)


def _skyline(rng: np.random.Generator) -> F64:
    """Return the tangents of elevation of what stands around the horizon."""
    steps = np.repeat(rng.uniform(0.015, 0.06, 120), 6)
    return steps + rng.uniform(0.0, 0.012, len(steps))


def _ground_numbers(style: DriveStyle, light: Light, street: Street, rng: np.random.Generator) -> F64:
    """Return the numbers of a street that the ground's kernel reads."""
    numbers = np.zeros(15)
    numbers[ground.LANE], numbers[ground.KERB], numbers[ground.WALL] = style.lane_m, street.kerb_m, street.wall_m
    numbers[ground.ASPHALT], numbers[ground.CONTRAST] = style.asphalt, style.asphalt_contrast
    numbers[ground.PAINT], numbers[ground.PAVEMENT] = style.markings, style.asphalt * rng.uniform(1.3, 2.0)
    numbers[ground.SLAB], numbers[ground.VERGE] = rng.uniform(0.35, 0.8), rng.uniform(0.07, 0.16)
    numbers[ground.SUN], numbers[ground.LIGHT] = light.sun * light.toward[2], light.ambient
    numbers[ground.HAZE] = style.haze_m
    numbers[ground.MIST] = 0.75 * style.sky * (1.0 - 0.9 * style.lamps)
    numbers[ground.BEAM], numbers[ground.DASH] = 4.0 * style.lamps, rng.uniform(5.0, 9.0)
    return numbers
