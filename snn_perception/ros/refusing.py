"""Which values of parameters the model in use agrees to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from snn_perception.anytime import require_anytime
from snn_perception.errors import SnnPerceptionError, SpecError
from snn_perception.ros.parameters import check_cameras
from snn_perception.ros.swapping import check_checkpoint
from snn_perception.runtime.pipeline import DetectionPipeline
from snn_perception.runtime.wanted import class_ids


@dataclass(frozen=True)
class Running:
    """The model in use, the checkpoint it is of, and whether the node is active."""

    pipeline: DetectionPipeline
    checkpoint: str
    is_active: bool

    def refusal(self, wanted: Mapping[str, Any], classes: Sequence[str]) -> str:
        """Return why it does not agree to parameters that are to change together; empty if it does.

        Args:
            classes: those that are published now.
        """
        try:
            for name, value in wanted.items():
                self._require(name, value, wanted.get("classes", classes))
        except SnnPerceptionError as error:
            return " ".join(str(error).split())
        return ""

    def _require(self, name: str, value: Any, classes: Sequence[str]) -> None:
        if name == "deadline_ms" and value:
            require_anytime(self.pipeline.detector, "deadline_ms")
        elif name == "gap_policy" and value == "leak":
            self.pipeline.require_leak()
        elif name == "nms_threshold":
            self.pipeline.require_nms(value)
        elif name == "classes":
            class_ids(value, self.pipeline.spec.classes)
        elif name == "cameras":
            check_cameras(value)
        elif name == "checkpoint" and value != self.checkpoint:
            if not self.is_active:
                raise SpecError("checkpoint can change while the node is active, or unconfigured")
            check_checkpoint(value, self.pipeline.spec, classes)
