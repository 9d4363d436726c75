"""One arithmetic thread per unit: workers do not fight over processors, and sums have one order everywhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Libraries read them when they load.
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@contextmanager
def one_thread_for_children() -> Iterator[None]:
    """Let processes that are started within compute with one thread each."""
    with _environment(dict.fromkeys(VARIABLES, "1")):
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread within; torch's earlier number comes back where torch was loaded before."""
    torch = sys.modules.get("torch")
    if torch is None:  # whoever loads it within
        with _environment({"OMP_NUM_THREADS": "1"}):
            yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
