"""An image of an ordinary camera, where a model sees images in place of events."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from snn_perception.types.arrays import U8, require


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
