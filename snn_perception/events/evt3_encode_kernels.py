"""The inner loop of EVT3 encoding: columns in, words out."""

from __future__ import annotations

import numpy as np

from snn_perception.events.jit import kernel

ADDR_Y, ADDR_X, VECT_BASE_X, VECT_12, VECT_8, TIME_LOW, TIME_HIGH = 0x0, 0x2, 0x3, 0x4, 0x5, 0x6, 0x8

# Slots of the state, int64.
TIME = 0  # last time told, us
LOW_TOLD = 1  # whether the low half in force is that of TIME; a new high half alone leaves the old one
ROW = 2  # -1 before the first
BASE, POLARITY = 3, 4  # of the next vector; base -1 before the first
SLOTS = 5
WORDS_PER_EVENT = 3  # at most: TIME_LOW, ADDR_Y, ADDR_X; a vector of two words stands for three events or more


def new_state() -> np.ndarray:
    """Return the state of an encoder that has told nothing."""
    return np.array([0, 0, -1, -1, 0], np.int64)


@kernel
def encode_words(x, y, p, t, words, n, state):
    """Write the words of events [N] to `words` from index `n` on; return the index after the last."""
    i = 0
    while i < len(t):
        n = advance(t[i], words, n, state)
        if y[i] != state[ROW]:
            words[n] = ADDR_Y << 12 | y[i]
            state[ROW] = y[i]
            n += 1
        follows = 0 <= x[i] - state[BASE] < 12 and state[POLARITY] == p[i] and state[BASE] >= 0
        base = state[BASE] if follows else np.int64(x[i])
        mask, end = _collect(x, y, p, t, i, base)
        if end - i < (2 if follows else 3):  # a vector would not be shorter
            words[n] = ADDR_X << 12 | np.int64(p[i]) << 11 | x[i]
            i, n = i + 1, n + 1
            continue
        if not follows:
            words[n] = VECT_BASE_X << 12 | np.int64(p[i]) << 11 | x[i]
            n += 1
        short = mask < 1 << 8
        words[n] = (VECT_8 if short else VECT_12) << 12 | mask
        state[BASE], state[POLARITY] = base + (8 if short else 12), p[i]
        i, n = end, n + 1
    return n


@kernel
def _collect(x, y, p, t, first, base):
    """Return the mask of the events from `first` on that fit in a vector of 12 at `base`, and the index after them.

    Bits are decoded in rising order, so only events with rising x may share a vector.
    """
    mask, before, i = 0, np.int64(-1), first
    while i < len(t) and t[i] == t[first] and y[i] == y[first] and p[i] == p[first]:
        if x[i] <= before or x[i] - base >= 12:
            break
        before = np.int64(x[i])
        mask |= 1 << (before - base)
        i += 1
    return mask, i


@kernel
def advance(time, words, n, state):
    """Write the words that bring time to `time`: every high half on the way, then the low half."""
    if time == state[TIME] and state[LOW_TOLD]:
        return n
    for high in range((state[TIME] >> 12) + 1, (time >> 12) + 1):
        words[n] = TIME_HIGH << 12 | (high & 0xFFF)
        n += 1
    words[n] = TIME_LOW << 12 | (time & 0xFFF)
    state[TIME], state[LOW_TOLD] = time, 1
    return n + 1


@kernel
def tell_time(words, n, state):
    """Write the time reached as a high and a low half, whatever was told before."""
    words[n] = TIME_HIGH << 12 | (state[TIME] >> 12 & 0xFFF)
    words[n + 1] = TIME_LOW << 12 | (state[TIME] & 0xFFF)
    state[LOW_TOLD] = 1
    return n + 2
