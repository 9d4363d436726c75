"""The inner loops of EVT3 decoding: words in, columns out, in one pass without a branch per plain word.

Plain words (rows, single events, the low half of time, a repeated high half) make up most of a stream and change type
from word to word, so that branching on the type would mispredict every few words. `_run` therefore keeps the
state as three 12-bit fields of one integer, which every word overwrites at the place of its type, stores that
integer after every word, and moves on in the store only after an event. It asks of 48 words at once whether all are
plain. `_flush` then unpacks a block with vector instructions. Everything else is rare, or comes in runs (vectors),
and is taken word by word.
"""

from __future__ import annotations

import numpy as np

from snn_perception.events.jit import kernel
from snn_perception.types import LEAP_US

ADDR_Y, ADDR_X, VECT_BASE_X, VECT_12, VECT_8, TIME_LOW = 0x0, 0x2, 0x3, 0x4, 0x5, 0x6
CONTINUED_4, TIME_HIGH, EXT_TRIGGER, OTHERS, CONTINUED_12 = 0x7, 0x8, 0xA, 0xE, 0xF
GLITCH = 10  # a high half that falls by more than this has wrapped; devices are seen to step back by less
WRAP_US = 1 << 24
BEYOND = 0x1000  # x has 11 bits, so how far a base ran past 2047 does not matter

# Slots of the state, int64.
HIGH = 0  # last high half of time; -1 before the first
EPOCH = 1  # time in us at low half 0, wraps included
FIELDS = 2  # x and polarity (bits 0-11), row (12-22), low half of time (24-35), as `_run` keeps them
BASE = 3  # x of the next vector's first bit
POLARITY = 4  # of vectors, at bit 11
NEED = 5  # what must come before events can be placed, as a sum of NEED_*
PENDING = 6  # whether the high half changed and nothing has told the low half yet
STARTED = 7  # whether any time is known
KNOWN = 8  # last known time, us; while nothing is pending, kept only at the end of a packet
ORIGIN = 9  # time of high and low half 0 before any wrap, us
TOP = 10  # the largest EPOCH so far; no event so far is later than TOP + 4095
JOINED = 11  # whether packets are but pieces of one file, so that the first time may be cut in two
LAST = 12  # time of the last event
OUTSIDE, UNKNOWN, UNSYNCED = 13, 14, 15  # counted per packet
FELL = 16  # whether an event of this packet is earlier than the one before it
EVENTS, TRIGGERS, LEAPS = 17, 18, 19  # rows filled by this packet
REACHED = 20  # the time that the packet reached, us
UNTIL = 21  # the packet ends where EPOCH reaches this, once it holds events
SLOTS = 22

NEED_HIGH, NEED_LOW, NEED_ROW, NEED_BASE = 1, 2, 4, 8
NEED_TIME = NEED_HIGH | NEED_LOW
NEED_ALL = NEED_TIME | NEED_ROW | NEED_BASE

BLOCK = 4096  # entries of the store; 32 KiB stay in the first-level cache
ROOM = BLOCK - 16  # a vector adds up to 12 at once
MARGIN = 12  # rows of the columns that stay free for it
LATEST_LOW = 0xFFF
ROW_SHIFT, LOW_SHIFT = np.uint64(12), np.uint64(24)
BITS_11, BITS_12, POLARITY_SHIFT = np.uint64(0x7FF), np.uint64(0xFFF), np.uint64(11)
ONE = np.uint64(1)
STEP = 48  # words looked at together, so many that the compiler uses vector instructions
SOON = np.uint64(16)  # words taken one by one after a vector before many are looked at again


def _per_type(default: int, values: dict[int, int]) -> np.ndarray:
    return np.array([values.get(kind, default) for kind in range(16)], np.uint64)


# How a plain word of a type changes FIELDS: which bits stay, and where its own go. Bits above 35 mean nothing.
_STAY = _per_type(2**64 - 1, {ADDR_X: ~0xFFF % 2**64, ADDR_Y: ~(0xFFF << 12) % 2**64, TIME_LOW: ~(0xFFF << 24) % 2**64})
_PLAIN_TYPES = (ADDR_Y, ADDR_X, TIME_LOW, CONTINUED_4, OTHERS, CONTINUED_12)
_SHIFT = _per_type(40, {ADDR_X: 0, ADDR_Y: 12, TIME_LOW: 24})
# A bit for each type that is not plain; TIME_HIGH is where it repeats the last.
_NOT_PLAIN = np.uint32(sum(1 << kind for kind in range(16) if kind not in _PLAIN_TYPES))
_POLARITY_BIT = np.uint64(0x800)
_FIELD_BITS = np.uint64((1 << 36) - 1)
_LAST_BASE = np.uint64(0x800 - 12)  # from here on bits may lie past 2047
_VECTOR_BITS = _per_type(0, {VECT_12: 0xFFF, VECT_8: 0xFF})
_VECTOR_LENGTH = _per_type(0, {VECT_12: 12, VECT_8: 8})
# Number of events that each of the 65536 words holds.
_words = np.arange(1 << 16, dtype=np.uint32)
_mask_bits = np.where(_words >> 12 == VECT_12, 0xFFF, np.where(_words >> 12 == VECT_8, 0xFF, 0)) & _words
_EVENTS_IN = (sum((_mask_bits >> k) & 1 for k in range(12)) + (_words >> 12 == ADDR_X)).astype(np.uint8)


