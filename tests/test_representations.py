import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snn_perception.events.filling import Filler
from snn_perception.events.geometry import InputMapping
from snn_perception.events.representations import (
    EventCount,
    Filled,
    MicroBins,
    StackedHistogram,
    TernaryImage,
    TimeSurface,
    VoxelCube,
    VoxelGrid,
    counts,
)
from snn_perception.events.windower import Windower
from snn_perception.types import EventArray, EventWindow, SensorSize

SIZE = SensorSize(height=12, width=20)


def window_of(rows, start_us=0, length_us=50_000, size=SIZE):
    """Return a window of events (x, y, p, time after the start), in order of time."""
    rows = sorted(rows, key=lambda row: row[3])
    x, y, p, t = (np.array([row[k] for row in rows]) for k in range(4))
    events = EventArray(
        x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8), t.astype(np.int64) + start_us, size
    )
    return EventWindow(events, start_us, start_us + length_us)


def each_event(window):
    events = window.events
    return zip(*(getattr(events, name).tolist() for name in "xypt"), strict=True)


def windows(length_us=49_999, most=80):
    row = st.tuples(
        st.integers(0, SIZE.width - 1),
        st.integers(0, SIZE.height - 1),
        st.integers(0, 1),
        st.integers(0, length_us - 1),
    )
    starts = st.sampled_from([0, 50_000, -100_000, 1_700_000_000_000_000])
    return st.builds(window_of, st.lists(row, max_size=most), starts, st.just(length_us))


# Each representation once more, event by event as its docstring and source define it.


def cube_by_hand(window, tbin=1, layout="bin_major", presence=True):
    cube = np.zeros((1, 2 * tbin, SIZE.height, SIZE.width), np.float32)
    channel = {
        "bin_major": lambda p, b: 2 * b + p,
        "polarity_major": lambda p, b: p * tbin + b,
        "collided": lambda p, b: (p + 1) * (b + 1) - 1,
        "polarity_only": lambda p, b: p,
    }[layout]
    for x, y, p, t in each_event(window):
        b = (t - window.t_start_us) * tbin // (window.t_end_us - window.t_start_us)
        cell = (0, channel(p, b), y, x)
        cube[cell] = 1 if presence else cube[cell] + 1
    return cube


def counts_by_hand(window, limit=255):
    counts = np.zeros((1, 2, SIZE.height, SIZE.width), np.float32)
    for x, y, p, _ in each_event(window):
        counts[0, p, y, x] = min(limit, counts[0, p, y, x] + 1)
    return counts


