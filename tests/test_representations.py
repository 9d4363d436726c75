import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snn_perception.events.representations import VoxelCube
from snn_perception.types import EventArray, EventWindow, SensorSize

SIZE = SensorSize(height=12, width=20)


def window_of(rows, start_us=0, length_us=50_000, size=SIZE):
    """Return a window of events (x, y, p, time after the start)."""
    rows = sorted(rows, key=lambda row: row[3])
    x, y, p, t = (np.array([row[k] for row in rows]) for k in range(4))
    events = EventArray(
        x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8), t.astype(np.int64) + start_us, size
    )
    return EventWindow(events, start_us, start_us + length_us)


def event_by_event(window, tbin):
    """Return the cube as its docstring defines it."""
    cube = np.zeros((1, 2 * tbin, window.events.size.height, window.events.size.width), np.float32)
    length = window.t_end_us - window.t_start_us
    events = window.events
    for x, y, p, t in zip(*(getattr(events, name).tolist() for name in "xypt"), strict=True):
        b = (t - window.t_start_us) * tbin // length
        cube[0, 2 * b + p, y, x] = 1.0
    return cube


def rows_within(length_us):
    row = st.tuples(
        st.integers(0, SIZE.width - 1),
        st.integers(0, SIZE.height - 1),
        st.integers(0, 1),
        st.integers(0, length_us - 1),
    )
    return st.lists(row, max_size=80)


@given(
    rows=rows_within(49_999),
    tbin=st.integers(1, 4),
    start_us=st.sampled_from([0, 50_000, -100_000, 1_700_000_000_000_000]),
)
def test_cube_equals_the_definition(rows, tbin, start_us):
    window = window_of(rows, start_us, 49_999)
    cube = VoxelCube(SIZE, tbin=tbin)(window)
    assert cube.dtype == torch.float32
    np.testing.assert_array_equal(cube.numpy(), event_by_event(window, tbin))


@pytest.mark.parametrize("tbin", [1, 2, 3, 4])
def test_bins_share_the_window_and_polarity_is_the_inner_axis(tbin):
    length = 12_000
    rows = [(b, p, p, length * b // tbin) for b in range(tbin) for p in (0, 1)]
    cube = VoxelCube(SIZE, tbin=tbin)(window_of(rows, 60_000, length))[0]
    assert cube.shape == (2 * tbin, SIZE.height, SIZE.width)
    assert cube.nonzero().tolist() == [[2 * b + p, p, b] for b in range(tbin) for p in (0, 1)]


@pytest.mark.parametrize("tbin", [1, 3])
def test_the_last_instant_lies_in_the_last_bin(tbin):
    cube = VoxelCube(SIZE, tbin=tbin)(window_of([(1, 2, 1, 49_999)]))
    assert cube.nonzero().tolist() == [[0, 2 * tbin - 1, 2, 1]]


def test_many_events_of_a_pixel_count_once():
    cube = VoxelCube(SIZE)(window_of([(3, 4, 0, t) for t in range(100)]))
    assert cube.sum() == 1
    assert cube[0, 0, 4, 3] == 1


def test_silence_is_zeros():
    window = EventWindow(EventArray.empty(SIZE), 0, 50_000)
    assert not VoxelCube(SIZE, tbin=2)(window).any()


def test_windows_do_not_share_memory():
    representation = VoxelCube(SIZE)
    first = representation(window_of([(3, 4, 0, 0)]))
    representation(window_of([(5, 6, 1, 0)]))
    assert first.nonzero().tolist() == [[0, 0, 4, 3]]


def test_shape_is_declared():
    representation = VoxelCube(SIZE, tbin=3)
    assert (representation.steps, representation.channels) == (1, 6)


def test_events_of_another_grid_are_refused():
    with pytest.raises(ValueError, match="events lie on 8x8, the representation is for 20x12; map them first"):
        VoxelCube(SIZE)(window_of([(1, 1, 0, 0)], size=SensorSize(8, 8)))


@pytest.mark.parametrize("tbin", [0, -1])
def test_there_is_at_least_one_bin(tbin):
    with pytest.raises(ValueError, match="tbin must be at least 1"):
        VoxelCube(SIZE, tbin=tbin)
