"""An annotator of grey-level images: which actors get a box, where, and when.

GEN1 was labelled on grey-level images, so a car that stands still stays labelled although it emits no event.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from snn_perception.data.labels import Labels
from snn_perception.synth.style import PEOPLE_RANGE
from snn_perception.types import F32, SensorSize

LEAST_VISIBLE = 0.35  # of what the image would show of the actor if nothing stood before it
LEAST_INSIDE = 0.25  # of the box
FURTHEST_M = 75.0
JITTER_PX, JITTER_SHARE = 0.6, 0.012  # standard deviation of each edge: constant, and per side length
SILHOUETTE = {"pedestrian": 0.3, "cyclist": 0.3}  # share of its box that an actor fills at least; others 0.6
_USUAL_SILHOUETTE = 0.6


class Actor(Protocol):
    """What is known of one actor in view (`snn_perception.synth.world.ActorView`)."""

    @property
    def track_id(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def xyxy(self) -> Sequence[float]: ...
    @property
    def distance_m(self) -> float: ...
    @property
    def drawn_px(self) -> int: ...


class Scene(Protocol):
    """One moment of a world (`snn_perception.synth.world.View`)."""

    @property
    def luminance(self) -> F32: ...
    @property
    def ids(self) -> npt.NDArray[np.int32]: ...
    @property
    def actors(self) -> Sequence[Actor]: ...


class Annotator:
    """Labels a recording at a steady rate.

    Args:
        numbers: kind of actor -> class number; other kinds are not labelled.
        size: of the image, to which boxes are cut.
        label_hz: rates, of which one is chosen.
        key: names the recording; equal keys and scenes give equal labels.
        grid_us: the first label's time is a multiple of it, less 1 us.
        furthest_m: actors beyond it are not labelled, people not beyond `PEOPLE_RANGE` of it.
    """

    def __init__(
        self,
        numbers: Mapping[str, int],
        size: SensorSize,
        label_hz: Sequence[int],
        key: str,
        *,
        grid_us: int = 1000,
        furthest_m: float = FURTHEST_M,
    ) -> None:
        self._numbers, self._size, self._furthest_m = numbers, size, furthest_m
        self._random = random.Random(f"labels of {key}")  # its `random()` is the same on every version of Python
        self.label_hz = label_hz[int(self._random.random() * len(label_hz))]
        self._phase_us = grid_us * (1 + int(self._random.random() * (1_000_000 // self.label_hz // grid_us)))
        self._rows: list[tuple[int, tuple[int, ...], int, int]] = []

    def times(self, duration_us: int) -> Iterator[int]:
        """Yield when labels are due, just below the grid as in GEN1: 10849999 us, 11849999 us ..."""
        k = 0
        while (t_us := k * 1_000_000 // self.label_hz + self._phase_us - 1) < duration_us:
            yield t_us
            k += 1

    def look(self, scene: Scene, t_us: int) -> None:
        """Label what a scene shows."""
        seen = np.bincount(scene.ids[scene.ids >= 0], minlength=len(scene.actors))
        for index, actor in enumerate(scene.actors):
            box = self._box(actor, int(seen[index]))
            if box is not None:
                self._rows.append((t_us, box, self._numbers[actor.kind], actor.track_id))

    def labels(self) -> Labels:
        """Return all labels so far, in order of time."""
        if not self._rows:
            return Labels.empty()
        t_us, boxes, class_id, track_id = zip(*self._rows, strict=True)
        return Labels(
            np.array(t_us, np.int64),
            np.array(boxes, np.float32),
            np.array(class_id, np.int64),
            np.array(track_id, np.int64),
            np.ones(len(t_us), np.float32),
        )

    def _box(self, actor: Actor, seen_px: int) -> tuple[int, ...] | None:
        """Return the label (left, top, width, height) in whole pixels of the image, None for an actor without one."""
        furthest_m = self._furthest_m * (PEOPLE_RANGE if actor.kind == "pedestrian" else 1.0)
        if actor.kind not in self._numbers or actor.distance_m > furthest_m:
            return None
        left, top, right, bottom = map(float, actor.xyxy)
        inside = self._cut(left, top, right, bottom)
        area = _area(*inside)
        whole = (right - left) * (bottom - top)
        if area <= 0 or area < LEAST_INSIDE * whole:
            return None
        silhouette = SILHOUETTE.get(actor.kind, _USUAL_SILHOUETTE) * area  # walls hide as well, and `drawn_px` is less
        if seen_px < LEAST_VISIBLE * max(actor.drawn_px, silhouette):
            return None
        return self._drawn(*inside)

    def _cut(self, left: float, top: float, right: float, bottom: float) -> tuple[float, float, float, float]:
        width, height = float(self._size.width), float(self._size.height)
        return (
            min(max(left, 0.0), width),
            min(max(top, 0.0), height),
            min(max(right, 0.0), width),
            min(max(bottom, 0.0), height),
        )

    def _drawn(self, left: float, top: float, right: float, bottom: float) -> tuple[int, ...] | None:
        """Return a box as a hand draws it, None where nothing is left of it."""
        across, down = (JITTER_PX + JITTER_SHARE * side for side in (right - left, bottom - top))
        edges = (left, across), (top, down), (right, across), (bottom, down)
        left, top, right, bottom = self._cut(*(float(round(edge + sigma * self._normal())) for edge, sigma in edges))
        return (int(left), int(top), int(right - left), int(bottom - top)) if _area(left, top, right, bottom) else None

    def _normal(self) -> float:
        """Return a number of mean 0 and variance 1: `gauss` may change between versions, this sum will not."""
        return sum(self._random.random() for _ in range(12)) - 6.0


def _area(left: float, top: float, right: float, bottom: float) -> float:
    return max(right - left, 0.0) * max(bottom - top, 0.0)
