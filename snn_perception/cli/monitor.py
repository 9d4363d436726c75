"""``monitor``: a live table of the detector nodes that run on this ROS domain."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from snn_perception.cli.common import EXIT_DONE, make_parser, print_json, print_table, run

if TYPE_CHECKING:
    from snn_perception.ros.listening import DiagnosticsListener
    from snn_perception.runtime.monitoring import Board, Row

ONCE_S = 10.0  # how long --once waits
LEAST_S = 2.0  # ... and at least, for a second node may be heard later than the first
STATE_S = 5.0  # ... for states of life cycles, which a busy node tells late


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run(_monitor, _parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "monitor",
        "Show the detector nodes that run on this ROS domain: rates, latency, losses and complaints of every camera. "
        "Needs ROS 2. With --json one JSON object for each refresh, a line each.",
    )
    parser.add_argument("--once", action="store_true", help="print one table and end; exit code 1 without any node")
    parser.add_argument(
        "--node", default="*", metavar="PATTERN", help="show nodes of this name only, such as detector or '/car/*'"
    )
    parser.add_argument("--period", type=_seconds, default=1.0, metavar="S", help="refresh every so often (default: 1)")
    parser.add_argument(
        "--timeout",
        type=_seconds,
        metavar="S",
        help=f"give up if no node has reported for so long from the start (default: never; with --once {ONCE_S:g})",
    )
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.05 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"must be 0.05 to 86400, got {text}")
    return value


_seconds.__name__ = "number of seconds"


def _monitor(arguments: argparse.Namespace) -> int:
    from snn_perception.runtime.monitoring import Board

    board = Board(arguments.node)
    with _listener(board) as listener:
        if arguments.once:
            _once(arguments, board, listener)
        else:
            _follow(arguments, board, listener)
    return EXIT_DONE


def _listener(board: Board) -> DiagnosticsListener:
    from snn_perception.errors import SnnPerceptionError

    try:
        from snn_perception.ros.listening import DiagnosticsListener
    except ImportError as error:
        raise SnnPerceptionError(
            f"monitor listens to ROS 2 nodes, and ROS 2 is not there ({error}); source its setup.bash, or use the "
            "environment that 'make setup' builds"
        ) from error
    return DiagnosticsListener(board.take)


def _once(arguments: argparse.Namespace, board: Board, listener: DiagnosticsListener) -> None:
    """Print how things stand as soon as the nodes that are heard have reported twice.

    Raises:
        SnnPerceptionError: if there is no node.
    """
    began, limit_s = time.monotonic(), arguments.timeout or ONCE_S
    while (waited_s := time.monotonic() - began) < limit_s:
        knows_states = set(board.nodes) <= listener.states().keys() or waited_s >= STATE_S
        if waited_s >= LEAST_S and board.is_complete and knows_states:
            break
        _listen(board, listener, 0.1)
    rows = _rows(board, listener)
    if not rows:
        raise _nobody(arguments, board, listener, limit_s)
    if arguments.json:
        print_json(_object(rows))
    else:
        _print(rows)


def _follow(arguments: argparse.Namespace, board: Board, listener: DiagnosticsListener) -> None:
    """Show how things stand again and again, until interrupted.

    Raises:
        SnnPerceptionError: if no node reports within the timeout.
    """
    began = time.monotonic()
    with _display(arguments, lambda: _hints(arguments, board, listener)) as show:
        while True:
            _listen(board, listener, arguments.period)
            rows = _rows(board, listener)
            if not rows and arguments.timeout and time.monotonic() - began > arguments.timeout:
                raise _nobody(arguments, board, listener, arguments.timeout)
            show(rows)


def _listen(board: Board, listener: DiagnosticsListener, seconds: float) -> None:
    known = {*board.nodes, *filter(board.shows, listener.detectors())}
    listener.ask(known or listener.lifecycle_nodes())  # while there is none, others may tell why
    listener.spin(seconds)


def _rows(board: Board, listener: DiagnosticsListener) -> list[Row]:
    return board.rows(time.monotonic(), listener.states(), listener.detectors())


@contextmanager
def _display(arguments: argparse.Namespace, hints: Callable[[], str]) -> Iterator[Callable[[list[Row]], None]]:
    """Yield what shows rows: a table drawn in place on a terminal, one after the other elsewhere, or lines of JSON.

    Args:
        hints: says what to try while there is no row.
    """
    if arguments.json:
        yield lambda rows: print(json.dumps(_object(rows), allow_nan=False), flush=True)
        return
    if not sys.stdout.isatty():
        yield lambda rows: _print(rows) if rows else print(hints(), file=sys.stderr)
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from snn_perception.cli.monitor_table import drawn

    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    with Live(console=console, auto_refresh=False, transient=False) as live:
        yield lambda rows: live.update(drawn(rows) if rows else Text(hints()), refresh=True)


def _print(rows: list[Row]) -> None:
    from snn_perception.cli.monitor_table import cells_of, columns_of, remarks_of

    print_table(columns_of(rows), cells_of(rows))
    print("".join(f"{line}\n" for _, line in remarks_of(rows)), flush=True)


def _object(rows: list[Row]) -> dict[str, object]:
    return {"time_s": round(time.time(), 3), "cameras": [row.as_dict() for row in rows]}


def _nobody(arguments: argparse.Namespace, board: Board, listener: DiagnosticsListener, waited_s: float) -> Exception:
    from snn_perception.errors import SnnPerceptionError

    end = time.monotonic() + STATE_S
    while not set(listener.lifecycle_nodes()) <= listener.states().keys() and time.monotonic() < end:
        _listen(board, listener, 0.1)
    return SnnPerceptionError(f"within {waited_s:g} s {_hints(arguments, board, listener)}")


def _hints(arguments: argparse.Namespace, board: Board, listener: DiagnosticsListener) -> str:
    """Return what was listened for, what else is there, and what to try."""
    wanted = "" if arguments.node == "*" else f" named '{arguments.node}'"
    parts = [
        f"no detector node{wanted} has reported on /diagnostics (ROS_DOMAIN_ID {os.environ.get('ROS_DOMAIN_ID', '0')})"
    ]
    if board.others:
        parts.append(f"others report: {', '.join(sorted(board.others))}")
    names = listener.lifecycle_nodes()
    known = listener.states()
    if names:
        told = ", ".join(f"{name} ({known.get(name, 'state unknown')})" for name in names)
        parts.append(f"nodes with a life cycle: {told}; configure and activate one that shall report")
    else:
        parts.append("start one, or set the ROS_DOMAIN_ID and discovery range that it has")
    return "; ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
