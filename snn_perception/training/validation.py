"""How a run judges its model: the figure that chooses the best checkpoint, and the others beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from snn_perception.data.dataset import Dataset
from snn_perception.detector import Detector
from snn_perception.evaluation.protocol import named_protocol
from snn_perception.evaluation.run import Share, evaluate_detector
from snn_perception.registry import Registry
from snn_perception.training.config import RunConfig
from snn_perception.training.distributed import Ranks, gather

_GPU_ROWS = 8


@dataclass(frozen=True)
class Validator:
    """Judges a model by one figure, `metric`, of which more is better."""

    metric: str
    judge: Callable[[Detector], dict[str, Any]]

    def __call__(self, detector: Detector) -> tuple[float, dict[str, Any]]:
        """Return the deciding figure and all figures of a model in evaluation mode."""
        scores = self.judge(detector)
        return float(scores[self.metric]), scores


def detection_validator(dataset: Dataset, registry: Registry, config: RunConfig, ranks: Ranks) -> Validator:
    """Return what scores a detector on a validation set by the AP of a run's protocol, on windows cut as for training.

    Raises:
        SnnPerceptionError: for an unknown protocol.
    """
    protocol = named_protocol(config.eval.protocol)

    def judge(detector: Detector) -> dict[str, Any]:
        evaluation = evaluate_detector(
            detector,
            dataset,
            registry,
            protocol,
            rows=_GPU_ROWS if detector.device.type == "cuda" else 1,
            score_threshold=config.eval.score_threshold,
            rule=config.data.rule,
            share=Share(ranks.rank, ranks.world, gather) if ranks.world > 1 else None,
        )
        return _figures(evaluation.scores)

    return Validator("AP", judge)


def _figures(scores: Any) -> dict[str, Any]:
    """Return the scores that a run keeps, in plain types."""
    figures = {name: float(value) for name, value in scores.stats.items()}
    figures |= {f"{name}_yolo": value for name, value in (scores.trapezoid or {}).items()}
    for name in ("moving", "silent"):
        subset = getattr(scores, name)
        if subset is not None:
            figures |= {f"{key}_{name}": float(value) for key, value in subset.stats.items()}
    return figures
