"""The contract of a representation of images, which has ``takes_images`` set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from snn_perception.errors import SpecError
from snn_perception.testing.inputs import event_window
from snn_perception.types import ImageWindow, SensorSize


def check_image_representation(represent: Any, size: SensorSize) -> None:
    """Assert the contract of a representation of images, ``ImageWindow -> Tensor [T, C, H, W]``.

    Args:
        represent: made for images of `size`.

    Raises:
        AssertionError: saying which part of the contract is broken.
    """
    window, other = _image_window(size, 1), _image_window(size, 2)
    x = represent(window)
    target = getattr(represent, "output_size", size)
    shape = (represent.steps, represent.channels, target.height, target.width)
    assert tuple(x.shape) == shape, f"expected [steps, channels, H, W] = {list(shape)}, got {list(x.shape)}"
    assert x.dtype == torch.float32, f"expected float32, got {x.dtype}"
    assert x.isfinite().all() and x.std() > 0, "a noisy image must give finite values that are not all equal"
    kept, next_x = x.clone(), represent(other)
    assert torch.equal(x, kept), "a tensor must not change when the next image is represented: return a new one"
    assert not torch.equal(next_x, x), "another image must give another tensor"
    assert torch.equal(represent(window.image), x), "an image alone must give what its window gives"
    later = ImageWindow(window.image, 3_600_000_000, 3_600_050_000, "other")
    assert torch.equal(represent(later), x), "the time of an image must not count"
    silent = represent(event_window(size, count=0))
    assert tuple(silent.shape) == shape and silent.isfinite().all(), "a window without anything must give finite values"
    assert _refused(lambda: represent(event_window(size)), SpecError), "events must be refused by a SpecError"
    smaller = window.image[: size.height // 2]
    assert _refused(lambda: represent(smaller), ValueError), "an image of another size must be refused by a ValueError"


def _refused(call: Callable[[], Any], kind: type[Exception]) -> bool:
    try:
        call()
    except kind:
        return True
    return False


def _image_window(size: SensorSize, seed: int) -> ImageWindow:
    noise = np.random.default_rng(seed).integers(0, 256, (size.height, size.width, 3))
    return ImageWindow(noise.astype(np.uint8), 0, 50_000)
