"""How images may be changed for training: the settings alone, which commands read without loading anything else."""

from __future__ import annotations

from dataclasses import dataclass

from snn_perception.errors import SpecError


@dataclass(frozen=True)
class ImageChanges:
    """Augmentation of images and their boxes, drawn anew in every pass; all off by default.

    Attributes:
        mosaic: probability that four images share the input, each a part of it around a common corner.
        mosaic_off_epochs: no mosaics in so many last passes.
        scale: the image is enlarged by a factor of 1 - scale to 1 + scale, uniform.
        translate: largest shift of the middle, as a share of the input's sides.
        hue, saturation, value: largest share by which each is changed, uniform in both directions.
        flip: probability that left becomes right.
        min_side_px: boxes of which less than this is left go. min_share: and those of which less than this share is.
    """

    mosaic: float = 0.0
    mosaic_off_epochs: int = 10
    scale: float = 0.0
    translate: float = 0.0
    hue: float = 0.0
    saturation: float = 0.0
    value: float = 0.0
    flip: float = 0.0
    min_side_px: float = 2.0
    min_share: float = 0.1

    def __post_init__(self) -> None:
        for name in ("mosaic", "hue", "saturation", "value", "flip", "min_share"):
            self._check(name, "a probability or share in 0..1", 0 <= getattr(self, name) <= 1)
        for name in ("scale", "translate"):
            self._check(name, "a share below 1", 0 <= getattr(self, name) < 1)
        for name in ("mosaic_off_epochs", "min_side_px"):
            self._check(name, "at least 0", 0 <= getattr(self, name) < 1e9)

    @property
    def is_off(self) -> bool:
        """Whether it changes nothing."""
        return not any((self.mosaic, self.scale, self.translate, self.hue, self.saturation, self.value, self.flip))

    def _check(self, name: str, expected: str, holds: bool) -> None:
        if not holds:
            raise SpecError(f"train.images.{name}: expected {expected}, got {getattr(self, name)}")
