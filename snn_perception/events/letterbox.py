"""An image of one size brought into an input of another, and its boxes there and back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from snn_perception.types import F32, SensorSize

if TYPE_CHECKING:
    from torch import Tensor

Interpolation = Literal["none", "bilinear", "bicubic", "bilinear_8bit"]
INTERPOLATIONS = ("none", "bilinear", "bicubic", "bilinear_8bit")
_CUBIC = np.float32(-0.75)
_BITS = 11  # of the weights in 8-bit interpolation


@dataclass(frozen=True)
class Letterbox:
    """A source image enlarged to `scaled`, put at (`left`, `top`) of an input of size `target`, and padded around.

    Interpolation is OpenCV's (half-pixel centres, weights in float32), to the bit in float64: ``bilinear``, ``bicubic``
    (a = -0.75, may go below 0), and ``bilinear_8bit``, its fixed-point form for whole numbers 0 to 255.

    Attributes:
        pad: value around the image.
        one_factor: take boxes back by the smaller enlargement along both sides, as YOLOX does, although rounding makes
            the sides' own differ by up to 0.05 %.

    Raises:
        ValueError: if the image does not fit, or ``none`` would have to change its size.
    """

    source: SensorSize
    target: SensorSize
    scaled: SensorSize
    left: int = 0
    top: int = 0
    pad: float = 0.0
    interpolation: Interpolation = "bilinear"
    one_factor: bool = False

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation must be one of {', '.join(INTERPOLATIONS)}, got {self.interpolation!r}")
        right, bottom = self.left + self.scaled.width, self.top + self.scaled.height
        if min(self.left, self.top) < 0 or right > self.target.width or bottom > self.target.height:
            raise ValueError(f"{self.scaled} at ({self.left}, {self.top}) lies outside {self.target}")
        if self.interpolation == "none" and self.scaled != self.source:
            raise ValueError(f"'none' cannot turn {self.source} into {self.scaled}; choose an interpolation")

    @property
    def is_identity(self) -> bool:
        """Whether image and input are the same."""
        return self.source == self.target == self.scaled

    def apply(self, image: Tensor) -> Tensor:
        """Return floating-point images [..., H, W] as inputs [..., H', W'], on the same device."""
        if image.shape[-2:] != (self.source.height, self.source.width):
            raise ValueError(f"expected images of {self.source}, got {list(image.shape)}")
        if self.is_identity:
            return image
        right = self.target.width - self.left - self.scaled.width
        bottom = self.target.height - self.top - self.scaled.height
        resized = image if self.scaled == self.source else self._resize(image)
        from torch.nn.functional import pad

        return pad(resized, (self.left, right, self.top, bottom), value=self.pad)

    def boxes_to_input(self, xyxy: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Return boxes xyxy [N, 4] of the source in pixels of the input, not clipped."""
        return xyxy * self._scale + np.array([self.left, self.top] * 2, np.float64)

    def boxes_to_source(self, xyxy: F32) -> F32:
        """Return boxes xyxy [N, 4] of the input in pixels of the source, cut to it."""
        moved = (xyxy - np.array([self.left, self.top] * 2, np.float32)) / self._back_scale().astype(np.float32)
        limit = np.array([self.source.width, self.source.height] * 2, np.float32)
        clipped: F32 = np.clip(moved, 0, limit).astype(np.float32)
        return clipped

    @property
    def to_source(self) -> tuple[float, float, float, float]:
        """(left, top, x scale, y scale): ``boxes_to_source`` is ``(x - left) / scale``, cut to the source."""
        x_scale, y_scale = map(float, self._back_scale()[:2])
        return float(self.left), float(self.top), x_scale, y_scale

    def _back_scale(self) -> npt.NDArray[np.float64]:
        scale = self._scale
        if self.one_factor:
            scale[:] = min(self.target.width / self.source.width, self.target.height / self.source.height)
        return scale

    @property
    def _scale(self) -> npt.NDArray[np.float64]:
        return np.array([self.scaled.width / self.source.width, self.scaled.height / self.source.height] * 2)

    def _resize(self, image: Tensor) -> Tensor:
        columns, across = _taps(self.source.width, self.scaled.width, self.interpolation)
        rows, down = _taps(self.source.height, self.scaled.height, self.interpolation)
        if self.interpolation == "bilinear_8bit":
            return _resize_8bit(image, columns, across, rows, down)
        wide = _weighted(image, columns, across, -1)
        return _weighted(wide, rows, down, -2)


