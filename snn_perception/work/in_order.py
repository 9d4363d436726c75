"""A few things made ahead in threads and given in order: for work that frees the GIL, such as decoding images."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from snn_perception.work.executor import processors_at_hand

Item = TypeVar("Item")
Made = TypeVar("Made")
_MOST = 8  # more threads than this wait for each other's GIL


def reading_threads(most: int = _MOST) -> int:
    """Return how many threads may read and decode files here: as many as there are processors, up to `most`."""
    return max(1, min(most, _MOST, processors_at_hand()))


def in_order(
    function: Callable[[Item], Made], items: Iterable[Item], *, threads: int, ahead: int = 0
) -> Generator[Made, None, None]:
    """Yield ``function(item)`` of every item in the items' order.

    Items are taken by the thread that asks, one after the other. An error is raised where the item's turn is; the
    threads end with the iteration, also where it is closed early.

    Args:
        threads: that work; with 1 there are none, and nothing is made before it is asked for.
        ahead: how many may be made, or wait to be taken, beyond the one that is asked for; at least `threads`.
    """
    if threads < 2:
        yield from map(function, items)
        return
    waiting: deque[Future[Made]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="in_order")
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > max(ahead, threads):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
