"""Every file recording, read from a time on: what comes is what a pass from the front gives from there on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snn_perception.discovery import load_registry
from snn_perception.events import dat_seek
from snn_perception.events.atis_bin_writer import write_atis_bin
from snn_perception.events.dat import DatRecording
from snn_perception.events.dat_writer import write_dat
from snn_perception.events.evt3_encode import packetize
from snn_perception.events.hdf5_writer import write_hdf5
from snn_perception.events.raw_writer import write_raw
from snn_perception.events.recording import from_time_on, open_recording
from snn_perception.events.rosbag2 import write_bag
from snn_perception.events.window_source import WindowSource, events_between
from snn_perception.types import EventArray, SensorSize

SIZE = SensorSize(120, 160)
REGISTRY = load_registry(environment=False)
WINDOW_US = 10_000


def events_of(times, seed=0):
    rng = np.random.default_rng(seed)
    n = len(times)
    return EventArray(
        rng.integers(SIZE.width, size=n).astype(np.uint16),
        rng.integers(SIZE.height, size=n).astype(np.uint16),
        rng.integers(2, size=n).astype(np.uint8),
        np.array(times, np.int64),
        SIZE,
    )


def busy_times(count, length_us, seed=0):
    """Return times in bursts and silences."""
    rng = np.random.default_rng(seed)
    steps = np.where(rng.random(count) < 0.999, rng.integers(0, 2 * length_us // count, count), length_us // 20)
    return np.cumsum(steps)


def write(format, path, events):
    if format == "dat":
        write_dat(path, [events], SIZE)
    elif format == "raw":
        write_raw(path, [events], SIZE)
    elif format == "hdf5":
        write_hdf5(path, [events], SIZE)
    elif format == "atis_bin":
        write_atis_bin(path, [events])
    else:
        write_bag(path, packetize([events], SIZE, interval_us=4_000))
    return path


SUFFIXES = {"dat": ".dat", "raw": ".raw", "hdf5": ".h5", "atis_bin": ".bin"}


def columns(pieces):
    pieces = list(pieces)
    return [np.concatenate([getattr(piece, name) for piece in pieces] or [[]]).tolist() for name in "xypt"]


@pytest.fixture(scope="module", params=SUFFIXES)
def recording(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("seek") / f"a{SUFFIXES[request.param]}"
    events = events_of(busy_times(60_000, 3_000_000))
    return open_recording(write(request.param, path, events), REGISTRY)


@pytest.mark.parametrize("max_events", [700, 1 << 16])
@pytest.mark.parametrize("share", [-0.1, 0.0, 0.0001, 0.3, 0.65, 0.9999, 1.0, 1.2])
def test_any_time_is_found(recording, share, max_events):
    whole = list(recording.chunks())
    last = int(whole[-1].t[-1])
    start_us = int(share * last)
    found = list(recording.chunks(max_events, start_us=start_us))
    assert columns(found) == columns(from_time_on(whole, start_us))
    assert all(len(piece) <= max_events for piece in found)


def test_seeking_again_and_beside_another_pass(recording):
    whole = columns(recording.chunks())
    times = whole[3]
    first = recording.chunks(1_000, start_us=times[50_000])
    begun = next(first)
    for index in (40_000, 100, 59_999):
        t = times[index]
        assert columns(recording.chunks(start_us=t))[3] == [later for later in times if later >= t]
    assert columns([begun, *first])[3] == [later for later in times if later >= times[50_000]]


@pytest.mark.parametrize("max_events", [300, 1 << 16])
def test_pieces_that_end_at_multiples_hold_the_same_events(recording, max_events):
    pieces = list(recording.chunks(max_events, align_us=WINDOW_US))
    assert columns(pieces) == columns(recording.chunks())
    assert all(len(piece) <= max_events for piece in pieces)


@pytest.mark.parametrize("start_us", [0, 3, 1_230_000, 1_234_567, 10_000_000])
def test_windows_from_a_time_on_are_the_later_ones_of_all(recording, start_us):
    everything = list(WindowSource(recording, REGISTRY, WINDOW_US))
    later = list(WindowSource(recording, REGISTRY, WINDOW_US, start_us=start_us))
    expected = [window for window in everything if window.t_start_us >= start_us // WINDOW_US * WINDOW_US]
    assert summary(later) == summary(expected)


def summary(windows):
    return [(w.t_start_us, w.t_end_us, w.events.t.tolist(), w.events.x.tolist()) for w in windows]


def test_windows_between_two_times(recording):
    some = list(WindowSource(recording, REGISTRY, WINDOW_US, start_us=200_000, stop_us=250_000))
    assert [window.t_start_us for window in some] == [200_000, 210_000, 220_000, 230_000, 240_000]
    early = list(WindowSource(recording, REGISTRY, WINDOW_US, t_start_us=0, start_us=0, stop_us=20_000))
    assert [window.t_start_us for window in early] == [0, 10_000]


def test_events_between_two_times(recording):
    times = np.array(columns(recording.chunks())[3])
    for start, stop in ((0, 50_000), (612_345, 812_345), (500, 500), (int(times[-1]), int(times[-1]) + 9)):
        expected = times[(times >= start) & (times < stop)].tolist()
        assert events_between(recording, REGISTRY, start, stop).t.tolist() == expected
    at = int(times[30_000])
    closed = events_between(recording, REGISTRY, at - 10, at, is_closed=True)
    assert closed.t.tolist() == times[(times >= at - 10) & (times <= at)].tolist()


def test_a_bag_gives_the_same_windows_and_events_from_a_time_on(tmp_path):
    events = events_of(busy_times(5_000, 1_000_000))
    bag = open_recording(write("bag", tmp_path / "bag", events), REGISTRY)
    everything = list(WindowSource(bag, REGISTRY, WINDOW_US))
    later = list(WindowSource(bag, REGISTRY, WINDOW_US, start_us=333_333, stop_us=600_000))
    assert summary(later) == summary(w for w in everything if 330_000 <= w.t_start_us < 600_000)
    some = events_between(bag, REGISTRY, 400_000, 450_000)
    assert some.t.tolist() == [t for t in events.t.tolist() if 400_000 <= t < 450_000]


@given(
    seed=st.integers(0, 1 << 30),
    length=st.integers(1, 1_000),
    at=st.floats(0, 1.1),
    stride=st.sampled_from([1, 7, 64]),
    align_us=st.sampled_from([None, 1_000, 1 << 28]),
)
@settings(max_examples=60, deadline=None)
def test_dat_is_sought_across_wraps(tmp_path_factory, seed, length, at, stride, align_us):
    """Silences of up to half a wrap, so that every few events begin a new 2^32 us, many of them between two samples."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(
        np.where(rng.random(length) < 0.5, rng.integers(0, 3_000, length), rng.integers(0, 1 << 31, length))
    )
    path = write("dat", tmp_path_factory.mktemp("wrap") / "a.dat", events_of(times))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(dat_seek, "STRIDE_EVENTS", stride)
        recording = DatRecording(path)
        start_us = int(at * times[-1])
        found = columns(recording.chunks(50, start_us=start_us, align_us=align_us))
    assert found == columns(from_time_on(recording.chunks(), start_us))