def fit_into(
    source: SensorSize,
    target: SensorSize,
    *,
    interpolation: Interpolation = "bilinear",
    pad: float = 0.0,
    centred: bool = False,
    round_up: bool = False,
    one_factor: bool = False,
) -> Letterbox:
    """Return the letterbox that enlarges (or shrinks) an image as far as it fits, keeping its proportions.

    Args:
        centred: put it in the middle (an odd rest goes below and to the right) in place of the top left corner.
        round_up: round the scaled sides up in place of down.
        one_factor: as in `Letterbox`.
    """
    ratio = min(target.width / source.width, target.height / source.height)
    sides = [side * ratio for side in (source.height, source.width)]
    height, width = (int(np.ceil(side - 1e-9) if round_up else side + 1e-9) for side in sides)
    scaled = SensorSize(max(1, height), max(1, width))
    left, top = ((target.width - width) // 2, (target.height - height) // 2) if centred else (0, 0)
    kind: Interpolation = "none" if scaled == source else interpolation
    return Letterbox(source, target, scaled, left, top, pad, kind, one_factor)


def padded(source: SensorSize, multiple: int) -> Letterbox:
    """Return the letterbox that pads an image with 0 at the right and the bottom to a multiple of `multiple` px."""
    height, width = (-(-side // multiple) * multiple for side in (source.height, source.width))
    return Letterbox(source, SensorSize(height, width), source, interpolation="none")


@lru_cache(maxsize=32)
def _taps(source: int, scaled: int, kind: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return for each pixel of a scaled side its source pixels and their weights, [scaled, taps] each."""
    at = ((np.arange(scaled) + 0.5) * (1.0 / (scaled / source)) - 0.5).astype(np.float32)
    first = np.floor(at).astype(np.int64)
    x = at - first.astype(np.float32)
    if kind == "bicubic":
        a, y = _CUBIC, 1 - x
        weights = [
            ((a * (x + 1) - 5 * a) * (x + 1) + 8 * a) * (x + 1) - 4 * a,
            ((a + 2) * x - (a + 3)) * x * x + 1,
            ((a + 2) * y - (a + 3)) * y * y + 1,
        ]
        weights.append(1 - weights[0] - weights[1] - weights[2])
        index = first[:, None] + np.arange(-1, 3)
    else:
        x = np.where((first < 0) | (first >= source - 1), np.float32(0), x)
        weights = [1 - x, x]
        index = np.clip(first, 0, source - 1)[:, None] + np.arange(2)
    return np.clip(index, 0, source - 1), np.stack(weights, axis=1).astype(np.float32)


def _weighted(image: Tensor, index: npt.NDArray[np.int64], weights: npt.NDArray[np.float32], axis: int) -> Tensor:
    """Return the image with one side resized: the weighted sum of its taps."""
    import torch

    shape = (-1,) if axis == -1 else (-1, 1)
    total: Tensor | None = None
    for k in range(index.shape[1]):
        chosen = image.index_select(axis, torch.from_numpy(index[:, k]).to(image.device))
        part = chosen * torch.from_numpy(weights[:, k]).to(image).view(shape)
        total = part if total is None else total + part
    assert total is not None
    return total


def _resize_8bit(
    image: Tensor,
    columns: npt.NDArray[np.int64],
    across: npt.NDArray[np.float32],
    rows: npt.NDArray[np.int64],
    down: npt.NDArray[np.float32],
) -> Tensor:
    """Return whole-numbered images resized in fixed point: weights of 11 bits, 4 bits dropped on the way, rounded."""
    import torch

    wide = _weighted(image.to(torch.int64), columns, np.rint(across * (1 << _BITS)), -1) >> 4
    high, low = (wide.index_select(-2, torch.from_numpy(rows[:, k]).to(wide.device)) for k in (0, 1))
    whole = np.rint(down * (1 << _BITS)).astype(np.int64)
    upper, lower = (torch.from_numpy(whole[:, k]).to(wide.device).view(-1, 1) for k in (0, 1))
    return ((((high * upper) >> 16) + ((low * lower) >> 16) + 2) >> 2).to(image.dtype)
