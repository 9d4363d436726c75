#!/usr/bin/env python3
"""Speed of whole-file DAT reading beside what copying the same bytes costs, in one process on one thread.

    python tools/bench_dat.py [--events N] [--repeats N] [--json]

Each repeat measures every row once, so that other load on the machine meets all of them alike. The file lies in the
page cache. The `copy` rows are the floors: they write as many bytes as the reader above them hands over.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from snn_perception.events.dat import CHUNK_EVENTS, DatRecording
from snn_perception.events.dat_writer import write_dat
from snn_perception.types import EventArray, SensorSize

SIZE = SensorSize(240, 304)
COLUMN_TYPES = (np.uint16, np.uint16, np.uint8, np.int64)  # x, y, p, t
EVENT_BYTES_OUT = sum(np.dtype(kind).itemsize for kind in COLUMN_TYPES)


def bench_dat(events: int = 10_000_000, repeats: int = 7) -> list[dict[str, object]]:
    """Return one row per measurement: name, events, best and median million events per second, by wall and by CPU."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.dat"
        write_dat(path, _random_chunks(events), SIZE)
        runs = _runs(path, events)
        for run in runs.values():  # compiles the kernels and fills the page cache
            run()
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
        for _ in range(repeats):
            for name, run in runs.items():
                seconds[name].append(_measure(run))
    return [_row(name, events, values) for name, values in seconds.items()]


def _runs(path: Path, events: int) -> dict[str, Callable[[], object]]:
    recording = DatRecording(path)
    piece = np.ones(CHUNK_EVENTS * EVENT_BYTES_OUT, np.uint8)
    whole = np.ones(events * EVENT_BYTES_OUT, np.uint8)

    def read() -> int:
        return sum(len(chunk) for chunk in recording.chunks())

    def copy_pieces() -> None:
        for _ in range(0, events, CHUNK_EVENTS):
            piece.copy()

    def read_to_columns() -> list[np.ndarray]:
        columns = [np.empty(events, kind) for kind in COLUMN_TYPES]
        at = 0
        for chunk in recording.chunks():
            for column, part in zip(columns, (chunk.x, chunk.y, chunk.p, chunk.t), strict=True):
                column[at : at + len(chunk)] = part
            at += len(chunk)
        return columns

    return {
        "read in chunks": read,
        "copy, chunk by chunk": copy_pieces,
        "read to whole columns": read_to_columns,
        "copy, whole": whole.copy,
        "file bytes only": path.read_bytes,
    }


def _random_chunks(events: int, seed: int = 0) -> Iterator[EventArray]:
    """Yield sorted random events, about 0.67 million per second as in GEN1."""
    rng = np.random.default_rng(seed)
    t_us = 0
    for start in range(0, events, CHUNK_EVENTS):
        n = min(CHUNK_EVENTS, events - start)
        t = t_us + np.cumsum(rng.integers(0, 4, n))
        t_us = int(t[-1])
        x, y = rng.integers(0, SIZE.width, n, np.uint16), rng.integers(0, SIZE.height, n, np.uint16)
        yield EventArray(x, y, rng.integers(0, 2, n, np.uint8), t, SIZE)


def _measure(run: Callable[[], object]) -> tuple[float, float]:
    """Return (wall, CPU) seconds of one run."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def _row(name: str, events: int, seconds: list[tuple[float, float]]) -> dict[str, object]:
    wall, cpu = ([pair[i] for pair in seconds] for i in range(2))
    return {
        "name": name,
        "events": events,
        "best_mev_s": round(events / min(wall) / 1e6, 1),
        "median_mev_s": round(events / statistics.median(wall) / 1e6, 1),
        "cpu_best_mev_s": round(events / max(min(cpu), 1e-9) / 1e6, 1),
        "cpu_median_mev_s": round(events / max(statistics.median(cpu), 1e-9) / 1e6, 1),
    }


def main() -> None:
    """Print the measurements as a table, or as JSON."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = bench_dat(arguments.events, arguments.repeats)
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"DAT, {arguments.events:,} events, million events per second")
    print(f"{'':24}{'wall best':>10}{'median':>9}{'CPU best':>10}")
    for row in rows:
        print(f"{row['name']:24}{row['best_mev_s']:>10}{row['median_mev_s']:>9}{row['cpu_best_mev_s']:>10}")


if __name__ == "__main__":
    main()
