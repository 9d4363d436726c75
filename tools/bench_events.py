#!/usr/bin/env python3
"""Speed of EVT3 decoding (and of DAT reading) beside what copying the decoded bytes costs, on one thread.

    python tools/bench_events.py [--repeats N] [--json]

Streams are the real recordings, where they are present, and encoded synthetic events. "as packets" decodes the
camera's own packets one by one, as the node does, with what Python costs per packet; "in one piece" decodes the same
words as one packet. Each repeat measures every row and every floor once, so that other load on the machine meets all of
them alike. The floor is a memcpy of the decoded columns (13 bytes per event); `ratio` is how many times more CPU time
decoding takes, best against best.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from snn_perception.events.evt3 import Evt3Decoder, warm_up
from snn_perception.events.evt3_encode import packetize
from snn_perception.events.rosbag2 import BagRecording
from snn_perception.types import EventArray, Packet, SensorSize

RECORDINGS = Path(os.environ.get("SNN_RECORDINGS_DIR", Path(__file__).resolve().parents[2] / "shared" / "recordings"))
RECORDING_NAMES = ("evt3_triggers_640x480_a", "evt3_trigger_b")
SIZE = SensorSize(720, 1280)
BYTES_OUT = 13  # x, y, p, t of an event


@dataclass(frozen=True)
class Stream:
    """Packets to decode, and the name under which they are reported."""

    name: str
    packets: list[Packet]

    def in_one_piece(self) -> Stream:
        """Return the same words as one packet."""
        whole = replace(self.packets[0], data=np.concatenate([packet.data for packet in self.packets]))
        return Stream(self.name, [whole])

    def decode(self) -> int:
        """Decode everything; return the number of events."""
        decoder = Evt3Decoder()
        return sum(len(decoder.decode(packet)) for packet in self.packets)


def streams(events: int) -> list[Stream]:
    """Return the real recordings that are there, and synthetic streams of `events` events."""
    found = [
        Stream(name, list(BagRecording(RECORDINGS / name).packets()))
        for name in RECORDING_NAMES
        if (RECORDINGS / name).exists()
    ]
    for name, made in (("synthetic, single events", _scattered(events)), ("synthetic, vectors", _edges(events))):
        found.append(Stream(name, list(packetize([made], SIZE, interval_us=4_000))))
    return found


def bench_evt3(events: int = 2_000_000, repeats: int = 15) -> list[dict[str, object]]:
    """Return one row per stream and cut: speeds in million events per second, the memcpy floor, and their ratio."""
    warm_up()
    runs: dict[tuple[str, str], tuple[Stream, int]] = {}
    for stream in streams(events):
        count = stream.decode()
        runs[stream.name, "as packets"] = (stream, count)
        runs[stream.name, "in one piece"] = (stream.in_one_piece(), count)
    seconds: dict[tuple[str, str], list[tuple[float, float, float, float]]] = {key: [] for key in runs}
    for _ in range(repeats):
        for key, (stream, count) in runs.items():
            copied = _measure(_copy_of(count))
            seconds[key].append((*_measure(stream.decode), *copied))
    return [_row(key, *runs[key], measured) for key, measured in seconds.items()]


def _scattered(count: int) -> EventArray:
    """Return events at random pixels, three per microsecond."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, SIZE.width, count, np.uint16), rng.integers(0, SIZE.height, count, np.uint16)
    return EventArray(x, y, rng.integers(0, 2, count, np.uint8), np.arange(count) // 3, SIZE)


def _edges(count: int) -> EventArray:
    """Return events in rows of 24 px of which half fire at the same time, as a busy scene gives them."""
    rng = np.random.default_rng(1)
    runs = count // 12
    fired = np.sort(rng.permuted(np.tile(np.arange(24), (runs, 1)), axis=1)[:, :12], axis=1)
    x = rng.integers(0, SIZE.width - 24, (runs, 1)) + fired
    y, p, t = rng.integers(0, SIZE.height, runs), rng.integers(0, 2, runs), np.cumsum(rng.integers(0, 3, runs))
    y, p, t = (np.repeat(column, 12) for column in (y, p, t))
    return EventArray(x.reshape(-1).astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8), t, SIZE)


def _copy_of(events: int) -> Callable[[], object]:
    source, target = np.ones(events * BYTES_OUT, np.uint8), np.ones(events * BYTES_OUT, np.uint8)
    return lambda: np.copyto(target, source)


def _measure(run: Callable[[], object]) -> tuple[float, float]:
    """Return (wall, CPU) seconds of one run."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def _row(
    key: tuple[str, str], stream: Stream, events: int, seconds: list[tuple[float, float, float, float]]
) -> dict[str, object]:
    wall, cpu, floor, floor_cpu = ([row[i] for row in seconds] for i in range(4))
    words = sum(len(packet.data) for packet in stream.packets) // 2
    return {
        "name": ", ".join(key),
        "packets": len(stream.packets),
        "events": events,
        "words_per_event": round(words / events, 2),
        "best_mev_s": round(events / min(wall) / 1e6, 1),
        "median_mev_s": round(events / statistics.median(wall) / 1e6, 1),
        "cpu_best_mev_s": round(events / max(min(cpu), 1e-9) / 1e6, 1),
        "cpu_median_mev_s": round(events / max(statistics.median(cpu), 1e-9) / 1e6, 1),
        "floor_mev_s": round(events / min(floor) / 1e6, 1),
        "ratio": round(min(cpu) / max(min(floor_cpu), 1e-9), 1),
    }


def _print_table(rows: list[dict[str, object]]) -> None:
    print("EVT3, million events per second")
    columns = ("events", "words_per_event", "best_mev_s", "median_mev_s", "cpu_best_mev_s", "floor_mev_s", "ratio")
    heads = ("events", "words/event", "wall best", "median", "CPU best", "floor", "ratio")
    print(f"{'':40}" + "".join(f"{head:>12}" for head in heads))
    for row in rows:
        print(f"{row['name']:40}" + "".join(f"{row[column]:>12}" for column in columns))


def _print_dat(rows: list[dict[str, object]]) -> None:
    print("\nDAT, million events per second")
    print(f"{'':40}{'events':>12}{'wall best':>12}{'median':>12}{'CPU best':>12}")
    for row in rows:
        cells = (row[name] for name in ("events", "best_mev_s", "median_mev_s", "cpu_best_mev_s"))
        print(f"{row['name']:40}" + "".join(f"{cell:>12}" for cell in cells))


def main() -> None:
    """Print the measurements as tables, or as one JSON object."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--events", type=int, default=2_000_000, help="per synthetic stream (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.parse_args()
    result = {"evt3": bench_evt3(arguments.events, arguments.repeats), "dat": _dat_rows()}
    if arguments.json:
        print(json.dumps(result))
        return
    _print_table(result["evt3"])
    _print_dat(result["dat"])


def _dat_rows() -> list[dict[str, object]]:
    try:
        from bench_dat import bench_dat  # beside this file
    except ImportError:
        from tools.bench_dat import bench_dat
    rows: list[dict[str, object]] = bench_dat()
    return rows


if __name__ == "__main__":
    main()
