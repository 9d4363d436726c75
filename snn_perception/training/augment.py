"""Augmentation of events and their boxes: drawn once, then the same for every window of a recording.

What happens to an event depends on the event and the transform alone, never on the windows before it: chance is a hash
of the event's own numbers. So a lane may be cut anywhere, and a resumed run goes on to the bit. The places to which
events may move are those of RVT's augmentation (flip, zoom in, zoom out); there they are drawn per sequence too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from snn_perception.training.config import AugmentConfig
from snn_perception.training.event_kernels import ZOOM_STEPS, merge_events, move_events
from snn_perception.training.noise import noise_events
from snn_perception.types import EventArray, EventWindow, SensorSize, Targets


@dataclass(frozen=True)
class Transform:
    """One way to change a recording, in this order: place, swap polarity, drop events, add noise.

    A pixel column x of the source covers ``[zoom x + left_px, zoom (x + 1) + left_px)`` of the output, rows likewise;
    then left and right change places if `flipped`. Each event goes to a place in what its pixel covers, by chance:
    always to the same pixel would leave a grid of empty ones in an enlarged image, and of full ones in a smaller.

    Attributes:
        size: of source and output.
        flipped: whether left becomes right. swapped: whether ON becomes OFF and OFF ON.
        zoom: enlargement of both sides, a multiple of ``1 / ZOOM_STEPS``.
        left_px, top_px: where the source's corner comes to lie, before the flip.
        drop: share of events left out. noise_hz: rate of the noise events added, per pixel.
        min_box_share: boxes of which less than this share of their area stays in the image go.
        seed: of what chance decides event by event.
    """

    size: SensorSize
    flipped: bool = False
    swapped: bool = False
    zoom: float = 1.0
    left_px: int = 0
    top_px: int = 0
    drop: float = 0.0
    noise_hz: float = 0.0
    min_box_share: float = 0.0
    seed: int = 0

    @property
    def is_identity(self) -> bool:
        """Whether nothing changes."""
        return self == Transform(self.size, min_box_share=self.min_box_share, seed=self.seed)

    def window(self, window: EventWindow) -> EventWindow:
        """Return the window with its events changed, and with noise in all of its time, also where it is empty."""
        if self.is_identity:
            return window
        return replace(window, events=self.events(window.events, (window.t_start_us, window.t_end_us)), filled=None)

    def events(self, events: EventArray, span_us: tuple[int, int] | None = None) -> EventArray:
        """Return the events changed, in time order.

        Args:
            span_us: half-open stretch of sensor time that noise fills; by default from the first event to the last.
                Adjacent stretches get the noise that both together would get.

        Raises:
            ValueError: for events of another sensor.
        """
        if events.size != self.size:
            raise ValueError(f"augmentation was drawn for {self.size} px, got events of {events.size}")
        if self.is_identity:
            return events
        moved = self._moved(events)
        if not self.noise_hz or (span_us is None and not len(events)):
            return moved
        start, end = span_us or (int(events.t[0]), int(events.t[-1]) + 1)
        return merge_events(moved, noise_events(self.size, self.noise_hz, start, end, self.seed))

    def targets(self, targets: Targets) -> Targets:
        """Return the targets with boxes where the events now are, cut to the image; those of which too little stays go.

        The share that stays is that of the area of the box as given.
        """
        if self.is_identity:
            return targets
        offset = np.array([self.left_px, self.top_px] * 2, np.float64)
        placed = targets.xyxy * np.float64(self.zoom) + offset
        if self.flipped:
            placed[:, [0, 2]] = self.size.width - placed[:, [2, 0]]
        cut = placed.clip(0, np.array([self.size.width, self.size.height] * 2, np.float64))
        area, left = _areas(placed), _areas(cut)
        kept = (left > 0) & (left >= self.min_box_share * area)
        return Targets(cut[kept].astype(np.float32), targets.class_id[kept], targets.t_us)

    def _moved(self, events: EventArray) -> EventArray:
        """Return the events without noise; columns that do not change are shared."""
        if self.zoom == 1.0 and not (self.left_px or self.top_px or self.drop):
            x = np.uint16(self.size.width - 1) - events.x if self.flipped else events.x
            p = events.p ^ np.uint8(1) if self.swapped else events.p
            return EventArray(x, events.y, p, events.t, events.size)
        plan = (round(self.zoom * ZOOM_STEPS), self.left_px, self.top_px, self.flipped, self.swapped)
        drop_below = round(self.drop * 2**32)
        return move_events(events, *plan, drop_below, self.seed % 2**32)


def draw(config: AugmentConfig, generator: np.random.Generator, size: SensorSize) -> Transform:
    """Return a transform for recordings of a sensor.

    It takes the same numbers from `generator` whatever is switched on, so that one setting does not change what another
    draws. The zoom is log-uniform; a zoom or a shift moves the middle of the image by a whole number of pixels.
    """
    flip, zoom_at, shift_x, shift_y, swap, drop, noise = generator.random(7)
    seed = int(generator.integers(1 << 63))
    low, high = math.log(config.zoom_min), math.log(config.zoom_max)
    zoom = round(math.exp(low + (high - low) * zoom_at) * ZOOM_STEPS) / ZOOM_STEPS
    return Transform(
        size,
        flipped=bool(flip < config.flip),
        swapped=bool(swap < config.polarity_swap),
        zoom=zoom,
        left_px=_corner(size.width, zoom, config.shift * (2 * shift_x - 1)),
        top_px=_corner(size.height, zoom, config.shift * (2 * shift_y - 1)),
        drop=config.drop * drop,
        noise_hz=config.noise_hz * noise,
        min_box_share=config.min_box_share,
        seed=seed,
    )


def _corner(side: int, zoom: float, shift: float) -> int:
    """Return where the source's corner lies when the image's middle is `shift` sides off the output's."""
    return round(side * (1.0 - zoom) / 2 + side * shift)


def _areas(xyxy: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the areas of boxes; 0 for those that lie outside and were cut to nothing."""
    sides = (xyxy[:, 2:] - xyxy[:, :2]).clip(min=0)
    area: npt.NDArray[np.float64] = sides[:, 0] * sides[:, 1]
    return area
