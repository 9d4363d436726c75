"""House fronts, garden walls and hedges: a bank of textures for one drive."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from snn_perception.synth.style import REFERENCE_WIDTH_PX, DriveStyle, generator
from snn_perception.synth.wall_kernels import LEVELS
from snn_perception.types import F32, SensorSize

HOUSES, PLAIN, GARDEN, HEDGES = range(14), range(14, 17), range(17, 20), range(20, 22)
SLOTS = 22
WIDTH_M, HEIGHT_M = 20.0, 20.0


@dataclass(frozen=True, eq=False)
class FacadeBank:
    """Reflectances of walls from the ground up: float32, `SLOTS` textures with all their levels in a row.

    Attributes:
        shape: texels along the wall, texels upwards, texels per metre.
        storey_m: height of a storey of each slot; a house is a whole number of them, so no window is cut.
    """

    texels: F32
    shape: tuple[int, int, float]
    storey_m: tuple[float, ...]


def facade_bank(style: DriveStyle, size: SensorSize) -> FacadeBank:
    """Return the drive's textures, finer for a sensor with more pixels."""
    side = 256 if size.width < 2 * REFERENCE_WIDTH_PX else 512
    rng = generator(style.seed, 3)
    scale = side / WIDTH_M
    parts, storeys = [], []
    for slot in range(SLOTS):
        if slot in HOUSES:
            texture, storey = _house(rng, side, scale, style.lamps)
        elif slot in PLAIN:
            texture, storey = _plain(rng, side, scale), 3.0
        elif slot in GARDEN:
            texture, storey = _garden_wall(rng, side, scale), 2.0
        else:
            texture, storey = _hedge(rng, side), 2.0
        parts.append(_levels(texture.astype(np.float32)))
        storeys.append(storey)
    return FacadeBank(np.concatenate(parts), (side, side, scale), tuple(storeys))


def _levels(texture: F32) -> F32:
    """Return a texture [U, V] and its averages over 2, 4, 8 ... texels, flat."""
    parts = []
    for _ in range(LEVELS):
        parts.append(texture.ravel())
        rows = texture[0::2] + texture[1::2]
        texture = np.float32(0.25) * (rows[:, 0::2] + rows[:, 1::2])
    return np.concatenate(parts)


