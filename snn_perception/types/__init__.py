"""Values that cross the borders between parts: events, windows, targets and detections.

All are frozen dataclasses; those of columns compare by identity, `Detections` by value. NumPy before and after the
model, torch only inside it. Pixels have their origin at the top left, x to the right and y down; a box is ``xyxy`` =
(x1, y1, x2, y2), half-open, in pixels of the sensor unless a name says otherwise. Sensor time is int64 microseconds
(``_us``), unwrapped.
"""

from snn_perception.types.arrays import F32, I64, JITTER_US, LEAP_US, MAX_SIDE_PX, U8, U16
from snn_perception.types.detections import Detections, FeatureInfo, Targets
from snn_perception.types.events import EventArray, EventWindow, SensorSize
from snn_perception.types.images import ImageWindow, RawImage, Window
from snn_perception.types.packets import NO_LOSSES, DecodedEvents, Losses, Packet, PointLayout, Triggers

__all__ = [
    "F32",
    "I64",
    "JITTER_US",
    "LEAP_US",
    "MAX_SIDE_PX",
    "NO_LOSSES",
    "U8",
    "U16",
    "DecodedEvents",
    "Detections",
    "EventArray",
    "EventWindow",
    "FeatureInfo",
    "ImageWindow",
    "Losses",
    "Packet",
    "PointLayout",
    "RawImage",
    "SensorSize",
    "Targets",
    "Triggers",
    "Window",
]
