"""Everything a plugin may import. Versioned: `API_VERSION` rises when a contract here changes."""

from snn_perception.boxes import (
    box_area,
    class_wise_nms,
    clip_boxes,
    cxcywh_to_xyxy,
    iou_matrix,
    xyxy_to_cxcywh,
)
from snn_perception.errors import CheckpointError, EventDataError, PluginError, SnnPerceptionError, SpecError
from snn_perception.events.recording import Recording
from snn_perception.fold import Foldable, NormConv
from snn_perception.hookspecs import hookimpl
from snn_perception.nn import (
    Chain,
    FromMemoryModule,
    NeuronFactory,
    Spike,
    fold_time,
    membrane,
    membrane_dtype,
    parts_of,
    resting,
)
from snn_perception.registry import API_VERSION, Component, ImportReport
from snn_perception.spec import ComponentRef, ModelSpec
from snn_perception.state import State
from snn_perception.types import (
    DecodedEvents,
    Detections,
    EventArray,
    EventWindow,
    FeatureInfo,
    Losses,
    Packet,
    PointLayout,
    SensorSize,
    Targets,
    Triggers,
)

__all__ = [
    "API_VERSION",
    "Chain",
    "CheckpointError",
    "Component",
    "ComponentRef",
    "DecodedEvents",
    "Detections",
    "EventArray",
    "EventDataError",
    "EventWindow",
    "FeatureInfo",
    "Foldable",
    "FromMemoryModule",
    "ImportReport",
    "Losses",
    "ModelSpec",
    "NeuronFactory",
    "NormConv",
    "Packet",
    "PluginError",
    "PointLayout",
    "Recording",
    "SensorSize",
    "SnnPerceptionError",
    "SpecError",
    "Spike",
    "State",
    "Targets",
    "Triggers",
    "box_area",
    "class_wise_nms",
    "clip_boxes",
    "cxcywh_to_xyxy",
    "fold_time",
    "hookimpl",
    "iou_matrix",
    "membrane",
    "membrane_dtype",
    "parts_of",
    "resting",
    "xyxy_to_cxcywh",
]
