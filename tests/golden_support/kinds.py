"""What a golden vector holds, told from its recipe and arrays and never from its name, and who checks it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from snn_perception.registry import Registry
from tests.golden_support import evaluation, inputs, models, parts
from tests.golden_support.vectors import Vector

# What is not there yet -> the issue that brings it. Its vectors must fail until then; remove the line with the issue.
AWAITED = {
    "eas_snn": "EAS-SNN family",
    "spikeyolo": "SpikeYOLO family",
}


@dataclass(frozen=True)
class Kind:
    """One kind of content: how to tell it, how to check it, and which awaited part a vector of it needs, if any."""

    name: str
    tells: Callable[[Vector], bool]
    check: Callable[[Vector, Registry], None]
    needs: Callable[[Vector], str] = lambda vector: ""


def _has(*names: str) -> Callable[[Vector], bool]:
    return lambda vector: all(name in vector.arrays for name in names)


def _comes_from(repository: str) -> Callable[[Vector], bool]:
    return lambda vector: vector.json.get("source", {}).get("repo", "").endswith(repository)


def _awaited_component(kind: str, name: str) -> Callable[[Vector, Registry], None]:
    def check(vector: Vector, registry: Registry) -> None:
        registry.find(kind, name)  # raises PluginError until the family is there
        pytest.fail(f"{vector}: {kind} '{name}' is there now; write the check of its vectors")

    return check


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
    Kind(
        "EAS-SNN",
        lambda v: _comes_from("EAS-SNN")(v) and "gen1/micro_sum" not in v.arrays,
        _awaited_component("backbone", "eas_snn"),
        lambda vector: "eas_snn",
    ),
    Kind(
        "SpikeYOLO",
        lambda v: _comes_from("SpikeYOLO")(v) and "frames_channel0_TWH" not in v.arrays,
        _awaited_component("backbone", "spikeyolo"),
        lambda vector: "spikeyolo",
    ),
    Kind("evaluation", lambda v: "stat_order" in v.json, evaluation.check_evaluation),
)


def kind_of(vector: Vector) -> Kind:
    """Return the one kind that a vector is of."""
    kinds = [kind for kind in KINDS if kind.tells(vector)]
    assert len(kinds) == 1, f"{vector}: expected content of one known kind, got {[kind.name for kind in kinds]}"
    return kinds[0]
