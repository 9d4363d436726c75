"""The inner loops of DAT reading. One pass in the common case: words in, columns out, and three facts about them.

An event is one little-endian 64-bit word: time in us (bits 0-31), x (32-45), y (46-59), polarity (60-63, of which the
lowest counts).
"""

from __future__ import annotations

import numpy as np

from snn_perception.events.jit import kernel
from snn_perception.types import JITTER_US

WRAP_US = 1 << 32  # 71.6 minutes
HALF_WRAP_US = 1 << 31


@kernel
def split_words(words, epoch, t, x, y, p):  # type: ignore[no-untyped-def]
    """Fill the columns from words uint64 [N]; return (largest x, largest y, whether time decreases somewhere).

    `epoch` is the time of the latest wrap. Where time decreases, `t` may be wrong from there on (see `mend`). Three
    plain loops, since the compiler turns each into vector instructions and would not one that does it all.
    """
    for i in range(len(words)):
        word = np.uint32(words[i] >> np.uint64(32))
        t[i] = np.int64(words[i] & np.uint64(0xFFFFFFFF)) + epoch
        x[i] = word & np.uint32(0x3FFF)
        y[i] = (word >> np.uint32(14)) & np.uint32(0x3FFF)
        p[i] = (word >> np.uint32(28)) & np.uint32(1)
    largest_x, largest_y = np.uint16(0), np.uint16(0)
    for i in range(len(words)):
        largest_x, largest_y = max(largest_x, x[i]), max(largest_y, y[i])
    signs = np.int64(0)
    for i in range(1, len(words)):
        signs |= t[i] - t[i - 1]  # negative as soon as one difference is
    return largest_x, largest_y, signs < 0


@kernel
def first_word_at(words, t):  # type: ignore[no-untyped-def]
    """Return the index of the first of words uint64 [N] whose 32-bit time is at least `t`; their times do not fall."""
    low, high = 0, len(words)
    while low < high:
        middle = (low + high) // 2
        if np.int64(words[middle] & np.uint64(0xFFFFFFFF)) < t:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def mend(words, width, height, last, epoch, t, x, y, p, leaps):  # type: ignore[no-untyped-def]
    """Unwrap time event by event, drop events outside the sensor and note backward leaps.

    `last` is the 32-bit time before the first event.

    Returns:
        (events kept, leaps found, the last 32-bit time, its epoch). The kept events lie at the front of the columns,
        the leaps at the front of `leaps` [N, 3] as (index among the kept, time before, time after).
    """
    kept, found = 0, 0
    for i in range(len(words)):
        now = np.int64(words[i] & np.uint64(0xFFFFFFFF))
        before = epoch + last
        if last - now > HALF_WRAP_US:
            epoch += WRAP_US
        elif epoch > 0 and now - last > HALF_WRAP_US and last + WRAP_US - now <= JITTER_US:
            epoch -= WRAP_US  # a straggler from just before the wrap
        last = now
        if before - (epoch + now) > JITTER_US:
            leaps[found, 0], leaps[found, 1], leaps[found, 2] = kept, before, epoch + now
            found += 1
        if x[i] < width and y[i] < height:
            t[kept], x[kept], y[kept], p[kept] = epoch + now, x[i], y[i], p[i]
            kept += 1
    return kept, found, last, epoch


@kernel
def survey(words):  # type: ignore[no-untyped-def]
    """Return the largest x and y among words uint64 [N], and how many polarities are neither 0 nor 1."""
    x, y, odd = np.uint32(0), np.uint32(0), 0
    for i in range(len(words)):
        word = np.uint32(words[i] >> np.uint64(32))
        x = max(x, word & np.uint32(0x3FFF))
        y = max(y, (word >> np.uint32(14)) & np.uint32(0x3FFF))
        odd += (word >> np.uint32(29)) != 0
    return x, y, odd
