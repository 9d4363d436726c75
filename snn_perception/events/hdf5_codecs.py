"""Blosc, LZ4, bitshuffle, Zstandard and the like as HDF5 files hold them, decompressed with bounds.

The decoders that HDF5's filters come with trust their input: on damaged bytes some crash, some never return, most take
whatever memory the bytes announce. Here nothing is made beyond the length that the caller knows, and damage is one
error. Formats: Blosc 1 (Alted), HDF5's registered filters 32004 and 32008.
"""

from __future__ import annotations

import bz2
import struct
import threading
import zlib
from collections.abc import Callable

import lz4.block
import numpy as np
import zstandard

from snn_perception.events.hdf5_kernels import gather_bits, unpack_blosclz, unpack_lzf
from snn_perception.types import U8

_FLAG_SHUFFLE, _FLAG_COPY, _FLAG_BITS, _FLAG_WHOLE = 1, 2, 4, 16
_FEWEST_SPLIT, _WIDEST_SPLIT = 128, 16
_OF_THREAD = threading.local()  # a Zstandard decompressor takes longer to make than to use, and serves one thread


class BadChunk(ValueError):
    """A chunk's bytes are not what its filters make."""


def inflate(packed: bytes, limit: int) -> bytes:
    """Return zlib data, cut at `limit` bytes; raise BadChunk for damaged ones."""
    try:
        return zlib.decompressobj().decompress(packed, limit)
    except zlib.error as error:
        raise BadChunk(str(error)) from None


def unpack_bzip2(packed: bytes, limit: int) -> bytes:
    """Return bzip2 data, cut at `limit` bytes; raise BadChunk for damaged ones."""
    try:
        return bz2.BZ2Decompressor().decompress(packed, limit)
    except (OSError, ValueError, EOFError) as error:
        raise BadChunk(str(error)) from None


def unpack_zstd(packed: bytes, limit: int) -> bytes:
    """Return a Zstandard frame of at most `limit` bytes; raise BadChunk for a longer or damaged one."""
    try:
        if zstandard.frame_content_size(packed) > limit:  # -1: not stated
            raise BadChunk("its compression header announces more than a chunk")
        return _zstd().decompress(packed, max_output_size=limit)
    except (zstandard.ZstdError, MemoryError) as error:
        raise BadChunk(str(error)) from None


def _zstd() -> zstandard.ZstdDecompressor:
    if not hasattr(_OF_THREAD, "zstd"):
        _OF_THREAD.zstd = zstandard.ZstdDecompressor()
    decompressor: zstandard.ZstdDecompressor = _OF_THREAD.zstd
    return decompressor


def unpack_lz4_block(packed: bytes, length: int) -> bytes:
    """Return an LZ4 block of at most `length` bytes; raise BadChunk for a longer or damaged one."""
    try:
        return bytes(lz4.block.decompress(packed, uncompressed_size=length))
    except (lz4.block.LZ4BlockError, ValueError, MemoryError) as error:
        raise BadChunk(str(error)) from None


def unpack_lzf_block(packed: bytes, length: int) -> bytes:
    """Return LZF data of at most `length` bytes; raise BadChunk for longer or damaged ones."""
    return _unpacked(unpack_lzf, packed, length)


def unpack_blosclz_block(packed: bytes, length: int) -> bytes:
    """Return BloscLZ data of at most `length` bytes; raise BadChunk for longer or damaged ones."""
    return _unpacked(unpack_blosclz, packed, length)


def unpack_lz4_chunk(packed: bytes, limit: int) -> bytes:
    """Return a chunk of filter 32004: length, length of a block, then blocks with their own lengths."""
    plain, block = struct.unpack(">QI", _start(packed, 12))
    if plain > limit or not block:
        raise BadChunk("its compression header is damaged")
    return b"".join(_lz4_blocks(packed, 12, plain, block, unpack_lz4_block))