def new_state() -> np.ndarray:
    """Return the state of a decoder that has seen nothing."""
    state = np.zeros(SLOTS, np.int64)
    state[HIGH], state[NEED] = -1, NEED_ALL
    state[TOP] = state[LAST] = -(1 << 62)
    return state


@kernel
def count_events(words):
    """Return the number of events in the words uint16 [N], those that cannot be placed included."""
    count = 0
    for i in range(len(words)):
        count += _EVENTS_IN[words[i]]
    return count


@kernel
def decode_words(words, start, x, y, p, t, triggers, leaps, store, width, height, state):
    """Decode words uint16 [N] from `start` on, advance `state`, and return where it stopped: N, or where rows ran out.

    The columns x, y, p, t are filled behind ``state[EVENTS]`` rows; `MARGIN` of them stay free. Trigger rows
    (t, edge, id) and leap rows (index, before, after), int64 [., 3], are filled to ``state[TRIGGERS]`` and
    ``state[LEAPS]``. `store` is uint64 [BLOCK] of scratch space.
    """
    filled = 0
    i = start
    most = len(t) - MARGIN
    while i < len(words) and state[TRIGGERS] < len(triggers) and state[LEAPS] < len(leaps):
        room = min(ROOM, most - state[EVENTS])
        if filled > room or (state[EPOCH] >= state[UNTIL] and state[EVENTS] + filled):
            break
        if state[PENDING] == 0 and state[NEED] & (NEED_TIME | NEED_ROW) == 0:
            i, filled = _run(words, i, store, filled, room, triggers, state)
        if filled >= room or (filled and i < len(words) and words[i] >> 12 == TIME_HIGH):
            _flush(store, filled, width, height, x, y, p, t, state)
            filled = 0
        if state[EVENTS] + filled > most:
            break
        if i < len(words):
            filled = _take_word(np.int64(words[i]), store, filled, triggers, leaps, state)
            i += 1
            if state[PENDING] and state[NEED] & NEED_HIGH == 0:  # after a loss a high half is still waited for
                i = _take_silence(words, i, state)
    _flush(store, filled, width, height, x, y, p, t, state)
    _end_packet(state)
    return i


@kernel
def _end_packet(state):
    """Bring `state` to the form in which it waits for the next words."""
    if state[STARTED] == 0:
        if state[NEED] & NEED_TIME and state[JOINED] == 0:
            state[NEED] |= NEED_HIGH  # time starts with a high and a low half in the same packet
    elif state[PENDING] == 0 and state[NEED] & NEED_TIME == 0:
        state[KNOWN] = _now(state)
    state[REACHED] = state[KNOWN]
    if state[PENDING] and state[EPOCH] + LATEST_LOW - state[KNOWN] <= LEAP_US:
        state[REACHED] = state[EPOCH]


@kernel
def _are_plain(words, start, high_word):
    """Return whether the next `STEP` words are plain: of such a type, or the TIME_HIGH in force."""
    high_word = np.uint32(high_word)
    odd = np.uint32(0)
    for k in range(STEP):
        word = np.uint32(words[start + np.uint64(k)])
        odd |= (_NOT_PLAIN >> (word >> np.uint32(12))) & np.uint32(word != high_word)
    return odd & np.uint32(1) == 0


@kernel
def _place(word, fields):
    """Return the fields after a plain word."""
    kind = word >> np.uint64(12)
    return (fields & _STAY[kind]) | ((word & BITS_12) << _SHIFT[kind])


@kernel
def _is_event(word):
    return np.uint64(word >> np.uint64(12) == ADDR_X)


