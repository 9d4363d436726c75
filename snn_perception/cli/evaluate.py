"""``evaluate MODEL --data NAME:PATH``: scores, cost and pictures of a detector on labelled recordings."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snn_perception.cli.common import (
    EXIT_USAGE,
    add_work_options,
    make_parser,
    positive_int,
    print_json,
    print_rows,
    progress_bar,
    registry_of,
    run,
)
from snn_perception.data.window_rule import KINDS, WindowRule
from snn_perception.errors import SnnPerceptionError

if TYPE_CHECKING:
    from snn_perception.data.dataset import Dataset
    from snn_perception.evaluation.protocol import Protocol
    from snn_perception.evaluation.report import Findings
    from snn_perception.evaluation.run import Evaluation
    from snn_perception.registry import Registry
    from snn_perception.runtime.models import OpenedModel

log = logging.getLogger(__name__)

GPU_ROWS = 8  # recordings side by side
_KEPT = ".recordings"  # in the report's folder: outcomes, so that a run that was stopped goes on


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = _parser()
    parser.set_defaults(typed=tuple(sys.argv[1:] if argv is None else argv))
    return run(_evaluate, parser, argv)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "evaluate",
        "Score a detector on labelled recordings under a published protocol, count its spikes and operations, and "
        "write a report. A run with -o that was stopped goes on where it was.",
    )
    parser.set_defaults(threads=1)  # the same arithmetic, and so the same bits, on every machine
    parser.add_argument("model", metavar="MODEL", nargs="?", help="checkpoint, shipped weights, or preset (untrained)")
    parser.add_argument("--data", metavar="NAME:PATH", help="the data set, such as gen1:FOLDER")
    parser.add_argument(
        "--data-option",
        dest="data_options",
        action="append",
        type=_data_option,
        default=[],
        metavar="NAME=VALUE",
        help="an option of the data set, such as downsample=2 ('plugins dataset:NAME' tells them; repeatable)",
    )
    parser.add_argument("--split", default="test", help="which split of it (default: test)")
    parser.add_argument(
        "--protocol",
        metavar="NAME",
        help="gen1, one_mpx, one_mpx_half, stvgg, toolbox, toolbox_one_mpx, coco, yolo or none (default: the data "
        "set's own, or none); docs/evaluation.md tells them apart",
    )
    parser.add_argument(
        "--windows",
        choices=KINDS,
        default="grid",
        help="for models that start each window from rest: cut as live (grid, default), ending at each label time, or "
        "one of the whole recording or its end",
    )
    parser.add_argument(
        "--lookback", action="store_true", help="with --windows label: an empty window gives way to the one before it"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="write report.md, metrics.json, pictures here")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="the first N recordings")
    parser.add_argument("--max-windows", type=positive_int, metavar="N", help="of each the first N windows")
    parser.add_argument(
        "--score-threshold", type=_score, default=0.0, metavar="S", help="leave out detections below S (default: 0)"
    )
    parser.add_argument("--device", default="cpu", help="where the model runs: cpu (default), cuda, cuda:1, ...")
    parser.add_argument(
        "--rows", type=positive_int, metavar="N", help=f"recordings in one batch (default: 1; on a GPU {GPU_ROWS})"
    )
    add_work_options(parser)
    parser.add_argument("--quick", action="store_true", help="scores alone: no firing rates, operations, latency")
    parser.add_argument("--save-detections", action="store_true", help="write DIR/detections/RECORDING.jsonl too")
    other = parser.add_argument_group("without running a model")
    other.add_argument(
        "--detections",
        type=Path,
        metavar="F.jsonl",
        help="score what 'replay --detections' wrote for one recording of the data set",
    )
    other.add_argument("--recording", metavar="NAME", help="which recording that was (default: the file's name)")
    other.add_argument("--classes", metavar="A,B,...", help="its classes in order (default: the data set's)")
    other.add_argument(
        "--compare", nargs=2, metavar=("A", "B"), help="are two reports comparable (metrics.json), and how differ they?"
    )
    return parser


def _score(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"must lie in 0..1, got {text}")
    return value


_score.__name__ = "score"


def _data_option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:  # a word
        return name, value


_data_option.__name__ = "option"


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
        if arguments.windows != "grid":
            raise SnnPerceptionError(
                f"{arguments.data}: holds samples without boxes; they run whole, leave --windows as it is by default"
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
    if arguments.detections and arguments.windows != "grid":
        return "--windows is for a MODEL; detections of a replay are of windows on the grid"
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
    from snn_perception.evaluation.cost_figures import cost_figures
    from snn_perception.evaluation.latency import measure_latency
    from snn_perception.evaluation.package import PackedModel
    from snn_perception.evaluation.report import Findings, ModelFacts
    from snn_perception.runtime.models import open_model

    model = open_model(arguments.model, registry, device=arguments.device)
    if model.note:
        log.warning("%s", model.note)
    detector, spec = model.detector, model.detector.spec
    evaluation = _run(arguments, registry, dataset, protocol, model)
    without_events = dataset[0].is_sequence or dataset[0].is_image  # nothing can be timed as it is live
    timed = not arguments.quick and not without_events
    latency = None if not timed else measure_latency(detector, dataset[0].open(registry), registry)
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
        **_data_facts(arguments, dataset),
    )


def _run(
    arguments: argparse.Namespace, registry: Registry, dataset: Dataset, protocol: Protocol, model: OpenedModel
) -> Evaluation:
    from snn_perception.evaluation.run import evaluate_detector
    from snn_perception.work import Ledger

    on_gpu = arguments.device != "cpu"
    arguments.resumable = arguments.output is not None
    ledger = Ledger(arguments.output / _KEPT) if arguments.output is not None else None
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
            measure=not arguments.quick,
            ledger=ledger,
            on_progress=lambda done, total: advance(round(done * 1000), total * 1000),
            rule=_rule(arguments),
        )
    if evaluation.reused:
        log.warning(
            "%d of %d recordings were done by an earlier run with the same inputs (%s)",
            evaluation.reused,
            len(dataset),
            arguments.output / _KEPT,
        )
    return evaluation


def _rule(arguments: argparse.Namespace) -> WindowRule:
    return WindowRule(arguments.windows, arguments.lookback)


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


def _data_facts(arguments: argparse.Namespace, dataset: Dataset) -> dict[str, Any]:
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
            **({} if arguments.windows == "grid" else {"windows": arguments.windows, "lookback": arguments.lookback}),
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
