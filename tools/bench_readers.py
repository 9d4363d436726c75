"""Runs that read recordings: ours, floors of copying the same bytes, other libraries where they are installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from snn_perception.discovery import load_registry
from snn_perception.events.dat_writer import write_dat
from snn_perception.events.evt3 import Evt3Decoder
from snn_perception.events.hdf5_writer import write_hdf5
from snn_perception.events.raw_writer import write_raw
from snn_perception.events.recording import CHUNK_EVENTS, Recording, open_recording
from snn_perception.events.rosbag2 import BagRecording
from snn_perception.events.window_source import WindowSource
from snn_perception.types import EventArray, Packet, SensorSize
from tools.bench_support import Run

GEN1, ONE_MPX = SensorSize(240, 304), SensorSize(720, 1280)
EVENT_BYTES_OUT = 13  # x, y, p and t of an event
WINDOW_US = 50_000
REGISTRY = load_registry(environment=False)


def scattered(events: int, size: SensorSize, seed: int = 0) -> Iterator[EventArray]:
    """Yield sorted events at random pixels, about 0.67 million per second as in GEN1."""
    rng = np.random.default_rng(seed)
    t_us = 0
    for start in range(0, events, CHUNK_EVENTS):
        n = min(CHUNK_EVENTS, events - start)
        t = t_us + np.cumsum(rng.integers(0, 4, n))
        t_us = int(t[-1])
        x, y = rng.integers(0, size.width, n, np.uint16), rng.integers(0, size.height, n, np.uint16)
        yield EventArray(x, y, rng.integers(0, 2, n, np.uint8), t, size)


def edges(events: int, size: SensorSize, seed: int = 1) -> Iterator[EventArray]:
    """Yield events in rows of 24 px of which half fire at the same time, as a busy scene gives them."""
    rng = np.random.default_rng(seed)
    t_us = 0
    for start in range(0, events, CHUNK_EVENTS):
        runs = max(1, min(CHUNK_EVENTS, events - start) // 12)
        fired = np.sort(rng.permuted(np.tile(np.arange(24), (runs, 1)), axis=1)[:, :12], axis=1)
        x = (rng.integers(0, size.width - 24, (runs, 1)) + fired).reshape(-1)
        y, p = rng.integers(0, size.height, runs), rng.integers(0, 2, runs)
        t = t_us + np.cumsum(rng.integers(0, 3, runs))
        t_us = int(t[-1])
        y, p, t = (np.repeat(column, 12) for column in (y, p, t))
        yield EventArray(x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8), t, size)


def dat_runs(folder: Path, events: int) -> list[Run]:
    """Return whole-file reading of a DAT file, floors and other libraries."""
    path = folder / "bench.dat"
    write_dat(path, scattered(events, GEN1), GEN1)
    recording = open_recording(path, REGISTRY)
    piece, whole = np.ones(CHUNK_EVENTS * EVENT_BYTES_OUT, np.uint8), np.ones(events * EVENT_BYTES_OUT, np.uint8)

    def copy_pieces() -> None:
        for _ in range(0, events, CHUNK_EVENTS):
            piece.copy()

    runs = [
        Run("read, piece by piece", events, lambda: count(recording)),
        Run("windows of 50 ms", events, lambda: count_in_windows(recording)),
        Run("read whole", events, recording.read),
        Run("floor: copy the columns, piece by piece", events, copy_pieces),
        Run("floor: copy the columns, whole", events, whole.copy),
        Run("floor: read the file's bytes", events, path.read_bytes),
    ]
    return runs + [Run(name, events, run) for name, run in peers("dat", path)]


def file_runs(folder: Path, events: int) -> list[Run]:
    """Return whole and windowed reading of the other file formats."""
    raw, vectors, h5 = folder / "single.raw", folder / "vectors.raw", folder / "bench.h5"
    made = {
        "RAW EVT3, single events": (raw, write_raw(raw, scattered(events, ONE_MPX), ONE_MPX)),
        "RAW EVT3, vectors": (vectors, write_raw(vectors, edges(events, ONE_MPX), ONE_MPX)),
        "HDF5 (Blosc zstd)": (h5, write_hdf5(h5, scattered(events, GEN1), GEN1)),
    }
    runs = []
    for name, (path, written) in made.items():
        recording = open_recording(path, REGISTRY)
        runs.append(Run(name, written, lambda r=recording: count(r)))  # type: ignore[misc]
        runs.append(Run(f"{name}, windows of 50 ms", written, lambda r=recording: count_in_windows(r)))  # type: ignore[misc]
    runs += [
        Run(f"RAW EVT3, vectors: {name}", made["RAW EVT3, vectors"][1], run) for name, run in peers("evt3", vectors)
    ]
    return runs


def packet_runs(recordings: Path, names: tuple[str, ...]) -> list[Run]:
    """Return decoding of real bags' packets one by one, as the node does it, and of the same words in one piece."""
    runs = []
    for name in names:
        if not (recordings / name).exists():
            continue
        packets = list(BagRecording(recordings / name).packets())
        joined = [Packet(np.concatenate([packet.data for packet in packets]), "evt3", packets[0].size)]
        total = decode(packets)
        runs.append(Run(f"{name}, packet by packet", total, lambda p=packets: decode(p)))  # type: ignore[misc]
        runs.append(Run(f"{name}, in one piece", total, lambda p=joined: decode(p)))  # type: ignore[misc]
        copied = np.ones(total * EVENT_BYTES_OUT, np.uint8)
        runs.append(Run(f"floor: copy {name}'s columns", total, copied.copy))
    return runs


def count(recording: Recording) -> int:
    """Return the number of events, read piece by piece."""
    return sum(len(piece) for piece in recording.chunks())


def count_in_windows(recording: Recording) -> int:
    """Return the number of events, read window by window with the columns of each."""
    return sum(len(window.events.t) for window in WindowSource(recording, REGISTRY, WINDOW_US))


def decode(packets: list[Packet]) -> int:
    """Return the number of events in a stream's packets."""
    decoder = Evt3Decoder()
    return sum(len(decoder.decode(packet)) for packet in packets)


def peers(encoding: str, path: Path) -> list[tuple[str, Callable[[], object]]]:
    """Return how other libraries read a file, those that are installed."""
    found: list[tuple[str, Callable[[], object]]] = []
    try:
        from expelliarmus import Wizard
    except ImportError:
        pass  # not installed: the page says which were
    else:

        def with_expelliarmus() -> object:
            wizard = Wizard(encoding=encoding)
            wizard.set_file(path)
            return wizard.read()

        found.append(("expelliarmus, whole array", with_expelliarmus))
    try:
        import faery
    except ImportError:
        pass
    else:
        found.append(("faery", lambda: sum(len(part) for part in faery.events_stream_from_file(path))))
    return found