def test_a_long_file_is_sampled_and_a_sparse_one_read_through(tmp_path, monkeypatch):
    monkeypatch.setattr(dat_seek, "FULL_PASS_EVENTS", 1_000)
    passes = []
    all_along = dat_seek._all_along
    monkeypatch.setattr(dat_seek, "_all_along", lambda *args: passes.append(step_us) or all_along(*args))
    for step_us in (10, 1_000_000):
        times = np.arange(20_000) * step_us
        recording = DatRecording(write("dat", tmp_path / f"{step_us}.dat", events_of(times)))
        for share in (0.0, 0.26, 0.5, 0.999):
            start_us = int(share * times[-1])
            assert columns(recording.chunks(start_us=start_us))[3] == times[times >= start_us].tolist()
    assert passes == [1_000_000], "only the sparse one, and once"


@pytest.mark.parametrize("count", [1, 7, 8, 9, 15, 16, 17, 64])
@pytest.mark.parametrize("step_us", [1, 700, 1_000, 40_000])
@pytest.mark.parametrize("max_events", [1, 2, 8])
def test_a_file_that_fills_the_last_buffer_is_read_to_its_end(tmp_path, count, step_us, max_events):
    events = events_of(np.arange(count) * step_us)
    recording = DatRecording(write("dat", tmp_path / "a.dat", events))
    assert columns(recording.chunks(max_events, align_us=1_000))[3] == events.t.tolist()


