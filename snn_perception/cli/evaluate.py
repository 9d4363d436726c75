"""``evaluate MODEL --data NAME:PATH``: scores, cost and pictures of a detector on labelled recordings."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snn_perception.cli.common import (
    EXIT_USAGE,
    print_json,
    print_rows,
    progress_bar,
    registry_of,
    run,
)
from snn_perception.cli.engine_option import engine_of
from snn_perception.cli.evaluate_options import GPU_ROWS, parser_of_options
from snn_perception.errors import SnnPerceptionError

if TYPE_CHECKING:
    from snn_perception.data.dataset import Dataset
    from snn_perception.engine.engines import Engine
    from snn_perception.evaluation.protocol import Protocol
    from snn_perception.evaluation.report import Findings
    from snn_perception.evaluation.run import Evaluation
    from snn_perception.evaluation.window_choice import ChosenRule
    from snn_perception.registry import Registry
    from snn_perception.runtime.models import OpenedModel

log = logging.getLogger(__name__)

_KEPT = ".recordings"  # in the report's folder: outcomes, so that a run that was stopped goes on


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = parser_of_options()
    parser.set_defaults(typed=tuple(sys.argv[1:] if argv is None else argv))
    return run(_evaluate, parser, argv)


def _evaluate(arguments: argparse.Namespace) -> int | None:
    if arguments.compare:
        from snn_perception.cli.evaluate_files import print_comparison

        print_comparison(arguments)
        return None
    wrong = _usage_fault(arguments)
    if wrong:
        print(f"error: {wrong}; see --help", file=sys.stderr)
        return EXIT_USAGE
    from snn_perception.data.dataset import open_dataset
    from snn_perception.evaluation.report import make_folder

    registry = registry_of(arguments)
    protocol = _protocol(arguments)
    dataset = open_dataset(arguments.data, arguments.split, registry, **_dataset_options(arguments))
    if arguments.output is not None:
        make_folder(arguments.output)
    if dataset.is_classification:
        from snn_perception.cli.evaluate_samples import evaluate_samples

        if arguments.detections:
            raise SnnPerceptionError(
                f"{arguments.data}: holds samples without boxes; --detections needs labelled boxes"
            )
        if arguments.windows not in (None, "grid"):
            raise SnnPerceptionError(
                f"{arguments.data}: holds samples without boxes; they run whole, leave --windows as it is by default"
            )
        if arguments.engine != "detector":
            raise SnnPerceptionError(
                f"{arguments.data}: holds samples without boxes; classifiers run as they are, leave --engine out"
            )
        evaluate_samples(arguments, registry, dataset)
        return None
    findings = (_of_file if arguments.detections else _of_model)(arguments, registry, dataset, protocol)
    _tell(arguments, registry, dataset, findings)
    return None


def _usage_fault(arguments: argparse.Namespace) -> str | None:
    if (arguments.model is None) == (arguments.detections is None):
        return "name a MODEL, or detections of one with --detections, or two reports with --compare"
    if arguments.data is None:
        return "name the data set: --data NAME:PATH, such as gen1:FOLDER"
    if arguments.detections and arguments.windows not in (None, "grid"):
        return "--windows is for a MODEL; detections of a replay are of windows on the grid"
    if arguments.detections and arguments.engine != "detector":
        return "--engine is for a MODEL; detections are there already"
    if arguments.save_detections and arguments.output is None:
        return "--save-detections needs a folder: -o DIR"
    return None


def _protocol(arguments: argparse.Namespace) -> Protocol:
    from snn_perception.evaluation.protocol import PROTOCOLS, named_protocol

    name = arguments.data.partition(":")[0]
    return named_protocol(arguments.protocol or (name if name in PROTOCOLS else "none"))


def _dataset_options(arguments: argparse.Namespace) -> dict[str, Any]:
    limit = {} if arguments.limit is None or arguments.detections else {"limit": arguments.limit}
    return {**dict(arguments.data_options), **limit}


def _of_model(arguments: argparse.Namespace, registry: Registry, dataset: Dataset, protocol: Protocol) -> Findings:
    from snn_perception.anytime import with_steps
    from snn_perception.evaluation.cost_figures import cost_figures
    from snn_perception.evaluation.latency import measure_latency
    from snn_perception.evaluation.package import PackedModel
    from snn_perception.evaluation.report import Findings, ModelFacts
    from snn_perception.runtime.models import open_model

    model = open_model(arguments.model, registry, device=arguments.device)
    if model.note:
        log.warning("%s", model.note)
    if arguments.steps:
        model = replace(model, detector=with_steps(model.detector, arguments.steps, registry))
    detector, spec = model.detector, model.detector.spec
    chosen = _chosen_rule(arguments, dataset, model)
    engine = engine_of(arguments, detector.eval())
    evaluation = _run(arguments, registry, dataset, protocol, model, chosen, engine)
    without_events = dataset[0].is_sequence or dataset[0].is_image  # nothing can be timed as it is live
    timed = not arguments.quick and not without_events
    recording = dataset[0].open(registry) if timed else None
    latency = None if recording is None else measure_latency(detector, recording, registry, engine=engine)
    return Findings(
        evaluation,
        ModelFacts(
            Path(model.name).name,
            model.note,
            PackedModel.of(detector, registry).digest,
            spec.hash(),
            spec.window_us,
            spec.state_policy,
            sum(parameter.numel() for parameter in detector.parameters()),
            spec.classes,
        ),
        cost=cost_figures(evaluation, detector),
        latency=latency,
        **_data_facts(arguments, dataset, {**chosen.as_settings(), "engine": evaluation.engine}),
    )


def _run(
    arguments: argparse.Namespace,
    registry: Registry,
    dataset: Dataset,
    protocol: Protocol,
    model: OpenedModel,
    chosen: ChosenRule,
    engine: Engine,
) -> Evaluation:
    from snn_perception.evaluation.engine_use import counts_layers, label_of
    from snn_perception.evaluation.run import evaluate_detector
    from snn_perception.work import Ledger

    on_gpu = arguments.device != "cpu"
    arguments.resumable = arguments.output is not None
    ledger = Ledger(arguments.output / _KEPT) if arguments.output is not None else None
    measure = not arguments.quick and counts_layers(engine)
    if not arguments.quick and not measure:
        log.warning("engine %s runs another form of the network: no firing rates, no operations", label_of(engine))
    with _executor(arguments, dataset) as executor, progress_bar("evaluate", enabled=not arguments.json) as advance:
        evaluation = evaluate_detector(
            model.detector,
            dataset,
            registry,
            protocol,
            device=arguments.device,
            executor=executor,
            rows=arguments.rows or (GPU_ROWS if on_gpu else 1),
            score_threshold=arguments.score_threshold,
            max_windows=arguments.max_windows,
            measure=measure,
            ledger=ledger,
            on_progress=lambda done, total: advance(round(done * 1000), total * 1000),
            rule=chosen.rule,
            engine=engine,
        )
    if evaluation.reused:
        log.warning(
            "%d of %d recordings were done by an earlier run with the same inputs (%s)",
            evaluation.reused,
            len(dataset),
            arguments.output / _KEPT,
        )
    return evaluation


def _chosen_rule(arguments: argparse.Namespace, dataset: Dataset, model: OpenedModel) -> ChosenRule:
    from snn_perception.checkpoint import read_run_record
    from snn_perception.evaluation.window_choice import choose_rule
    from snn_perception.zoo import checkpoint_path

    return choose_rule(
        {} if model.is_preset else read_run_record(checkpoint_path(model.name)),
        model.detector.spec.state_policy,
        kind=arguments.windows,
        lookback=arguments.lookback,
        has_windows=dataset[0].is_sequence or dataset[0].is_image,
    )


@contextmanager
def _executor(arguments: argparse.Namespace, dataset: Dataset) -> Iterator[Any]:
    """Yield what runs the recordings; None where this process does, alone or in batches of rows."""
    alone = arguments.executor == "serial" or arguments.workers == 1 or len(dataset) == 1
    if alone or arguments.device != "cpu" or arguments.rows is not None:
        yield None
        return
    from snn_perception.work import make_executor

    with make_executor(arguments.executor, arguments.workers) as executor:
        yield executor


def _of_file(arguments: argparse.Namespace, registry: Registry, dataset: Dataset, protocol: Protocol) -> Findings:
    from snn_perception.evaluation.detection_files import read_outcome
    from snn_perception.evaluation.report import Findings, ModelFacts
    from snn_perception.evaluation.run import score_outcomes, shared_classes

    named = [one for one in dataset if one.name == (arguments.recording or arguments.detections.stem)]
    if not named and arguments.recording is None and len(dataset) == 1:
        named = [dataset[0]]
    if not named:
        raise SnnPerceptionError(
            f"{arguments.data} {arguments.split}: has no recording '{arguments.recording or arguments.detections.stem}'"
            f" (it has {', '.join(one.name for one in dataset.recordings[:3])}, ...); name it with --recording"
        )
    theirs = tuple(arguments.classes.split(",")) if arguments.classes else dataset.classes
    classes, truth_classes, found_classes = shared_classes(theirs, dataset)
    found = dict.fromkeys(range(len(theirs)), -1) | found_classes
    outcome = read_outcome(arguments.detections, named[0], registry, truth_classes, found)
    size = named[0].size or named[0].open(registry).size
    evaluation = score_outcomes([outcome], classes, size, protocol)
    return Findings(evaluation, ModelFacts(arguments.detections.name), **_data_facts(arguments, dataset))


def _data_facts(
    arguments: argparse.Namespace, dataset: Dataset, windows: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    from snn_perception.data.provenance import synthetic_version

    return {
        "dataset": dataset.name,
        "split": dataset.split,
        "path": arguments.data.partition(":")[2],
        "provenance": synthetic_version(dataset[0].path),
        "settings": {
            "limit": arguments.limit,
            "data_options": dict(arguments.data_options),
            "max_windows": arguments.max_windows,
            **(windows or {}),
            **({"network_steps": arguments.steps} if arguments.steps else {}),
            "score_threshold": arguments.score_threshold,
            "device": arguments.device,
            "threads": arguments.threads,
        },
        "command": ("evaluate", *arguments.typed),
    }


def _tell(arguments: argparse.Namespace, registry: Registry, dataset: Dataset, findings: Findings) -> None:
    """Write what was asked for, and print."""
    from snn_perception.cli.evaluate_files import write_files
    from snn_perception.cli.evaluate_table import rows_of

    files = {} if arguments.output is None else write_files(arguments, registry, dataset, findings)
    values = {**findings.as_dict(), "files": files}
    if arguments.json:
        print_json(values)
    else:
        print_rows(rows_of(values))


if __name__ == "__main__":
    sys.exit(main())
