"""Makes batches ahead of their use, in a thread: events are read while the network computes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def prefetched(items: Iterator[T], ahead: int) -> Iterator[Iterator[T]]:
    """Yield an iterator over the same items, of which up to `ahead` are made before they are asked for; 0 for none.

    An error in making an item is raised where that item is asked for. The thread ends with the block, and
    a generator of items is closed.
    """
    try:
        with _in_thread(items, ahead) if ahead else nullcontext(items) as given:
            yield given
    finally:
        if isinstance(items, Generator):
            items.close()


@contextmanager
def _in_thread(items: Iterator[T], ahead: int) -> Iterator[Iterator[T]]:
    made: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(maxsize=ahead)
    stop = threading.Event()
    thread = threading.Thread(target=_make, args=(items, made, stop), name="prefetch", daemon=True)
    thread.start()
    try:
        yield _taken(made)
    finally:
        stop.set()
        while thread.is_alive():  # it may wait for room
            with _ignored_empty():
                made.get(timeout=0.05)
        thread.join()


def _make(items: Iterator[T], made: queue.Queue[tuple[bool, T | BaseException | None]], stop: threading.Event) -> None:
    try:
        for item in items:
            if stop.is_set():
                return
            made.put((True, item))
        made.put((False, None))
    except BaseException as error:  # raised again by the one who asks
        made.put((False, error))


def _taken(made: queue.Queue[tuple[bool, T | BaseException | None]]) -> Iterator[T]:
    while True:
        is_item, item = made.get()
        if isinstance(item, BaseException) and not is_item:
            raise item
        if not is_item:
            return
        yield item  # type: ignore[misc]


@contextmanager
def _ignored_empty() -> Iterator[None]:
    try:
        yield
    except queue.Empty:
        return
