"""The structures of an HDF5 file, read without the HDF5 library as far as most files go.

The library corrupts its process's memory, crashes or never returns on some damaged files, where structures have no
checksums. Read here: superblocks 0 to 3, object headers 1 and 2, groups with symbol tables or plain links, and chunks
named by version-1 B-trees (file format specification, version 3), which is how h5py writes unless told otherwise. For
the rest of what newer files have, all with checksums, `hdf5_library` asks the library.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from snn_perception.events.hdf5_chunks import ChunkTable
from snn_perception.events.hdf5_filters import Filter
from snn_perception.events.hdf5_library import LibraryFile
from snn_perception.events.hdf5_messages import (
    UNDEFINED,
    BadStructure,
    Cursor,
    ItemType,
    Layout,
    parse_attribute,
    parse_filters,
    parse_layout,
    parse_shape,
    parse_type,
)
from snn_perception.events.hdf5_objects import (
    MAGIC,
    MAX_HEADER_BYTES,
    MAX_STRUCTURE_BYTES,
    FileBytes,
    Message,
    has_checksums,
    object_messages,
)

MAX_NAMES = 1 << 16
_SHAPE, _LINK_INFO, _TYPE, _LINK, _EXTERNAL, _LAYOUT, _FILTERS = 0x01, 0x02, 0x03, 0x06, 0x07, 0x08, 0x0B
_ATTRIBUTE, _NAMES = 0x0C, 0x11
LINKED = -1  # stands for the address of what lies behind a link
_SHARED = 2  # flag of a message that lies elsewhere


@dataclass(frozen=True, eq=False)
class StoredData:
    """A data set: what its items are and where they lie in the file.

    Attributes:
        shape: None for one that holds nothing, () for a scalar.
        chunk: sides of a chunk; None for data in one piece, which lie at `address` or are `inline`.
        load_chunks: looks up where they lie.
    """

    name: str
    shape: tuple[int, ...] | None
    item: ItemType
    chunk: tuple[int, ...] | None
    filters: tuple[Filter, ...]
    address: int = UNDEFINED
    inline: bytes | None = None
    load_chunks: Callable[[], ChunkTable] | None = None


class Structure:
    """An opened file's groups, data sets and attributes.

    Args:
        path: the file.
        file: the same, open for reading; it stays the caller's. `close` ends the use of both.

    Raises:
        BadStructure: if the file is none of these, or damaged.
    """

    def __init__(self, path: Path, file: io.FileIO) -> None:
        self._source, self._library = FileBytes(file), LibraryFile(path)
        self._headers: dict[int, list[Message]] = {}
        self._groups: dict[int, dict[str, int]] = {}
        start = self._find_start()
        head = Cursor(self._source.read(start, min(self._source.end - start, 96)), len(MAGIC))
        version = head.number(1)
        if version > 3:
            raise BadStructure(f"a superblock of version {version}")
        head.take(0 if version > 1 else 4)
        if (head.number(1), head.number(1)) != (8, 8):
            raise BadStructure("addresses of other than 8 bytes")
        head.take(1 if version > 1 else 9 + 4 * version)
        base = head.number(8)
        head.take(8)
        if head.number(8) - base > self._source.end - start:
            raise BadStructure("the file is cut off")
        head.take(0 if version > 1 else 16)
        self._source.base, self._root = start, head.number(8)

    def _find_start(self) -> int:
        """Return where the superblock lies: at 0, or behind a block of the user's own of 512, 1024, ... bytes."""
        start = 0
        while start + len(MAGIC) <= self._source.end:
            if self._source.read(start, len(MAGIC)) == MAGIC:
                return start
            start = max(512, 2 * start)
        raise BadStructure("it does not begin as HDF5 files do")

    def close(self) -> None:
        """Let go of the file."""
        self._library.close()

    def read(self, address: int, count: int) -> bytes:
        """Return bytes of data; address as `StoredData` and `ChunkTable` have it."""
        return self._source.read(address, count)

    def find(self, name: str) -> StoredData | None:
        """Return the data set called `name` (``group/name``), None where there is none."""
        address = self._address(name)
        if address is None:
            return None
        messages = self._messages(address)
        kinds = {kind for kind, *_ in messages}
        return self._stored(name, address) if {_SHAPE, _TYPE, _LAYOUT} <= kinds else None

    def _address(self, name: str) -> int | None:
        """Return the address of the object called `name`, None where there is none."""
        address = self._root
        for part in name.split("/"):
            found = self._links(address).get(part)
            if found is None:
                return self._library.address(name) if self._has_dense_links(address) else None
            address = found
        return address

    def _has_dense_links(self, address: int) -> bool:
        """Return whether a group keeps its names in a heap of its own, which has checksums."""
        return has_checksums(self._source, address) and any(
            kind == _LINK_INFO and len(data) >= 10 and _heap_of_links(Cursor(data)) != UNDEFINED
            for kind, _, data in self._messages(address)
        )

    def names(self) -> list[str]:
        """Return the names in the root group."""
        return sorted(self._links(self._root))

    def attribute(self, group: str, name: str) -> Any:
        """Return an attribute of one number or text of a group ("" for the root); None where there is no such one."""
        address = self._links(self._root).get(group) if group else self._root
        for kind, flags, data in self._messages(address) if address is not None else []:
            if kind == _ATTRIBUTE and not flags & _SHARED:
                try:
                    found, item, shape, raw = parse_attribute(data)
                except BadStructure:
                    continue  # one of another kind
                if found == name and shape is not None and shape in ((), (1,)):
                    return self._value(item, raw)
        return None

    def _value(self, item: ItemType, raw: bytes) -> Any:
        if item.is_text_elsewhere:
            cursor = Cursor(raw)
            return self._heap_text(cursor.number(4), cursor.number(8), cursor.number(4))
        if item.dtype is None or item.dtype.names or len(raw) < item.item_bytes:
            return None
        value = np.frombuffer(raw, item.dtype, 1)[0].item()
        return value.split(b"\0")[0].decode("utf-8", "replace") if isinstance(value, bytes) else value

    def _heap_text(self, length: int, address: int, number: int) -> str:
        """Return a text of a global heap collection."""
        head = Cursor(self._source.at(address, 16))
        if head.take(4) != b"GCOL":
            raise BadStructure("a text lies in no heap")
        head.take(4)
        cursor = Cursor(self._source.at(address, min(head.number(8), MAX_HEADER_BYTES)), 16)
        while cursor.at + 16 <= len(cursor.data):
            index = cursor.number(2)
            cursor.take(6)
            size = cursor.number(8)
            if index == 0:
                break
            content = cursor.take(size)
            if index == number:
                return content[:length].decode("utf-8", "replace")
            cursor.take(-size % 8)
        raise BadStructure("a text is missing from its heap")

    def _stored(self, name: str, address: int) -> StoredData:
        last = {kind: (flags, data) for kind, flags, data in self._messages(address)}
        for kind in (_SHAPE, _TYPE, _LAYOUT, _FILTERS):
            if kind in last and last[kind][0] & _SHARED:
                raise BadStructure(f"{name} shares its description with others")
        if _EXTERNAL in last:
            raise BadStructure(f"{name} lies in another file, which is not followed")
        shape, item = parse_shape(last[_SHAPE][1]), parse_type(Cursor(last[_TYPE][1]))
        layout = parse_layout(last[_LAYOUT][1])
        if layout.chunk is None:
            where = layout.address if layout.address == UNDEFINED else self._source.base + layout.address
            return StoredData(name, shape, item, None, (), where, layout.inline)
        if shape is None or len(shape) != len(layout.chunk) or layout.item_bytes != item.item_bytes:
            raise BadStructure(f"{name} of shape {shape} has chunks of shape {layout.chunk}")
        if layout.is_newer and not has_checksums(self._source, address):
            raise BadStructure(f"{name} of HDF5 1.10 under a header of 1.8")
        filters = parse_filters(last[_FILTERS][1]) if _FILTERS in last else ()
        return StoredData(name, shape, item, layout.chunk, filters, load_chunks=self._loader(name, shape, layout))

    def _loader(self, name: str, shape: tuple[int, ...], layout: Layout) -> Callable[[], ChunkTable]:
        def load() -> ChunkTable:
            assert layout.chunk is not None
            table = ChunkTable(shape, layout.chunk)
            if layout.is_newer:
                self._library.list_chunks(name, table, self._source.end)
            elif layout.address != UNDEFINED:
                self._list_chunks(layout.address, len(shape), table)
            return table

        return load

    def _list_chunks(self, address: int, rank: int, table: ChunkTable) -> None:
        """Put where the chunks lie into a table, from the B-tree that names them."""
        key = np.dtype([("size", "<u4"), ("skipped", "<u4"), ("offset", "<u8", (rank + 1,)), ("child", "<u8")])
        for level, entries in self._tree(address, 1, key):
            if level == 0:
                where = entries["child"].astype(np.int64) + self._source.base
                table.add(entries["offset"][:, :-1], where, entries["size"], entries["skipped"])

    def _tree(self, address: int, kind: int, key: np.dtype[Any]) -> Iterator[tuple[int, Any]]:
        """Yield (level, its entries, structured [K]) for every node of a version-1 B-tree; each is read once."""
        waiting, seen = [(address, -1)], set()
        while waiting:
            address, level = waiting.pop()
            head = Cursor(self._source.at(address, 24))
            node = (head.take(4), head.number(1), head.number(1))
            if node[:2] != (b"TREE", kind) or (level >= 0 and node[2] != level) or address in seen:
                raise BadStructure("an index of it is damaged")
            seen.add(address)
            count = head.number(2)
            entries = np.frombuffer(self._source.at(address + 24, count * key.itemsize), key)
            yield node[2], entries
            if node[2]:
                waiting += ((int(child), node[2] - 1) for child in entries["child"])

    def _links(self, address: int) -> dict[str, int]:
        """Return the address of each member of a group, by name; empty for what is no group."""
        if address in self._groups:
            return self._groups[address]
        links: dict[str, int] = {}
        for kind, flags, data in self._messages(address):
            if kind == _NAMES and not flags & _SHARED:
                for name, child in self._symbols(Cursor(data)):
                    links[name] = child
                    if len(links) > MAX_NAMES:
                        break
            elif kind == _LINK and not flags & _SHARED:
                links.update(_plain_link(Cursor(data)))
            if len(links) > MAX_NAMES:
                raise BadStructure(f"a group holds over {MAX_NAMES} names")
        self._groups[address] = links
        return links

    def _symbols(self, table: Cursor) -> Iterator[tuple[str, int]]:
        """Yield (name, address) from a symbol table: a B-tree of lists, and a heap of their names."""
        tree, heap = table.number(8), table.number(8)
        head = Cursor(self._source.at(heap, 32))
        if head.take(4) != b"HEAP":
            raise BadStructure("a group has no names")
        head.take(4)
        names_bytes, _, where = head.number(8), head.number(8), head.number(8)
        names = Cursor(self._source.at(where, min(names_bytes, MAX_STRUCTURE_BYTES)))
        key = np.dtype([("first", "<u8"), ("child", "<u8")])
        children: set[int] = set()  # each list belongs to one place in the tree
        for level, entries in self._tree(tree, 0, key):
            children.update(entries["child"].tolist() if level == 0 else [])
        for child in sorted(children):
            yield from self._symbol_node(child, names)

    def _symbol_node(self, address: int, names: Cursor) -> Iterator[tuple[str, int]]:
        head = Cursor(self._source.at(address, 8))
        if head.take(4) != b"SNOD":
            raise BadStructure("a list of names is damaged")
        head.take(2)
        entries = Cursor(self._source.at(address + 8, 40 * head.number(2)))
        while entries.at < len(entries.data):
            at, header, kind = entries.number(8), entries.number(8), entries.number(4)
            entries.take(20)
            name = Cursor(names.data, min(at, len(names.data))).text(padded=False)
            yield name, LINKED if kind == 2 or header == UNDEFINED else header

    def _messages(self, address: int) -> list[Message]:
        """Return (kind, flags, data) of every message of an object header."""
        if address == LINKED:
            raise BadStructure("a name on the way is a link to elsewhere, which is not followed; copy the data in")
        if address not in self._headers:
            self._headers[address] = object_messages(self._source, address)
        return self._headers[address]


def _plain_link(cursor: Cursor) -> Iterator[tuple[str, int]]:
    """Yield the name and address that a link message holds."""
    version, flags = cursor.number(1), cursor.number(1)
    if version != 1:
        raise BadStructure(f"a link of version {version}")
    kind = cursor.number(1) if flags & 8 else 0
    cursor.take((8 if flags & 4 else 0) + (1 if flags & 16 else 0))
    name = cursor.take(cursor.number(1 << (flags & 3))).decode("utf-8", "replace")
    yield name, cursor.number(8) if kind == 0 else LINKED


def _heap_of_links(cursor: Cursor) -> int:
    """Return the address of the heap that a link info message names."""
    cursor.take(1)
    cursor.take(8 if cursor.number(1) & 1 else 0)
    return cursor.number(8)