def unpack_bitshuffle_chunk(packed: bytes, limit: int, width: int, block_items: int, method: int) -> bytes:
    """Return a chunk of filter 32008: bits gathered block by block, compressed with LZ4 (2), Zstandard (3) or not (0).

    Args:
        width: bytes of an item. block_items: items of a block where nothing is compressed, 0 for the usual.
    """
    if not 1 <= width <= 64:
        raise BadChunk(f"its bit shuffle has the impossible width {width}")
    if method == 0:
        usual = max(8192 // width // 8 * 8, 128)
        return _bits_by_block([packed], len(packed), (block_items or usual) * width, width)
    unpack = {2: unpack_lz4_block, 3: unpack_zstd}.get(method)
    plain, block = struct.unpack(">QI", _start(packed, 12))
    if unpack is None or plain > limit or not block or block % (8 * width):
        raise BadChunk("its compression header is damaged")
    # Blocks hold whole eights of items; fewer than eight lie behind them as they are.
    rest = plain % (8 * width)
    parts = _lz4_blocks(packed, 12, plain - rest, block, unpack, raw_is_marked=False)
    tail = packed[len(packed) - rest :] if rest else b""
    return _bits_by_block(parts, plain - rest, block, width) + tail


def unpack_blosc(packed: bytes, limit: int) -> bytes:
    """Return a Blosc 1 chunk of at most `limit` bytes; raise BadChunk for a longer or damaged one."""
    version, flags, width, plain, block, stated = struct.unpack("<BxBBIII", _start(packed, 16))
    if version not in (1, 2) or plain > limit or stated != len(packed) or not width or not (block or not plain):
        raise BadChunk("its compression header is damaged")
    if flags & _FLAG_COPY:
        return packed[16 : 16 + plain]
    unpack = _BLOSC_CODES.get(flags >> 5)
    if unpack is None:
        raise BadChunk(f"Blosc's code {flags >> 5} (Snappy or a later one) is not known here")
    count = -(-plain // block) if plain else 0
    starts = struct.unpack(f"<{count}i", _start(packed[16:], 4 * count))
    out = np.empty(plain, np.uint8)
    for number, start in enumerate(starts):
        at, size = number * block, min(block, plain - number * block)
        is_split = not flags & _FLAG_WHOLE and size == block and width <= _WIDEST_SPLIT
        pieces = width if is_split and block // width >= _FEWEST_SPLIT and not block % width else 1
        data = _pieces(packed, start, pieces, size // pieces, unpack)
        _put(data, out[at : at + size], flags, width)
    return out.tobytes()


def _pieces(packed: bytes, at: int, count: int, size: int, unpack: Callable[[bytes, int], bytes]) -> bytes:
    """Return `count` pieces of `size` bytes each that begin at a place, each behind its packed length."""
    parts = []
    for _ in range(count):
        if not 0 <= at <= len(packed) - 4:
            raise BadChunk("a block of it lies outside")
        (length,) = struct.unpack_from("<i", packed, at)
        at += 4
        if not 0 <= length <= len(packed) - at:
            raise BadChunk("a block of it lies outside")
        part = packed[at : at + length]
        parts.append(part if length == size else unpack(part, size))
        if len(parts[-1]) != size:
            raise BadChunk(f"a block of it decodes to {len(parts[-1])} bytes in place of {size}")
        at += length
    return b"".join(parts)


def _put(data: bytes, out: U8, flags: int, width: int) -> None:
    """Put one block in place, its shuffle undone."""
    packed = np.frombuffer(data, np.uint8)
    if flags & _FLAG_SHUFFLE and width > 1:
        gather_bytes(packed, out, width)
    elif flags & _FLAG_BITS and len(packed) // width % 8 == 0:  # Blosc leaves blocks of other lengths as they are
        gather_bits(packed, out, width)
    else:
        out[:] = packed


def gather_bytes(packed: U8, out: U8, width: int) -> None:
    """Fill items of `width` bytes from their first bytes, then their second ones, and so on (a byte shuffle)."""
    whole = len(packed) // width * width
    items = out[:whole].reshape(-1, width)
    for byte, column in enumerate(packed[:whole].reshape(width, -1)):
        items[:, byte] = column
    out[whole:] = packed[whole:]


def _bits_by_block(parts: list[bytes], plain: int, block: int, width: int) -> bytes:
    packed = np.frombuffer(b"".join(parts), np.uint8)
    if len(packed) != plain:
        raise BadChunk(f"decodes to {len(packed)} bytes in place of {plain}")
    out = np.empty(plain, np.uint8)
    for at in range(0, plain, block):
        gather_bits(packed[at : at + block], out[at : at + block], width)
    return out.tobytes()


def _lz4_blocks(
    packed: bytes,
    at: int,
    plain: int,
    block: int,
    unpack: Callable[[bytes, int], bytes],
    *,
    raw_is_marked: bool = True,
) -> list[bytes]:
    """Return the blocks from a place on, each behind its packed length (big endian), `plain` bytes in all.

    Args:
        raw_is_marked: a block as long as it would be unpacked was not packed.
    """
    parts = []
    while plain > 0:
        size = min(block, plain)
        (length,) = struct.unpack(">I", _start(packed[at : at + 4], 4))
        part = packed[at + 4 : at + 4 + length]
        if len(part) < length:
            raise BadChunk("ends within a block")
        parts.append(part if raw_is_marked and length == size else unpack(part, size))
        if len(parts[-1]) != size:
            raise BadChunk(f"a block of it decodes to {len(parts[-1])} bytes in place of {size}")
        at += 4 + length
        plain -= size
    return parts


def _start(packed: bytes, count: int) -> bytes:
    if len(packed) < count:
        raise BadChunk("ends within its compression header")
    return packed[:count]


def _unpacked(kernel: Callable[[U8, U8], int], packed: bytes, length: int) -> bytes:
    out = np.empty(length, np.uint8)
    made = kernel(np.frombuffer(packed, np.uint8), out)
    if made < 0:
        raise BadChunk("its compressed bytes are damaged")
    return out[:made].tobytes()


_BLOSC_CODES: dict[int, Callable[[bytes, int], bytes]] = {
    0: unpack_blosclz_block,
    1: unpack_lz4_block,
    3: inflate,
    4: unpack_zstd,
}
