"""The options of ``evaluate``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from snn_perception.cli.common import add_work_options, make_parser, positive_int, score_from_0_to_1
from snn_perception.cli.engine_option import add_engine_option
from snn_perception.data.window_rule import KINDS

GPU_ROWS = 8  # recordings side by side


def parser_of_options() -> argparse.ArgumentParser:
    """Return the parser of the command."""
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
        help="for models that start each window from rest: cut as live (grid), ending at each label time, or one of "
        "the whole recording or its end (default: as the weights were trained, else grid)",
    )
    parser.add_argument(
        "--lookback",
        action=argparse.BooleanOptionalAction,
        help="with windows that end at labels: an empty one gives way to the one before it",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="write report.md, metrics.json, pictures here")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="the first N recordings")
    parser.add_argument("--max-windows", type=positive_int, metavar="N", help="of each the first N windows")
    parser.add_argument(
        "--score-threshold",
        type=score_from_0_to_1,
        default=0.0,
        metavar="S",
        help="leave out detections below S (default: 0)",
    )
    parser.add_argument(
        "--steps",
        type=positive_int,
        metavar="K",
        help="stop after K network steps in every window, of a model that may stop early (default: all)",
    )
    parser.add_argument("--device", default="cpu", help="where the model runs: cpu (default), cuda, cuda:1, ...")
    parser.add_argument(
        "--rows", type=positive_int, metavar="N", help=f"recordings in one batch (default: 1; on a GPU {GPU_ROWS})"
    )
    add_engine_option(parser)
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


def _data_option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:  # a word
        return name, value


_data_option.__name__ = "option"
