"""From the node's parameters to a model that is ready for streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from snn_perception.checkpoint import load_checkpoint
from snn_perception.discovery import load_registry
from snn_perception.engine.choose import build_engine
from snn_perception.engine.engines import Settings
from snn_perception.errors import SnnPerceptionError
from snn_perception.registry import Registry
from snn_perception.ros import parameters
from snn_perception.runtime.models import check_device
from snn_perception.runtime.pipeline import DetectionPipeline
from snn_perception.runtime.warmup import warm_up
from snn_perception.zoo import checkpoint_path, told


def load_plugins(settings: Mapping[str, Any]) -> Registry:
    """Return the registry of the plugins that are installed and those of ``plugin_paths``."""
    return load_registry(settings["plugin_paths"])


def load_pipeline(settings: Mapping[str, Any], registry: Registry) -> DetectionPipeline:
    """Return the pipeline of parameter ``checkpoint``, warmed up.

    Raises:
        SnnPerceptionError: if the model cannot be loaded, or does not fit the other parameters.
    """
    check_device(settings["device"])
    if not settings["checkpoint"]:
        raise SnnPerceptionError(
            "parameter 'checkpoint' is empty; set it to the path of a .safetensors checkpoint, or to the name of "
            f"weights that come with this package ({told()})"
        )
    torch.set_num_threads(settings["threads"])
    detector = load_checkpoint(checkpoint_path(settings["checkpoint"]), registry=registry)
    pipeline = DetectionPipeline(
        detector,
        device=settings["device"],
        geometry=settings["geometry"],
        max_gap_us=settings["max_gap_ms"] * 1000,
        score_threshold=settings["score_threshold"],
        max_detections=settings["max_detections"],
        deadline_ms=settings["deadline_ms"],
        gap_policy=settings["gap_policy"],
        nms_threshold=settings["nms_threshold"],
        classes=settings["classes"],
        registry=registry,
    )
    pipeline.engine = build_engine(settings["engine"], pipeline.detector, Settings(threads=settings["threads"]))
    parameters.check_input_type(settings["input_type"], pipeline.spec, pipeline.takes_images)
    warm_up(pipeline, min(settings["batch_cameras"], max(1, len(settings["cameras"]))))
    return pipeline
