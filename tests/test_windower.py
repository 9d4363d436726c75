from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snn_perception.events.windower import Windower
from snn_perception.types import JITTER_US, LEAP_US, EventArray, SensorSize
from tests.runtime_support import SIZE, decoded, events_at

WINDOW_US = 10_000
MAX_GAP_US = 200_000


def windows_of(windower, pushes):
    """Return the windows of all pushes and of the flush."""
    found = [window for push in pushes for window in windower.push(push)]
    return found + list(windower.flush())


def starts(windows):
    return [window.t_start_us for window in windows]


def counts(windows):
    return [len(window.events) for window in windows]


def test_silence_gives_empty_windows():
    windower = Windower(WINDOW_US, SIZE)
    windows = list(windower.push(events_at([1_000, 34_000])))
    assert [(w.t_start_us, w.t_end_us, len(w.events)) for w in windows] == [
        (0, 10_000, 1),
        (10_000, 20_000, 0),
        (20_000, 30_000, 0),
    ]
    assert windower.windows == 3


@pytest.mark.parametrize("first", [0, 9_999, 10_000, 123_456, 1_700_000_000_000_000, -5, -10_001])
def test_first_window_is_the_one_that_holds_the_first_event(first):
    (window,) = windows_of(Windower(WINDOW_US, SIZE), [events_at([first])])
    assert window.t_start_us % WINDOW_US == 0
    assert window.t_start_us <= first < window.t_end_us


def test_edges_are_half_open():
    windows = windows_of(Windower(WINDOW_US, SIZE), [events_at([10_000, 19_999, 20_000, 29_999, 30_000])])
    assert [w.events.t.tolist() for w in windows] == [[10_000, 19_999], [20_000, 29_999], [30_000]]


def test_start_may_lie_before_the_first_event():
    windows = windows_of(Windower(WINDOW_US, SIZE, t_start_us=0), [events_at([25_000])])
    assert starts(windows) == [0, 10_000, 20_000]
    assert counts(windows) == [0, 0, 1]


def test_start_need_not_lie_on_the_grid():
    windows = windows_of(Windower(WINDOW_US, SIZE, t_start_us=7), [events_at([7, 10_006, 10_007])])
    assert [(w.t_start_us, len(w.events)) for w in windows] == [(7, 2), (10_007, 1)]


def test_events_before_the_start_are_left_out_not_moved():
    windower = Windower(WINDOW_US, SIZE, t_start_us=100_000)
    windows = windows_of(windower, [events_at([5, 99_000]), events_at([99_999, 100_000, 105_000])])
    assert [w.events.t.tolist() for w in windows] == [[100_000, 105_000]]
    assert windower.disordered == 0


def test_a_time_word_closes_windows_while_nothing_moves():
    windower = Windower(WINDOW_US, SIZE, max_gap_us=MAX_GAP_US)
    assert starts(windower.push(decoded([(1_000, True)]))) == []
    assert starts(windower.push(decoded([(9_999, False)], before=1_000))) == []
    assert starts(windower.push(decoded([(10_000, False)], before=9_999))) == [0]
    assert starts(windower.push(decoded([(45_000, False)], before=10_000))) == [10_000, 20_000, 30_000]


def test_a_time_word_before_the_first_event_opens_nothing():
    windower = Windower(WINDOW_US, SIZE)
    assert list(windower.push(decoded([(1_000, False), (50_000, False)]))) == []
    assert starts(windows_of(windower, [decoded([(61_000, True)], before=50_000)])) == [60_000]


def test_a_gap_closes_the_window_and_starts_a_new_grid():
    windower = Windower(WINDOW_US, SIZE, max_gap_us=MAX_GAP_US)
    windows = windows_of(windower, [decoded([(1_000, True), (2_000, True), (502_000, True), (511_000, True)])])
    assert [(w.t_start_us, len(w.events), w.after_gap) for w in windows] == [
        (0, 2, False),
        (500_000, 1, True),
        (510_000, 1, False),
    ]
    assert windower.gaps == 1


def test_a_long_silence_in_a_file_is_no_gap():
    windower = Windower(WINDOW_US, SIZE)
    windows = windows_of(windower, [decoded([(1_000, True), (502_000, True)])])
    assert len(windows) == 51
    assert not any(w.after_gap for w in windows)
    assert windower.gaps == 0


