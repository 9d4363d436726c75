"""The bytes of an HDF5 file, and the headers of its objects: lists of messages."""

from __future__ import annotations

import io
from collections.abc import Iterator

from snn_perception.events.hdf5_messages import BadStructure, Cursor

MAGIC = b"\x89HDF\r\n\x1a\n"
MAX_HEADER_BYTES = 1 << 20
MAX_STRUCTURE_BYTES = 1 << 24
MORE = 0x10  # the message that says where a header goes on

Message = tuple[int, int, bytes]  # kind, flags, content


class FileBytes:
    """An opened file's bytes.

    Attributes:
        end: length of the file. base: where the addresses in its structures count from.
    """

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self.end = file.seek(0, io.SEEK_END)
        self.base = 0

    def at(self, address: int, count: int) -> bytes:
        """Return a structure's bytes at an address as the file states it; raise BadStructure beyond the end."""
        if count > MAX_STRUCTURE_BYTES:
            raise BadStructure("a structure is too long")
        return self.read(self.base + address, count)

    def read(self, offset: int, count: int) -> bytes:
        """Return bytes from the start of the file on; raise BadStructure beyond its end."""
        if not 0 <= offset <= self.end - count:
            raise BadStructure("something lies beyond the end of the file")
        self._file.seek(offset)
        parts = []
        while count and (part := self._file.read(count)):
            parts.append(part)
            count -= len(part)
        if count:
            raise BadStructure("the file ended while it was read")
        return parts[0] if len(parts) == 1 else b"".join(parts)


def has_checksums(source: FileBytes, address: int) -> bool:
    """Return whether an object has a header of the newer kind."""
    return source.at(address, 4) == b"OHDR"


def object_messages(source: FileBytes, address: int) -> list[Message]:
    """Return every message of the object at an address; raise BadStructure for a damaged header."""
    start = source.at(address, 16)
    return list(_newer(source, address) if start[:4] == b"OHDR" else _older(source, address, start))


def _older(source: FileBytes, address: int, start: bytes) -> Iterator[Message]:
    head = Cursor(start)
    if head.number(1) != 1:
        raise BadStructure("an object header is damaged")
    head.take(1)
    count, _, size = head.number(2), head.number(4), head.number(4)
    waiting, budget = [(address + 16, size)], MAX_HEADER_BYTES
    while waiting and count:
        where, size = waiting.pop(0)
        budget -= size + 1
        if budget < 0:
            raise BadStructure("an object header is too long")
        block = Cursor(source.at(where, size))
        while count and block.at + 8 <= len(block.data):
            kind, length, flags = block.number(2), block.number(2), block.number(1)
            block.take(3)
            data = block.take(length)
            count -= 1
            if kind == MORE:
                more = Cursor(data)
                waiting.append((more.number(8), more.number(8)))
            yield kind, flags, data


def _newer(source: FileBytes, address: int) -> Iterator[Message]:
    head = Cursor(source.at(address, min(64, source.end - source.base - address)), 4)
    version, flags = head.number(1), head.number(1)
    if version != 2:
        raise BadStructure("an object header is damaged")
    head.take((16 if flags & 32 else 0) + (4 if flags & 16 else 0))
    size = head.number(1 << (flags & 3))
    waiting, budget = [(address + head.at, size)], MAX_HEADER_BYTES
    while waiting:
        where, size = waiting.pop(0)
        budget -= size + 1
        if budget < 0:
            raise BadStructure("an object header is too long")
        block = Cursor(source.at(where, size))
        while block.at + (6 if flags & 4 else 4) <= len(block.data):
            kind, length, message_flags = block.number(1), block.number(2), block.number(1)
            block.take(2 if flags & 4 else 0)
            data = block.take(length)
            if kind == MORE:
                more = Cursor(data)
                start, size = more.number(8), more.number(8)
                if source.at(start, 4) != b"OCHK" or size < 8:
                    raise BadStructure("an object header is damaged")
                waiting.append((start + 4, size - 8))  # between its name and its checksum
            yield kind, message_flags, data
