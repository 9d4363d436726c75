"""Where the chunks of a data set lie in its file."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from snn_perception.types import I64

_NOWHERE = 1 << 62


class ChunkTable:
    """Places of chunks, by number; plain data, which outlives the file it came from.

    Args:
        shape, chunk: sides of the data set and of a chunk.
    """

    def __init__(self, shape: tuple[int, ...], chunk: tuple[int, ...]) -> None:
        self._counts = [-(-side // step) for side, step in zip(shape, chunk, strict=True)]
        self._strides = [math.prod(self._counts[axis + 1 :]) for axis in range(len(self._counts))]
        self._chunk = chunk
        self._parts: list[list[I64]] = []
        self._columns: list[I64] = []

    def add(
        self, offset: npt.NDArray[Any], address: npt.NDArray[Any], size: npt.NDArray[Any], skipped: npt.NDArray[Any]
    ) -> None:
        """Take in chunks: offset [K, rank] in items, address in the file, bytes, and filters skipped, [K] each."""
        at = (offset // np.array(self._chunk, np.uint64)).astype(np.int64)
        inside = np.full(len(at), math.prod(self._counts) < _NOWHERE)  # else their numbers would overflow
        for axis, count in enumerate(self._counts):
            inside &= (at[:, axis] >= 0) & (at[:, axis] < min(count, _NOWHERE))
        number = np.zeros(int(inside.sum()), np.int64)
        for axis, stride in enumerate(self._strides):
            number += at[inside, axis] * np.int64(min(stride, _NOWHERE))
        self._parts.append([np.asarray(c, np.int64) for c in (number, address[inside], size[inside], skipped[inside])])
        self._columns = []

    def find(self, where: tuple[int, ...]) -> tuple[int, int, int] | None:
        """Return (address, bytes, filters skipped) of the chunk with these chunk numbers, None where there is none."""
        number, address, size, skipped = self._sorted()
        wanted = sum(at * stride for at, stride in zip(where, self._strides, strict=True))
        at = int(np.searchsorted(number, wanted)) if wanted < _NOWHERE else len(number)
        if at == len(number) or number[at] != wanted:
            return None
        return int(address[at]), int(size[at]), int(skipped[at])

    def _sorted(self) -> list[I64]:
        if not self._columns:
            if not self._parts:
                return [np.empty(0, np.int64)] * 4
            joined = [np.concatenate(parts) for parts in zip(*self._parts, strict=True)]
            order = np.argsort(joined[0], kind="stable")
            self._columns = [column[order] for column in joined]
            self._parts = [self._columns]
        return self._columns
