"""What the tests of time share: windows of packets, what holds for all windows, and words of encodings by hand."""

from itertools import pairwise

import numpy as np

from snn_perception.events.rosbag2 import BagRecording
from snn_perception.events.stream import EventStream, PacketWindows
from snn_perception.types import EventArray, Packet, SensorSize
from tests.paths import recording_path

SIZE = SensorSize(480, 640)
WINDOW_US = 10_000
EVT2_WRAP_US = 1 << 34


def rows(events) -> list[tuple[int, ...]]:
    """Return (t, x, y, p) of every event."""
    return list(zip(*(getattr(events, name).tolist() for name in "txyp"), strict=True))


def events_at(t, seed=0) -> EventArray:
    rng, n = np.random.default_rng(seed), len(t)
    x, y = rng.integers(0, SIZE.width, n).astype(np.uint16), rng.integers(0, SIZE.height, n).astype(np.uint16)
    return EventArray(x, y, rng.integers(0, 2, n).astype(np.uint8), np.asarray(t, np.int64), SIZE)


def check_grid(windows, window_us=WINDOW_US):
    """Check what holds for all windows: they lie on the grid, one after the other, and hold their own events."""
    for window in windows:
        assert window.t_end_us == window.t_start_us + window_us
        assert ((window.events.t >= window.t_start_us) & (window.events.t < window.t_end_us)).all()
        assert window.t_start_us % window_us == 0
    for before, after in pairwise(windows):
        assert after.after_gap or after.t_start_us == before.t_end_us


def joined(windows) -> list[tuple[int, ...]]:
    return [row for window in windows for row in rows(window.events)]


def cut(registry, packets, window_us=WINDOW_US, **options):
    """Return the windows of packets, and what made them."""
    maker = PacketWindows(registry, window_us, **{"max_gap_us": None, **options})
    return [w for packet in packets for w in maker.push(packet)] + list(maker.flush()), maker


def recorded(name) -> list[Packet]:
    return list(BagRecording(recording_path(name)).packets())


def evt2_words(encoding, events: EventArray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return an encoding's words: a TIME_HIGH wherever it changes, then the events; and where each event and its
    TIME_HIGH are."""
    t, x, y, p = (getattr(events, name).astype(np.uint64) for name in "txyp")
    new = np.concatenate([[True], t[1:] >> np.uint64(6) != t[:-1] >> np.uint64(6)])
    at = np.arange(len(t)) + np.cumsum(new)
    words = np.empty(len(t) + int(new.sum()), np.uint64)
    high, low = t >> np.uint64(6) & np.uint64((1 << 28) - 1), t & np.uint64(63)
    if encoding == "evt2":
        words[at] = p << np.uint64(28) | low << np.uint64(22) | x << np.uint64(11) | y
        words[at[new] - 1] = (np.uint64(8 << 28) | high)[new]
    else:
        words[at] = p << np.uint64(60) | low << np.uint64(54) | x << np.uint64(43) | y << np.uint64(32) | np.uint64(1)
        words[at[new] - 1] = (np.uint64(8 << 60) | high << np.uint64(32))[new]
    if encoding == "evt21e":
        words = words >> np.uint64(32) | words << np.uint64(32)
    return words.astype("<u4" if encoding == "evt2" else "<u8"), at, np.maximum.accumulate(np.where(new, at - 1, 0))


def evt2_packets(encoding, words, edges) -> list[Packet]:
    parts = [words[a:b].view(np.uint8) for a, b in pairwise(edges)]
    return [Packet(part, encoding, SIZE, seq=k, stamp_ns=k * 1_000_000) for k, part in enumerate(parts)]


def decoded_rows(registry, packets):
    stream = EventStream(registry)
    pieces = [piece.events for packet in packets if (piece := stream.decode(packet)) is not None]
    columns = [np.concatenate([getattr(piece, name) for piece in pieces]).astype(np.int64) for name in "txyp"]
    return np.stack(columns, axis=1), stream.counts, pieces
