"""The zip directory of a torch archive, checked so that each byte of the file belongs to one entry at most.

torch stores its entries uncompressed, so nothing is ever inflated here and no entry can be larger than the file.
Source: PKWARE APPNOTE 6.3.9, sections 4.3.7 (local header), 4.3.12 (directory), 4.3.14 to 4.3.16 (end records) and
4.5.3 (zip64 extra field).
"""

import struct
import zlib
from dataclasses import dataclass
from typing import BinaryIO

import torch

from snn_perception.foreign.limits import MAX_ARCHIVE_ENTRIES, Refusal, damaged, shown, unknown

_END, _END64, _LOCATOR64 = struct.Struct("<4s4H2IH"), struct.Struct("<4sQ2H2I4Q"), struct.Struct("<4sIQI")
_ENTRY, _LOCAL = struct.Struct("<4s6H3I5H2I"), struct.Struct("<4s5H3I2H")
_ENCRYPTED = 1 << 0 | 1 << 6 | 1 << 13


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one member of the archive lies; `checksum` is None where the writer made none."""

    name: bytes
    header_at: int
    size: int
    checksum: int | None


class Archive:
    """The stored entries of an open zip file by name, without the top folder that they share."""

    def __init__(self, file: BinaryIO, file_size: int) -> None:
        """Read the directory only; raise Refusal where it is not one that torch writes."""
        self._file = file
        count, directory_size, self._directory_at = _find_directory(file, file_size)
        if count > MAX_ARCHIVE_ENTRIES:
            raise damaged(f"is a zip archive of {count} entries, over the limit of {MAX_ARCHIVE_ENTRIES}")
        entries = _parse_directory(_read_at(file, self._directory_at, directory_size), count)
        _check_extents(entries, self._directory_at)
        self.folder, self._entries = _by_name(entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def names(self) -> list[str]:
        """Return the entries' names in the order of the directory."""
        return list(self._entries)

    def size(self, name: str) -> int:
        """Return the bytes of an entry, or raise Refusal where there is none of that name."""
        if name not in self._entries:
            raise damaged(f"has no entry {shown(name)} in its zip archive")
        return self._entries[name].size

    def read(self, name: str) -> torch.Tensor:
        """Return an entry's bytes as a uint8 tensor [size] of its own, checked against the stored checksum."""
        size, entry = self.size(name), self._entries[name]
        header = _read_at(self._file, entry.header_at, _LOCAL.size)
        signature, _, _, method, *_, name_length, extra_length = _LOCAL.unpack(header)
        begin = entry.header_at + _LOCAL.size + name_length + extra_length
        if signature != b"PK\x03\x04" or method != 0 or begin + size > self._directory_at:
            raise damaged(f"has no valid zip header before entry {shown(name)}")
        if _read_at(self._file, entry.header_at + _LOCAL.size, name_length) != entry.name:
            raise damaged(f"names entry {shown(name)} differently in its zip header")
        content = read_tensor(self._file, begin, size)
        if entry.checksum is not None and zlib.crc32(content.numpy().data) != entry.checksum:
            raise damaged(f"fails the checksum of zip entry {shown(name)}")
        return content


def read_tensor(file: BinaryIO, begin: int, size: int) -> torch.Tensor:
    """Return `size` bytes from `begin` as a uint8 tensor of its own; the caller knows that the file holds them."""
    content = torch.empty(size, dtype=torch.uint8)
    file.seek(begin)
    if size and file.readinto(content.numpy()) != size:  # type: ignore[attr-defined]
        raise Refusal("became shorter while it was read; wait until it is written and try again")
    return content


def _read_at(file: BinaryIO, begin: int, size: int) -> bytes:
    file.seek(begin)
    return file.read(size)


