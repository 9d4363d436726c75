"""What is drawn once for a drive: camera, street, light and sensor of all its recordings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from snn_perception.errors import EventDataError

REFERENCE_WIDTH_PX = 304  # focal lengths are stated for this image width

PEOPLE_RANGE = 0.7  # of the distance at which annotators make out a car, they make out people

# First style seed and number of drives of each split. A drive belongs to one split for good, and everything seen in
# it comes from its seed, so no street, car or texture is shared between splits.
SPLITS = {"train": (0, 10_000), "val": (10_000, 1_000), "test": (11_000, 1_000)}

_DARK, _LONG_FOCAL_PX = 0.2, 270.0  # below and above these lie the robustness drives, which training never has


@dataclass(frozen=True)
class Camera:
    """A forward-looking pinhole camera behind the windscreen.

    Attributes:
        focal_px: focal length at an image width of 304 px; it scales with the width.
        height_m: above the road.
        horizon: row of the horizon at rest, as a share of the image height.
    """

    focal_px: float
    height_m: float
    horizon: float


@dataclass(frozen=True)
class DriveStyle:
    """Everything that is the same in all recordings of one drive; plain numbers, so `dataclasses.asdict` is JSON.

    Attributes:
        seed: style seed, unique over all splits; every stream of random numbers of the drive starts from it.
        robustness: one of the held-out tenth of validation and test: darker than 0.2 or longer than 270 px.
        illumination: factor on all luminance; 1 is an overcast noon, 0.12 is a lit street at night.
        sun, sun_azimuth_rad, sun_elevation_rad: direct light as a share of the ambient light, and where it comes from
            (azimuth in the world's frame).
        sky: luminance of the sky near the horizon.
        haze_m: distance over which contrast falls to 1/e.
        lane_m, parking_m, pavement_m: widths of one lane, of the parking strip and of the pavement on each side.
        asphalt, asphalt_contrast, markings: reflectance of the road, its relative spread, reflectance of the paint.
        building_floors: mean number of storeys; `curviness`: 1 is usual, 0 is a straight road.
        density: of the street furniture; 1 is usual.
        parked: probability that a parking place is taken.
        pedestrians: people per 10 m of street.
        oncoming_hz: oncoming vehicles per second; `lead`: probability that a recording has a leading vehicle.
        label_range_m: the annotators make out no car that is farther away, and no people beyond
            `PEOPLE_RANGE` of it.
        vibration: factor on the shaking of the car.
        threshold_on, threshold_off: mean contrast thresholds of the sensor, in natural log intensity.
        threshold_spread: their relative standard deviation over pixels (fixed pattern).
        noise_hz: background events per second of a pixel in the dark.
        hot_pixel_share: share of pixels that are hot.
        flicker: depth of the lamps' 100 Hz flicker.
    """

    split: str
    drive: int
    seed: int
    robustness: bool
    camera: Camera
    illumination: float
    sun: float
    sun_azimuth_rad: float
    sun_elevation_rad: float
    sky: float
    haze_m: float
    lane_m: float
    parking_m: float
    pavement_m: float
    asphalt: float
    asphalt_contrast: float
    markings: float
    building_floors: float
    curviness: float
    density: float
    parked: float
    pedestrians: float
    oncoming_hz: float
    lead: float
    label_range_m: float
    vibration: float
    threshold_on: float
    threshold_off: float
    threshold_spread: float
    noise_hz: float
    hot_pixel_share: float
    flicker: float

    @property
    def lamps(self) -> float:
        """Brightness of street, head and tail lamps, 0 by day and 1 at night."""
        return min(1.0, max(0.0, (0.45 - self.illumination) / 0.25))


def generator(*key: int) -> np.random.Generator:
    """Return the stream of random numbers that belongs to a key of whole numbers, on every machine the same."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def draw_style(split: str, drive: int) -> DriveStyle:
    """Return the style of a drive of a split (``train``, ``val``, ``test``), always the same for the same two.

    Raises:
        EventDataError: for an unknown split or a drive that the split does not have.
    """
    if split not in SPLITS:
        raise EventDataError(f"synthetic drives: unknown split {split!r}; there are {', '.join(SPLITS)}")
    first, count = SPLITS[split]
    if not 0 <= drive < count:
        raise EventDataError(f"synthetic drives: {split} has drives 0..{count - 1}, got {drive}")
    rng = generator(first + drive)
    robustness = split != "train" and bool(rng.random() < 0.1)
    illumination, focal_px = _light_and_lens(rng, robustness)
    on = rng.uniform(0.13, 0.22)
    return DriveStyle(
        split=split,
        drive=drive,
        seed=first + drive,
        robustness=robustness,
        camera=Camera(focal_px, height_m=rng.uniform(1.1, 1.6), horizon=rng.uniform(0.42, 0.52)),
        illumination=illumination,
        sun=rng.uniform(0.0, 2.2) if illumination > 0.45 else 0.0,
        sun_azimuth_rad=rng.uniform(0.0, 6.283),
        sun_elevation_rad=rng.uniform(0.45, 1.1),
        sky=rng.uniform(0.7, 1.3),
        haze_m=_log_uniform(rng, 120.0, 500.0),
        lane_m=rng.uniform(2.9, 3.6),
        parking_m=rng.uniform(2.1, 2.5),
        pavement_m=rng.uniform(2.0, 4.5),
        asphalt=rng.uniform(0.10, 0.20),
        asphalt_contrast=rng.uniform(0.16, 0.34),
        markings=rng.uniform(0.35, 0.75),
        building_floors=rng.uniform(1.5, 4.5),
        curviness=rng.uniform(0.5, 1.2),
        density=rng.uniform(0.75, 1.3),
        parked=rng.uniform(0.45, 0.8),
        pedestrians=rng.uniform(0.12, 0.24),
        oncoming_hz=rng.uniform(0.10, 0.26),
        lead=rng.uniform(0.6, 0.95),
        label_range_m=rng.uniform(29.0, 35.0),
        vibration=rng.uniform(0.5, 1.4),
        threshold_on=on,
        threshold_off=on * rng.uniform(0.85, 1.2),
        threshold_spread=rng.uniform(0.02, 0.06),
        noise_hz=_log_uniform(rng, 0.03, 0.25),
        hot_pixel_share=_log_uniform(rng, 2e-5, 4e-4),
        flicker=rng.uniform(0.0, 0.12),
    )


def _light_and_lens(rng: np.random.Generator, robustness: bool) -> tuple[float, float]:
    """Return illumination and focal length in px, both usual or at least one of them held out."""
    illumination, focal_px = _log_uniform(rng, _DARK, 1.2), rng.uniform(215.0, _LONG_FOCAL_PX)
    which, dark, long_px = rng.integers(3), _log_uniform(rng, 0.12, _DARK), rng.uniform(_LONG_FOCAL_PX, 285.0)
    if not robustness:
        return illumination, focal_px
    return dark if which != 1 else illumination, long_px if which != 0 else focal_px


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(low * (high / low) ** rng.random())
