"""The inner loops of EVT2 and EVT2.1 decoding: words in, columns out, in one pass.

The upper half of an EVT2.1 word is laid out as an EVT2 word: type (bits 28-31), then, of events, the low 6 bits of time
(22-27), x (11-21) and y (0-10). Its lower half is a mask in which bit i stands for an event at x + i.
"""

from __future__ import annotations

import numpy as np

from snn_perception.events.jit import kernel
from snn_perception.types import JITTER_US, LEAP_US

CD_OFF, CD_ON, TIME_HIGH, EXT_TRIGGER, OTHERS, CONTINUED = 0x0, 0x1, 0x8, 0xA, 0xE, 0xF
HIGHS = 1 << 28  # high parts of time, 64 us each
HALF_HIGHS = HIGHS >> 1
WRAP_US = HIGHS << 6  # 4.77 h
LATEST_LOW = 63
BEYOND = 1 << 11  # x has 11 bits; masks may reach further

# Slots of the state, int64.
HIGH = 0  # last high part of time
EPOCH = 1  # its time in us, wraps included
NEED = 2  # what must come before events can be placed: NEED_ALL (a TIME_HIGH) or nothing
STARTED = 3  # whether any time is known
KNOWN = 4  # last known time, us
ORIGIN = 5  # time of high part 0 before any wrap, us
TOP = 6  # the largest EPOCH so far; no event so far is later than TOP + 63
JOINED = 7  # without effect: time starts with one word
LAST = 8  # time of the last event
OUTSIDE, UNKNOWN, UNSYNCED = 9, 10, 11  # counted per packet
FELL = 12  # whether an event of this packet is earlier than the one before it
EVENTS, TRIGGERS, LEAPS = 13, 14, 15  # rows filled by this packet
REACHED = 16  # the time that the packet reached, us
UNTIL = 17  # the packet ends where EPOCH reaches this, once it holds events
SLOTS = 18

NEED_ALL = 1
MARGIN = 32  # rows of the columns that stay free, for the bits of a mask

_COUNT = np.array([byte.bit_count() for byte in range(256)], np.int64)
# The place of a single bit, looked up at the top 5 bits of its product with a number in which each five are different.
_DE_BRUIJN = 0x077CB531
_PLACE = np.zeros(32, np.int64)
for _place in range(32):
    _PLACE[(_DE_BRUIJN << _place & 0xFFFFFFFF) >> 27] = _place


def new_state() -> np.ndarray:
    """Return the state of a decoder that has seen nothing."""
    state = np.zeros(SLOTS, np.int64)
    state[HIGH], state[NEED] = -1, NEED_ALL
    state[TOP] = state[LAST] = -(1 << 62)
    return state


@kernel
def count_vector_events(words, head):
    """Return the number of events in EVT2.1 words uint32 [N, 2], whose upper half is at `head`."""
    count = 0
    for i in range(len(words)):
        if words[i, head] >> 28 <= CD_ON:
            count += _bit_count(words[i, 1 - head])
    return count


@kernel
def _bit_count(mask):
    return _COUNT[mask & 0xFF] + _COUNT[mask >> 8 & 0xFF] + _COUNT[mask >> 16 & 0xFF] + _COUNT[mask >> 24]


@kernel
def decode_words(words, start, x, y, p, t, triggers, leaps, width, height, state):
    """Decode EVT2 words uint32 [N] from `start` on, advance `state`, and return where it stopped: N, or where rows ran
    out.

    The columns x, y, p, t are filled behind ``state[EVENTS]`` rows; `MARGIN` of them stay free. Trigger rows
    (t, edge, id) and leap rows (index, before, after), int64 [., 3], are filled to ``state[TRIGGERS]`` and
    ``state[LEAPS]``.
    """
    n, full, i = state[EVENTS], len(t) - MARGIN, start
    epoch, known, last, fell, outside = state[EPOCH], state[KNOWN], state[LAST], False, 0
    high_word, need = TIME_HIGH << 28 | state[HIGH], state[NEED]
    until = state[UNTIL]
    most = full if epoch < until or n == 0 else -1  # rows after which to stop
    while i < len(words) and n <= most and state[TRIGGERS] < len(triggers) and state[LEAPS] < len(leaps):
        word = np.int64(words[i])
        i += 1
        if word >> 28 <= CD_ON and not need:
            known = epoch + (word >> 22 & 0x3F)
            column, row = word >> 11 & 0x7FF, word & 0x7FF
            x[n], y[n], p[n], t[n] = column, row, word >> 28, known
            inside = (column < width) & (row < height)
            n += inside
            outside += not inside
            fell |= known < last
            last = known
        elif not need and _runs_on(word, high_word, epoch, known):
            if word != high_word:
                epoch += word - high_word << 6
                known, high_word = epoch, word
                most = full if epoch < until or n == 0 else -1
        else:
            state[KNOWN], state[EVENTS] = known, n
            if not need:
                _keep_time(high_word, epoch, state)
            _take_other(word, 1, triggers, leaps, state)
            epoch, known, high_word, need = state[EPOCH], state[KNOWN], TIME_HIGH << 28 | state[HIGH], state[NEED]
            most = full if epoch < until or n == 0 else -1
    state[KNOWN], state[EVENTS], state[LAST], state[REACHED] = known, n, last, known
    if not need:
        _keep_time(high_word, epoch, state)
    state[FELL] |= fell
    state[OUTSIDE] += outside
    return i