@kernel
def _run(words, start, store, filled, room, triggers, state):
    """Take plain and vector words, up to the first other one or while the store has room; return (next word, filled).

    Row and time must be known and settled. The store takes `room` entries, and those of a vector more.
    """
    i, count = np.uint64(start), np.uint64(filled)
    end = np.uint64(min(len(words), start + room - filled))
    high_word = np.uint64(TIME_HIGH << 12 | state[HIGH])
    fields, base, polarity = np.uint64(state[FIELDS]), np.uint64(state[BASE]), np.uint64(state[POLARITY])
    while i < end:
        while i + np.uint64(STEP) <= end and _are_plain(words, i, high_word):
            for k in range(STEP):
                word = np.uint64(words[i + np.uint64(k)])
                fields = _place(word, fields)
                store[count] = fields
                count += _is_event(word)
            i += np.uint64(STEP)
        single = min(end, i + np.uint64(STEP))  # one of these is not plain, or the end is near
        while i < single:
            word = np.uint64(words[i])
            kind = word >> np.uint64(12)
            if word == high_word or _NOT_PLAIN >> kind & ONE == 0:
                fields = _place(word, fields)
                store[count] = fields
                count += _is_event(word)
            elif kind == VECT_BASE_X:
                base, polarity = word & BITS_11, word & _POLARITY_BIT
                state[NEED] &= ~NEED_BASE
            elif kind - np.uint64(VECT_12) <= ONE and base < _LAST_BASE and state[NEED] == 0:
                mask = word & _VECTOR_BITS[kind]
                head = (fields & ~BITS_12 | polarity) + base
                for k in range(12):
                    store[count] = head + np.uint64(k)
                    count += mask >> np.uint64(k) & ONE
                base += _VECTOR_LENGTH[kind]
                left = max(0, room - np.int64(count))
                end = np.uint64(min(len(words), np.int64(i) + 1 + left))
                single = min(end, i + SOON)  # vectors come in runs
            elif kind == EXT_TRIGGER and state[TRIGGERS] < len(triggers) - 1:  # `_take_word` may need a row
                row = state[TRIGGERS]
                triggers[row, 0] = state[EPOCH] + np.int64(fields >> LOW_SHIFT & BITS_12)
                triggers[row, 1], triggers[row, 2] = word & ONE, word >> np.uint64(8) & np.uint64(0xF)
                state[TRIGGERS] += 1
            else:
                single = end = i  # ends both loops
                break
            i += ONE
    state[FIELDS] = np.int64(fields & _FIELD_BITS)
    state[BASE], state[POLARITY] = np.int64(base), np.int64(polarity)
    return np.int64(i), np.int64(count)


@kernel
def _set_base(word, state):
    state[BASE], state[POLARITY] = word & 0x7FF, word & 0x800
    state[NEED] &= ~NEED_BASE


@kernel
def _take_vector(word, store, count, state):
    """Store the events of a VECT_12 or VECT_8 word and advance the base; return the new count."""
    bits = 12 if word >> 12 == VECT_12 else 8
    base = state[BASE]
    state[BASE] = min(base + bits, BEYOND)
    within = min(bits, max(0, 0x800 - base))
    state[OUTSIDE] += _EVENTS_IN[word & ((0xF000 | 0xFFF << within) & 0xFFFF)]
    row_and_time = np.uint64(state[FIELDS]) & ~BITS_12
    head = row_and_time | np.uint64(state[POLARITY])
    for k in range(within):
        store[count] = head | np.uint64(base + k)
        count += np.uint64((word >> k) & 1)
    return count


@kernel
def _flush(store, filled, width, height, x, y, p, t, state):
    """Unpack the stored events behind those already in the columns, and drop those outside the sensor."""
    at, epoch = state[EVENTS], state[EPOCH]
    xs, ys, ps, ts = x[at : at + filled], y[at : at + filled], p[at : at + filled], t[at : at + filled]
    outside = ONE - ONE
    for k in range(filled):
        fields = store[k]
        column, row = fields & BITS_11, (fields >> ROW_SHIFT) & BITS_11
        xs[k] = column
        ys[k] = row
        ps[k] = (fields >> POLARITY_SHIFT) & ONE
        ts[k] = epoch + np.int64((fields >> LOW_SHIFT) & BITS_12)
        outside |= np.uint64(column >= width) | np.uint64(row >= height)
    kept = filled
    if outside:
        kept = 0
        for k in range(filled):
            xs[kept], ys[kept], ps[kept], ts[kept] = xs[k], ys[k], ps[k], ts[k]
            kept += np.int64(xs[k] < width and ys[k] < height)
        state[OUTSIDE] += filled - kept
    if kept:
        signs = ts[0] - state[LAST]
        for k in range(1, kept):
            signs |= ts[k] - ts[k - 1]  # negative as soon as one difference is
        state[FELL] |= signs < 0
        state[LAST] = ts[kept - 1]
    state[EVENTS] = at + kept


