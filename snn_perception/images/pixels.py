"""The pixels of a `sensor_msgs/Image`, whatever their order, as red, green and blue."""

from __future__ import annotations

import numpy as np

from snn_perception.errors import EventDataError
from snn_perception.types import MAX_SIDE_PX, U8, RawImage

MAX_PIXELS = 1 << 25  # 8K video has 33.2 million; what follows takes some 40 bytes for each
_RGB, _BGR, _GREY = slice(0, 3), slice(2, None, -1), slice(0, 1)
# Bytes of a pixel, and which of them are red, green and blue. OpenCV's images without a colour model, 8UC3, are blue
# first, as all of OpenCV's are.
_LAYOUTS = {
    "rgb8": (3, _RGB),
    "bgr8": (3, _BGR),
    "rgba8": (4, _RGB),
    "bgra8": (4, _BGR),
    "mono8": (1, _GREY),
    "8UC1": (1, _GREY),
    "8UC3": (3, _BGR),
}
ENCODINGS = tuple(_LAYOUTS)


def pixels_of(raw: RawImage) -> U8:
    """Return the image as uint8 [H, W, 3], red first, without the padding of its rows; grey becomes three channels.

    Every number is checked against the bytes that are there before anything is allocated.

    Raises:
        EventDataError: for another encoding, an impossible size, or fewer bytes than the image needs.
    """
    layout = _LAYOUTS.get(raw.encoding)
    if layout is None:
        raise EventDataError(
            f"image of encoding {raw.encoding[:40]!r}; expected one of {', '.join(ENCODINGS)}; set the camera's driver "
            "to one of these, or put a node in between that converts, such as image_proc's debayer"
        )
    channels, order = layout
    height, width, step = raw.height, raw.width, raw.step
    if not (1 <= height <= MAX_SIDE_PX and 1 <= width <= MAX_SIDE_PX and height * width <= MAX_PIXELS):
        raise EventDataError(
            f"image of {width}x{height} px; expected sides of 1..{MAX_SIDE_PX} px and at most {MAX_PIXELS:,} pixels"
        )
    if step < width * channels:
        raise EventDataError(
            f"{raw.encoding} image of {width}x{height} px with a step of {step} bytes; a row has {width * channels}"
        )
    if raw.data.size < height * step:
        raise EventDataError(
            f"{raw.encoding} image of {width}x{height} px: expected {height} rows of {step} bytes, "
            f"got {raw.data.size:,} bytes; was it cut off?"
        )
    rows = raw.data[: height * step].reshape(height, step)[:, : width * channels]
    chosen = rows.reshape(height, width, channels)[..., order]
    return np.ascontiguousarray(np.broadcast_to(chosen, (height, width, 3)))
