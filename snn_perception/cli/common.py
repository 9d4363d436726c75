"""What all commands share: common options, errors in one line, exit codes, logging to stderr, JSON to stdout."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snn_perception.errors import SnnPerceptionError

if TYPE_CHECKING:
    from rich.table import Table

    from snn_perception.registry import Registry

EXIT_DONE = 0
EXIT_ERROR = 1  # the user's to mend, told in one line
EXIT_USAGE = 2  # argparse's own
EXIT_INTERRUPTED = 130  # what a shell reports for SIGINT
EXIT_BROKEN_PIPE = 141  # ... and for SIGPIPE: the reader of our output went away

_MOST_SIDE_PX = 1 << 14  # as `types.MAX_SIDE_PX`; --help shall not wait for NumPy

log = logging.getLogger(__name__)


def make_parser(command: str, description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every command has: ``--plugin --no-plugin --json --threads -v``."""
    parser = argparse.ArgumentParser(f"python -m snn_perception {command}", description=description, allow_abbrev=False)
    group = parser.add_argument_group("common options")
    group.add_argument(
        "--plugin", dest="plugins", action="append", default=[], metavar="PATH|MODULE", help="load a local plugin too"
    )
    group.add_argument(
        "--no-plugin", dest="blocked", action="append", default=[], metavar="ID", help="leave an installed plugin out"
    )
    group.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else there")
    group.add_argument("--threads", type=positive_int, metavar="N", help="processor threads of the model's arithmetic")
    group.add_argument(
        "-v", "--verbose", action="count", default=0, help="log more (-vv: debug); show tracebacks of errors"
    )
    return parser


def add_work_options(group: argparse._ArgumentGroup | argparse.ArgumentParser) -> None:
    """Add the options of commands that work over many recordings: ``--workers --executor``."""
    from snn_perception.work import EXECUTORS

    group.add_argument(
        "--workers", type=positive_int, metavar="N", help="recordings at a time (default: one per processor at hand)"
    )
    group.add_argument(
        "--executor",
        choices=EXECUTORS,
        default="processes",
        help="what runs them: processes of this machine (default), this process alone, or a Ray cluster (RAY_ADDRESS; "
        "for trusted networks only). The result is the same for each",
    )


