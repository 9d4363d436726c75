"""From one camera's images to windows: the same code, image for image, in the live node and in a replay."""

from __future__ import annotations

import logging

from snn_perception.errors import EventDataError
from snn_perception.images.pixels import pixels_of
from snn_perception.types import ImageWindow, RawImage

log = logging.getLogger(__name__)


class ImageStream:
    """Makes a window of every image: it ends at the image's stamp, and is as long as the model's windows.

    Attributes:
        images: those that became windows. bad_images: those that cannot be read.
        unstamped: images with a stamp of 0, as drivers that set none send them.

    Args:
        name: of the camera. topic: where they come from, for people.
    """

    def __init__(self, window_us: int, *, name: str = "", topic: str = "") -> None:
        self.images = self.bad_images = self.unstamped = 0
        self._window_us, self._name, self._topic = window_us, name, topic

    def push(self, raw: RawImage) -> ImageWindow:
        """Return the window of an image.

        Raises:
            EventDataError: for an image that cannot be read; the stream goes on with the next one.
        """
        try:
            pixels = pixels_of(raw)
        except EventDataError:
            self.bad_images += 1
            raise
        self.images += 1
        self._note_stamp(raw)
        t_end_us = raw.stamp_ns // 1000
        return ImageWindow(pixels, t_end_us - self._window_us, t_end_us, self._name)

    def _note_stamp(self, raw: RawImage) -> None:
        if raw.stamp_ns:
            return
        if not self.unstamped:
            log.warning(
                "'%s': an image has no time stamp; a model that carries state starts each from rest", self._topic
            )
        self.unstamped += 1
