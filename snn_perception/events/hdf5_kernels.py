"""The inner loops of decompressing HDF5 chunks, each with bounds on both of its sides.

They return -1 for bytes that lead outside either buffer.
"""

from __future__ import annotations

import numpy as np

from snn_perception.events.jit import kernel

_FAR = 8191  # Blosc's own code reaches so far with 13 bits


@kernel
def gather_bits(packed, out, width):  # type: ignore[no-untyped-def]
    """Fill items of `width` bytes from their lowest bits, then the next ones, and so on; whole eights of items only."""
    count = len(packed) // (8 * width) * 8
    row = count // 8
    for i in range(count * width):
        out[i] = 0
    for j in range(width):
        for bit in range(8):
            start = (8 * j + bit) * row
            for k in range(row):
                byte = packed[start + k]
                for i in range(8):
                    out[(8 * k + i) * width + j] |= ((byte >> i) & 1) << bit
    for i in range(count * width, len(packed)):
        out[i] = packed[i]


@kernel
def unpack_lzf(packed, out):  # type: ignore[no-untyped-def]
    """Return the number of bytes of LZF data (Lehmann) put into `out`."""
    at, done = np.int64(0), np.int64(0)
    while at < len(packed):
        control = np.int64(packed[at])
        at += 1
        if control < 32:
            length = control + 1
            if at + length > len(packed) or done + length > len(out):
                return -1
            for i in range(length):
                out[done + i] = packed[at + i]
            at += length
        else:
            length = control >> 5
            if length == 7:
                if at >= len(packed):
                    return -1
                length += np.int64(packed[at])
                at += 1
            if at >= len(packed):
                return -1
            source = done - ((control & 31) << 8) - np.int64(packed[at]) - 1
            at += 1
            length += 2
            if source < 0 or done + length > len(out):
                return -1
            for i in range(length):
                out[done + i] = out[source + i]
        done += length
    return done


@kernel
def unpack_blosclz(packed, out):  # type: ignore[no-untyped-def]
    """Return the number of bytes of BloscLZ data put into `out`."""
    at, done = np.int64(0), np.int64(0)
    first = True
    while at < len(packed):
        control = np.int64(packed[at])
        at += 1
        if first:
            control &= 31  # begins with plain bytes
            first = False
        if control < 32:
            length = control + 1
            if at + length > len(packed) or done + length > len(out):
                return -1
            for i in range(length):
                out[done + i] = packed[at + i]
            at += length
        else:
            length = (control >> 5) - 1
            far = (control & 31) << 8
            if length == 6:
                more = np.int64(255)
                while more == 255:
                    if at >= len(packed):
                        return -1
                    more = np.int64(packed[at])
                    at += 1
                    length += more
            if at >= len(packed):
                return -1
            code = np.int64(packed[at])
            at += 1
            length += 3
            source = done - far - code - 1
            if code == 255 and far == 31 << 8:
                if at + 2 > len(packed):
                    return -1
                source = done - (np.int64(packed[at]) << 8) - np.int64(packed[at + 1]) - _FAR - 1
                at += 2
            if source < 0 or done + length > len(out):
                return -1
            for i in range(length):
                out[done + i] = out[source + i]
        done += length
    return done
