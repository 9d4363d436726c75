"""Images of an ordinary camera as a network's input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from snn_perception.errors import SpecError
from snn_perception.events.letterbox import Letterbox, fit_into
from snn_perception.types import EventWindow, ImageWindow, SensorSize

_LETTERBOX_GREY = 114


class Image:
    """A colour image at every time step: [steps, 3, H', W'], 0 to 1, red first.

    It is brought to the network's size with 8-bit bilinear interpolation as far as it fits, put in the middle of a
    field of grey 114, and divided by 255. It takes images (`ImageWindow`, or an array) of the size that the model is
    for; a window of events has no image, and only one without any events passes, as a black one.

    Args:
        steps: time steps that see the same image.
        network_size: [height, width] of the model's input; None leaves the image as it is.
    """

    channels = 3
    takes_images = True

    def __init__(self, size: SensorSize, *, steps: int = 1, network_size: Sequence[int] | None = (640, 640)) -> None:
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        self.size, self.steps = size, steps
        target = size if network_size is None else SensorSize(*network_size)
        self.letterbox: Letterbox = fit_into(
            size, target, interpolation="bilinear_8bit", pad=_LETTERBOX_GREY, centred=True, round_up=True
        )

    @property
    def output_size(self) -> SensorSize:
        """Height and width of the tensor."""
        return self.letterbox.target

    def __call__(self, source: ImageWindow | EventWindow | npt.NDArray[np.uint8]) -> Tensor:
        """Return an image uint8 [H, W, 3], or that of a window, as a tensor [steps, 3, H', W'] on the CPU.

        Raises:
            SpecError: for a window of events.
            ValueError: for an image of another size or type than the model's.
        """
        image = self._image_of(source)
        if image.dtype != np.uint8 or image.shape != (self.size.height, self.size.width, 3):
            raise ValueError(
                f"expected an image uint8 [{self.size.height}, {self.size.width}, 3], "
                f"got {image.dtype} {list(image.shape)}; resize it, or build the model for its size"
            )
        planes = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32))
        tensor = self.letterbox.apply(planes) / 255
        return tensor.expand(self.steps, -1, -1, -1).contiguous()

    def _image_of(self, source: ImageWindow | EventWindow | npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        if isinstance(source, ImageWindow):
            return source.image
        if not isinstance(source, EventWindow):
            return np.asarray(source)
        if len(source.events):
            raise SpecError(
                "representation 'image': the model sees images, got a window of events; "
                "choose a model for events, or feed it images"
            )
        return np.zeros((self.size.height, self.size.width, 3), np.uint8)
