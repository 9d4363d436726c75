"""What the confined reader builds from a file: names, numbers and inert records, none of which does anything."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

_DTYPE_NAMES = (
    *("bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"),
)
# Old torch lacks some of them.
DTYPES: dict[str, torch.dtype] = {
    f"torch.{name}": getattr(torch, name) for name in _DTYPE_NAMES if hasattr(torch, name)
}
_ITEMSIZE = {dtype: torch.empty(0, dtype=dtype).element_size() for dtype in DTYPES.values()}


def itemsize(dtype: torch.dtype) -> int:
    """Return the bytes of one element."""
    return _ITEMSIZE[dtype]


@dataclass(frozen=True, slots=True)
class GlobalRef:
    """The name of a class or function that a pickle mentions, and never more than the name."""

    name: str


@dataclass(eq=False, slots=True)
class Inert:
    """An object of the file without its class: the class's name, the constructor's arguments and the state."""

    qualified_name: str
    args: tuple[Any, ...] = ()
    state: Any = None

    def __repr__(self) -> str:
        return f"Inert({self.qualified_name!a})"  # not the state: it may hold this very record


@dataclass(frozen=True, eq=False, slots=True)
class StorageRef:
    """A stretch of typed numbers in the file, not read yet."""

    key: str
    dtype: torch.dtype
    numel: int
    start: int = 0  # first element; not 0 only for the storage views of files written before torch 0.4

    @property
    def nbytes(self) -> int:
        return self.numel * itemsize(self.dtype)


@dataclass(frozen=True, eq=False, slots=True)
class TensorRecord:
    """A view of a storage, in elements of `dtype`; all of them lie inside the storage (checked when built)."""

    storage: StorageRef
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.size)


@dataclass(eq=False, slots=True)
class ArrayType:
    """A NumPy number type: the pickle first names its width, then its byte order."""

    code: str
    order: str = "="

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)


@dataclass(eq=False, slots=True)
class ArrayRecord:
    """A NumPy array; `value` is a read-only view of the pickle's own bytes once they have come."""

    value: np.ndarray[Any, Any] | None = None