def histogram_by_hand(window, bins=10, limit=10):
    stacked = np.zeros((1, 2 * bins, SIZE.height, SIZE.width), np.float32)
    rows = list(each_event(window))
    for x, y, p, t in rows:
        first, last = rows[0][3], rows[-1][3]
        b = min(bins - 1, bins * (t - first) // max(last - first, 1))
        stacked[0, p * bins + b, y, x] = min(limit, stacked[0, p * bins + b, y, x] + 1)
    return stacked


def micro_bins_by_hand(window, steps=4):
    slices = np.zeros((steps, 2, SIZE.height, SIZE.width), np.float32)
    rows = list(each_event(window))
    length = (rows[-1][3] - rows[0][3]) // steps if rows else 0
    for x, y, p, t in rows:
        for i in range(steps):
            if rows[0][3] + i * length <= t < rows[0][3] + (i + 1) * length:
                slices[i, p, y, x] += 1
    return slices


def parts_by_hand(window, steps=4):
    parts = np.zeros((steps, 2, SIZE.height, SIZE.width), np.float32)
    for x, y, p, t in each_event(window):
        parts[(t - window.t_start_us) * steps // (window.t_end_us - window.t_start_us), p, y, x] += 1
    return parts


def macro_sliced_by_hand(window, network_size, macro_slice):
    rows = list(each_event(window))
    rows = [row for row in rows if row[3] < rows[-1][3]]
    cut = [(x, y, p, t - window.t_start_us) for x, y, p, t in rows]
    return micro_bins_by_hand(window_of(cut, window.t_start_us, 49_999))


def ternary_by_hand(window, steps=2):
    images = np.full((steps, SIZE.height, SIZE.width), 127, np.float32)
    for x, y, p, t in each_event(window):
        images[(t - window.t_start_us) * steps // (window.t_end_us - window.t_start_us), y, x] = 255 * p
    return np.repeat(images[::-1, None], 3, axis=1) / np.float32(255)


def surface_by_hand(window, steps=1, tau_us=50_000):
    length = window.t_end_us - window.t_start_us
    surface = np.zeros((steps, 2, SIZE.height, SIZE.width))
    for i in range(steps):
        end = window.t_start_us + -(-length * (i + 1) // steps)
        for x, y, p, t in each_event(window):
            if t < end:
                surface[i, p, y, x] = np.exp((t - end) / tau_us)
    return surface


def grid_by_hand(window, bins=5):
    grid = np.zeros((1, bins, SIZE.height, SIZE.width))
    rows = list(each_event(window))
    for x, y, p, t in rows:
        at = bins * (t - rows[0][3]) / max(rows[-1][3] - rows[0][3], 1)
        for b in range(bins):
            grid[0, b, y, x] += (1 if p else -1) * max(0.0, 1 - abs(at - b))
    return grid


CASES = {
    "cube": (VoxelCube, {}, cube_by_hand),
    "cube of 3": (VoxelCube, {"tbin": 3}, cube_by_hand),
    "cube of 3, polarity first": (VoxelCube, {"tbin": 3, "layout": "polarity_major"}, cube_by_hand),
    "cube of 2, collided": (VoxelCube, {"tbin": 2, "layout": "collided"}, cube_by_hand),
    "cube of 2, polarity only": (VoxelCube, {"tbin": 2, "layout": "polarity_only"}, cube_by_hand),
    "cube of counts": (VoxelCube, {"tbin": 2, "layout": "collided", "presence": False}, cube_by_hand),
    "count": (EventCount, {}, counts_by_hand),
    "count to 2": (EventCount, {"limit": 2}, counts_by_hand),
    "histogram": (StackedHistogram, {}, histogram_by_hand),
    "histogram of 3 to 1": (StackedHistogram, {"bins": 3, "limit": 1}, histogram_by_hand),
    "micro-bins": (MicroBins, {"network_size": None}, lambda w, network_size: micro_bins_by_hand(w)),
    "micro-bins of a macro slice": (MicroBins, {"network_size": None, "macro_slice": True}, macro_sliced_by_hand),
    "micro-bins of the window": (
        MicroBins,
        {"network_size": None, "bins": "window"},
        lambda w, network_size, bins: parts_by_hand(w),
    ),
    "ternary": (TernaryImage, {"network_size": None}, lambda w, network_size: ternary_by_hand(w)),
    "surface": (TimeSurface, {"steps": 3, "tau_us": 10_000}, surface_by_hand),
    "grid": (VoxelGrid, {}, grid_by_hand),
}
TOLERANCE = {TimeSurface: 1e-6, VoxelGrid: 1e-5}


@pytest.mark.parametrize("case", CASES)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_equals_its_definition_on_the_cpu_and_through_torch(case, data):
    make, options, by_hand = CASES[case]
    window = data.draw(windows())
    representation = make(SIZE, **options)
    expected = by_hand(window, **options)
    for tensor in (representation(window), representation.through_torch(window, torch.device("cpu"))):
        assert tensor.dtype == torch.float32
        np.testing.assert_allclose(tensor.numpy(), expected, rtol=0, atol=TOLERANCE.get(make, 0))


MANY = ["cube of 3", "cube of 2, collided", "histogram", "micro-bins", "count", "micro-bins of the window"]
DISORDERED = MANY[:2] + MANY[4:]  # the others' bins need events in order


@pytest.mark.parametrize(("case", "in_order"), [(c, True) for c in MANY] + [(c, False) for c in DISORDERED])
def test_many_events_are_counted_bin_by_bin_to_the_same_end(case, in_order, monkeypatch):
    monkeypatch.setattr(counts, "_MANY_EVENTS", 1)
    make, options, by_hand = CASES[case]
    window = busy_window(3_000)
    if not in_order:
        window = replace(window, events=window.events[np.random.default_rng(0).permutation(3_000)])
    representation = make(SIZE, **options)
    x = window.events.x.copy()
    x[1_500] = SIZE.width
    with pytest.raises(ValueError, match="lies outside its sensor"):
        representation(replace(window, events=replace(window.events, x=x)))
    for _ in range(2):  # the second time in a buffer that was used
        np.testing.assert_array_equal(representation(window).numpy(), by_hand(window, **options))


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
def test_a_gpu_gives_the_same(case):
    make, options, _ = CASES[case]
    representation, device = make(SIZE, **options), torch.device("cuda")
    window = busy_window(30_000)
    expected = representation(window)
    for tensor in (representation.to_device(window, device), representation.through_torch(window, device)):
        torch.testing.assert_close(tensor.cpu(), expected, rtol=0, atol=TOLERANCE.get(make, 0) * 10)


def busy_window(count, size=SIZE, length_us=50_000, seed=0):
    rng = np.random.default_rng(seed)
    events = EventArray(
        rng.integers(0, size.width, count).astype(np.uint16),
        rng.integers(0, size.height, count).astype(np.uint16),
        rng.integers(0, 2, count).astype(np.uint8),
        np.sort(rng.integers(0, length_us, count)),
        size,
    )
    return EventWindow(events, 0, length_us)


@pytest.mark.parametrize("case", CASES)
def test_more_events_than_a_kernel_takes_at_once(case):
    make, options, by_hand = CASES[case]
    window = busy_window(5_000)
    np.testing.assert_allclose(make(SIZE, **options)(window).numpy(), by_hand(window, **options), rtol=0, atol=1e-4)


INCREMENTAL = [name for name, (make, options, _) in CASES.items() if make(SIZE, **options).is_incremental]


@pytest.mark.parametrize("case", INCREMENTAL)
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_pieces_as_they_arrive_equal_all_at_once(case, data):
    make, options, _ = CASES[case]
    window = data.draw(windows())
    cuts = sorted(data.draw(st.lists(st.integers(0, len(window.events)), max_size=5)))
    representation = make(SIZE, **options)
    filler = Filler(representation, InputMapping(SIZE, SIZE))
    for begin, end in zip([0, *cuts], [*cuts, len(window.events)], strict=True):
        filler.add(window.events[begin:end], window.t_start_us, window.t_end_us)
    events = EventArray.empty(SIZE)  # so that only the grid can tell
    filled = EventWindow(events, window.t_start_us, window.t_end_us, filled=filler.take(events))
    assert torch.equal(representation(filled), make(SIZE, **options)(window))


def test_bins_that_follow_the_events_cannot_be_filled_early():
    with pytest.raises(ValueError, match="before they are all there"):
        Filler(StackedHistogram(SIZE), InputMapping(SIZE, SIZE))


def test_a_grid_that_another_model_filled_is_not_used():
    mine, other = VoxelCube(SIZE), VoxelCube(SIZE)
    window = window_of([(3, 4, 1, 10)])
    grid = Filled(other.new_grid(), other, None, window.events)
    filled = EventWindow(window.events, 0, 50_000, filled=grid)
    assert mine(filled).sum() == 1


def test_a_filled_grid_serves_one_window_once():
    representation = EventCount(SIZE)
    filler = Filler(representation, InputMapping(SIZE, SIZE))
    events = window_of([(3, 4, 1, 10), (3, 4, 1, 20)]).events
    filler.add(events, 0, 50_000)
    window = EventWindow(events, 0, 50_000, filled=filler.take(events))
    edited = replace(window, events=events[:1])
    assert representation(edited).sum() == 1, "another window's events are not those of the grid"
    assert [representation(window).sum() for _ in range(3)] == [2, 2, 2]
    first, second = representation.new_grid(), representation.new_grid()
    assert first is not second, "one buffer must not be lent twice"
    assert pickle.loads(pickle.dumps(window)).filled is None
    assert representation(copy.deepcopy(window)).sum() == 2


def test_a_grid_is_taken_back_once():
    representation = EventCount(SIZE)
    grid = representation.new_grid()
    representation.give_back(grid)
    representation.give_back(grid)
    assert representation.new_grid() is grid and representation.new_grid() is not grid


def test_windows_that_overlap_are_not_filled_on_the_way():
    filler = Filler(EventCount(SIZE), InputMapping(SIZE, SIZE))
    with pytest.raises(ValueError, match="no grid can be filled"):
        Windower(50_000, SIZE, stride_us=10_000, filler=filler)


def test_a_time_surface_in_half_precision_reaches_as_far():
    window = window_of([(3, 4, 1, 0)], length_us=200_000)
    half = TimeSurface(SIZE, tau_us=100_000)(window, torch.float16)
    assert half.dtype == torch.float16 and abs(float(half[0, 1, 4, 3]) - np.exp(-2)) < 1e-3


def test_a_filler_begins_each_window_anew_and_scales_events():
    representation = EventCount(SensorSize(6, 10))
    filler = Filler(representation, InputMapping(SIZE, SensorSize(6, 10)))
    filler.add(window_of([(18, 10, 1, 0), (19, 11, 1, 5)]).events, 0, 50_000)
    nothing = EventArray.empty(SIZE)
    first = filler.take(nothing).take().copy()
    assert first[0, 1, 5, 9] == 2 and first.sum() == 2
    assert not filler.take(nothing).take().any()


@pytest.mark.parametrize("case", CASES)
def test_windows_share_buffers_but_not_results(case):
    make, options, _ = CASES[case]
    representation = make(SIZE, **options)
    first = representation(busy_window(300, seed=1))
    kept = first.clone()
    representation(busy_window(300, seed=2))
    assert torch.equal(first, kept)
    assert torch.equal(representation(busy_window(300, seed=1)), kept)
    assert len(representation._spares) == 1, "one buffer serves them all"


def test_counts_saturate_and_do_not_wrap():
    window = window_of([(3, 4, 1, t) for t in range(600)])
    assert EventCount(SIZE)(window).max() == 255
    assert StackedHistogram(SIZE)(window).max() == 10
    assert MicroBins(SIZE, network_size=None)(window).max() == 149  # 599 // 4


@pytest.mark.parametrize("tbin", [1, 3])
def test_the_last_instant_lies_in_the_last_bin(tbin):
    cube = VoxelCube(SIZE, tbin=tbin)(window_of([(1, 2, 1, 49_999)]))
    assert cube.nonzero().tolist() == [[0, 2 * tbin - 1, 2, 1]]


def test_the_histogram_reaches_from_the_first_event_to_the_last():
    stacked = StackedHistogram(SIZE)(window_of([(0, 0, 0, 20_000), (1, 0, 0, 20_999), (2, 0, 1, 30_000)]))
    assert stacked.nonzero().tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 19, 0, 2]]


def test_padding_goes_right_and_below():
    stacked = StackedHistogram(SensorSize(240, 304), pad_multiple=32)
    assert stacked.output_size == SensorSize(256, 320)
    tensor = stacked(window_of([(303, 239, 1, 5)], size=SensorSize(240, 304)))
    assert tensor.shape == (1, 20, 256, 320) and tensor[0, 10, 239, 303] == 1 and tensor.sum() == 1


@pytest.mark.parametrize("newest_first", [False, True])
def test_steps_run_either_way(newest_first):
    window = window_of([(1, 0, 1, 0), (2, 0, 1, 12_500), (3, 0, 1, 25_000), (4, 0, 1, 37_500), (9, 9, 1, 49_999)])
    micro = MicroBins(SIZE, network_size=None, newest_first=newest_first)(window)
    ternary = TernaryImage(SIZE, network_size=None, steps=4, newest_first=newest_first)(window)
    steps = [3, 2, 1, 0] if newest_first else [0, 1, 2, 3]
    assert [micro[i, 1, 0].nonzero().flatten().tolist()[0] for i in range(4)] == [1 + steps[i] for i in range(4)]
    assert [int((ternary[i, 0, 0] == 1).nonzero()[0]) for i in range(4)] == [1 + steps[i] for i in range(4)]


def test_preprocessed_frames_stand_for_their_events():
    window = busy_window(500)
    histogram = StackedHistogram(SIZE, bins=10, limit=255)
    frame = histogram(window)[0].numpy().astype(np.uint8)
    assert torch.equal(histogram.of_histogram(frame), histogram(window))
    micro = MicroBins(SIZE, steps=3, network_size=None, newest_first=True)
    frames = np.stack([frame, np.zeros_like(frame), 2 * frame])
    summed = micro.of_histograms(frames)
    np.testing.assert_array_equal(summed[2].numpy(), EventCount(SIZE)(window)[0].numpy())
    assert not summed[1].any() and torch.equal(summed[0], 2 * summed[2])


def test_silence_is_blank():
    silence = EventWindow(EventArray.empty(SIZE), 0, 50_000)
    for make, options, _ in CASES.values():
        tensor = make(SIZE, **options)(silence)
        assert torch.equal(tensor, torch.full_like(tensor, 127 / 255 if make is TernaryImage else 0))


@pytest.mark.parametrize("case", CASES)
def test_events_of_another_grid_are_refused(case):
    make, options, _ = CASES[case]
    with pytest.raises(ValueError, match="events lie on 8x8, the representation is for 20x12; map them first"):
        make(SIZE, **options)(window_of([(1, 1, 0, 0)], size=SensorSize(8, 8)))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("row", [(20, 0, 1, 5), (0, 12, 0, 5)])
def test_events_outside_their_sensor_are_refused_and_write_nowhere(case, row):
    make, options, _ = CASES[case]
    with pytest.raises(ValueError, match="lies outside its sensor"):
        make(SIZE, **options)(window_of([(0, 0, 0, 0), row, (1, 1, 1, 800), (1, 1, 1, 900)]))
    with pytest.raises(ValueError, match="lies outside"):
        make(SIZE, **options).through_torch(window_of([row]), torch.device("cpu"))


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (VoxelCube, {"tbin": 0}, "tbin must be at least 1"),
        (VoxelCube, {"layout": "odd"}, "layout must be one of bin_major, polarity_major, collided, polarity_only"),
        (EventCount, {"limit": 256}, r"limit must be 1\.\.255"),
        (StackedHistogram, {"bins": 0}, "at least 1"),
        (MicroBins, {"steps": 0}, "steps must be at least 1"),
        (MicroBins, {"interpolation": "nearest"}, "interpolation must be one of"),
        (TernaryImage, {"steps": 0}, "steps must be at least 1"),
        (TimeSurface, {"tau_us": 0}, "tau_us must be at least 1"),
        (VoxelGrid, {"bins": 0}, "bins must be at least 1"),
    ],
)
def test_options_out_of_range_are_refused(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(SIZE, **options)
