"""Images of ordinary cameras, where a model sees images in place of events."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from snn_perception.types.arrays import U8, require
from snn_perception.types.events import EventWindow, SensorSize


@dataclass(frozen=True, eq=False)
class RawImage:
    """One ``sensor_msgs/Image`` as it came; nothing in it has been checked (`images.pixels` does).

    Attributes:
        data: its bytes, uint8 [N]: `height` rows of `step` bytes each.
        encoding: of a pixel, such as ``rgb8``.
        height, width: in pixels.
        stamp_ns: time stamp of its header.
    """

    data: U8
    encoding: str
    height: int
    width: int
    step: int
    stamp_ns: int = 0
    frame_id: str = ""


@dataclass(frozen=True, eq=False)
class ImageWindow:
    """The image that stands for the half-open interval ``[t_start_us, t_end_us)`` of sensor time.

    Attributes:
        image: red, green and blue, uint8 [H, W, 3].
        stream, lossy, after_gap: as of an `EventWindow`.

    Raises:
        ValueError: for an image of another shape or dtype, or an empty interval.
    """

    image: U8
    t_start_us: int
    t_end_us: int
    stream: str = ""
    lossy: bool = False
    after_gap: bool = False

    def __post_init__(self) -> None:
        require(self.image, "image", np.uint8, (None, None, 3))
        if self.t_end_us <= self.t_start_us:
            raise ValueError(f"window must have a positive length, got [{self.t_start_us}, {self.t_end_us}) us")

    @property
    def size(self) -> SensorSize:
        """Size of the image."""
        return SensorSize(*self.image.shape[:2])

    @property
    def event_count(self) -> int:
        """0: an image is not made of events."""
        return 0


Window = EventWindow | ImageWindow