@kernel
def decode_vector_words(words, head, start, x, y, p, t, triggers, leaps, width, height, state):
    """Decode EVT2.1 words uint32 [N, 2], whose upper half is at `head`; all else as in `decode_words`."""
    n, full, i = state[EVENTS], len(t) - MARGIN, start
    epoch, known, last, fell, outside = state[EPOCH], state[KNOWN], state[LAST], False, 0
    high_word, need = TIME_HIGH << 28 | state[HIGH], state[NEED]
    until = state[UNTIL]
    most = full if epoch < until or n == 0 else -1  # rows after which to stop
    width = min(width, BEYOND)
    while i < len(words) and n <= most and state[TRIGGERS] < len(triggers) and state[LEAPS] < len(leaps):
        word, mask = np.int64(words[i, head]), np.int64(words[i, 1 - head])
        i += 1
        if word >> 28 <= CD_ON and not need:
            known = epoch + (word >> 22 & 0x3F)
            fell |= known < last
            last = known
            base, row = word >> 11 & 0x7FF, word & 0x7FF
            count = _bit_count(mask)
            if base + 32 > width or row >= height:
                mask &= (1 << max(0, width - base if row < height else 0)) - 1
                outside += count - _bit_count(mask)
            while mask:
                lowest = mask & -mask
                x[n] = base + _PLACE[lowest * _DE_BRUIJN >> 27 & 31]
                y[n], p[n], t[n] = row, word >> 28, known
                n += 1
                mask ^= lowest
        elif not need and _runs_on(word, high_word, epoch, known):
            if word != high_word:
                epoch += word - high_word << 6
                known, high_word = epoch, word
                most = full if epoch < until or n == 0 else -1
        else:
            state[KNOWN], state[EVENTS] = known, n
            if not need:
                _keep_time(high_word, epoch, state)
            _take_other(word, mask, triggers, leaps, state)
            epoch, known, high_word, need = state[EPOCH], state[KNOWN], TIME_HIGH << 28 | state[HIGH], state[NEED]
            most = full if epoch < until or n == 0 else -1
    state[KNOWN], state[EVENTS], state[LAST], state[REACHED] = known, n, last, known
    if not need:
        _keep_time(high_word, epoch, state)
    state[FELL] |= fell
    state[OUTSIDE] += outside
    return i


@kernel
def _runs_on(word, high_word, epoch, known):
    """Return whether the word is a TIME_HIGH not before that in force, and no leap from it."""
    step = word - high_word
    return word >> 28 == TIME_HIGH and 0 <= step <= LEAP_US and epoch + (step << 6) - known <= LEAP_US


@kernel
def _keep_time(high_word, epoch, state):
    state[HIGH], state[EPOCH], state[TOP] = high_word & (HIGHS - 1), epoch, max(state[TOP], epoch)


@kernel
def _take_other(word, mask, triggers, leaps, state):
    """Take a word that is no event, or an event that cannot be placed."""
    kind = word >> 28
    if kind == TIME_HIGH:
        _take_high(word & (HIGHS - 1), leaps, state)
    elif kind <= CD_ON:
        state[UNSYNCED] += _bit_count(mask)
    elif kind == EXT_TRIGGER:
        if state[NEED]:
            state[UNSYNCED] += 1
            return
        state[KNOWN] = state[EPOCH] + (word >> 22 & 0x3F)
        row = triggers[state[TRIGGERS]]
        row[0], row[1], row[2] = state[KNOWN], word & 1, word >> 8 & 0x1F
        state[TRIGGERS] += 1
    elif kind not in (OTHERS, CONTINUED):
        state[UNKNOWN] += 1


@kernel
def _take_high(high, leaps, state):
    last, state[HIGH], state[NEED] = state[HIGH], high, 0
    if high == last:
        return
    if not state[STARTED]:
        state[EPOCH] = state[KNOWN] = state[ORIGIN] + (high << 6)
        state[STARTED] = 1
    else:
        wraps_us = state[EPOCH] - (last << 6)
        if last - high > HALF_HIGHS:
            wraps_us += WRAP_US
        elif high - last > HALF_HIGHS and last + HIGHS - high <= JITTER_US >> 6 and wraps_us > state[ORIGIN]:
            wraps_us -= WRAP_US  # a straggler from just before the wrap
        state[EPOCH] = wraps_us + (high << 6)
        step = state[EPOCH] - state[KNOWN]
        if step > LEAP_US or step < -JITTER_US:
            row = leaps[state[LEAPS]]
            row[0], row[1], row[2] = state[EVENTS], state[KNOWN], state[EPOCH]
            state[LEAPS] += 1
        state[KNOWN] = state[EPOCH]
    state[TOP] = max(state[TOP], state[EPOCH])
