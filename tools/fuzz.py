#!/usr/bin/env python3
"""Damaged inputs for every packet decoder and every file format; what became of them goes to a page.

    python tools/fuzz.py [--count N] [--seconds S] [--formats NAME ...] [--seed N] [-o docs/fuzzing.md] [--json]

With -o, rows of formats that this run leaves out stay as they were; the figures lie beside the page as JSON. Inputs
that are handled wrongly are written to files; the exit code is 1 if there was one. Input N of a seed comes again with
`--formats NAME --seed SEED --start N --count 1`.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from snn_perception.whole_file import whole_file  # noqa: E402
from tools.bench_support import machine  # noqa: E402
from tools.fuzz_files import FORMATS, file_inputs  # noqa: E402
from tools.fuzz_packets import DECODERS, PacketInputs  # noqa: E402
from tools.fuzz_watch import LIMIT_MIB, LIMIT_MS, WARM_UP, Inputs, Row, watch_apart  # noqa: E402

TARGETS: dict[str, tuple[str, Callable[[], Inputs]]] = {
    **{name: ("packets", partial(PacketInputs, name)) for name in DECODERS},
    **{name: ("files", partial(file_inputs, name)) for name in FORMATS},
}
HEAD = ["| | inputs | refused | gave data | slowest, ms | memory, MiB (peak) | violations | seconds | seed | date |"]
HEAD += ["|---|---:|---:|---:|---:|---:|---:|---:|---:|---|"]


def run(names: list[str], count: int, seed: int, done: Callable[[Row], object], **options: Any) -> list[Row]:
    """Return a row for each target, in turn; `done` is called with each."""
    rows = []
    for name in names:
        group, make = TARGETS[name]
        rows.append(watch_apart(make, Row(name, group, seed), count, **options))
        done(rows[-1])
    return rows


def line(row: Row) -> str:
    """Return a row of the page's table."""
    refused, produced = (f"{n / max(1, row.inputs):.1%}" for n in (row.refused, row.produced))
    return (
        f"| {row.name} | {row.inputs:,} | {refused} | {produced} | {row.slowest_ms:.1f} | {row.grown_mib:.1f} "
        f"({row.peak_mib:.1f}) | {len(row.violations)} | {row.seconds:,.0f} | {row.seed} | {row.date} |"
    )


def page(rows: list[Row], commands: list[str], where: dict[str, str]) -> str:
    """Return the figures as a page for people."""
    groups = [("packets", "Packet decoders"), ("files", "File formats")]
    lines = [
        "# Damaged inputs",
        "",
        f"{sum(row.inputs for row in rows):,} damaged inputs in all, "
        f"{sum(len(row.violations) for row in rows)} violations. Made by `make fuzz`; this page by",
        "",
        *(f"    {command}" for command in commands),
        "",
        "| machine | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in where.items()),
    ]
    for group, title in groups:
        lines += ["", f"## {title}", "", *HEAD, *(line(row) for row in rows if row.group == group)]
    found = [f"* {row.name}, {text}" for row in rows for text in row.violations]
    if found:
        lines += ["", "## Violations", "", *found]
    return "\n".join([*lines, "", *TEXT]) + "\n"


