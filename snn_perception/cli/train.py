"""``train [RUN]``: teach a detector on labelled recordings, from a run file, a recipe or a preset."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snn_perception.cli.common import (
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    make_parser,
    positive_int,
    print_json,
    print_rows,
    registry_of,
    run,
)

if TYPE_CHECKING:
    from snn_perception.registry import Registry
    from snn_perception.training.config import RunConfig
    from snn_perception.training.reports import TrainResult

EXIT_TERMINATED = 143  # what a shell reports for SIGTERM


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run(_train, _parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "train",
        "Teach a detector on labelled recordings. Without arguments it explains itself and lists the recipes. "
        "On several GPUs or machines: torchrun --nproc-per-node N -m snn_perception train ...",
    )
    parser.add_argument("run", nargs="?", metavar="RUN", help="a run file (YAML), or the name of a recipe")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set a key of the run, such as train.lr=3e-4 or model.options.width=64 (repeatable)",
    )
    parser.add_argument("--data", metavar="NAME:PATH", help="train on this data set, such as gen1:PATH")
    parser.add_argument("--preset", metavar="NAME", help="train this model ('plugins preset' lists them)")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder of the run (default: runs/NAME)")
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run in DIR (or RUN, a folder), exactly where it stopped"
    )
    parser.add_argument("--device", default="cpu", help="where the model trains: cpu (default), cuda, cuda:1, ...")
    parser.add_argument("--tensorboard", action="store_true", help="write a TensorBoard event file into DIR too")
    parser.add_argument("--dry-run", action="store_true", help="tell what would be trained on what, and train nothing")
    parser.add_argument(
        "--progress-s",
        type=positive_int,
        default=10,
        metavar="S",
        help="where stderr is no terminal: seconds between lines of progress (default: 10)",
    )
    return parser


def _train(arguments: argparse.Namespace) -> int | None:
    if not (arguments.run or arguments.preset or arguments.data or arguments.resume or arguments.overrides):
        from snn_perception.cli.train_words import explanation

        print(explanation(), file=sys.stderr)
        return EXIT_USAGE
    from snn_perception.runtime.models import check_device

    check_device(arguments.device)
    config = _config(arguments)
    folder = _folder(arguments)
    registry = registry_of(arguments)
    if arguments.dry_run:
        _tell(arguments, config, folder, registry)
        return None
    return _run(arguments, config, folder, registry)


def _config(arguments: argparse.Namespace) -> RunConfig:
    """Return the run that is asked for; under ``--resume`` that of the folder, and of no other."""
    from snn_perception.training.recipes import find_run_file
    from snn_perception.training.run_file import load_run

    overrides = [f"{key}={json.dumps(value)}" for key, value in _shorthands(arguments)] + arguments.overrides
    stored = _folder(arguments) / "run.yaml"
    if not arguments.resume:
        return load_run(find_run_file(arguments.run) if arguments.run else None, overrides)
    if not stored.is_file():
        from snn_perception.errors import SnnPerceptionError

        raise SnnPerceptionError(
            f"{stored.parent}: nothing to resume (no {stored.name}); name the run's folder with -o"
        )
    named = arguments.run and not Path(arguments.run).is_dir()
    config = load_run(find_run_file(arguments.run) if named else stored, overrides)
    _refuse_differences(stored, config)
    return config


def _shorthands(arguments: argparse.Namespace) -> Iterator[tuple[str, str]]:
    if arguments.preset:
        yield "model.preset", arguments.preset
    if arguments.data:
        yield "data.train", arguments.data


def _refuse_differences(stored: Path, config: RunConfig) -> None:
    from snn_perception.errors import SnnPerceptionError
    from snn_perception.training.run_file import differences, load_run

    found = differences(load_run(stored), config)
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise SnnPerceptionError(
            f"{stored.parent}: its run differs from the one asked for (there, asked for): "
            f"{'; '.join(found[:3])}{more}; resume it as it is, or train in another folder"
        )


def _folder(arguments: argparse.Namespace) -> Path:
    """Return the folder of the run: as asked for, or named after what is trained."""
    if arguments.output:
        return Path(arguments.output)
    if arguments.resume and arguments.run and Path(arguments.run).is_dir():
        return Path(arguments.run)
    name = Path(arguments.run).stem if arguments.run else (arguments.preset or "run").replace(":", "_")
    return Path("runs") / name


def _tell(arguments: argparse.Namespace, config: RunConfig, folder: Path, registry: Registry) -> None:
    """Print what the run would be."""
    from snn_perception.cli.train_words import dry_run, dry_run_rows
    from snn_perception.training.run_file import dump_run

    told = dry_run(config, folder, registry)
    if arguments.json:
        print_json(told)
        return
    print(dump_run(config))
    print_rows(dry_run_rows(told))


def _run(arguments: argparse.Namespace, config: RunConfig, folder: Path, registry: Registry) -> int | None:
    from snn_perception.cli.train_observers import Interrupts, Several, ToSink
    from snn_perception.cli.train_progress import Figures, shown
    from snn_perception.training.loop import train
    from snn_perception.training.metrics import TensorBoardSink, summary_writer

    if arguments.tensorboard:
        summary_writer()  # what is missing shall not show after minutes
    leads = os.environ.get("RANK", "0") == "0"
    figures = Figures(config.train.lanes, config.train.epochs)
    with ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts())
        observers: list[Any] = [interrupts]
        if leads:
            drawn = sys.stderr.isatty() and not arguments.json
            observers.append(stack.enter_context(shown(figures, on_terminal=drawn, every_s=arguments.progress_s)))
            if arguments.tensorboard:
                open_sink = partial(TensorBoardSink, folder / "tensorboard")
                observers.append(stack.enter_context(ToSink(open_sink)))
        else:
            interrupts.watch()  # the leading process hears of the signal too, and tells the others when to stop
        result = train(
            config, registry, folder, resume=arguments.resume, observer=Several(observers), device=arguments.device
        )
    if leads:
        _tell_end(arguments, config, result, figures.elapsed_s)
    if not result.stopped:
        return None
    return EXIT_TERMINATED if interrupts.was_terminated else EXIT_INTERRUPTED


def _tell_end(arguments: argparse.Namespace, config: RunConfig, result: TrainResult, seconds: float) -> None:
    from snn_perception.cli.train_words import COMMAND, end, end_rows

    told = end(config, result, seconds)
    if arguments.json:
        print_json(told)
    else:
        print_rows(end_rows(told))
    if result.stopped:
        again = ["train", "--resume", "-o", str(result.folder), *_repeated(arguments)]
        print(f"stopped after step {result.steps:,}; go on with: {COMMAND} {shlex.join(again)}", file=sys.stderr)


def _repeated(arguments: argparse.Namespace) -> Iterator[str]:
    """Yield the options that a resumed run needs again, since the run file does not hold them."""
    for plugin in arguments.plugins:
        yield from ("--plugin", plugin)
    for name in arguments.blocked:
        yield from ("--no-plugin", name)
    if arguments.device != "cpu":
        yield from ("--device", arguments.device)
    if arguments.tensorboard:
        yield "--tensorboard"


if __name__ == "__main__":
    sys.exit(main())
