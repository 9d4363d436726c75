"""The two layouts that torch.save has written: a zip archive, and before torch 1.6 a stream of pickles and storages.

Sources: torch ``serialization.py`` (``_save``, ``_legacy_save`` and their readers); ``inline_container.cc`` of caffe2.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import torch

from snn_perception.foreign.archive import Archive, read_tensor
from snn_perception.foreign.known import STORAGE_TYPES
from snn_perception.foreign.limits import MAX_ELEMENTS, MAX_PICKLE_BYTES, damaged, shown, unknown
from snn_perception.foreign.machine import Machine
from snn_perception.foreign.records import GlobalRef, StorageRef

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


class StorageSource(Protocol):
    """Where the weights of one file lie."""

    byteorder: str

    def read(self, key: str) -> torch.Tensor:
        """Return the bytes of a storage as a uint8 tensor in memory of its own."""
        ...


@dataclass
class _ZipStorages:
    archive: Archive
    byteorder: str

    def read(self, key: str) -> torch.Tensor:
        return self.archive.read(f"data/{key}")


def read_zip(file: BinaryIO, file_size: int, inert: Callable[[str], bool]) -> tuple[Any, StorageSource]:
    """Return the object in a torch zip archive, and the source of its storages."""
    archive = Archive(file, file_size)
    if "constants.pkl" in archive or any(name.startswith("code/") for name in archive.names()):
        raise unknown("is a TorchScript archive, which holds a program")
    if "data.pkl" not in archive:
        names = ", ".join(map(shown, archive.names()[:5]))
        raise unknown(f"is a zip archive that torch.save did not write (no data.pkl, but {names})")
    if archive.size("data.pkl") > MAX_PICKLE_BYTES:
        raise unknown(f"holds a pickle of {archive.size('data.pkl')} bytes, over the limit of {MAX_PICKLE_BYTES}")
    byteorder = "little"
    if "byteorder" in archive:
        mark = archive.read("byteorder").numpy().tobytes() if archive.size("byteorder") <= 6 else b"?"
        if mark not in (b"little", b"big"):
            raise damaged("names a byte order that is neither little nor big")
        byteorder = mark.decode()

    def load_storage(reference: tuple[Any, ...]) -> StorageRef:
        storage = _storage_ref(reference, 5)
        # torch writes an entry for an empty storage too; other writers may leave it out.
        held = archive.size(f"data/{storage.key}") if storage.numel else 0
        if held != storage.nbytes:
            raise damaged(f"holds {held} bytes for storage {shown(storage.key)} of {storage.nbytes}")
        return storage

    data = archive.read("data.pkl").numpy().tobytes()
    root, _ = Machine(load_storage, inert).run(data)
    return root, _ZipStorages(archive, byteorder)


@dataclass
class _LegacyStorages:
    file: BinaryIO
    extents: dict[str, tuple[int, int]]
    """First byte and length of each storage."""
    byteorder: str = "little"

    def read(self, key: str) -> torch.Tensor:
        return read_tensor(self.file, *self.extents[key])


def read_legacy(file: BinaryIO, file_size: int, inert: Callable[[str], bool]) -> tuple[Any, StorageSource]:
    """Return the object in a stream of torch before 1.6, and the source of its storages.

    Five pickles (magic number, protocol version, system, object, storage keys), then for each key its length and bytes.
    """
    file.seek(0)
    data = file.read(MAX_PICKLE_BYTES)
    storages: dict[str, StorageRef] = {}

    def load_storage(reference: tuple[Any, ...]) -> Any:
        if reference[:1] == ("module",) and len(reference) == 4 and isinstance(reference[1], GlobalRef):
            return reference[1]  # a class beside the text of its source file, for a warning when that has changed
        return _legacy_storage(reference, storages)

    machine = Machine(load_storage, inert)
    magic, at = machine.run(data)
    if type(magic) is not int or magic != LEGACY_MAGIC:
        raise unknown(f"is a pickle that torch.save did not write (it begins with a {type(magic).__name__})")
    version, at = machine.run(data, at)
    system, at = machine.run(data, at)
    if version != _LEGACY_PROTOCOL or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise unknown(f"is a torch stream of another version than {_LEGACY_PROTOCOL} or byte order than little")
    root, at = machine.run(data, at)
    keys, at = machine.run(data, at)
    if not isinstance(keys, list) or any(type(key) is not str for key in keys) or sorted(keys) != sorted(storages):
        raise damaged("lists other storages than its tensors use")
    extents = {}
    for key in keys:
        extents[key], at = _legacy_extent(file, at, file_size, storages[key])
    if at != file_size:
        raise damaged(f"goes on for {file_size - at} bytes after its last storage")
    return root, _LegacyStorages(file, extents)


def _legacy_storage(reference: tuple[Any, ...], storages: dict[str, StorageRef]) -> StorageRef:
    root, view = _storage_ref(reference[:5], 5), reference[5:]
    if storages.setdefault(root.key, root).nbytes != root.nbytes or len(view) != 1:
        raise damaged(f"describes storage {shown(root.key)} in two ways")
    if view[0] is None:
        return root
    if not isinstance(view[0], tuple) or len(view[0]) != 3 or any(type(number) is not int for number in view[0][1:]):
        raise damaged(f"holds a malformed view of storage {shown(root.key)}")
    _, start, numel = view[0]
    if start < 0 or numel < 0 or start + numel > root.numel:
        raise damaged(f"holds a view that reaches outside storage {shown(root.key)}")
    return StorageRef(root.key, root.dtype, numel, start)


def _legacy_extent(file: BinaryIO, at: int, file_size: int, storage: StorageRef) -> tuple[tuple[int, int], int]:
    file.seek(at)
    numel = int.from_bytes(file.read(8), "little", signed=True)
    begin, end = at + 8, at + 8 + storage.nbytes
    if end > file_size:
        raise damaged(f"ends inside storage {shown(storage.key)}, as when it was cut short")
    if numel != storage.numel:
        raise damaged(f"holds {numel} elements for storage {shown(storage.key)} of {storage.numel}")
    return (begin, storage.nbytes), end


def _storage_ref(reference: tuple[Any, ...], length: int) -> StorageRef:
    """Return the storage that ``("storage", type, key, device, elements)`` describes; the device is of no interest."""
    if len(reference) != length or reference[0] != "storage" or type(reference[2]) is not str or len(reference[2]) > 64:
        raise damaged("refers to data outside its pickle in a way that torch.save does not")
    kind, key, numel = reference[1], reference[2], reference[4]
    if not isinstance(kind, GlobalRef) or kind.name not in STORAGE_TYPES:
        raise unknown(f"holds a storage of type {shown(getattr(kind, 'name', kind))}")
    if type(numel) is not int or not 0 <= numel <= MAX_ELEMENTS:
        raise damaged(f"holds a storage of {shown(numel)} elements")
    return StorageRef(key, STORAGE_TYPES[kind.name], numel)
