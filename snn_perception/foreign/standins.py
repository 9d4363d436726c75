"""Plain values in place of what torch, the standard library and NumPy would have made from the same arguments."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from snn_perception.foreign.limits import MAX_DIMENSIONS, Budget, checked_size, damaged, shown, unknown
from snn_perception.foreign.records import ArrayRecord, ArrayType, StorageRef, TensorRecord, itemsize

Args = tuple[Any, ...]
StandIn = Callable[[Args, Budget], Any]


def expect(condition: bool, what: str) -> None:
    """Raise Refusal unless arguments are as torch.save writes them."""
    if not condition:
        raise damaged(f"holds a malformed {what}")


# Tensors


def tensor(args: Args, budget: Budget) -> TensorRecord:
    """Stand in for ``_rebuild_tensor(storage, offset, size, stride)``; version 2 has 2 or 3 arguments more."""
    expect(len(args) in (4, 6, 7) and isinstance(args[0], StorageRef), "tensor")
    return _view(args[0], args[0].dtype, args[1:4], metadata=args[6:])


def tensor_v3(args: Args, budget: Budget) -> TensorRecord:
    """Stand in for ``_rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype[, metadata])``."""
    expect(len(args) in (7, 8) and isinstance(args[0], StorageRef) and isinstance(args[6], torch.dtype), "tensor")
    return _view(args[0], args[6], args[1:4], metadata=args[7:])


def _view(storage: StorageRef, dtype: torch.dtype, extent: Args, *, metadata: Args) -> TensorRecord:
    """Return a tensor record once all its elements are known to lie inside the storage."""
    if any(metadata):
        raise unknown("holds a lazily conjugated or negated tensor")
    offset, size, stride = extent[0], checked_size(extent[1], "a tensor's size"), _checked_stride(extent[2])
    expect(type(offset) is int and offset >= 0 and len(size) == len(stride), "tensor (offset or strides)")
    expect(storage.start * itemsize(storage.dtype) % itemsize(dtype) == 0, "tensor (alignment)")
    last = offset + sum((dim - 1) * step for dim, step in zip(size, stride, strict=True))
    held = storage.nbytes // itemsize(dtype)
    if 0 not in size and last >= held:
        raise damaged(
            f"holds a tensor of size {shown(str(size))}, strides {shown(str(stride))} and offset {shown(offset)}, "
            f"which reaches outside its storage of {held} elements"
        )
    return TensorRecord(storage, dtype, offset, size, stride)


def _checked_stride(stride: Any) -> tuple[int, ...]:
    expect(isinstance(stride, (tuple, list)) and len(stride) <= MAX_DIMENSIONS, "tensor (strides)")
    expect(all(type(step) is int and 0 <= step < 1 << 62 for step in stride), "tensor (strides)")
    return tuple(stride)


def parameter(args: Args, budget: Budget) -> TensorRecord:
    """Stand in for ``_rebuild_parameter(tensor, requires_grad, hooks[, state])``."""
    expect(len(args) in (3, 4) and isinstance(args[0], TensorRecord), "parameter")
    record: TensorRecord = args[0]
    return record


# Containers and plain values


def ordered_dict(args: Args, budget: Budget) -> dict[Any, Any]:
    """Stand in for ``OrderedDict``; Python 2 passed a list of pairs, Python 3 sets the items afterwards."""
    pairs = args[0] if args else []
    expect(len(args) <= 1 and isinstance(pairs, list), "OrderedDict")
    budget.spend_copy(64 * len(pairs))
    expect(all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs), "OrderedDict")
    for key, _ in pairs:
        budget.check_key(key)
    return dict(pairs)


def default_dict(args: Args, budget: Budget) -> dict[Any, Any]:
    """Stand in for ``defaultdict``, without the factory: it makes values that are not in the file."""
    return {}


def same_dict(args: Args, budget: Budget) -> dict[Any, Any]:
    """Stand in for ``Counter`` and other dicts made from a dict."""
    expect(not args or (len(args) == 1 and isinstance(args[0], dict)), "Counter or AttributeDict")
    return args[0] if args else {}


def members(args: Args, budget: Budget) -> set[Any]:
    """Stand in for ``set`` and ``frozenset``."""
    items = args[0] if args else ()
    expect(len(args) <= 1 and isinstance(items, (list, tuple)), "set")
    budget.spend_copy(64 * len(items))
    for item in items:
        budget.check_key(item)
    return set(items)


def empty_list(args: Args, budget: Budget) -> list[Any]:
    """Stand in for ``deque([][, maxlen])``, whose items are appended afterwards."""
    expect(not args or args[0] in ([], ()), "deque")
    return []


def size(args: Args, budget: Budget) -> tuple[int, ...]:
    """Stand in for ``torch.Size``."""
    expect(len(args) == 1, "torch.Size")
    return checked_size(args[0], "a torch.Size")


def text(args: Args, budget: Budget) -> str:
    """Stand in for what is a text in effect: a memory layout, torch's version."""
    expect(len(args) == 1 and isinstance(args[0], str), "text")
    return str(args[0])


