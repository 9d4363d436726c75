"""What the chunks of HDF5 data sets went through when they were written, undone with bounds.

None of it is left to the HDF5 library: its filters trust their input (see `hdf5_codecs`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from snn_perception.errors import EventDataError
from snn_perception.events import hdf5_codecs as codecs
from snn_perception.events.hdf5_codecs import BadChunk

ECF = 36559
_SLACK_BYTES = 64  # a checksum more than the plain chunk
_NAMES = {4: "SZIP", 5: "N-bit", 6: "scale-offset", 32026: "Blosc2", 32013: "ZFP"}


@dataclass(frozen=True)
class Filter:
    """One step that a chunk went through when it was written: its registered id and its parameters."""

    id: int
    values: tuple[int, ...] = ()


def check_filters(filters: Sequence[Filter], where: str, path: Path) -> None:
    """Raise EventDataError unless data compressed so can be read here; it says how to come by readable data."""
    for item in filters:
        if item.id == ECF:
            raise EventDataError(
                f"{path}: {where} is compressed with ECF (HDF5 filter {ECF}), which only its vendor's plugin reads; "
                "convert it to RAW or DAT with its vendor's tools"
            )
        if item.id not in _UNDO:
            name = f"HDF5 filter {item.id}" + (f" ({_NAMES[item.id]})" if item.id in _NAMES else "")
            raise EventDataError(
                f"{path}: {where} is compressed with {name}, which is not read here; with the filter installed (many "
                "come with 'pip install hdf5plugin'), write it anew: 'h5repack -f SHUF -f GZIP=4 OLD NEW'"
            )


def decoded(stored: bytes, filters: Sequence[Filter], skipped: int, plain_bytes: int) -> bytes:
    """Return the plain bytes of a chunk.

    Args:
        filters: in the order of writing, all known to `check_filters`.
        skipped: bit n is set where filter n was left out for this chunk.

    Raises:
        BadChunk: if the bytes are damaged or make other than `plain_bytes`; no more than a little over that is made.
    """
    data = stored
    for number in reversed(range(len(filters))):
        if not skipped >> number & 1:
            data = _UNDO[filters[number].id](data, filters[number].values, plain_bytes + _SLACK_BYTES)
    if len(data) != plain_bytes:
        raise BadChunk(f"decodes to {len(data)} bytes in place of {plain_bytes}")
    return data


def _unshuffled(data: bytes, values: tuple[int, ...], limit: int) -> bytes:
    width = values[0] if values else 0
    if not 1 <= width <= 4096:  # of an item
        raise BadChunk(f"its byte shuffle has the impossible width {width}")
    out = np.empty(len(data), np.uint8)
    codecs.gather_bytes(np.frombuffer(data, np.uint8), out, width)
    return out.tobytes()


def _verified(data: bytes, values: tuple[int, ...], limit: int) -> bytes:
    """Return the bytes without the Fletcher-32 checksum behind them."""
    if len(data) < 4:
        raise BadChunk("ends within its checksum")
    data, stated = data[:-4], struct.unpack("<HH", data[-4:])
    words = np.frombuffer(data + b"\0" * (len(data) % 2), ">u2").astype(np.uint64)
    first = int(words.sum()) % 65535
    second = int((words * np.arange(len(words), 0, -1, dtype=np.uint64) % np.uint64(65535)).sum()) % 65535
    if (stated[0] % 65535, stated[1] % 65535) != (first, second):
        raise BadChunk("its checksum does not match")
    return data


def _unbitshuffled(data: bytes, values: tuple[int, ...], limit: int) -> bytes:
    width, block, method = (*values[2:5], 0, 0, 0)[:3] if len(values) > 2 else (0, 0, 0)
    return codecs.unpack_bitshuffle_chunk(data, limit, width, block, method)


_Undo = Callable[[bytes, tuple[int, ...], int], bytes]
_UNDO: dict[int, _Undo] = {
    1: lambda data, values, limit: codecs.inflate(data, limit),
    2: _unshuffled,
    3: _verified,
    307: lambda data, values, limit: codecs.unpack_bzip2(data, limit),
    32000: lambda data, values, limit: codecs.unpack_lzf_block(data, limit),
    32001: lambda data, values, limit: codecs.unpack_blosc(data, limit),
    32004: lambda data, values, limit: codecs.unpack_lz4_chunk(data, limit),
    32008: _unbitshuffled,
    32015: lambda data, values, limit: codecs.unpack_zstd(data, limit),
}
