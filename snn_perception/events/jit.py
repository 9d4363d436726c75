"""How this package compiles its loops over events."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numba

P = ParamSpec("P")
R = TypeVar("R")


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Return the function compiled on first use, kept on disk for the next process, running without the GIL.

    Where neither the package's folder nor the user's cache folder can be written (a read-only container), it is
    compiled in every process instead. Never `parallel`: numba's threads do not survive the fork of a data worker.
    """
    try:
        compiled = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # numba found no folder for its cache
        compiled = numba.njit(nogil=True)(function)
    return compiled  # type: ignore[no-any-return]
