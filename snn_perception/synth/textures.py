"""The ground's texture: asphalt with grain, cracks and patches, in all the levels that a pixel may need."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from snn_perception.synth.ground_kernels import TILE_LEVELS_D, TILE_LEVELS_S
from snn_perception.synth.texture_kernels import scratch_line
from snn_perception.types import F32

TEXELS_S, TEXELS_D, TEXELS_PER_M = 512, 256, 25.0  # 20.5 m along the road, 10.2 m across, then it repeats


@dataclass(frozen=True, eq=False)
class Tile:
    """A repeating texture of zero mean, averaged independently along and across the road.

    Attributes:
        texels: float32, all levels one after the other, each [S, D] in C order.
        starts: int64 [levels along, levels across], where each begins.
    """

    texels: F32
    starts: npt.NDArray[np.int64]
    shape: tuple[int, int, float] = (TEXELS_S, TEXELS_D, TEXELS_PER_M)


def ground_tile(rng: np.random.Generator) -> Tile:
    """Return a drive's ground texture, standard deviation about 1 at its finest level."""
    base = _grain(rng)
    for _ in range(rng.integers(3, 7)):  # mended places, with a dark seam
        s, d = rng.integers(0, TEXELS_S - 130), rng.integers(0, TEXELS_D - 90)
        e, f = s + rng.integers(20, 120), d + rng.integers(15, 80)
        seam = base[s:e, d:f].copy()
        base[s - 2 : e + 2, d - 2 : f + 2] -= 1.6
        base[s:e, d:f] = seam + rng.uniform(-1.3, 1.0)
    for _ in range(rng.integers(2, 5)):  # manholes and drain covers
        s, d, r = rng.integers(20, TEXELS_S - 20), rng.integers(20, TEXELS_D - 20), rng.integers(5, 9)
        rows, columns = np.ogrid[-r : r + 1, -r : r + 1]
        disc = rows**2 + columns**2 <= r * r
        ring = disc & (rows**2 + columns**2 >= (r - 2) ** 2)
        base[s - r : s + r + 1, d - r : d + r + 1] -= 1.2 * disc + 1.2 * ring
    for _ in range(rng.integers(6, 16)):
        start = rng.uniform(0.0, 1.0, 2) * (TEXELS_S, TEXELS_D)
        turns = rng.normal(0.0, 0.25, int(rng.integers(40, 200)))
        scratch_line(base, start[0], start[1], rng.uniform(0.0, 6.28), turns, -rng.uniform(0.8, 2.2))
    base -= base.mean(dtype=np.float64)
    return _levels(base)


def _grain(rng: np.random.Generator) -> F32:
    """Return noise whose octaves carry equal contrast, so that every distance shows some."""
    base = rng.standard_normal((TEXELS_S, TEXELS_D)).astype(np.float32) * np.float32(0.55)
    for size, amount in ((2, 0.50), (4, 0.50), (8, 0.42), (32, 0.20), (64, 0.25)):
        coarse = rng.standard_normal((TEXELS_S // size, TEXELS_D // size)).astype(np.float32) * np.float32(amount)
        base += _enlarged(coarse, size)
    return base


def _enlarged(coarse: F32, size: int) -> F32:
    """Return a repeating array enlarged `size` times along both axes, linear in between."""
    for axis in (0, 1):
        w = ((np.arange(size) + 0.5) / size).astype(np.float32)
        following = np.roll(coarse, -1, axis)
        shape = (1, size, 1) if axis == 0 else (1, 1, size)
        expanded = np.expand_dims(coarse, axis + 1) * (1 - w.reshape(shape))
        expanded = expanded + np.expand_dims(following, axis + 1) * w.reshape(shape)
        coarse = expanded.reshape([n * size if k == axis else n for k, n in enumerate(coarse.shape)])
    return coarse


def _levels(base: F32) -> Tile:
    """Return a texture with its averages over 2, 4, 8 ... texels along either axis."""
    parts, starts, at = [], np.zeros((TILE_LEVELS_S, TILE_LEVELS_D), np.int64), 0
    along = base
    for i in range(TILE_LEVELS_S):
        across = along
        for j in range(TILE_LEVELS_D):
            starts[i, j] = at
            parts.append(across.ravel())
            at += across.size
            across = np.float32(0.5) * (across[:, 0::2] + across[:, 1::2])
        along = np.float32(0.5) * (along[0::2] + along[1::2])
    return Tile(np.concatenate(parts).astype(np.float32), starts)