TEXT = f"""\
**Refused**: the reader answered with one clear error (`EventDataError`, one line). **Gave data**: events, messages or
labels came, so the damage got past the header. The rest was read and held nothing. **Slowest**: CPU time of the
slowest input. **Memory**: resident memory at the end beyond that after the first {WARM_UP:,} inputs, and at its peak.
A row of fewer inputs than its command asks for was ended by `--seconds`.

## What is promised

For every input, whatever its bytes:

* no exception but `EventDataError`, no crash of the process;
* an end within {LIMIT_MS / 1000:.0f} s of CPU time (a process that makes no progress is stopped and counted);
* no coordinate outside the sensor, polarity 0 or 1, times int64; of packets also: every event is there or counted as
  lost, and leaps of time are told;
* resident memory grows by less than {LIMIT_MIB:.0f} MiB over all inputs of a row, no single allocation beyond 512 MiB
  more address space succeeds, and no file stays open;
* reading runs no program, unpickles nothing, connects to nothing and writes nothing.

## How it is done

Each input is a sound one (a real recording where there is one, else written by our writers or by hand, of all variants
of its format) with one to three kinds of damage: bits flipped; cut short; bytes deleted, inserted, repeated,
overwritten with noise or with numbers at the limits of their type; parts of another input spliced in; and by
structure: numbers, lines and keys of text headers changed, records dropped, doubled, exchanged and shifted, fields
set to lengths and offsets that lie about the file, the content of compressed parts damaged before it is compressed.
Every row has a process of its own. The same seed gives the same inputs.

An input that is handled wrongly is written to a file whose path is printed, with its number. To meet it again:
`python tools/fuzz.py --formats NAME --seed SEED --start NUMBER --count 1` (what comes before it in its thousand is fed
as well, since decoders remember). `make test` runs a short form of all of this.""".split("\n")


def save(output: Path, row: Row, command: str) -> None:
    """Put a row into the page and the figures beside it, in place of an earlier one of its name."""
    figures = output.with_suffix(".json")
    known = json.loads(figures.read_text("utf-8")) if figures.is_file() else {}
    rows = {old["name"]: Row(**old) for old in known.get("rows", [])} | {row.name: row}
    commands = {name: text for name, text in known.get("commands", {}).items() if name in rows} | {row.name: command}
    ordered = [rows[name] for name in TARGETS if name in rows]
    where = machine()
    for path, text in (
        (figures, json.dumps({"machine": where, "commands": commands, "rows": [asdict(r) for r in ordered]}, indent=1)),
        (output, page(ordered, list(dict.fromkeys(commands[r.name] for r in ordered)), where)),
    ):
        with whole_file(path) as partial_file:
            partial_file.write_text(text, "utf-8")


def main() -> int:
    """Fuzz, print and save."""
    parser = argparse.ArgumentParser(description="Feed damaged inputs to every decoder and reader.")
    parser.add_argument("--count", type=int, default=1_000_000, help="inputs for each format (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="at most so long for each format")
    parser.add_argument("--formats", nargs="+", choices=list(TARGETS), default=list(TARGETS), metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="number of the first input")
    parser.add_argument("--findings", type=Path, default=Path(tempfile.gettempdir()) / "fuzz_findings", metavar="DIR")
    parser.add_argument("-o", "--output", type=Path, help="page to write, and its figures beside it")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)  # readers warn of every damage
    command = " ".join(["python tools/fuzz.py", *_options(args)])

    def done(row: Row) -> None:
        if args.output:
            save(args.output, row, command)
        if not args.json:
            print(line(row), flush=True)

    if not args.json:
        print("\n".join(HEAD), flush=True)
    options = {"start": args.start, "seconds": args.seconds, "findings": args.findings}
    rows = run(args.formats, args.count, args.seed, done, **options)
    if args.json:
        print(json.dumps({"python": platform.python_version(), "rows": [asdict(row) for row in rows]}))
    for row in rows:
        for text in row.violations:
            print(f"violation: {row.name}, seed {row.seed}, {text}", file=sys.stderr)
    return int(any(row.violations for row in rows))


def _options(args: argparse.Namespace) -> list[str]:
    """Return what of the command decides the inputs, formats last."""
    given = [f"--count {args.count}", f"--seed {args.seed}"]
    given += [f"--seconds {args.seconds:g}"] if args.seconds < float("inf") else []
    given += [f"--start {args.start}"] if args.start else []
    return given + ([f"--formats {' '.join(args.formats)}"] if args.formats != list(TARGETS) else [])


if __name__ == "__main__":
    sys.exit(main())
