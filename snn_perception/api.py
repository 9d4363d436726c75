"""Everything a plugin may import. Versioned: `API_VERSION` rises when a contract here changes."""

from snn_perception.boxes import (
    box_area,
    class_wise_nms,
    clip_boxes,
    cxcywh_to_xyxy,
    iou_matrix,
    xyxy_to_cxcywh,
)
from snn_perception.data.dataset import Dataset, LabelledRecording, LabelRules, choose_recordings
from snn_perception.data.dataset_report import DatasetReport
from snn_perception.data.folders import (
    checked_root,
    checked_split,
    header_fault,
    in_turn,
    is_half_size,
    is_rvt_sequence,
    list_files,
    missing_rvt_parts,
    pair_files,
    split_folder,
)
from snn_perception.data.label_filters import LabelFilter, named_filter
from snn_perception.data.labels import Labels, read_labels
from snn_perception.data.pieces import Piece
from snn_perception.data.sources import read_outline_labels, read_sequence_labels
from snn_perception.errors import CheckpointError, EventDataError, PluginError, SnnPerceptionError, SpecError
from snn_perception.events.grid import Bins, GridRepresentation
from snn_perception.events.letterbox import Letterbox, fit_into
from snn_perception.events.recording import Recording
from snn_perception.fold import Foldable, Fusable, Mergeable, NormConv, convolution, side_by_side
from snn_perception.fusing import can_fuse
from snn_perception.hookspecs import hookimpl
from snn_perception.neuron_steps import StepRule, fused_steps
from snn_perception.nn import (
    Chain,
    FromMemoryModule,
    NeuronFactory,
    PotentialStage,
    Spike,
    SpikingStage,
    beside,
    fold_time,
    membrane,
    membrane_dtype,
    parts_of,
    resting,
)
from snn_perception.ranks import sum_over_ranks
from snn_perception.registry import API_VERSION, Component, ImportReport
from snn_perception.selection import Selection
from snn_perception.spec import ComponentRef, ModelSpec, StatePolicy
from snn_perception.state import State
from snn_perception.tensor_names import kernel_shape, names_in_row, some
from snn_perception.types import (
    DecodedEvents,
    Detections,
    EventArray,
    EventWindow,
    FeatureInfo,
    ImageWindow,
    Losses,
    Packet,
    PointLayout,
    SensorSize,
    Targets,
    Triggers,
)
from snn_perception.whole_steps import WholeRule, fused_whole_steps

__all__ = [
    "API_VERSION",
    "Bins",
    "Chain",
    "CheckpointError",
    "Component",
    "ComponentRef",
    "Dataset",
    "DatasetReport",
    "DecodedEvents",
    "Detections",
    "EventArray",
    "EventDataError",
    "EventWindow",
    "FeatureInfo",
    "Foldable",
    "FromMemoryModule",
    "Fusable",
    "GridRepresentation",
    "ImageWindow",
    "ImportReport",
    "LabelFilter",
    "LabelRules",
    "LabelledRecording",
    "Labels",
    "Letterbox",
    "Losses",
    "Mergeable",
    "ModelSpec",
    "NeuronFactory",
    "NormConv",
    "Packet",
    "Piece",
    "PluginError",
    "PointLayout",
    "PotentialStage",
    "Recording",
    "Selection",
    "SensorSize",
    "SnnPerceptionError",
    "SpecError",
    "Spike",
    "SpikingStage",
    "State",
    "StatePolicy",
    "StepRule",
    "Targets",
    "Triggers",
    "WholeRule",
    "beside",
    "box_area",
    "can_fuse",
    "checked_root",
    "checked_split",
    "choose_recordings",
    "class_wise_nms",
    "clip_boxes",
    "convolution",
    "cxcywh_to_xyxy",
    "fit_into",
    "fold_time",
    "fused_steps",
    "fused_whole_steps",
    "header_fault",
    "hookimpl",
    "in_turn",
    "iou_matrix",
    "is_half_size",
    "is_rvt_sequence",
    "kernel_shape",
    "list_files",
    "membrane",
    "membrane_dtype",
    "missing_rvt_parts",
    "named_filter",
    "names_in_row",
    "pair_files",
    "parts_of",
    "read_labels",
    "read_outline_labels",
    "read_sequence_labels",
    "resting",
    "side_by_side",
    "some",
    "split_folder",
    "sum_over_ranks",
    "xyxy_to_cxcywh",
]