def test_a_step_of_exactly_the_limit_is_no_gap():
    windower = Windower(WINDOW_US, SIZE, max_gap_us=MAX_GAP_US)
    assert len(windows_of(windower, [decoded([(0, True), (MAX_GAP_US, True)])])) == MAX_GAP_US // WINDOW_US + 1
    assert windower.gaps == 0


@pytest.mark.parametrize("max_gap_us", [None, MAX_GAP_US])
def test_a_jump_back_starts_a_new_grid_even_in_a_file(max_gap_us):
    windower = Windower(WINDOW_US, SIZE, max_gap_us=max_gap_us)
    windows = windows_of(windower, [decoded([(900_000, True), (903_000, True), (4_000, True), (15_000, True)])])
    assert [(w.t_start_us, w.events.t.tolist(), w.after_gap) for w in windows] == [
        (900_000, [900_000, 903_000], False),
        (0, [4_000], True),
        (10_000, [15_000], False),
    ]
    assert windower.gaps == 1
    assert windower.disordered == 0


def test_a_jump_that_stays_in_its_window_cuts_nothing():
    windower = Windower(1_000_000, SIZE, max_gap_us=MAX_GAP_US)
    (window,) = windows_of(windower, [decoded([(100_000, True), (700_000, True)])])
    assert len(window.events) == 2
    assert window.lossy and not window.after_gap
    assert windower.gaps == 1


def test_small_disorder_is_moved_up_and_counted():
    windower = Windower(WINDOW_US, SIZE, max_gap_us=MAX_GAP_US)
    pushes = [decoded([(12_000, True), (11_000, True), (13_000, True)]), decoded([(9_000, True)], before=13_000)]
    (window,) = windows_of(windower, pushes)
    assert window.events.t.tolist() == [12_000, 12_000, 13_000, 13_000]
    assert windower.disordered == 2
    window.events.validate()


def test_an_event_later_than_its_time_word_is_moved_up_to_it():
    windower = Windower(WINDOW_US, SIZE)
    pushes = [decoded([(1_000, True), (10_500, False)]), decoded([(9_000, True)], before=10_500)]
    windows = windows_of(windower, pushes)
    assert [w.events.t.tolist() for w in windows] == [[1_000], [10_500]]
    assert windower.disordered == 1


def test_a_jump_of_years_costs_no_memory():
    windower = Windower(WINDOW_US, SIZE)
    years_us = 50 * 365 * 86_400 * 1_000_000
    windows = windower.push(decoded([(0, True), (years_us, True)]))
    first = list(islice(windows, 1000))
    assert starts(first) == list(range(0, 1000 * WINDOW_US, WINDOW_US))
    assert windower.windows == 1000, "windows were made before anyone asked for them"


def test_flush_gives_the_partial_window_only_if_it_holds_events():
    windower = Windower(WINDOW_US, SIZE)
    assert list(windower.flush()) == []
    assert list(windower.push(events_at([1_000]))) == []
    assert counts(windower.flush()) == [1]
    assert list(windower.flush()) == []
    windower = Windower(WINDOW_US, SIZE)
    assert starts(windower.push(decoded([(1_000, True), (12_000, False)]))) == [0]
    assert list(windower.flush()) == []


def test_a_loss_marks_every_window_that_may_lack_events():
    windower = Windower(WINDOW_US, SIZE, max_gap_us=MAX_GAP_US)
    windows = list(windower.push(decoded([(1_000, True), (12_000, True)])))
    windows += list(windower.push(decoded([(35_000, True), (51_000, True)], before=12_000), lossy=True))
    assert [(w.t_start_us, w.lossy) for w in windows] == [
        (0, False),
        (10_000, True),
        (20_000, True),
        (30_000, True),
        (40_000, False),
    ]


def test_a_loss_before_a_packet_without_time_lasts_to_the_next_known_time():
    windower = Windower(WINDOW_US, SIZE, max_gap_us=MAX_GAP_US)
    windows = list(windower.push(decoded([(1_000, True)])))
    windows += list(windower.push(decoded([]), lossy=True))
    windows += list(windower.push(decoded([(25_000, True), (41_000, True)], before=1_000)))
    assert [(w.t_start_us, w.lossy) for w in windows] == [(0, True), (10_000, True), (20_000, True), (30_000, False)]


