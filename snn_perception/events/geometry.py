"""Fits a sensor to a model trained on another size, in event space, and takes the boxes back."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from snn_perception.errors import EventDataError
from snn_perception.types import Detections, EventArray, EventWindow, SensorSize

GeometryMode = Literal["scale", "crop", "strict"]
MODES = ("scale", "crop", "strict")


class InputMapping:
    """Maps events from the sensor's pixels to the model's, and boxes back.

    ``scale``: pixel x becomes ``x * model_width // sensor_width``, so every event stays. ``crop``: the middle of the
    sensor, pixel for pixel; a smaller sensor is centred. ``strict``: sizes must be equal.

    Raises:
        EventDataError: for differing sizes under ``strict``.
    """

    def __init__(self, sensor: SensorSize, model: SensorSize, mode: GeometryMode = "scale") -> None:
        if mode not in MODES:
            raise ValueError(f"geometry must be one of {', '.join(MODES)}, got {mode!r}")
        self.sensor, self.model, self.mode = sensor, model, mode
        self.is_identity = sensor == model
        if mode == "strict" and not self.is_identity:
            raise EventDataError(f"sensor is {sensor}, the model expects {model}; set geometry to 'scale' or 'crop'")
        self._x = _pixel_map(sensor.width, model.width, mode)
        self._y = _pixel_map(sensor.height, model.height, mode)

    def events(self, window: EventWindow) -> EventWindow:
        """Return the window with its events on the model's grid."""
        return window if self.is_identity else replace(window, events=self.map_events(window.events))

    def map_events(self, old: EventArray) -> EventArray:
        """Return events on the model's grid."""
        if self.is_identity:
            return old
        x, y = self._x[old.x], self._y[old.y]
        inside = (x >= 0) & (y >= 0) if self.mode == "crop" else slice(None)
        return EventArray(
            x[inside].astype(np.uint16), y[inside].astype(np.uint16), old.p[inside], old.t[inside], self.model
        )

    def boxes(self, detections: Detections) -> Detections:
        """Return the detections with boxes in sensor pixels, cut to the sensor."""
        if self.is_identity:
            return detections
        limit = np.array([self.sensor.width, self.sensor.height] * 2, np.float32)
        if self.mode == "scale":
            model = np.array([self.model.width, self.model.height] * 2, np.float32)
            xyxy = detections.xyxy * (limit / model)
        else:
            xyxy = detections.xyxy + np.array(
                [_offset(self.sensor.width, self.model.width), _offset(self.sensor.height, self.model.height)] * 2,
                np.float32,
            )
        return replace(detections, xyxy=np.clip(xyxy, 0, limit, dtype=np.float32))


def _offset(sensor: int, model: int) -> int:
    return (sensor - model) // 2


def _pixel_map(sensor: int, model: int, mode: GeometryMode) -> npt.NDArray[np.int32]:
    """Return for each sensor coordinate the model's, or -1 where it is cropped away."""
    at = np.arange(sensor, dtype=np.int32)
    if mode == "scale":
        return at * model // sensor
    at -= _offset(sensor, model)
    return np.where((at >= 0) & (at < model), at, -1).astype(np.int32)
