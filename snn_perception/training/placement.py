"""The whole image placed anywhere in the network's input, with its boxes: augmentation of a finished representation."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from snn_perception.data.placing import draw_placing, place_boxes, place_image
from snn_perception.data.stored import represented
from snn_perception.errors import SpecError
from snn_perception.events.grid import GridRepresentation
from snn_perception.events.letterbox import Interpolation, Letterbox
from snn_perception.training.config import AugmentConfig
from snn_perception.types import EventWindow, Targets


@dataclass(frozen=True)
class Placement:
    """One way to place a model's images and boxes, in place of that of its representation.

    Attributes:
        letterbox: from the representation's grid to the network's input. flipped: left becomes right, in the input.
        exact: boxes keep fractions of pixels.
    """

    letterbox: Letterbox
    flipped: bool
    exact: bool

    def image(self, representation: GridRepresentation, window: EventWindow) -> Tensor:
        """Return a window as the input float32 [T, C, H, W], every step placed alike."""
        plain = copy.copy(representation)  # the same buffers
        plain.letterbox = None
        return place_image(represented(plain, window), self.letterbox, flipped=self.flipped)

    def targets(self, targets: Targets) -> Targets:
        """Return targets on the representation's grid as targets in pixels of the input; what is too small goes."""
        placed, kept = place_boxes(
            targets.xyxy.astype(np.float64), self.letterbox, flipped=self.flipped, exact=self.exact
        )
        return Targets(placed[kept].astype(np.float32), targets.class_id[kept], targets.t_us)


def draw_placement(
    config: AugmentConfig, generator: np.random.Generator, representation: GridRepresentation
) -> Placement | None:
    """Return a placement drawn by chance, None where none is asked for."""
    if config.placing == "none":
        return None
    letterbox, flipped = draw_placing(
        generator.random,
        representation.size,
        representation.output_size,
        jitter=config.placing_jitter,
        scale=(config.placing_scale, 1.0),
        interpolation=_interpolation(representation),
    )
    return Placement(letterbox, flipped, exact=config.placing == "exact")


def check_placing(config: AugmentConfig, representation: Any, name: str) -> None:
    """Raise SpecError where images of a representation cannot be placed as `config` says."""
    if config.placing == "none":
        return
    letterbox = getattr(representation, "letterbox", None)
    if not isinstance(representation, GridRepresentation) or (letterbox is not None and letterbox.pad):
        raise SpecError(
            f"augment.placing: {config.placing} needs a representation of images with zeros around them, such as "
            f"micro_bins, and the model's '{name}' is none; use augment.zoom_min, zoom_max, shift and flip"
        )


def _interpolation(representation: GridRepresentation) -> Interpolation:
    """Return how the model enlarges its images; where it does not, bilinear."""
    letterbox = representation.letterbox
    return letterbox.interpolation if letterbox is not None and letterbox.interpolation != "none" else "bilinear"
