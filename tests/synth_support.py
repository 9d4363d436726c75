"""A small known scene in place of the synthetic world, and the sensor's model in plain Python."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from snn_perception.synth.sensor import CORNER_HZ, DARK, LEAST_CORNER_HZ

REFRACTORY_US = 280


@dataclass(frozen=True)
class SensorNumbers:
    """What a sensor takes from a style; without noise unless asked for."""

    threshold_on: float = 0.15
    threshold_off: float = 0.15
    threshold_spread: float = 0.0
    noise_hz: float = 0.0
    hot_pixel_share: float = 0.0


@dataclass(frozen=True)
class KnownActor:
    track_id: int
    kind: str
    class_id: int | None
    xyxy: tuple[float, float, float, float]
    distance_m: float = 12.0
    speed_mps: float = 0.0
    drawn_px: int = 0


@dataclass(frozen=True, eq=False)
class KnownView:
    luminance: np.ndarray
    ids: np.ndarray
    actors: tuple[KnownActor, ...]


class KnownWorld:
    """A camera that stands still before a textured wall; a car drives by, another car and a pedestrian stand."""

    def __init__(self, style, recording, size, duration_us):
        self.size = size
        columns, rows = np.meshgrid(np.arange(size.width), np.arange(size.height))
        self.wall = (0.3 + 0.1 * np.sin(columns * 0.7 + recording) * np.cos(rows * 0.4)).astype(np.float32)
        self.last_us = -1

    def view(self, t_us):
        assert t_us > self.last_us, "a world is looked at in order of time"
        self.last_us = t_us
        luminance = self.wall.copy()
        ids = np.full(luminance.shape, -1, np.int32)
        actors = (
            KnownActor(7, "car", 0, self.moving(t_us), speed_mps=8.0),
            KnownActor(8, "car", 0, (200.0, 150.0, 260.0, 190.0)),
            KnownActor(9, "pedestrian", 1, (150.0, 140.0, 170.0, 190.0)),
            KnownActor(10, "truck", None, (5.0, 5.0, 80.0, 70.0)),
        )
        for index, actor in enumerate(actors):
            left, top, right, bottom = (round(edge) for edge in actor.xyxy)
            luminance[top:bottom, left:right] = 0.1 + 0.2 * index
            ids[top:bottom, left:right] = index
        return KnownView(luminance, ids, actors)

    @staticmethod
    def moving(t_us):
        left = 10.0 + 100.0 * t_us * 1e-6
        return (left, 90.0, left + 60.0, 130.0)


def oracle_events(luminance, times_us, numbers):
    """Return [(t_us, p)] of one pixel without noise that saw `luminance` at `times_us`, by the model's definition."""
    level = reference = math.log(luminance[0] + DARK)
    events, held_until = [], None
    for start, end, light in zip(times_us[:-1], times_us[1:], luminance[1:], strict=True):
        corner_hz = CORNER_HZ * light + LEAST_CORNER_HZ
        gain = (end - start) * 1e-6 * 2 * math.pi * corner_hz
        after = level + (math.log(light + DARK) - level) * gain / (1 + gain)
        now = start
        for now in range(start + 1, end + 1):  # microsecond after microsecond: slow, and simple to trust
            here = level + (after - level) * (now - start) / (end - start)
            if held_until is not None:
                if now < held_until:
                    continue
                held_until, reference = None, here
                continue
            if here - reference >= numbers.threshold_on or reference - here >= numbers.threshold_off:
                events.append((now, int(here > reference)))
                held_until = now + REFRACTORY_US
        level = after
    return events