def test_a_loss_before_a_jump_back_does_not_mark_what_comes_long_after():
    windower = Windower(WINDOW_US, SIZE)
    windows = list(windower.push(decoded([(900_000, True)])))
    windows += list(windower.push(decoded([(4_000, True), (15_000, True), (21_000, True)], before=900_000), lossy=True))
    assert [(w.t_start_us, w.lossy) for w in windows] == [(900_000, True), (0, True), (10_000, False)]


def test_interrupt_closes_what_is_open():
    windower = Windower(WINDOW_US, SIZE)
    assert list(windower.interrupt()) == [], "nothing was open"
    assert list(windower.push(events_at([501_000]))) == []
    assert starts(windower.interrupt()) == [500_000]
    windows = windows_of(windower, [events_at([2_000, 11_000])])
    assert [(w.t_start_us, w.after_gap) for w in windows] == [(0, True), (10_000, False)]


def test_counts_go_on_in_the_windower_of_another_size():
    first = Windower(WINDOW_US, SIZE)
    windows_of(first, [decoded([(12_000, True), (11_000, True), (900_000, True), (5, True)])])
    second = Windower(WINDOW_US, SensorSize(8, 8))
    second.continue_counts(first)
    (window,) = windows_of(second, [events_at([3], SensorSize(8, 8))])
    assert window.after_gap
    assert (second.windows, second.gaps, second.disordered) == (first.windows + 1, first.gaps, first.disordered)


def test_windows_carry_the_name_of_their_stream():
    (window,) = windows_of(Windower(WINDOW_US, SIZE, stream="left"), [events_at([1])])
    assert window.stream == "left"


@pytest.mark.parametrize("window_us", [0, -1])
def test_a_window_has_a_length(window_us):
    with pytest.raises(ValueError, match="window_us must be a positive multiple of stride_us"):
        Windower(window_us, SIZE)


@st.composite
def known_times(draw):
    """Draw the times that a camera tells, events and time words: with silence, disorder, gaps and jumps.

    A time word is never ahead of an event that follows it, as in a real stream.
    """
    now = draw(st.sampled_from([0, 7_777, 1_000_000_000, 1_700_000_000_000_000]))
    told = now  # by time words: events do not go below it
    known = [(now, draw(st.booleans()))]
    for _ in range(draw(st.integers(0, 40))):
        kind = draw(st.sampled_from(["event"] * 6 + ["late"] * 2 + ["word"] * 2 + ["gap", "back"]))
        if kind == "late":
            now = max(now - draw(st.integers(0, JITTER_US)), told)
        elif kind == "gap":
            now += draw(st.integers(MAX_GAP_US + 1, 3 * MAX_GAP_US))
        elif kind == "back":
            now = told = now - draw(st.integers(JITTER_US + 1, 10**7))
        else:
            now += draw(st.one_of(st.integers(0, 300), st.integers(0, 3 * WINDOW_US)))
        known.append((now, kind != "word"))
        if kind == "word":
            now = told = max(t for t, _ in known[_epoch(known) :])
            known[-1] = (now, False)
    return known


def _epoch(known):
    """Return where the time after the last jump back begins."""
    steps = [i + 1 for i, ((before, _), (after, _)) in enumerate(pairwise(known)) if after < before - JITTER_US]
    return steps[-1] if steps else 0


def one_by_one(known, max_gap_us):
    """Return the windows as `Windower` describes them, time by time: (start, event times, after gap)."""
    windows, start, now, before, held, after_gap = [], None, None, None, [], False
    for t, is_event in known:
        back = before is not None and t < before - JITTER_US
        leap = before is not None and max_gap_us is not None and t - before > max(max_gap_us, LEAP_US)
        if start is not None and (back or leap) and not start <= t < start + WINDOW_US:
            if held or t > start:
                windows.append((start, held, after_gap))
            start, now, held, after_gap = None, None, [], True
        elif start is None and (back or leap):
            now = None
        before = t
        now = t if now is None else max(now, t)
        if is_event and start is None:
            start = now // WINDOW_US * WINDOW_US
        while start is not None and now >= start + WINDOW_US:
            windows.append((start, held, after_gap))
            start, held, after_gap = start + WINDOW_US, [], False
        if is_event:
            held.append(now)
    return windows + ([(start, held, after_gap)] if held else [])


def in_packets(known, cuts, unit="us"):
    edges = [0, *sorted(cut % (len(known) + 1) for cut in cuts), len(known)]
    scale = 1000 if unit == "ns" else 1
    known = [(t * scale, is_event) for t, is_event in known]
    return [decoded(known[a:b], before=known[a - 1][0] if a else None, unit=unit) for a, b in pairwise(edges)]


