"""What the tests of the runtime share: the tiny detector, events and windows, and packets of its encoding."""

import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from snn_perception import load_registry
from snn_perception.detector import Detector, build_preset
from snn_perception.registry import Registry
from snn_perception.runtime.pipeline import DetectionPipeline
from snn_perception.types import (
    JITTER_US,
    LEAP_US,
    DecodedEvents,
    Detections,
    EventArray,
    EventWindow,
    Packet,
    SensorSize,
)
from tests.paths import ROOT
from tests.plugins import tiny as tiny_plugin

TINY = ROOT / "tests" / "plugins" / "tiny.py"
SIZE = SensorSize(height=48, width=64)


def tiny_registry() -> Registry:
    return load_registry([str(TINY)], environment=False)


def tiny_detector(**options) -> Detector:
    return build_preset("tiny", registry=tiny_registry(), **options)


def tiny_pipeline(detector: Detector | None = None, **options) -> DetectionPipeline:
    return DetectionPipeline(detector or tiny_detector(), **options)


def events_at(times: Sequence[int], size: SensorSize = SIZE, seed: int = 0) -> EventArray:
    """Return an event at each of the times, at random places."""
    rng = np.random.default_rng(seed)
    count = len(times)
    return EventArray(
        rng.integers(size.width, size=count).astype(np.uint16),
        rng.integers(size.height, size=count).astype(np.uint16),
        rng.integers(2, size=count).astype(np.uint8),
        np.array(times, np.int64),
        size,
    )


def random_windows(
    count: int,
    size: SensorSize = SIZE,
    *,
    window_us: int = 10_000,
    per_window: int = 400,
    seed: int = 0,
    first: int = 0,
) -> list[EventWindow]:
    """Return consecutive windows with random events; every fifth one is empty."""
    rng = np.random.default_rng(seed)
    windows = []
    for number in range(first, first + count):
        start = number * window_us
        times = np.sort(rng.integers(start, start + window_us, 0 if number % 5 == 4 else per_window))
        windows.append(EventWindow(events_at(times.tolist(), size, seed=seed + number), start, start + window_us))
    return windows


def decoded(
    known: Sequence[tuple[int, bool]], before: int | None = None, size: SensorSize = SIZE, unit: str = "us"
) -> DecodedEvents:
    """Return what a decoder makes of one packet: `known` are its times in order, and whether each is an event's.

    `before` is the last known time of the packet before it. Leaps are found as `DecodedEvents` documents them.
    """
    ticks = 1000 if unit == "ns" else 1
    leaps, now, events = [], before, 0
    for t, is_event in known:
        if now is not None and (t - now > LEAP_US * ticks or now - t > JITTER_US * ticks):
            leaps.append((events, now, t))
        now = t
        events += is_event
    columns = events_at([t for t, is_event in known if is_event], size)
    return DecodedEvents(
        columns.x,
        columns.y,
        columns.p,
        columns.t,
        size,
        time_unit=unit,
        t_reached=known[-1][0] if known else None,
        leaps=np.array(leaps, np.int64).reshape(-1, 3),
    )


def same_detections(a: Sequence[Detections], b: Sequence[Detections]) -> bool:
    return len(a) == len(b) and all(one == other for one, other in zip(a, b, strict=True))


def tiny_packet(
    known: Sequence[tuple[int, bool]],
    seq: int | None = None,
    *,
    size: SensorSize | None = SIZE,
    encoding: str = "tiny",
    extra: bytes = b"",
) -> Packet:
    """Return a packet in the test encoding (see plugins/tiny.py): times in order, and whether each is an event's."""
    records = np.zeros(len(known), tiny_plugin.RECORD)
    for record, (t, is_event) in zip(records, known, strict=True):
        record["t"], record["x"], record["y"] = t, t % 60, t % 40
        record["kind"] = t % 2 if is_event else tiny_plugin.TIME_WORD
    data = np.frombuffer(records.tobytes() + extra, np.uint8)
    return Packet(data, encoding, size, seq=seq)


def broken_packet(seq: int | None = None) -> Packet:
    """Return a packet in the test encoding that its decoder refuses."""
    record = np.zeros(1, tiny_plugin.RECORD)
    record["kind"] = tiny_plugin.BROKEN
    return Packet(np.frombuffer(record.tobytes(), np.uint8), "tiny", SIZE, seq=seq)


@contextmanager
def file_size_limit(nbytes: int) -> Iterator[None]:
    """Let the system refuse to make any file larger than `nbytes`, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