def _plaster(rng: np.random.Generator, side: int, reflectance: float, contrast: float) -> npt.NDArray[np.float64]:
    """Return a wall's ground: fine grain, stains, darker towards the foot."""
    wall = np.full((side, side), reflectance)
    for cells, amount in ((side, 0.25), (side // 4, 0.35), (side // 16, 0.5)):
        noise = rng.standard_normal((cells, cells)) * (amount * contrast)
        wall *= 1.0 + np.repeat(np.repeat(noise, side // cells, 0), side // cells, 1)
    foot = 1.0 - 0.25 * np.maximum(0.0, 1.0 - np.arange(side) * (HEIGHT_M / side) / 1.2)
    return np.maximum(0.015, wall * foot[None, :])


def _house(rng: np.random.Generator, side: int, scale: float, glow: float) -> tuple[npt.NDArray[np.float64], float]:
    """Return a front with irregular windows, and its storey height; `glow` is the light in lit windows."""
    storey = float(rng.uniform(2.7, 3.5))
    base = rng.uniform(0.16, 0.55)
    wall = _plaster(rng, side, base, rng.uniform(0.08, 0.2))
    if rng.random() < 0.45:  # brick courses
        wall[:, :: max(2, int(0.25 * scale))] *= 0.8
    if rng.random() < 0.5:  # string courses between storeys
        for k in range(1, 7):
            _box(wall, scale, 0.0, WIDTH_M, k * storey - 0.12, k * storey, base * rng.uniform(1.2, 1.6))
    bay, wide = rng.uniform(2.0, 4.2), rng.uniform(0.9, 1.6)
    bays = max(3, int(WIDTH_M / bay))
    bay = WIDTH_M / bays
    for floor in range(7):
        shop = floor == 0 and rng.random() < 0.45
        for k in range(bays):
            middle = (k + 0.5) * bay + rng.uniform(-0.08, 0.08) * bay
            foot = floor * storey
            if shop:
                _shop(rng, wall, scale, middle, bay, foot, glow)
            elif rng.random() < 0.9:
                _window(rng, wall, scale, middle, wide * rng.uniform(0.85, 1.15), foot, storey, base, glow)
            if floor > 0 and rng.random() < 0.12:  # balcony
                _box(wall, scale, middle - 0.5 * bay, middle + 0.5 * bay, foot - 0.1, foot + 0.1, base * 0.5)
                _box(wall, scale, middle - 0.5 * bay, middle + 0.5 * bay, foot + 0.1, foot + 0.95, base * 0.8)
    door = rng.uniform(2.0, WIDTH_M - 2.0)
    _box(wall, scale, door - 0.65, door + 0.65, 0.0, 2.35, base * 1.35)
    _box(wall, scale, door - 0.5, door + 0.5, 0.0, 2.2, rng.uniform(0.03, 0.14))
    for _ in range(rng.integers(1, 4)):  # drain pipes and signs
        at = rng.uniform(0.5, WIDTH_M - 0.5)
        _box(wall, scale, at - 0.06, at + 0.06, 0.0, HEIGHT_M, base * rng.choice([0.4, 1.5]))
    return wall, storey


def _window(
    rng: np.random.Generator,
    wall: npt.NDArray[np.float64],
    scale: float,
    middle: float,
    wide: float,
    foot: float,
    storey: float,
    base: float,
    glow: float,
) -> None:
    low, high = foot + rng.uniform(0.8, 1.0), foot + storey - rng.uniform(0.4, 0.6)
    frame = base * rng.uniform(1.3, 1.8)
    _box(wall, scale, middle - wide / 2 - 0.12, middle + wide / 2 + 0.12, low - 0.14, high + 0.1, frame)
    glass = rng.uniform(0.02, 0.10) + (glow * rng.uniform(0.05, 0.25) if rng.random() < 0.25 else 0.0)
    if rng.random() < 0.12:
        glass += rng.uniform(0.2, 0.6)  # it mirrors the sky
    _box(wall, scale, middle - wide / 2, middle + wide / 2, low, high, glass)
    if rng.random() < 0.3:  # a blind, partly down
        _box(wall, scale, middle - wide / 2, middle + wide / 2, high - rng.uniform(0.2, 1.0), high, base * 1.1)
    _box(wall, scale, middle - 0.05, middle + 0.05, low, high, frame)


def _shop(
    rng: np.random.Generator,
    wall: npt.NDArray[np.float64],
    scale: float,
    middle: float,
    bay: float,
    foot: float,
    glow: float,
) -> None:
    inside = rng.uniform(0.03, 0.12) + glow * rng.uniform(0.1, 0.3)
    _box(wall, scale, middle - 0.44 * bay, middle + 0.44 * bay, foot + 0.4, foot + 2.3, inside)
    for _ in range(3):
        at, to = rng.uniform(-0.4, 0.4) * bay + middle, rng.uniform(0.15, 0.5)
        _box(wall, scale, at - to, at + to, foot + 0.5, foot + rng.uniform(0.9, 1.9), inside * rng.uniform(0.5, 4.0))
    _box(wall, scale, middle - 0.5 * bay, middle + 0.5 * bay, foot + 2.35, foot + 2.8, rng.uniform(0.08, 0.7))


def _plain(rng: np.random.Generator, side: int, scale: float) -> npt.NDArray[np.float64]:
    """Return a wall without windows, as gables and halls have."""
    base = rng.uniform(0.15, 0.45)
    wall = _plaster(rng, side, base, 0.22)
    for _ in range(rng.integers(2, 6)):
        a, low = rng.uniform(0.0, WIDTH_M - 3.0), rng.uniform(0.0, 9.0)
        _box(wall, scale, a, a + rng.uniform(0.8, 3.0), low, low + rng.uniform(0.5, 1.8), base * rng.uniform(0.3, 1.6))
    return wall


def _garden_wall(rng: np.random.Generator, side: int, scale: float) -> npt.NDArray[np.float64]:
    """Return a fence of posts and boards or a low wall of stones."""
    base = rng.uniform(0.12, 0.45)
    wall = _plaster(rng, side, base, 0.25)
    step = rng.uniform(0.14, 0.4)
    for k in range(int(WIDTH_M / step)):
        _box(wall, scale, k * step, k * step + 0.05, 0.0, HEIGHT_M, base * 0.35)
    for k in range(8):
        _box(wall, scale, k * 2.5, k * 2.5 + 0.2, 0.0, HEIGHT_M, base * 1.6)
    return wall


def _hedge(rng: np.random.Generator, side: int) -> npt.NDArray[np.float64]:
    """Return leaves."""
    return _plaster(rng, side, rng.uniform(0.06, 0.13), 0.95)


def _box(
    wall: npt.NDArray[np.float64], scale: float, left: float, right: float, low: float, high: float, value: float
) -> None:
    """Set a rectangle, given in metres along the wall and upwards; what lies outside the texture is left out."""
    a, b, c, d = (max(0, round(edge * scale)) for edge in (left, right, low, high))
    wall[a:b, c:d] = value
