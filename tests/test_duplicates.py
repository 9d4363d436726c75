"""Removal of duplicates, against a set of what has been seen."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snn_perception.events import duplicates
from snn_perception.events.duplicates import DuplicateFilter
from snn_perception.types import DecodedEvents, SensorSize

SIZE = SensorSize(height=3, width=4)


def events_of(rows, leaps=(), size=SIZE, **fields) -> DecodedEvents:
    """Return events from (t, x, y, p)."""
    t, x, y, p = (np.array([row[i] for row in rows], kind) for i, kind in enumerate(["i8", "u2", "u2", "u1"]))
    return DecodedEvents(x, y, p, t, size, leaps=np.array(leaps, np.int64).reshape(-1, 3), **fields)


def rows_of(events: DecodedEvents) -> list[tuple[int, ...]]:
    return list(zip(*(getattr(events, name).tolist() for name in "txyp"), strict=True))


def kept_indices(rows) -> list[int]:
    """Return the indices of the events to keep: a set of those seen since the time last changed."""
    kept, seen, time = [], set(), None
    for index, row in enumerate(rows):
        if row[0] != time:
            seen, time = set(), row[0]
        if row not in seen:
            kept.append(index)
        seen.add(row)
    return kept


PLACE = st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 1))
ORDERED = st.lists(st.tuples(st.integers(0, 1), PLACE), max_size=60).map(
    lambda steps: [
        (int(t), *place)
        for t, (_, place) in zip(np.cumsum([step for step, _ in steps], dtype=np.int64), steps, strict=True)
    ]
)
ANY_ORDER = st.lists(st.tuples(st.integers(-3, 3), PLACE).map(lambda row: (row[0], *row[1])), max_size=60)


def filtered_in_pieces(rows, cuts) -> tuple[list[tuple[int, ...]], DuplicateFilter]:
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    only_first = DuplicateFilter()
    found = []
    for a, b in pairwise(edges):
        found += rows_of(only_first.filter(events_of(rows[a:b])))
    return found, only_first


@given(ORDERED, st.lists(st.integers(0, 60), max_size=6))
def test_in_order_what_is_left_is_the_set_of_all_events(rows, cuts):
    found, only_first = filtered_in_pieces(rows, cuts)
    assert found == list(dict.fromkeys(rows))
    assert only_first.dropped == len(rows) - len(set(rows))


@given(ANY_ORDER, st.lists(st.integers(0, 60), max_size=6))
def test_in_any_order_only_copies_within_a_run_of_one_time_are_dropped(rows, cuts):
    found, only_first = filtered_in_pieces(rows, cuts)
    assert found == [rows[index] for index in kept_indices(rows)]
    assert only_first.dropped == len(rows) - len(found)


@given(ANY_ORDER, st.lists(st.integers(0, 60), max_size=5))
def test_leaps_stay_before_the_event_they_were_before(rows, places):
    leaps = [(min(place, len(rows)), 10 * k, 10 * k + 5) for k, place in enumerate(sorted(places))]
    kept = kept_indices(rows)
    found = DuplicateFilter().filter(events_of(rows, leaps, t_reached=99)).leaps.tolist()
    assert found == [[sum(index < at for index in kept), before, after] for at, before, after in leaps]


def test_the_rest_of_the_piece_stays():
    events = events_of([(5, 1, 1, 0), (5, 1, 1, 0)], t_reached=70, time_unit="ns", in_order=True)
    found = DuplicateFilter().filter(events)
    assert rows_of(found) == [(5, 1, 1, 0)]
    assert (found.t_reached, found.time_unit, found.in_order, found.size) == (70, "ns", True, SIZE)
    assert [getattr(found, name).dtype for name in "txyp"] == [np.int64, np.uint16, np.uint16, np.uint8]


def test_nothing_is_copied_where_nothing_is_dropped():
    events = events_of([(5, 1, 1, 0), (5, 1, 1, 1), (6, 1, 1, 0)])
    only_first = DuplicateFilter()
    assert only_first.filter(events) is events
    assert only_first.filter(events_of([])).t.tolist() == []
    assert only_first.dropped == 0


def test_a_recording_played_again_is_no_duplicate():
    rows = [(5, 1, 1, 0), (9, 2, 2, 1)]
    only_first = DuplicateFilter()
    assert rows_of(only_first.filter(events_of(rows))) + rows_of(only_first.filter(events_of(rows))) == rows * 2


def test_another_sensor_begins_anew():
    only_first = DuplicateFilter()
    only_first.filter(events_of([(5, 1, 1, 0)]))
    larger = SensorSize(height=50, width=40)
    found = only_first.filter(events_of([(5, 1, 1, 0), (5, 39, 49, 1), (5, 39, 49, 1)], size=larger))
    assert rows_of(found) == [(5, 1, 1, 0), (5, 39, 49, 1)]


def test_events_outside_are_kept_and_touch_no_memory():
    rows = [(5, 4, 0, 0), (5, 65535, 65535, 255), (5, 0, 3, 0)] * 2
    assert rows_of(DuplicateFilter().filter(events_of(rows))) == rows


def test_numbers_of_runs_may_wrap(monkeypatch):
    monkeypatch.setattr(duplicates, "_LAST_RUN", 40)
    rng = np.random.default_rng(0)
    t = np.sort(rng.integers(0, 300, 900))
    rows = [(int(now), *map(int, place)) for now, place in zip(t, rng.integers(0, [4, 3, 2], (900, 3)), strict=True)]
    found, only_first = filtered_in_pieces(rows, range(0, 900, 10))
    assert found == list(dict.fromkeys(rows))
    assert int(only_first._state[0]) <= 40


@pytest.mark.parametrize("distinct", [1, 1000])
def test_memory_is_bounded_for_any_number_of_events_at_one_time(distinct):
    size = SensorSize(height=100, width=100)
    places = np.arange(200_000) % distinct
    x, y = (places % 100).astype(np.uint16), (places // 100).astype(np.uint16)
    events = DecodedEvents(x, y, np.zeros(200_000, np.uint8), np.zeros(200_000, np.int64), size)
    only_first = DuplicateFilter()
    assert len(only_first.filter(events)) == distinct
    held = only_first._last_run.nbytes + only_first._state.nbytes
    for _ in range(5):
        found = only_first.filter(events)
        assert len(found) == 0
        assert sum(c.nbytes if c.base is None else c.base.nbytes for c in (found.x, found.t)) < 1000
    assert only_first._last_run.nbytes + only_first._state.nbytes == held == 8 * 100 * 100 + 24
    assert only_first.dropped == 6 * 200_000 - distinct