@kernel
def _take_word(word, store, filled, triggers, leaps, state):
    """Take any word by the whole of the rules; return the number of events stored."""
    kind, need = word >> 12, state[NEED]
    if kind == TIME_HIGH:
        _take_high(word & 0xFFF, leaps, state)
    elif kind == TIME_LOW:
        if need & NEED_HIGH == 0:
            state[FIELDS] = state[FIELDS] & ~(0xFFF << 24) | (word & 0xFFF) << 24
            state[NEED] &= ~NEED_LOW
            if state[PENDING] or need & NEED_LOW:
                _settle(_now(state), leaps, state)
    elif kind == ADDR_Y:
        if state[STARTED]:
            state[FIELDS] = state[FIELDS] & ~(0xFFF << 12) | (word & 0x7FF) << 12
            state[NEED] &= ~NEED_ROW
    elif kind == VECT_BASE_X:
        if state[STARTED]:
            _set_base(word, state)
    elif kind in (ADDR_X, VECT_12, VECT_8):
        filled = _take_events(word, store, filled, leaps, state)
    elif kind == EXT_TRIGGER:
        _take_trigger(word, triggers, leaps, state)
    elif kind not in (CONTINUED_4, OTHERS, CONTINUED_12):
        state[UNKNOWN] += 1
    return filled


@kernel
def _take_events(word, store, filled, leaps, state):
    """Take an ADDR_X, VECT_12 or VECT_8 word while something is pending or missing; return the new count."""
    kind = word >> 12
    missing = state[NEED] & (NEED_TIME | NEED_ROW | (0 if kind == ADDR_X else NEED_BASE))
    if missing:
        state[UNSYNCED] += _EVENTS_IN[word]
        if kind != ADDR_X:
            state[BASE] = min(state[BASE] + (12 if kind == VECT_12 else 8), BEYOND)
        return filled
    if state[PENDING]:
        _settle(_now(state), leaps, state)
    if kind == ADDR_X:
        state[FIELDS] = state[FIELDS] & ~0xFFF | (word & 0xFFF)
        store[filled] = np.uint64(state[FIELDS])
        return filled + 1
    return np.int64(_take_vector(word, store, np.uint64(filled), state))


@kernel
def _take_trigger(word, triggers, leaps, state):
    if state[NEED] & NEED_TIME:
        state[UNSYNCED] += 1
        return
    if state[PENDING]:
        _settle(_now(state), leaps, state)
    row = triggers[state[TRIGGERS]]
    row[0], row[1], row[2] = _now(state), word & 1, word >> 8 & 0xF
    state[TRIGGERS] += 1


@kernel
def _take_high(high, leaps, state):
    state[NEED] &= ~NEED_HIGH
    last = state[HIGH]
    if high == last:
        return
    if state[STARTED]:
        if state[PENDING]:  # two in a row: the first one alone told that time
            _settle(state[EPOCH], leaps, state)
        elif state[NEED] & NEED_TIME == 0:
            state[KNOWN] = _now(state)
        state[PENDING] = 1
        state[EPOCH] += (high - last) << 12
        if last - high > GLITCH:
            state[EPOCH] += WRAP_US
    else:
        state[EPOCH] = state[ORIGIN] + (high << 12)
    state[HIGH], state[TOP] = high, max(state[TOP], state[EPOCH])


@kernel
def _take_silence(words, i, state):
    """Take the TIME_HIGH words that follow a pending one, up to the first leap; return the next word."""
    last, epoch, known, top = state[HIGH], state[EPOCH], state[KNOWN], state[TOP]
    while i < len(words) and words[i] >> 12 == TIME_HIGH:
        high = np.int64(words[i]) & 0xFFF
        if high != last:
            if epoch - known > LEAP_US:
                break
            known = epoch
            epoch += ((high - last) << 12) + (WRAP_US if last - high > GLITCH else 0)
            last, top = high, max(top, epoch)
        i += 1
    state[HIGH], state[EPOCH], state[KNOWN], state[TOP] = last, epoch, known, top
    return i


@kernel
def _now(state):
    """Return the time that both halves give, us."""
    return state[EPOCH] + (state[FIELDS] >> 24 & 0xFFF)


@kernel
def _settle(time, leaps, state):
    """Make `time` the last known one, and note the step to it where it is a leap."""
    if state[STARTED] and time - state[KNOWN] > LEAP_US:  # backwards it cannot leap: by more than GLITCH it wraps
        row = leaps[state[LEAPS]]
        row[0], row[1], row[2] = state[EVENTS], state[KNOWN], time
        state[LEAPS] += 1
    state[STARTED], state[PENDING], state[KNOWN] = 1, 0, time