def run(
    function: Callable[[argparse.Namespace], int | None],
    parser: argparse.ArgumentParser,
    argv: list[str] | None = None,
) -> int:
    """Return the exit code of ``function(arguments)``, with every foreseeable end handled alike for all commands.

    Errors that are the user's to mend (SnnPerceptionError, and what the operating system refuses) become one line
    ``error: ...`` on stderr and exit code 1, with a traceback under ``-v``. Usage errors give 2, Ctrl-C 130, a reader
    that closed our pipe 141, both without a word, except that a command whose work is kept (`arguments.resumable`)
    tells so. Any other exception is a bug and propagates.
    """
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as end:  # --help and usage errors; argparse has printed what is to be said
        return end.code if isinstance(end.code, int) else EXIT_USAGE
    _log_to_stderr(arguments.verbose)
    try:
        _limit_threads(arguments.threads)
        code = function(arguments)
        sys.stdout.flush()  # a closed pipe must show here, not while Python shuts down
    except BrokenPipeError:
        _discard_stdout()
        return EXIT_BROKEN_PIPE
    except (SnnPerceptionError, OSError) as error:
        if arguments.verbose:
            log.error("traceback:", exc_info=error)
        print(f"error: {one_line(error)}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        if getattr(arguments, "resumable", False):
            print("interrupted; what is finished stays, the same command goes on from there", file=sys.stderr)
        return EXIT_INTERRUPTED
    return EXIT_DONE if code is None else code


def registry_of(arguments: argparse.Namespace) -> Registry:
    """Return the registry with the plugins that the common options ask for."""
    from snn_perception.discovery import load_registry

    return load_registry(arguments.plugins, blocked=arguments.blocked)


def reading_registry_of(arguments: argparse.Namespace, path: Path, reader: str | None = None) -> Registry:
    """Return a registry that reads the recording at `path`, of the core alone where one of its readers claims it.

    Installed plugins bring torch, which takes seconds to load and which no reader of the core needs. They are asked
    where the core does not know the recording or its encoding, and whenever plugins or a reader are named.
    """
    from snn_perception.discovery import PLUGINS_VARIABLE, load_registry
    from snn_perception.events.recording import find_reader

    if arguments.plugins or arguments.blocked or reader or os.environ.get(PLUGINS_VARIABLE) or not path.exists():
        return registry_of(arguments)
    core = load_registry(installed=False)
    return core if find_reader(path, core) else registry_of(arguments)


def print_json(value: dict[str, Any]) -> None:
    """Print `value` as one JSON object on stdout. Values that JSON cannot hold are a bug here, not output."""
    print(json.dumps(value, indent=1, allow_nan=False))


def print_rows(rows: Iterable[tuple[str, str]]) -> None:
    """Print names and values on stdout: as a table for people, as lines ``name: value`` into a file or pipe."""
    rows = list(rows)
    if not sys.stdout.isatty():
        for name, value in rows:
            first, *more = value.splitlines() or [""]
            print(f"{name}: {first}".rstrip())
            print("".join(f"{' ' * (len(name) + 2)}{line}".rstrip() + "\n" for line in more), end="")
        return
    from rich.table import Table

    table = Table(show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    _print(table)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under column names on stdout: as a table for people, as aligned columns into a file or pipe."""
    lines = [[str(cell) for cell in row] for row in (columns, *rows)]
    if not sys.stdout.isatty():  # no edge to fold at, and no frame in the way of grep and awk
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            print("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())
        return
    from rich.table import Table

    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    for line in lines[1:]:
        table.add_row(*line)
    _print(table)


def _print(table: Table) -> None:
    from rich.console import Console

    Console(file=sys.stdout, highlight=False, markup=False, emoji=False).print(table)  # no markup in paths


def output_columns() -> int:
    """Return how wide a line on stdout may be: the terminal's width, 100 for a file or pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 100


def positive_int(text: str) -> int:
    """Return an option's value as an integer of at least 1 (for argparse)."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


positive_int.__name__ = "positive integer"  # argparse puts it into "invalid ... value"


def score_from_0_to_1(text: str) -> float:
    """Return an option's value as a score (for argparse)."""
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"must lie in 0..1, got {text}")
    return value


score_from_0_to_1.__name__ = "score"


def sensor_size(text: str) -> tuple[int, int]:
    """Return (height, width) of an option's ``WxH`` (for argparse)."""
    width, height = (int(side) for side in text.split("x"))
    if not (1 <= width <= _MOST_SIDE_PX and 1 <= height <= _MOST_SIDE_PX):
        raise argparse.ArgumentTypeError(f"both sides must lie in 1..{_MOST_SIDE_PX} pixels, got {text}")
    return height, width


sensor_size.__name__ = "size, such as 304x240"


def microseconds(text: str) -> int:
    """Return an option's number of seconds in us (or of ms in ns), exactly: 0.1 is 100,000 (for argparse)."""
    try:
        value = Decimal(text) * 1_000_000
    except InvalidOperation:
        raise ValueError(text) from None
    if not value.is_finite() or abs(value) > 1 << 62 or value != value.to_integral_value():
        raise argparse.ArgumentTypeError(f"must be a number with at most six decimals, got {text}")
    return int(value)


microseconds.__name__ = "number"

PROGRESS_LINES_S = 10.0  # between lines of progress where there is no terminal


def one_line(error: BaseException) -> str:
    """Return an error's text with line breaks and runs of blanks folded."""
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def progress_bar(title: str, *, enabled: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Yield ``advance(done, total)``, drawn on stderr; as lines where that is no terminal, and not unless `enabled`."""
    if not (enabled and sys.stderr.isatty()):
        yield progress_lines(title) if enabled else lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total or None)


def progress_lines(title: str) -> Callable[[int, int], None]:
    """Return ``advance(done, total)``, which tells every `PROGRESS_LINES_S` on stderr how far long work is."""
    began = told = time.monotonic()

    def advance(done: int, total: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told < PROGRESS_LINES_S or not 0 < done <= total:
            return
        told = now
        print(f"{title}  {done / total:.0%}  {duration((now - began) * (total - done) / done)} left", file=sys.stderr)

    return advance


def duration(seconds: float) -> str:
    """Return a time as hours, minutes and seconds: ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _log_to_stderr(verbose: int) -> None:
    """Send log records of this package to the stderr of this moment, replacing what an earlier command set up."""
    root = logging.getLogger("snn_perception")
    for handler in [h for h in root.handlers if getattr(h, "of_a_command", False)]:
        root.removeHandler(handler)
    handler = logging.StreamHandler(sys.stderr)
    handler.of_a_command = True  # type: ignore[attr-defined]
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    root.addHandler(handler)
    root.setLevel((logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)])


def _limit_threads(threads: int | None) -> None:
    """Bound the arithmetic threads. The variables serve libraries that load later; torch is told, if it is there."""
    if threads is None:
        return
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def _discard_stdout() -> None:
    """Point stdout at nothing, so that Python's last flush does not complain about the closed pipe."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # stdout is no real file: a test's, for instance
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # lives until the process ends