def summary(windows):
    return [(w.t_start_us, w.events.t.tolist(), w.after_gap) for w in windows]


@given(known_times(), st.lists(st.integers(0, 100), max_size=12), st.sampled_from([None, MAX_GAP_US]))
def test_any_packetisation_gives_the_windows_of_the_definition(known, cuts, max_gap_us):
    expected = one_by_one(known, max_gap_us)
    whole, split = (Windower(WINDOW_US, SIZE, max_gap_us=max_gap_us) for _ in range(2))
    of_whole, of_split = windows_of(whole, in_packets(known, [])), windows_of(split, in_packets(known, cuts))
    assert summary(of_whole) == expected
    assert summary(of_split) == expected
    assert [w.lossy for w in of_whole] == [w.lossy for w in of_split]
    assert (whole.windows, whole.gaps, whole.disordered) == (split.windows, split.gaps, split.disordered)


@given(known_times(), st.lists(st.integers(0, 100), max_size=5))
def test_nanoseconds_give_the_same_windows(known, cuts):
    of_us = windows_of(Windower(WINDOW_US, SIZE, max_gap_us=MAX_GAP_US), in_packets(known, cuts))
    of_ns = windows_of(Windower(WINDOW_US, SIZE, max_gap_us=MAX_GAP_US), in_packets(known, cuts, unit="ns"))
    assert summary(of_us) == summary(of_ns)


@given(known_times())
def test_no_event_is_lost_and_windows_follow_on(known):
    windows = windows_of(Windower(WINDOW_US, SIZE, max_gap_us=MAX_GAP_US), in_packets(known, []))
    everything = EventArray.concatenate([w.events for w in windows], SIZE)
    given_events = in_packets(known, [])[0].to_event_array()
    for column in "xyp":
        np.testing.assert_array_equal(getattr(everything, column), getattr(given_events, column))
    for window in windows:
        window.events.validate()
        assert all(window.t_start_us <= t < window.t_end_us for t in window.events.t)
    for earlier, later in pairwise(windows):
        assert later.after_gap or later.t_start_us == earlier.t_end_us


@given(known_times(), st.lists(st.integers(0, 100), max_size=8), st.sampled_from([2, 3, 5]))
def test_overlapping_windows_join_those_of_the_stride(known, cuts, parts):
    """A window that ends at a multiple of the stride holds the last `parts` windows of that length, back to a gap."""
    pushes = in_packets(known, cuts)
    short = windows_of(Windower(WINDOW_US, SIZE, max_gap_us=MAX_GAP_US), pushes)
    long = windows_of(Windower(parts * WINDOW_US, SIZE, stride_us=WINDOW_US, max_gap_us=MAX_GAP_US), pushes)
    assert [w.t_end_us for w in long] == [w.t_end_us for w in short]
    since = 0
    for number, (window, newest) in enumerate(zip(long, short, strict=True)):
        since = number if newest.after_gap else since
        joined = short[max(since, number - parts + 1) : number + 1]
        assert window.t_start_us == window.t_end_us - parts * WINDOW_US
        assert window.events.t.tolist() == [t for part in joined for t in part.events.t.tolist()]
        assert (window.after_gap, window.lossy) == (newest.after_gap, any(part.lossy for part in joined))


@pytest.mark.parametrize("stride_us", [0, -1, 3_000, 20_000])
def test_a_stride_is_a_part_of_the_window(stride_us):
    with pytest.raises(ValueError, match="must be a positive multiple of stride_us"):
        Windower(WINDOW_US, SIZE, stride_us=stride_us)


@given(st.lists(st.integers(0, 200_000), min_size=1, max_size=200), st.lists(st.integers(0, 200), max_size=6))
def test_windows_partition_the_events(times, cuts):
    events = events_at(sorted(times))
    bounds = sorted({0, len(events), *(min(cut, len(events)) for cut in cuts)})
    windows = windows_of(Windower(WINDOW_US, SIZE), [events[a:b] for a, b in pairwise(bounds)])
    for name in "xypt":
        joined = np.concatenate([getattr(window.events, name) for window in windows])
        np.testing.assert_array_equal(joined, getattr(events, name))
    assert all(((w.events.t >= w.t_start_us) & (w.events.t < w.t_end_us)).all() for w in windows)
