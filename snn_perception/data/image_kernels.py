"""The loop of augmentation over an image's pixels."""

from __future__ import annotations

import numpy as np

from snn_perception.events.jit import kernel
from snn_perception.types import U8

_F = np.float32


def multiply_colours(image: U8, gains: tuple[float, float, float]) -> U8:
    """Return an image uint8 [H, W, 3] with hue, saturation and value multiplied; see `image_augment.change_colours`."""
    changed = np.empty_like(image)
    hue, saturation, value = gains
    _multiply(np.ascontiguousarray(image), _F(hue), _F(saturation), _F(value), changed)
    return changed


@kernel
def _multiply(image, hue_gain, saturation_gain, value_gain, changed):  # type: ignore[no-untyped-def]
    one, six = _F(1), _F(6)
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            r, g, b = _F(image[row, column, 0]), _F(image[row, column, 1]), _F(image[row, column, 2])
            value, least = max(r, g, b), min(r, g, b)
            spread = value - least
            sixth = _F(0)  # the hue, 0 to 6
            if spread > 0:
                if value == r:
                    sixth = (g - b) / spread
                elif value == g:
                    sixth = (b - r) / spread + _F(2)
                else:
                    sixth = (r - g) / spread + _F(4)
                if sixth < 0:
                    sixth += six
            sixth *= hue_gain
            if sixth >= six:
                sixth -= six
            saturation = min(spread / value * saturation_gain, one) if value > 0 else _F(0)
            value = min(value * value_gain, _F(255))
            low = value * (one - saturation)
            rise = value - low
            red, green, blue = abs(sixth - _F(3)) - one, _F(2) - abs(sixth - _F(2)), _F(2) - abs(sixth - _F(4))
            changed[row, column, 0] = np.uint8(np.rint(low + rise * min(max(red, _F(0)), one)))
            changed[row, column, 1] = np.uint8(np.rint(low + rise * min(max(green, _F(0)), one)))
            changed[row, column, 2] = np.uint8(np.rint(low + rise * min(max(blue, _F(0)), one)))
