"""What every call of the kernels needs: the library, an instruction set, tensors in the right form, and statuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from snn_perception.errors import SnnPerceptionError
from snn_perception.native.library import InputKind, Library, Status, load

KINDS = {torch.float32: InputKind.FLOATS, torch.uint8: InputKind.BYTES, torch.bool: InputKind.BYTES}


def require() -> Library:
    """Return the compiled library.

    Raises:
        SnnPerceptionError: if it is not built or does not load; the message says why and what to do.
    """
    library, reason = load()
    if library is None:
        raise SnnPerceptionError(f"native kernels: {reason}")
    return library


def best_isa(library: Library, name: str | None = None) -> int:
    """Return the number of an instruction set, by default the best that runs here.

    Raises:
        ValueError: if this processor has no such.
    """
    if name is None:
        return next(iter(library.isas.values()))
    if name not in library.isas:
        raise ValueError(f"instruction set '{name}': expected one of {list(library.isas)} on this processor")
    return library.isas[name]


def channels_last(x: Tensor, name: str) -> Tensor:
    """Return x [B, C, H, W] in memory of channels_last: x itself where it is so already, else a copy.

    Raises:
        ValueError: if the kernels cannot read it: another dtype, number of axes or device, no elements, or a gradient
            is asked for.
    """
    _require_plain(x, name)
    if x.dtype not in KINDS or x.dim() != 4 or x.numel() == 0:
        raise ValueError(
            f"{name}: expected float32, uint8 or bool [B, C, H, W] with elements, got {x.dtype} {list(x.shape)}"
        )
    return x.contiguous(memory_format=torch.channels_last)


def require_floats(x: Tensor, shape: torch.Size, name: str) -> None:
    """Raise ValueError unless x is float32, of a shape [B, C, H, W] and in memory of channels_last."""
    _require_plain(x, name)
    if x.dtype != torch.float32 or x.shape != shape:
        raise ValueError(f"{name}: expected float32 {list(shape)}, got {x.dtype} {list(x.shape)}")
    if not x.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(f"{name}: expected memory of channels_last, got strides {x.stride()}; use .contiguous(...)")


def _require_plain(x: Tensor, name: str) -> None:
    if not isinstance(x, Tensor) or x.layout != torch.strided or not x.is_cpu:
        got = f"{x.layout} on {x.device}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name}: expected a dense tensor on the CPU, got {got}")
    if torch.is_grad_enabled() and x.requires_grad:
        raise ValueError(f"{name}: the kernels pass no gradient; run them under torch.no_grad()")


class Caller:
    """A function of the library as threads call it, with its first arguments; the statuses of all calls are kept."""

    def __init__(self, function: Callable[..., int | None], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments
        self.statuses: set[int] = set()

    def piece(self, first: int, last: int, *more: Any) -> None:
        """Call it for pieces `first` to `last` - 1."""
        self.statuses.add(self.function(*self.arguments, first, last, *more) or 0)

    def check(self) -> None:
        """Raise what went wrong.

        Raises:
            ValueError: if spikes were not binary, or too many.
            MemoryError: without memory to work in.
        """
        if Status.NOT_BINARY in self.statuses:
            raise ValueError("spikes: expected 0 and 1 alone, got other values; give SpikeConv2d binary=False for them")
        if Status.NOT_SMALL in self.statuses:
            raise ValueError("spikes: a pixel fired more often than convolutions by tiles can count")
        if Status.NO_MEMORY in self.statuses:
            raise MemoryError("native kernels: no memory to work in")
