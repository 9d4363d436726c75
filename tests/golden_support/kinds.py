"""What a golden vector holds, told from its recipe and arrays and never from its name, and who checks it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from snn_perception.registry import Registry
from tests.golden_support import (
    eas_loss,
    eas_model,
    eas_sampler,
    evaluation,
    inputs,
    models,
    parts,
    yolo_model,
    yolo_units,
)
from tests.golden_support.vectors import Vector

# What is not there yet -> the issue that brings it. Its vectors must fail until then; remove the line with the issue.
AWAITED: dict[str, str] = {}


@dataclass(frozen=True)
class Kind:
    """One kind of content: how to tell it, how to check it, and which awaited part a vector of it needs, if any."""

    name: str
    tells: Callable[[Vector], bool]
    check: Callable[[Vector, Registry], None]
    needs: Callable[[Vector], str] = lambda vector: ""


def _has(*names: str) -> Callable[[Vector], bool]:
    return lambda vector: all(name in vector.arrays for name in names)


KINDS = (
    Kind("detector", lambda v: bool(v.json.get("cfg") and v.json.get("extras")), models.check_detector),
    Kind("classifier", _has("w0_logits"), models.check_classifier),
    Kind("folded detector", lambda v: "fused_from" in v.json, models.check_folded),
    Kind("training", lambda v: "state_from" in v.json, models.check_training),
    Kind("default boxes", _has("boxes_float32", "boxes_float64"), parts.check_default_boxes),
    Kind("box coder", _has("encoded", "codes"), parts.check_box_coder),
    Kind("losses", _has("matched0", "focal_x"), parts.check_losses),
    Kind("post-processing", _has("reg", "cls", "boxes", "scores"), parts.check_postprocess),
    Kind("neuron", _has("x", "spikes", "v", "grad_x"), parts.check_plif),
    Kind("event window", _has("tensor_bits", "label_rows"), parts.check_event_window),
    Kind("event representation", _has("gen1/micro_sum", "rvt/histogram"), inputs.check_event_representation),
    Kind("ternary input", _has("frames_channel0_TWH"), inputs.check_ternary_input),
    Kind("SimOTA and losses", _has("labels", "raw0", "l1/losses", "nol1/losses"), eas_loss.check_simota_loss),
    Kind("samplers", eas_sampler.tells_samplers, eas_sampler.check_samplers),
    Kind("EAS-SNN", eas_model.tells_model, eas_model.check_model),
    Kind("SpikeYOLO", yolo_model.tells_model, yolo_model.check_model),
    Kind("SpikeYOLO units", yolo_units.tells_units, yolo_units.check_units),
    Kind("evaluation", lambda v: "stat_order" in v.json, evaluation.check_evaluation),
)


def kind_of(vector: Vector) -> Kind:
    """Return the one kind that a vector is of."""
    kinds = [kind for kind in KINDS if kind.tells(vector)]
    assert len(kinds) == 1, f"{vector}: expected content of one known kind, got {[kind.name for kind in kinds]}"
    return kinds[0]
