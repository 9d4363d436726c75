"""The messages in HDF5 object headers (file format specification, version 3, section IV.A), parsed with bounds.

Only what files of numbers need: dataspaces, whole numbers, floats, fixed texts, enumerations and tables of them,
storage layouts, filters, and attributes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from snn_perception.events.hdf5_filters import Filter

MAX_RANK = 32
MAX_MEMBERS = 64
MAX_NAME_BYTES = 1 << 12
UNDEFINED = (1 << 64) - 1


class BadStructure(ValueError):
    """An HDF5 file's own structures are damaged, or of a kind that is not read here."""


class Cursor:
    """Little-endian numbers from bytes, one after the other; never beyond their end."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data, self.at = data, at

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        if count < 0 or self.at + count > len(self.data):
            raise BadStructure("a structure ends early")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, width: int) -> int:
        """Return the next unsigned number of `width` bytes."""
        return int.from_bytes(self.take(width), "little")

    def text(self, *, padded: bool) -> str:
        """Return the text up to a zero byte; `padded` to a multiple of 8 bytes."""
        end = self.data.find(b"\0", self.at, self.at + MAX_NAME_BYTES)
        if end < 0:
            raise BadStructure("a name does not end")
        raw = self.take(end - self.at + 1)[:-1]
        if padded:
            self.take(-(len(raw) + 1) % 8)
        return raw.decode("utf-8", "replace")


@dataclass(frozen=True)
class ItemType:
    """The type of a data set's items.

    Attributes:
        dtype: as NumPy has it; None for what is no plain number, text or table of them.
        what: in words, for messages.
        is_text_elsewhere: texts of any length, kept in a heap.
    """

    dtype: np.dtype[Any] | None
    what: str
    item_bytes: int
    is_text_elsewhere: bool = False


@dataclass(frozen=True)
class Layout:
    """Where the items lie: `inline`, or from `address` on, or in chunks that an index at `address` names.

    Attributes:
        item_bytes: size of an item, as chunks state it. is_newer: chunks have an index of HDF5 1.10.
    """

    address: int = UNDEFINED
    item_bytes: int = 0
    chunk: tuple[int, ...] | None = None
    inline: bytes | None = None
    is_newer: bool = False


def parse_shape(data: bytes) -> tuple[int, ...] | None:
    """Return the sides of a dataspace, () for a scalar, None for one that holds nothing."""
    cursor = Cursor(data)
    version, rank, flags = (cursor.number(1) for _ in range(3))
    if version not in (1, 2) or rank > MAX_RANK or flags & ~3:
        raise BadStructure(f"a dataspace of version {version} and rank {rank}")
    kind = cursor.number(1) if version == 2 else None
    cursor.take(5 if version == 1 else 0)
    if kind == 2:
        return None
    shape = tuple(cursor.number(8) for _ in range(rank))
    if any(side >= 1 << 62 for side in shape):
        raise BadStructure(f"an impossible shape {shape}")
    return shape


def parse_type(cursor: Cursor, depth: int = 0) -> ItemType:
    """Return the type described from the cursor on."""
    first = cursor.number(1)
    kind, version = first & 15, first >> 4
    bits, size = cursor.number(3), cursor.number(4)
    if not 1 <= version <= 5 or not size or depth > 4:
        raise BadStructure(f"a type of version {version} and {size} bytes")
    order = ">" if bits & 1 else "<"
    if kind == 0:
        offset, precision = cursor.number(2), cursor.number(2)
        sign = "i" if bits & 8 else "u"
        is_plain = size in (1, 2, 4, 8) and offset == 0 and precision == 8 * size
        return ItemType(np.dtype(f"{order}{sign}{size}") if is_plain else None, f"{size}-byte whole numbers", size)
    if kind == 1:
        cursor.take(12)
        return ItemType(np.dtype(f"{order}f{size}") if size in (2, 4, 8) else None, f"{size}-byte floats", size)
    if kind == 3:
        return ItemType(np.dtype(f"S{size}") if size <= 1 << 12 else None, "texts", size)
    if kind == 4:
        cursor.take(4)
        return ItemType(None, "bit fields", size)
    if kind == 6:
        return _parse_table(cursor, version, bits & 0xFFFF, size, depth)
    if kind == 8:
        base = parse_type(cursor, depth + 1)
        count = bits & 0xFFFF
        for _ in range(count):
            cursor.text(padded=version < 3)
        cursor.take(count * base.item_bytes)
        return ItemType(base.dtype if base.item_bytes == size else None, "enumerations", size)
    if kind == 9:
        parse_type(cursor, depth + 1)
        return ItemType(None, "texts of any length" if bits & 15 == 1 else "lists", size, bits & 15 == 1)
    return ItemType(None, f"items of HDF5 class {kind}", size)


def _parse_table(cursor: Cursor, version: int, count: int, size: int, depth: int) -> ItemType:
    if not 0 < count <= MAX_MEMBERS or size > 1 << 12:
        raise BadStructure(f"a table of {count} columns and {size} bytes")
    names, formats, offsets = [], [], []
    for _ in range(count):
        names.append(cursor.text(padded=version < 3))
        offsets.append(cursor.number(4 if version < 3 else max(1, -(-size.bit_length() // 8))))
        if version == 1:
            is_array = cursor.number(1) != 0
            cursor.take(27)
            if is_array:
                raise BadStructure("a table with arrays in it")
        member = parse_type(cursor, depth + 1)
        formats.append(member.dtype)
        if member.dtype is None or offsets[-1] + member.item_bytes > size:
            raise BadStructure(f"a table with {member.what} in it")
    if len(set(names)) < count:
        raise BadStructure("a table with two columns of one name")
    dtype = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": size})  # type: ignore[call-overload]
    return ItemType(dtype, "a table", size)


def parse_layout(data: bytes) -> Layout:
    """Return where a data set's items lie."""
    cursor = Cursor(data)
    version, kind = cursor.number(1), cursor.number(1)
    if version not in (3, 4, 5):
        raise BadStructure(f"a storage layout of version {version}")
    if kind == 0:
        return Layout(inline=cursor.take(cursor.number(2)))
    if kind == 1:
        return Layout(cursor.number(8))
    if kind == 3:
        raise BadStructure("data in another file, which is not followed")
    if kind != 2:
        raise BadStructure(f"a storage layout of class {kind}")
    cursor.take(0 if version == 3 else 1)
    rank = cursor.number(1)
    if not 2 <= rank <= MAX_RANK + 1:
        raise BadStructure(f"chunks of rank {rank - 1}")
    address = cursor.number(8) if version == 3 else UNDEFINED
    width = 4 if version == 3 else cursor.number(1)
    chunk = tuple(cursor.number(width) for _ in range(rank))
    if not all(chunk):
        raise BadStructure(f"chunks of the impossible shape {chunk[:-1]}")
    return Layout(address, chunk[-1], chunk[:-1], is_newer=version > 3)  # the last number is the size of an item


