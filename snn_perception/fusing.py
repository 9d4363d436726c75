"""Says when a fused operation, with its gradient worked out by hand, may stand in for several plain ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

_plain_only: ContextVar[bool] = ContextVar("plain_operations", default=False)


@contextmanager
def plain_operations() -> Iterator[None]:
    """Let everything within the block run by plain tensor operations: as a reference, or for gradients of gradients."""
    token = _plain_only.set(True)
    try:
        yield
    finally:
        _plain_only.reset(token)


def can_fuse(*tensors: Tensor) -> bool:
    """Return whether a fused operation may take these: numbers in one of float32 and float64, and none without any.

    It may not where somebody records or watches the operations: an exported graph (torch.export, torch.compile,
    torch.jit, ONNX) must hold operations that every engine knows.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or _plain_only.get():
        return False
    if _get_current_dispatch_mode() is not None or torch._C._are_functorch_transforms_active():
        return False
    first = tensors[0]
    return first.dtype in (torch.float32, torch.float64) and all(_has_numbers(x, first) for x in tensors)


def _has_numbers(x: Tensor, like: Tensor) -> bool:
    return (
        type(x) in (Tensor, nn.Parameter)
        and x.layout == torch.strided
        and x.device == like.device
        and x.device.type != "meta"
        and x.dtype == like.dtype
        and x.numel() > 0
    )