def device(args: Args, budget: Budget) -> str:
    """Stand in for ``torch.device('cuda', 0)``: ``cuda:0``."""
    expect(len(args) in (1, 2) and isinstance(args[0], str) and len(args[0]) < 32, "torch.device")
    expect(len(args) == 1 or type(args[1]) is int, "torch.device")
    return ":".join(map(str, args))


def posix_path(args: Args, budget: Budget) -> str:
    """Stand in for ``PosixPath('/', 'data', 'gen1')``: ``/data/gen1``."""
    return _path(args, "/", budget)


def windows_path(args: Args, budget: Budget) -> str:
    """Stand in for ``WindowsPath('C:\\\\', 'data')``: ``C:\\\\data``."""
    return _path(args, "\\", budget)


def _path(parts: Args, separator: str, budget: Budget) -> str:
    expect(len(parts) <= 256 and all(isinstance(part, str) for part in parts), "path")
    budget.spend_copy(sum(map(len, parts)))
    root = 1 if parts and parts[0].endswith(separator) else 0
    return "".join(parts[:root]) + separator.join(parts[root:])


def encoded(args: Args, budget: Budget) -> bytes:
    """Stand in for ``_codecs.encode(text, 'latin1')``, by which pickle protocol 2 writes bytes."""
    expect(len(args) == 2 and isinstance(args[0], str) and args[1] in ("latin1", "latin-1"), "byte string")
    budget.spend_copy(len(args[0]))
    try:
        return bytes(args[0].encode("latin-1"))
    except UnicodeEncodeError:
        raise damaged("holds a malformed byte string") from None


# NumPy

_NUMBER_CODES = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"})
BYTE_ORDERS = ("<", ">", "|", "=")


def array_type(args: Args, budget: Budget) -> ArrayType:
    """Stand in for ``numpy.dtype(code, align, copy)``; its byte order comes as its state."""
    expect(1 <= len(args) <= 3 and isinstance(args[0], str), "NumPy type")
    if args[0] not in _NUMBER_CODES:
        raise unknown(f"refuses NumPy type {shown(args[0])}")
    return ArrayType(args[0])


def array(raw: Any, kind: Any, shape: Any, order: Any, budget: Budget) -> np.ndarray[Any, Any]:
    """Return a read-only view of `raw` as an array; raise Refusal unless the bytes fill the shape exactly."""
    if isinstance(raw, str):  # Python 2 bytes that happened to be UTF-8
        budget.spend_copy(len(raw))
        raw = raw.encode()
    expect(isinstance(raw, bytes) and isinstance(kind, ArrayType) and order in ("C", "F"), "NumPy array")
    shape = checked_size(shape, "a NumPy array's shape")
    expect(len(raw) == int(np.prod(shape, dtype=np.int64)) * kind.dtype.itemsize, "NumPy array (length)")
    values: np.ndarray[Any, Any] = np.frombuffer(raw, kind.dtype) if raw else np.empty(0, kind.dtype)
    return values.reshape(shape, order=order)


def array_scalar(args: Args, budget: Budget) -> bool | int | float:
    """Stand in for ``numpy.core.multiarray.scalar(dtype, bytes)``."""
    expect(len(args) == 2, "NumPy number")
    number: bool | int | float = array(args[1], args[0], (), "C", budget).item()
    return number


def empty_array(args: Args, budget: Budget) -> ArrayRecord:
    """Stand in for ``numpy.core.multiarray._reconstruct``, a placeholder whose content comes as its state."""
    expect(len(args) == 3, "NumPy array")
    return ArrayRecord()


def array_from_buffer(args: Args, budget: Budget) -> ArrayRecord:
    """Stand in for ``numpy.core.numeric._frombuffer(bytes, dtype, shape, order)`` of protocol 5."""
    expect(len(args) == 4, "NumPy array")
    return ArrayRecord(array(args[0], args[1], args[2], args[3], budget))
