"""The inner loop of decoding libcaer's compressed words."""

from __future__ import annotations

import numpy as np

from snn_perception.events.jit import kernel
from snn_perception.types import JITTER_US, LEAP_US

TIME_HIGH, TIME_LOW, ADDR_X, ADDR_Y, VECT_BASE_Y, VECT_8 = range(6)

# Slots of the state, int64.
COLUMN = 0  # x of the next events
ROW, POLARITY = 1, 2  # of the next vector's first bit
NEED = 3  # what must come before events can be placed, as a sum of NEED_*
HIGH, LOW, TIME = 4, 5, 6  # halves of time within the packet, us, and what they give, ns
UNTOLD = 7  # 0: TIME is the last known time; else UNTOLD_*
STARTED, KNOWN = 8, 9  # whether any time is known, and the last one, ns
OUTSIDE, UNKNOWN, UNSYNCED = 10, 11, 12  # counted per packet
EVENTS, LEAPS = 13, 14  # rows filled by this packet
SLOTS = 15

NEED_COLUMN, NEED_BASE = 1, 2
NEED_ALL = NEED_COLUMN | NEED_BASE
UNTOLD_PACKET = 1  # the packet has told no time yet
UNTOLD_HIGH = 2  # the high half changed and nothing has told the low half yet
BEYOND = 0x1000  # y has 11 bits, so how far a base ran past 2047 does not matter

_BITS_IN = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


def new_state() -> np.ndarray:
    """Return the state of a decoder that has seen nothing."""
    state = np.zeros(SLOTS, np.int64)
    state[NEED] = NEED_ALL
    return state


@kernel
def count_events(words):
    """Return the number of events in the words uint16 [N], those that cannot be placed included."""
    count = 0
    for i in range(len(words)):
        kind = words[i] >> 12
        if kind == ADDR_Y:
            count += 1
        elif kind == VECT_8:
            count += _BITS_IN[words[i] & 0xFF]
    return count


@kernel
def decode_words(words, start, base, x, y, p, t, leaps, width, height, state):
    """Decode words uint16 [N] from `start` on, advance `state`, and return where it stopped: N, or where rows ran out.

    `base` is the packet's time base, ns. The columns x, y, p, t have `count_events` rows, filled to ``state[EVENTS]``;
    leap rows (index, before, after), int64 [., 3], are filled to ``state[LEAPS]``.
    """
    i = start
    while i < len(words) and state[LEAPS] < len(leaps):
        word = np.int64(words[i])
        kind = word >> 12
        i += 1
        if kind == ADDR_X:
            state[COLUMN] = word & 0x7FF
            state[NEED] &= ~NEED_COLUMN
        elif kind == ADDR_Y:
            if state[NEED] & NEED_COLUMN:
                state[UNSYNCED] += 1
                continue
            if state[UNTOLD]:
                _settle(state[TIME], leaps, state)
            _emit(word & 0x7FF, word >> 11 & 1, x, y, p, t, width, height, state)
        elif kind == TIME_LOW:
            state[LOW] = word & 0xFFF
            state[TIME] = base + (state[HIGH] << 12 | state[LOW]) * 1000
            _settle(state[TIME], leaps, state)
        elif kind == TIME_HIGH:
            _take_high(word & 0xFFF, base, leaps, state)
        elif kind == VECT_BASE_Y:
            state[ROW], state[POLARITY] = word & 0x7FF, word >> 11 & 1
            state[NEED] &= ~NEED_BASE
        elif kind == VECT_8:
            _take_vector(word & 0xFF, leaps, x, y, p, t, width, height, state)
        else:
            state[UNKNOWN] += 1
    return i


@kernel
def _take_high(high, base, leaps, state):
    if high == state[HIGH]:
        return
    if state[UNTOLD] == UNTOLD_HIGH:  # two in a row: the first one alone told that time
        _settle(base + (state[HIGH] << 12) * 1000, leaps, state)
    state[HIGH], state[UNTOLD] = high, UNTOLD_HIGH
    state[TIME] = base + (high << 12 | state[LOW]) * 1000


@kernel
def _take_vector(mask, leaps, x, y, p, t, width, height, state):
    row = state[ROW]
    state[ROW] = min(row + 8, BEYOND)
    if state[NEED]:
        state[UNSYNCED] += _BITS_IN[mask]
        return
    if state[UNTOLD]:
        _settle(state[TIME], leaps, state)
    for k in range(8):
        if mask >> k & 1:
            _emit(row + k, state[POLARITY], x, y, p, t, width, height, state)


@kernel
def _emit(row, polarity, x, y, p, t, width, height, state):
    if row >= height or state[COLUMN] >= width or row > 0x7FF:
        state[OUTSIDE] += 1
        return
    at = state[EVENTS]
    x[at], y[at], p[at], t[at] = state[COLUMN], row, polarity, state[TIME]
    state[EVENTS] = at + 1


@kernel
def _settle(time, leaps, state):
    """Make `time` the last known one, and note the step to it where it is a leap."""
    step = time - state[KNOWN]
    if state[STARTED] and (step > LEAP_US * 1000 or step < -JITTER_US * 1000):
        row = leaps[state[LEAPS]]
        row[0], row[1], row[2] = state[EVENTS], state[KNOWN], time
        state[LEAPS] += 1
    state[STARTED], state[UNTOLD], state[KNOWN] = 1, 0, time