def parse_filters(data: bytes) -> tuple[Filter, ...]:
    """Return what chunks went through, in the order of writing."""
    cursor = Cursor(data)
    version, count = cursor.number(1), cursor.number(1)
    if version not in (1, 2) or count > 32:
        raise BadStructure(f"a list of {count} filters of version {version}")
    cursor.take(6 if version == 1 else 0)
    found = []
    for _ in range(count):
        number = cursor.number(2)
        name_bytes = cursor.number(2) if version == 1 or number >= 256 else 0
        cursor.take(2)
        values = cursor.number(2)
        cursor.take(name_bytes + (-name_bytes % 8 if version == 1 else 0))
        found.append(Filter(number, tuple(cursor.number(4) for _ in range(values))))
        cursor.take(4 if version == 1 and values % 2 else 0)
    return tuple(found)


def parse_attribute(data: bytes) -> tuple[str, ItemType, tuple[int, ...] | None, bytes]:
    """Return name, type, shape and raw bytes of an attribute."""
    cursor = Cursor(data)
    version, flags = cursor.number(1), cursor.number(1)
    if version not in (1, 2, 3) or flags & 3:
        raise BadStructure(f"an attribute of version {version}")
    lengths = [cursor.number(2) for _ in range(3)]
    cursor.take(1 if version == 3 else 0)
    parts = []
    for length in lengths:
        parts.append(cursor.take(length))
        cursor.take(-length % 8 if version == 1 else 0)
    name = parts[0].split(b"\0")[0].decode("utf-8", "replace")
    shape = parse_shape(parts[2])
    return name, parse_type(Cursor(parts[1])), shape, data[cursor.at :]
