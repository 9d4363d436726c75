"""Windows of any sensor, and images of any size, as the input of one model."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from snn_perception.data.image_inputs import ImageInputs
from snn_perception.detector import Detector
from snn_perception.discovery import load_registry
from snn_perception.errors import SpecError
from snn_perception.events.filling import Filler
from snn_perception.events.geometry import GeometryMode, InputMapping
from snn_perception.events.grid import Filled, GridRepresentation
from snn_perception.events.letterbox import Letterbox
from snn_perception.registry import Registry
from snn_perception.types import Detections, EventWindow, ImageWindow, SensorSize, Window

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Represented:
    """A window as the network's input.

    Attributes:
        x: [T, 1, C, H, W]. letterbox: how an image lies in it; None for events.
        to_sensor: takes boxes of the model's sensor to the window's.
    """

    x: Tensor
    letterbox: Letterbox | None
    to_sensor: Callable[[Detections], Detections]


class Inputs:
    """What brings windows to a detector.

    Args:
        registry: makes the inputs of images of any size, for a model that sees images; by default every installed
            plugin.
    """

    def __init__(self, detector: Detector, registry: Registry | None) -> None:
        self._detector, self._spec = detector, detector.spec
        self._mappings: dict[tuple[SensorSize, GeometryMode], InputMapping] = {}
        self._images: ImageInputs | None = None
        if getattr(detector.representation, "takes_images", False):
            self._images = ImageInputs(detector.representation, self._spec, registry or load_registry())

    @property
    def takes_images(self) -> bool:
        """Whether the model sees images in place of events."""
        return self._images is not None

    def of(self, window: Window, geometry: GeometryMode) -> Represented:
        """Return a window as the network's input.

        Raises:
            EventDataError: if the sensor's size does not fit and `geometry` is ``strict``.
            SpecError: for an image where the model is for events, or the other way round.
        """
        if isinstance(window, ImageWindow):
            if self._images is None:
                raise SpecError(
                    f"the stream holds images, and the model's representation '{self._spec.representation.name}' makes "
                    "its input of events; choose a model for images"
                )
            x = self._images.tensor(window.image).to(self._detector.device, self._detector.dtype)
            return Represented(x.unsqueeze(1), self._images.letterbox(window.size), lambda found: found)
        mapping = self.mapping(window.size, geometry)
        x = self._detector.represent(window if self.is_filled(window, mapping) else mapping.events(window))
        return Represented(x, None, mapping.boxes)

    def filler(self, sensor: SensorSize, geometry: GeometryMode) -> Filler | None:
        """Return what fills the model's grids while events of a sensor arrive, None where that cannot be."""
        representation = self._detector.representation
        if not isinstance(representation, GridRepresentation) or not representation.is_incremental:
            return None
        if self._spec.stride_us != self._spec.window_us:  # an event belongs to several windows
            return None
        if geometry == "strict" and sensor != self._spec.sensor_size:
            return None
        return Filler(representation, self.mapping(sensor, geometry))

    def is_filled(self, window: EventWindow, mapping: InputMapping) -> bool:
        """Return whether the model's own filler has seen the window's events, so that none need to be mapped."""
        filled = window.filled
        if not isinstance(filled, Filled) or filled.maker is not self._detector.representation:
            return False
        return filled.mapping is mapping and filled.belongs_to(window)

    def mapping(self, sensor: SensorSize, geometry: GeometryMode) -> InputMapping:
        """Return what takes a sensor's events to the model's sensor, and boxes back; the same one every time."""
        key = sensor, geometry
        if key not in self._mappings:
            self._mappings[key] = InputMapping(sensor, self._spec.sensor_size, geometry)
            if sensor != self._spec.sensor_size:
                log.warning("sensor is %s, the model was made for %s: %s", sensor, self._spec.sensor_size, geometry)
        return self._mappings[key]
