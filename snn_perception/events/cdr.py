"""The encoding of ROS messages on the wire and in bags: CDR (XCDR1), value by value.

Every length is checked against what is there before it is used. Alignment counts from after the 4 bytes of
encapsulation.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

_ENCAPSULATIONS = {0: ">", 1: "<"}  # CDR_BE, CDR_LE
_MAX_NAME_BYTES = 256


class CdrReader:
    """A cursor over one message that never reads past its end."""

    def __init__(self, data: bytes | memoryview) -> None:
        kind = struct.unpack_from(">H", data)[0]
        if kind not in _ENCAPSULATIONS:
            raise ValueError(f"expected CDR (encapsulation 0 or 1), got encapsulation {kind:#06x}")
        self._order = _ENCAPSULATIONS[kind]
        self._body = memoryview(data)[4:]
        self._at = 0

    def take(self, code: str) -> int:
        """Return one number, aligned to its own size."""
        layout = _layout(self._order + code)
        at = self._at + -self._at % layout.size
        value: int = layout.unpack_from(self._body, at)[0]
        self._at = at + layout.size
        return value

    def numbers(self, codes: str) -> tuple[int, ...]:
        """Return numbers of one size that follow each other, aligned to that size."""
        layout = _layout(self._order + codes)
        at = self._at + -self._at % (layout.size // len(codes))
        values = layout.unpack_from(self._body, at)
        self._at = at + layout.size
        return values

    def string(self) -> str:
        """Return a string; its stored length includes a final NUL."""
        length = self.take("I")
        if length > _MAX_NAME_BYTES:
            raise ValueError(f"a name of {length} bytes")
        return text(bytes(self._take_bytes(length)))

    def name_bytes_at(self, at: int) -> int:
        """Return the stored length of a string at a place; the cursor stays."""
        length: int = _layout(self._order + "I").unpack_from(self._body, at)[0]
        if length > _MAX_NAME_BYTES:
            raise ValueError(f"a name of {length} bytes")
        return length

    def layout(self, codes: str) -> struct.Struct:
        """Return a layout in the byte order of the message."""
        return _layout(self._order + codes)

    def head(self, layout: struct.Struct) -> tuple[Any, ...]:
        """Return the values at the begin of the message; the cursor stays."""
        return layout.unpack_from(self._body)

    def bytes_from(self, at: int, count: int) -> npt.NDArray[np.uint8]:
        """Return so many bytes from a place on as a view, uint8 [count]; the cursor stays."""
        left = len(self._body) - at
        if count > left:
            raise ValueError(f"{count} bytes announced, {max(left, 0)} left")
        return np.frombuffer(self._body, np.uint8, count, at)

    def payload(self) -> npt.NDArray[np.uint8]:
        """Return a sequence of bytes as a view, uint8 [N]."""
        return np.frombuffer(self._take_bytes(self.take("I")), np.uint8)

    def stamp_ns(self) -> int:
        """Return a time stamp in nanoseconds."""
        seconds, nanoseconds = self.numbers("iI")
        return seconds * 1_000_000_000 + nanoseconds

    def _take_bytes(self, length: int) -> memoryview:
        left = len(self._body) - self._at
        if length > left:
            raise ValueError(f"{length} bytes announced, {max(left, 0)} left")
        taken = self._body[self._at : self._at + length]
        self._at += length
        return taken


def aligned(at: int, size: int) -> int:
    """Return the first place from `at` on for a number of so many bytes."""
    return at + -at % size


@lru_cache(maxsize=64)
def text(stored: bytes) -> str:
    """Return a stored string; a camera's are the same with each message."""
    return stored.rstrip(b"\0").decode("utf-8", "replace")


@lru_cache(maxsize=64)
def _layout(codes: str) -> struct.Struct:
    return struct.Struct(codes)


class CdrWriter:
    """Appends values with CDR alignment, little endian."""

    def __init__(self) -> None:
        self._body = bytearray()

    def put(self, codes: str, *values: int) -> None:
        """Append numbers, each aligned to its own size; struct.error for one that does not fit."""
        body = self._body
        for code, value in zip(codes, values, strict=True):
            number = struct.pack("<" + code, value)
            body += bytes(-len(body) % len(number))
            body += number

    def string(self, text: str) -> None:
        """Append a string with its length and a final NUL."""
        raw = text.encode() + b"\0"
        self.put("I", len(raw))
        self._body += raw

    def head(self) -> bytes:
        """Return what was appended, with the encapsulation before it."""
        return b"\x00\x01\x00\x00" + self._body
