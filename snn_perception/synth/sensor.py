"""A model of a dynamic vision sensor: frames of luminance in, events out.

Source: the pixel of Lichtsteiner, Posch and Delbruck (IEEE JSSC 43(2), 2008), with the imperfections that Hu, Liu and
Delbruck (CVPR workshops 2021) model: an intensity-dependent bandwidth, threshold mismatch, refractory time, background
activity and hot pixels. Where we differ: a pixel in its refractory time is held in reset and then starts from the level
of that moment, so that nothing is made up later; background activity of both polarities is one Poisson process.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from snn_perception.synth.draw_kernels import exponential, uniform
from snn_perception.synth.sensor_kernels import MAX_SPAN_US, advance, draw_thresholds, settle, unpack
from snn_perception.types import F32, EventArray, SensorSize

DARK = 0.01  # photocurrent without light, in the unit of luminance
HALF_NOISE = 0.25  # luminance at which background activity is half of that in the dark
LEAST_CORNER_HZ = 6.0  # of the photoreceptor in the dark; from there it grows with its current
CORNER_HZ = 200.0  # at luminance 1
HOT_PIXEL_HZ = (5.0, 400.0)  # log-uniform
HOT_ON_SHARE = 0.75  # a hot pixel has one polarity
BACKGROUND_ON_SHARE = 0.6  # leakage gives ON events only, shot noise both
_SEED_BITS = (1 << 64) - 1
DUPLICATED_FROM_X = 256  # in GEN1 nearly all events beyond column 255 are there twice


class SensorStyle(Protocol):
    """What the sensor takes from a drive's style (`snn_perception.synth.style.DriveStyle` tells what is what)."""

    @property
    def threshold_on(self) -> float: ...
    @property
    def threshold_off(self) -> float: ...
    @property
    def threshold_spread(self) -> float: ...
    @property
    def noise_hz(self) -> float: ...
    @property
    def hot_pixel_share(self) -> float: ...


class DvsSensor:
    """One sensor with the state of its pixels.

    Args:
        style: thresholds and their relative spread over pixels, background activity in the dark, hot pixels.
        size: sensor size.
        seed: of the sensor: thresholds and hot pixels.
        noise_seed: of a recording: when noise fires. Equal styles, seeds and frames give equal events, bit for bit.
        duplicates: write events beyond column 255 twice, as GEN1 has them.
    """

    def __init__(
        self, style: SensorStyle, size: SensorSize, seed: int, *, noise_seed: int = 0, duplicates: bool = False
    ) -> None:
        pixels = size.height * size.width
        self.size = size
        self._t_us: int | None = None
        self._duplicate_from_x = DUPLICATED_FROM_X if duplicates else 1 << 16
        self._optics = (DARK, CORNER_HZ, LEAST_CORNER_HZ)
        draws = np.array([seed & _SEED_BITS], np.uint64)
        self._on, self._off = np.empty(pixels, np.float32), np.empty(pixels, np.float32)
        draw_thresholds(draws, float(style.threshold_on), float(style.threshold_spread), self._on)
        draw_thresholds(draws, float(style.threshold_off), float(style.threshold_spread), self._off)
        self._level, self._reference = np.empty(pixels, np.float32), np.empty(pixels, np.float32)
        self._blind_until = np.zeros(pixels, np.int64)
        self._noise = _noise_source(style, pixels, draws, np.array([(seed << 32 ^ noise_seed) & _SEED_BITS], np.uint64))
        self._words = np.empty(4096, np.uint64)

    def events(self, luminance: F32, t_us: int) -> EventArray:
        """Return the events in (time of the last call, t_us], in order of time; none from the first call.

        Args:
            luminance: float32 [H, W], positive; 1 is a white surface under an overcast sky at noon.
            t_us: sensor time, later than that of the call before, by less than 4 s.

        Raises:
            ValueError: for another shape or dtype, luminance that is not positive, or a time out of order.
        """
        self._check(luminance)
        luminance = np.ascontiguousarray(luminance)
        if self._t_us is None:
            return self._begin(luminance, t_us)
        start, span = self._t_us, t_us - self._t_us
        if not 0 < span < MAX_SPAN_US:
            raise ValueError(f"t_us must lie within {MAX_SPAN_US} us after {start}, got {t_us}")
        self._words, n = advance(
            luminance,
            start,
            t_us,
            self._optics,
            self._level,
            self._reference,
            self._blind_until,
            self._on,
            self._off,
            self._noise,
            self._words,
        )
        self._t_us = t_us
        x, y, p, t = unpack(self._words, n, start, span, self._duplicate_from_x)
        return EventArray(x, y, p, t, self.size)

    def _check(self, luminance: npt.NDArray[np.float32]) -> None:
        shape = (self.size.height, self.size.width)
        if luminance.dtype != np.float32 or luminance.shape != shape:
            raise ValueError(f"luminance must be float32 {list(shape)}, got {luminance.dtype} {list(luminance.shape)}")
        if not luminance.min() > 0 or not np.isfinite(luminance.max()):
            raise ValueError("luminance must be positive and finite everywhere")

    def _begin(self, luminance: F32, t_us: int) -> EventArray:
        """Start at rest in front of the first frame."""
        settle(luminance.reshape(-1), DARK, self._level)
        self._reference[:] = self._level
        self._t_us = t_us
        hot_next = self._noise[5]
        hot_next += t_us
        return EventArray.empty(self.size)


def _noise_source(
    style: SensorStyle, pixels: int, pattern: npt.NDArray[np.uint64], draws: npt.NDArray[np.uint64]
) -> tuple:  # type: ignore[type-arg]
    """Return the state of all noise, as `sensor_kernels.advance` takes it."""
    per_us = style.noise_hz * 1e-6
    clock = np.array([exponential(draws) / per_us if per_us > 0 else 1e300])
    background = np.array([per_us, HALF_NOISE, BACKGROUND_ON_SHARE, pixels])
    places = {int(uniform(pattern) * pixels) for _ in range(round(style.hot_pixel_share * pixels))}
    hot_pixel = np.array(sorted(places), np.int64)
    low, high = HOT_PIXEL_HZ
    hot_rate = np.array([round(low * (high / low) ** uniform(pattern), 3) * 1e-6 for _ in hot_pixel], np.float64)
    hot_p = np.array([uniform(pattern) < HOT_ON_SHARE for _ in hot_pixel], np.uint8)
    hot_next = np.array([int(1 + exponential(draws) / rate) for rate in hot_rate], np.int64)
    return draws, np.zeros(5, np.int64), clock, background, hot_pixel, hot_next, hot_rate, hot_p
