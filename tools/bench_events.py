#!/usr/bin/env python3
"""Speed of the event path: readers, decoders, windows and representations, beside floors and other libraries.

    python tools/bench_events.py [--events N] [--repeats N] [--json] [-o docs/benchmarks/events.md]

Everything runs on one thread of one process; every repeat measures each row once. Files lie in the page cache. Other
libraries (`pip install expelliarmus faery`) are measured in the same run where they are installed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from snn_perception.types import SensorSize  # noqa: E402
from snn_perception.whole_file import whole_file  # noqa: E402
from tools import bench_readers, bench_representations  # noqa: E402
from tools.bench_support import Row, Run, machine, measure  # noqa: E402

RECORDINGS = Path(os.environ.get("SNN_RECORDINGS_DIR", ROOT.parent / "shared" / "recordings"))
RECORDING_NAMES = ("evt3_triggers_640x480_a", "evt3_trigger_b")
SIZES = {"304x240": SensorSize(240, 304), "1280x720": SensorSize(720, 1280)}


def bench(events: int, repeats: int) -> dict[str, list[Row]]:
    """Return the rows of each section."""
    torch.set_num_threads(1)
    sections: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sections["DAT"] = measure(bench_readers.dat_runs(folder, events), repeats)
        sections["Other files"] = measure(bench_readers.file_runs(folder, events), repeats)
    packets = bench_readers.packet_runs(RECORDINGS, RECORDING_NAMES)
    if packets:
        sections["EVT3 packets of real cameras"] = measure(packets, 3 * repeats)
    for label, size in SIZES.items():
        for count in (1_000_000, 50_000):
            runs = bench_representations.histogram_runs(size, min(count, events))
            sections[f"Histogram of {label}x20, {min(count, events):,} events"] = measure(runs, 3 * repeats)
    gen1 = SIZES["304x240"]
    few = min(50_000, events)
    sections[f"Tensors of 304x240, {few:,} events"] = measure(bench_representations.tensor_runs(gen1, few), 3 * repeats)
    closing: list[Run] = bench_representations.closing_runs(gen1, few)
    sections[f"Closing a window of 304x240, {few:,} events"] = measure(closing, 20 * repeats)
    return sections


def page(sections: dict[str, list[Row]], events: int) -> str:
    """Return the figures as a page for people."""
    lines = [
        "# The event path, measured",
        "",
        "Made by `make bench-events`. One thread; CPU time, best of the repeats, all rows of a table measured in turn",
        f"in one run. DAT, RAW and HDF5 files of {events:,} events lie in the page cache. A floor is what copying the",
        "decoded columns (13 bytes an event) or reading the file's bytes costs. Each row runs after all others have",
        "used the caches. 'read whole' fills fresh memory, which the system hands out no faster than the copy floor",
        "shows; windows cost some 10 us of Python each, seen where they hold few events (33,000 in the DAT file).",
        "",
        "| machine | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in machine().items()),
    ]
    for title, rows in sections.items():
        first = rows[0]
        lines += ["", f"## {title}", "", f"| | million events/s | ns/event | speed of '{first.name}' to it |"]
        lines += ["|---|---:|---:|---:|"]
        lines += [f"| {row.name} | {row.mev_s:,.1f} | {row.ns:.2f} | {row.ns / first.ns:.2f} x |" for row in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the measurements as a page, or as one JSON object."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--events", type=int, default=10_000_000, help="in each file (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("-o", "--output", type=Path, metavar="PAGE.md", help="write the page here")
    arguments = parser.parse_args()
    sections = bench(arguments.events, arguments.repeats)
    text = page(sections, arguments.events)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(arguments.output) as partial:
            partial.write_text(text)
    if arguments.json:
        result: dict[str, Any] = {title: [row.as_dict() for row in rows] for title, rows in sections.items()}
        print(json.dumps({"machine": machine(), **result}))
    else:
        print(text)


if __name__ == "__main__":
    main()
