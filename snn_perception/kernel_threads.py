"""Shares the work of a compiled loop among as many threads as torch uses."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import torch


def in_threads(run: Callable[..., None], pieces: int, least: int, *arguments: Any) -> None:
    """Call ``run(first, last, *arguments)`` for all pieces, in equal shares of at least `least`; it frees the GIL.

    The result must not depend on how the pieces are shared. Work for one share stays in this thread.
    """
    shares = min(torch.get_num_threads(), pieces // max(least, 1))
    if shares < 2:
        run(0, pieces, *arguments)
        return
    edges = [pieces * k // shares for k in range(shares + 1)]
    pool = _pool(os.getpid(), shares - 1)
    others = [pool.submit(run, edges[k], edges[k + 1], *arguments) for k in range(1, shares)]
    run(edges[0], edges[1], *arguments)
    for other in others:
        other.result()


@lru_cache(maxsize=4)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Return threads that wait for work; a forked process inherits none, so each has its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix="kernel")
