"""A plain reading of EVT3 words, which tells what each event needs to be placed; and real words in any packets."""

from functools import lru_cache
from itertools import pairwise

import numpy as np
from hypothesis import strategies as st

from snn_perception.types import Packet, SensorSize
from tests.time_support import recorded


class Evt3Words:
    """A stream's words, where its events are, and what each needs to be placed. Written with NumPy over all words."""

    def __init__(self, words):
        self.words = words
        kind, value = words >> 12, (words & 0xFFF).astype(np.int64)
        at = np.arange(len(words))
        latest = {k: np.maximum.accumulate(np.where(kind == k, at, -1)) for k in (0x0, 0x3, 0x6, 0x8)}
        self.highs, self.lows = np.flatnonzero(kind == 0x8), np.flatnonzero(kind == 0x6)
        high = value[self.highs]
        wraps = np.concatenate([[0], np.cumsum(np.diff(high) < -10)])
        epoch = (wraps << 12 | high) << 12
        is_event = np.isin(kind, (0x2, 0x4, 0x5))
        bits = np.where(kind == 0x2, 1, np.where(kind == 0x4, value, value & 0xFF)) * is_event
        mask = (bits[:, None] >> np.arange(12)) & 1
        word, offset = np.nonzero(mask)
        length = np.where(kind == 0x4, 12, np.where(kind == 0x5, 8, 0))
        before = np.cumsum(length) - length
        row, base, plain = latest[0x0][word], latest[0x3][word], kind[word] == 0x2
        number = np.searchsorted(self.highs, word) - 1
        known = (number >= 0) & (latest[0x6][word] >= 0) & (row >= 0) & (plain | (base >= 0))
        x = np.where(plain, value[word] & 0x7FF, (value[base] & 0x7FF) + before[word] - before[base] + offset)
        p = np.where(plain, value[word] >> 11, value[base] >> 11)
        t = epoch[np.maximum(number, 0)] + value[latest[0x6][word]]
        self.columns = np.stack([t, x, value[row] & 0x7FF, p], axis=1)[known]
        self.word, self.row, self.base = word[known], row[known], np.where(plain, len(words), base)[known]
        self.start = int(self.lows[np.searchsorted(self.lows, self.highs[0])])  # nothing counts before

    def placed(self, edges, kept):
        """Return [N, 4] (t, x, y, p) of the events that can be placed where the packets `kept` of `edges` arrive."""
        packet = np.searchsorted(edges, self.word, side="right") - 1
        run_start = np.zeros(len(kept), np.int64)  # where the unbroken run that a packet belongs to begins
        for k in range(1, len(kept)):
            run_start[k] = run_start[k - 1] if kept[k - 1] else edges[k]
        since = run_start[packet]
        high = np.searchsorted(self.highs, since)
        high_at = np.append(self.highs, len(self.words))[high]
        low_at = np.append(self.lows, len(self.words))[np.searchsorted(self.lows, high_at)]
        good = kept[packet] & (self.word > low_at) & (self.row >= since) & (self.base >= since)
        good &= (since > 0) | ((self.row > self.start) & (self.base > self.start))
        return self.columns[good]


@lru_cache
def evt3_stream(shift: int) -> tuple[Evt3Words, SensorSize]:
    """Return the words of a real recording, its time moved by `shift` high halves so that it wraps at another place."""
    packets = recorded("evt3_trigger_b")
    words = np.concatenate([packet.data.view("<u2") for packet in packets]).astype(np.uint16)
    is_high = words >> 12 == 8
    words[is_high] = 0x8000 | (words[is_high] + shift & 0xFFF)
    return Evt3Words(words), packets[0].size


def packets_of(words, edges, size) -> list[Packet]:
    return [
        Packet(words[a:b].astype("<u2").view(np.uint8), "evt3", size, seq=7 + k, stamp_ns=10**18 + 1_000_000 * k)
        for k, (a, b) in enumerate(pairwise(edges))
    ]


@st.composite
def packetised(draw, most=40):
    """Return a real stream cut into packets at random words; the first packet holds the first time."""
    stream, size = evt3_stream(draw(st.sampled_from([0, 150, 1_500, 3_900])))
    inner = st.integers(stream.start + 1, len(stream.words))
    near = inner.flatmap(lambda at: st.lists(st.integers(at, min(at + 40, len(stream.words))), max_size=6))
    found = draw(st.lists(inner, min_size=1, max_size=most)) + draw(near)
    return stream, size, np.array([0, *sorted(found), len(stream.words)])