@given(seed=st.integers(0, 1 << 30), max_events=st.integers(1, 9), align_us=st.sampled_from([700, 50_000]))
@settings(max_examples=80, deadline=None)
def test_windows_of_dat_across_a_wrap_do_not_depend_on_the_pieces(tmp_path_factory, seed, max_events, align_us):
    rng = np.random.default_rng(seed)
    times = (1 << 32) - 5_000 + np.cumsum(rng.integers(0, 2_000, 30))
    times = np.concatenate([np.arange(3) * 2_000_000_000, times])
    recording = DatRecording(write("dat", tmp_path_factory.mktemp("wrap") / "a.dat", events_of(times)))
    for piece in recording.chunks(max_events, align_us=align_us):
        if len(piece) and piece.t_reached != piece.t[-1]:
            assert piece.t_reached == (piece.t[-1] // align_us + 1) * align_us
            assert times[times > piece.t[-1]].min() >= piece.t_reached, "no event may come before the time told of"
    assert columns(recording.chunks(max_events, align_us=align_us))[3] == times.tolist()


@pytest.mark.parametrize("start_us", [0, 90_000, 1_234_567])
def test_overlapping_windows_from_a_time_on(recording, start_us):
    options = {"stride_us": WINDOW_US // 5}
    everything = list(WindowSource(recording, REGISTRY, WINDOW_US, **options))
    later = list(WindowSource(recording, REGISTRY, WINDOW_US, start_us=start_us, **options))
    expected = [window for window in everything if window.t_end_us - WINDOW_US // 5 >= start_us // 2_000 * 2_000]
    assert summary(later) == summary(expected) and len(later) > 100


def test_events_between_end_where_time_jumps_back(tmp_path):
    times = np.concatenate([np.arange(0, 500_000, 10), np.arange(0, 800_000, 10)])
    recording = DatRecording(write("dat", tmp_path / "a.dat", events_of(times)))
    some = events_between(recording, REGISTRY, 400_000, 550_000)
    assert some.t.tolist() == list(range(400_000, 500_000, 10))


def test_disorder_within_a_stride_does_not_mislead_a_seek(tmp_path):
    rng = np.random.default_rng(0)
    times = np.maximum(0, np.arange(30_000) * 10 - rng.integers(0, 2_000, 30_000) * (rng.random(30_000) < 0.1))
    recording = DatRecording(write("dat", tmp_path / "a.dat", events_of(times)))
    for start_us in (0, 4_095, 40_960, 123_456, 299_990):
        assert columns(recording.chunks(start_us=start_us)) == columns(from_time_on(recording.chunks(), start_us))


def test_aligned_pieces_of_dat_are_whole_windows(tmp_path):
    recording = DatRecording(write("dat", tmp_path / "a.dat", events_of(busy_times(20_000, 1_000_000))))
    pieces = [piece for piece in recording.chunks(5_000, align_us=50_000) if len(piece)]
    slots = [set((piece.t // 50_000).tolist()) for piece in pieces]
    assert all(len(slot) == 1 for slot in slots), "no piece spans a multiple"
    assert len(pieces) == len(set().union(*slots)), "no window is cut in two"