def _find_directory(file: BinaryIO, file_size: int) -> tuple[int, int, int]:
    """Return (entries, bytes, position) of the directory from the end record, in its 32 or 64 bit form."""
    end_at = file_size - _END.size
    if end_at < 0 or not (tail := _read_at(file, end_at, _END.size)).startswith(b"PK\x05\x06"):
        raise damaged("is a zip archive without its directory at the end, as when it was cut short")
    _, disk, start_disk, here, count, size, position, comment = _END.unpack(tail)
    limit = end_at
    if 0xFFFF in (here, count) or 0xFFFFFFFF in (size, position):
        locator_at = end_at - _LOCATOR64.size
        locator = _read_at(file, max(locator_at, 0), _LOCATOR64.size)
        if locator_at < 0 or not locator.startswith(b"PK\x06\x07"):
            raise damaged("lacks the 64-bit end record of its zip archive")
        limit = _LOCATOR64.unpack(locator)[2]
        if limit > locator_at - _END64.size:
            raise damaged("points outside itself from its zip end record")
        signature, *_, disk, start_disk, here, count, size, position = _END64.unpack(_read_at(file, limit, _END64.size))
        if signature != b"PK\x06\x06":
            raise damaged("lacks the 64-bit end record of its zip archive")
    if disk or start_disk or here != count or comment or position + size > limit or count * _ENTRY.size > size:
        raise damaged("has an inconsistent zip end record")
    return count, size, position


def _parse_directory(raw: bytes, count: int) -> list[Entry]:
    entries, at = [], 0
    for _ in range(count):
        if at + _ENTRY.size > len(raw):
            raise damaged(f"has a zip directory shorter than its {count} entries")
        fields = _ENTRY.unpack_from(raw, at)
        signature, _, _, flags, method, _, _, checksum, packed, size, *lengths, disk, _, _, header_at = fields
        name_at, extra_at = at + _ENTRY.size, at + _ENTRY.size + lengths[0]
        at = extra_at + lengths[1] + lengths[2]
        name, extra = raw[name_at:extra_at], raw[extra_at : extra_at + lengths[1]]
        if signature != b"PK\x01\x02" or at > len(raw):
            raise damaged("has a malformed zip directory")
        size, packed, header_at = _widened(extra, size, packed, header_at)
        if flags & _ENCRYPTED:
            raise Refusal(f"holds the encrypted zip entry {shown(_decoded(name))}; write it again without encryption")
        if method != 0 or packed != size or disk:
            raise Refusal(
                f"holds the compressed zip entry {shown(_decoded(name))}, but torch.save stores entries as they are; "
                "unpack the archive and pack it again without compression (zip -0 -r)"
            )
        entries.append(Entry(name, header_at, size, checksum))
    return entries


def _widened(extra: bytes, *numbers: int) -> list[int]:
    """Replace each 32-bit field of all ones by its 64-bit value from extra field 1, which lists them in this order."""
    wide, at = b"", 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            wide = extra[at + 4 : at + 4 + length]
        at += 4 + length
    result = list(numbers)
    for index, number in enumerate(numbers):
        if number == 0xFFFFFFFF and len(wide) >= 8:
            result[index], wide = struct.unpack_from("<Q", wide)[0], wide[8:]
    return result


def _check_extents(entries: list[Entry], directory_at: int) -> None:
    ordered = sorted(entries, key=lambda entry: entry.header_at)
    ends = [*(entry.header_at for entry in ordered), directory_at][1:]
    for entry, end in zip(ordered, ends, strict=True):
        if entry.header_at + _LOCAL.size + len(entry.name) + entry.size > end:
            raise damaged(f"has zip entry {shown(_decoded(entry.name))} reach into what follows it")


def _by_name(entries: list[Entry]) -> tuple[str, dict[str, Entry]]:
    """Return the shared top folder, and the entries by their names inside it."""
    folders, found = set(), {}
    without_checksums = all(entry.checksum == 0 for entry in entries)  # torch.serialization.set_crc32_options(False)
    for entry in entries:
        path = _decoded(entry.name)
        folder, _, name = path.partition("/")
        if not folder or set(path.removesuffix("/").split("/")) & {"", ".", ".."} or "\\" in path or "\0" in path:
            raise damaged(f"holds a zip entry named {shown(path)}, which torch.save does not write")
        folders.add(folder)
        if path.endswith("/"):
            continue  # a folder, where someone packed the archive again
        if not name or name in found:
            raise damaged(f"holds zip entry {shown(path)} twice or beside its top folder")
        checksum = None if without_checksums else entry.checksum
        found[name] = Entry(entry.name, entry.header_at, entry.size, checksum)
    if len(folders) != 1:
        names = ", ".join(sorted(map(shown, folders))[:5])
        raise unknown(f"is a zip archive with {len(folders)} top folders ({names}) instead of one")
    return folders.pop(), found


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "replace")
