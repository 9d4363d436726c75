"""``evaluate`` on a set of samples: how many of them a classifier tells, and what it costs."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from snn_perception.cli.common import print_json, print_rows, progress_bar

if TYPE_CHECKING:
    from snn_perception.data.dataset import Dataset
    from snn_perception.registry import Registry

log = logging.getLogger(__name__)


def evaluate_samples(arguments: argparse.Namespace, registry: Registry, dataset: Dataset) -> None:
    """Run the model over the samples, print what came of it, and write ``metrics.json`` where asked to."""
    from snn_perception.data.provenance import synthetic_version
    from snn_perception.evaluation.classification import SampleReader, classify
    from snn_perception.evaluation.firing import firing_of
    from snn_perception.runtime.models import open_model
    from snn_perception.whole_file import whole_file

    model = open_model(arguments.model, registry, device=arguments.device)
    if model.note:
        log.warning("%s", model.note)
    reader = SampleReader(dataset, model.detector, registry)
    with progress_bar("evaluate", enabled=not arguments.json) as advance:
        found = classify(model.detector, reader, measure=not arguments.quick, on_progress=advance)
    values: dict[str, Any] = {
        "model": {"name": model.name, "note": model.note, "classes": list(found.classes)},
        "data": {"name": dataset.name, "split": dataset.split, "synthetic": synthetic_version(dataset[0].path)},
        "scores": found.as_dict(),
        "firing": None if arguments.quick else firing_of(found.activity).as_dict(),
    }
    if arguments.output is not None:
        with whole_file(arguments.output / "metrics.json") as temporary:
            temporary.write_text(json.dumps(values, indent=1), "utf-8")
    if arguments.json:
        print_json(values)
    else:
        print_rows(_rows(values))


def _rows(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    model, data, scores, firing = (values[name] for name in ("model", "data", "scores", "firing"))
    yield "model", model["name"] + (f" ({model['note']})" if model["note"] else "")
    yield "data", f"{data['name']} {data['split']}, {scores['samples']:,} samples"
    if data["synthetic"]:
        yield "SYNTHETIC", f"{data['synthetic']}: never comparable with figures on recorded data"
    yield "accuracy", f"{scores['accuracy']:.4f}"
    for name, share in scores["accuracy_per_class"].items():
        yield f"  {name}", f"{share:.4f}"
    width = max(len(str(n)) for row in scores["confusion"] for n in row)
    for name, row in zip(model["classes"], scores["confusion"], strict=True):
        taken = ", ".join(f"{n:>{width}} {other}" for n, other in zip(row, model["classes"], strict=True))
        yield f"  {name} taken for", taken
    if firing is not None:
        yield "sparsity", f"{firing['sparsity']:.2%} of the neuron outputs are not zero"
        for kind in ("dead", "saturated"):
            if firing[kind]:
                yield f"{kind} layers", ", ".join(firing[kind])
