"""Things made ahead in threads: their order, how many are held, errors, and that the threads end."""

import threading
import time
from itertools import count, islice

import pytest

from snn_perception.work.in_order import in_order, reading_threads


def workers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("in_order")]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(threads):
    def slow_at_first(number: int) -> tuple[int, str]:
        time.sleep(0.01 * (number < 3))
        return number, threading.current_thread().name

    found = list(in_order(slow_at_first, range(40), threads=threads))
    assert [number for number, _ in found] == list(range(40))
    names = {name for _, name in found}
    assert len(names) >= 2 if threads > 1 else names == {threading.current_thread().name}
    assert not workers()


@pytest.mark.parametrize(("threads", "ahead", "most"), [(1, 9, 0), (2, 0, 2), (2, 7, 7)])
def test_no_more_is_made_than_is_said(threads, ahead, most):
    taken, made = [], []
    results = in_order(made.append, (taken.append(n) or n for n in count()), threads=threads, ahead=ahead)
    for asked in range(1, 20):
        next(results)
        assert len(taken) <= asked + most
    results.close()
    assert not workers() and 19 <= len(made) <= len(taken) <= 19 + most


def test_items_are_taken_by_the_one_who_asks():
    by = set()
    items = (by.add(threading.current_thread().name) or n for n in range(9))
    assert list(in_order(str, items, threads=3)) == [str(n) for n in range(9)]
    assert by == {threading.current_thread().name}


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_comes_out_where_its_item_is_due_and_ends_the_threads(threads):
    def sixth_fails(number: int) -> int:
        if number == 5:
            raise ValueError("no sixth")
        return number

    results = in_order(sixth_fails, count(), threads=threads)
    assert list(islice(results, 5)) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="no sixth"):
        next(results)
    assert not workers()


def test_threads_are_bounded_by_the_work_and_the_machine(monkeypatch):
    monkeypatch.setattr("snn_perception.work.in_order.processors_at_hand", lambda: 64)
    assert [reading_threads(most) for most in (0, 1, 3, 1000)] == [1, 1, 3, 8]
    monkeypatch.setattr("snn_perception.work.in_order.processors_at_hand", lambda: 2)
    assert reading_threads() == 2
