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
def judge(x, y, p, t, width, height, begin, until):
    """Return (whether all lies on the sensor and in order, longest step of time from `begin` to `until`, before which).

    No branch in the loops, so that they run in vectors.
    """
    count = len(t)
    if not count:
        return True, until - begin, 0
    signs, longest = t[0] - begin, t[0] - begin
    for i in range(1, count):
        step = t[i] - t[i - 1]
        signs |= step
        longest = max(longest, step)
    most_x, most_y, most_p = x[0], y[0], p[0]
    for i in range(count):
        most_x, most_y, most_p = max(most_x, x[i]), max(most_y, y[i]), max(most_p, p[i])
    at = 0
    if longest > t[0] - begin:
        at = int(np.argmax(t[1:] - t[:-1])) + 1
    if until - t[-1] > longest:
        longest, at = until - t[-1], count
    return signs >= 0 and most_x < width and most_y < height and most_p < 2, longest, at


@kernel
def encode_words(x, y, p, t, words, n, state):
    """Write the words of events [N] to `words` from index `n` on; return the index after the last.

    Events of one time, row and polarity with rising x share a vector of 12 pixels where that is shorter; bits are
    decoded in rising order. One loop over plain numbers: state in registers makes it four times as fast.
    """
    now, told, row = state[TIME], state[LOW_TOLD], state[ROW]
    base, polarity = state[BASE], state[POLARITY]
    count, i, n = np.int64(len(t)), np.int64(0), np.int64(n)
    while i < count:
        at, column, line, sign = t[i], np.int64(x[i]), np.int64(y[i]), np.int64(p[i])
        if at != now or not told:  # as `advance` does it
            for high in range((now >> 12) + 1, (at >> 12) + 1):
                words[n] = TIME_HIGH << 12 | (high & 0xFFF)
                n += 1
            words[n] = TIME_LOW << 12 | (at & 0xFFF)
            now, told, n = at, np.int64(1), n + 1
        if line != row:
            words[n] = ADDR_Y << 12 | line
            row, n = line, n + 1
        follows = 0 <= column - base < 12 and polarity == sign and base >= 0
        start = base if follows else column
        mask, before, end = np.int64(1) << (column - start), column, i + 1
        while end < count and t[end] == at and y[end] == line and p[end] == sign:
            further = np.int64(x[end])
            if further <= before or further - start >= 12:
                break
            mask |= np.int64(1) << (further - start)
            before, end = further, end + 1
        if end - i < (2 if follows else 3):  # a vector would not be shorter
            words[n] = ADDR_X << 12 | sign << 11 | column
            i, n = i + 1, n + 1
            continue
        if not follows:
            words[n] = VECT_BASE_X << 12 | sign << 11 | column
            n += 1
        short = mask < 1 << 8
        words[n] = (VECT_8 if short else VECT_12) << 12 | mask
        base, polarity = start + (8 if short else 12), sign
        i, n = end, n + 1
    state[TIME], state[LOW_TOLD], state[ROW], state[BASE], state[POLARITY] = now, told, row, base, polarity
    return n


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
