"""HDF5 recordings: layouts, time, seeking, pieces, and the round trip through the writer."""

from itertools import pairwise

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snn_perception.errors import EventDataError, SnnPerceptionError
from snn_perception.events import hdf5_storage
from snn_perception.events.hdf5 import MAX_TIME_US, Hdf5Recording
from snn_perception.events.hdf5_writer import write_hdf5
from snn_perception.events.recording import from_time_on
from snn_perception.types import JITTER_US, DecodedEvents, EventArray, Losses, SensorSize
from tests.hdf5_support import SIZE, assert_same, events_of, plain, rows_of, some_events, tables

# ---- layouts


@pytest.mark.parametrize("prefix", ["events/", ""])
@pytest.mark.parametrize("chunk", [64, 1000, 4096, None])
def test_plain_columns(tmp_path, prefix, chunk):
    events = some_events()
    recording = Hdf5Recording(plain(tmp_path / "a.h5", events, prefix=prefix, chunk=chunk))
    assert (recording.size, recording.size_inferred, recording.layout.events) == (SIZE, False, 1000)
    for max_events in (1 << 16, 100, 64, 1):
        chunks = list(recording.chunks(max_events))
        assert max(map(len, chunks)) <= max_events
        assert sum(chunk.losses.total for chunk in chunks) == 0
        assert all(chunk.in_order and not len(chunk.leaps) for chunk in chunks)
        assert [getattr(chunks[0], name).dtype for name in "txyp"] == [np.int64, np.uint16, np.uint16, np.uint8]
        assert_same(EventArray.concatenate([chunk.to_event_array() for chunk in chunks], SIZE), events)


@pytest.mark.parametrize("chunk", [64, None])
@pytest.mark.parametrize("kind", ["i1", "u1", "i2", ">u2", "i4", ">i8", "u8", "u4"])
def test_any_integer_type(tmp_path, kind, chunk):
    rng = np.random.default_rng(1)
    columns = {name: rng.integers(0, 100, 200) for name in "xy"}
    columns |= {"t": np.sort(rng.integers(0, 100, 200)), "p": rng.integers(0, 2, 200)}
    path = plain(tmp_path / "a.h5", columns, dtypes=dict.fromkeys("xytp", kind), chunk=chunk)
    expected = list(zip(*(columns[name].tolist() for name in "txyp"), strict=True))
    assert rows_of(Hdf5Recording(path).chunks(70)) == expected


@pytest.mark.parametrize(
    "p", [np.array([-1, 1, 1, -1], np.int8), np.array([0, 1, 1, 0], np.int64), np.array([False, True, True, False])]
)
@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}, {"compression": "gzip", "shuffle": True}])
def test_polarities(tmp_path, p, options):
    columns = {"x": [1, 2, 3, 4], "y": [0, 0, 0, 0], "t": [5, 6, 7, 8], "p": p}
    (chunk,) = Hdf5Recording(plain(tmp_path / "a.h5", columns, chunk=3, **options)).chunks(4)
    assert chunk.p.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize(
    "options", [{}, {"compression": "gzip"}, {"chunks": None, "maxshape": None}, dict(hdf5plugin.Blosc())]
)
def test_prophesee_tables(tmp_path, options):
    events = some_events()
    recording = Hdf5Recording(tables(tmp_path / "a.hdf5", events, **options))
    assert recording.size == SIZE
    assert_same(events_of(recording), events)
    assert_same(events_of(recording, max_events=99), events)
    assert all(getattr(chunk, name).flags.c_contiguous for chunk in recording.chunks(99) for name in "txyp")


def test_triggers_come_with_the_events_of_their_time(tmp_path):
    events = some_events(400)
    ts = [0, 10, int(events.t[150]), int(events.t[399]), int(events.t[399]) + 500]
    triggers = [(i % 2, t, i) for i, t in enumerate(ts)]
    recording = Hdf5Recording(tables(tmp_path / "a.hdf5", events, triggers=triggers))
    chunks = list(recording.chunks(128))
    got = [
        tuple(map(int, row)) for c in chunks for row in zip(c.triggers.edge, c.triggers.t, c.triggers.id, strict=True)
    ]
    assert got == triggers
    assert [len(chunk.triggers) for chunk in chunks] == [2, 1, 0, 1, 1]
    assert len(chunks[-1]) == 0
    assert [int(t) for c in recording.chunks(start_us=ts[2]) for t in c.triggers.t] == ts[2:]


def test_unreadable_triggers_are_left_out_with_a_note(tmp_path):
    path = tables(tmp_path / "a.hdf5", some_events(10))
    with h5py.File(path, "r+") as file:
        file["EXT_TRIGGER/events"] = np.zeros((3, 3))
    recording = Hdf5Recording(path)
    assert sum(map(len, recording.chunks())) == 10
    assert "triggers are left out" in recording.notes[0]


@pytest.mark.parametrize("place", ["data sets", "arrays", "attributes", "attributes of the root"])
def test_stated_sizes(tmp_path, place):
    events = some_events(10)
    prefix = "" if place.endswith("root") else "events/"
    path = plain(tmp_path / "a.h5", events, size=None, prefix=prefix)
    with h5py.File(path, "r+") as file:
        group = file[prefix] if prefix else file
        for name, side in (("height", 480), ("width", 640)):
            if place == "data sets":
                group[name] = np.int32(side)
            elif place == "arrays":
                group.create_dataset(name, data=[side], chunks=(1,), compression="gzip")
            else:
                group.attrs[name] = side
    assert Hdf5Recording(path).size == SensorSize(480, 640)


def test_size_by_hand_wins_and_a_missing_one_is_inferred(tmp_path):
    columns = {"x": [5, 30, -1], "y": [7, 2, 60_000], "t": [1, 2, 3], "p": [1, 0, 1]}
    path = plain(tmp_path / "a.h5", columns, size=None)
    recording = Hdf5Recording(path)
    assert (recording.size, recording.size_inferred) == (SensorSize(8, 31), True)
    assert "31x8" in recording.notes[0]
    assert Hdf5Recording(path, size=(9, 10)).size == SensorSize(9, 10)
    (chunk,) = Hdf5Recording(path, size=(9, 10)).chunks()
    assert (chunk.x.tolist(), chunk.losses) == ([5], Losses(outside=2))


def test_no_events_and_no_size(tmp_path):
    columns = dict.fromkeys("xytp", np.empty(0, np.int64))
    path = plain(tmp_path / "a.h5", columns, size=None)
    with pytest.raises(EventDataError, match="give the size"):
        _ = Hdf5Recording(path).size
    for options in ({}, {"start_us": 5}):
        assert list(Hdf5Recording(path, size=(4, 4)).chunks(**options)) == []


STRUCTURES = {
    "1.6": {},
    "1.8": {"libver": ("v108", "v108")},
    "1.10": {"libver": ("v110", "v110")},
    "1.12": {"libver": ("v112", "v112")},
    "latest": {"libver": "latest"},
    "order kept": {"track_order": True},
    "user block": {"userblock_size": 1024},
    "latest, user block": {"userblock_size": 512, "libver": "latest"},
    "wide addresses": {"fs_strategy": "page"},
}


@pytest.mark.parametrize("others", [0, 300])
@pytest.mark.parametrize("name", STRUCTURES)
def test_structures_of_all_versions(tmp_path, name, others):
    """Groups of few names and many, chunks of few and many, in one piece, and few enough to lie in the header."""
    events = some_events(1000)
    with h5py.File(tmp_path / "a.h5", "w", **STRUCTURES[name]) as file:
        group = file.create_group("events")
        for number in range(others):
            group.create_group(f"other {number}")
            file[f"number {number}"] = number
        group.create_dataset("x", data=events.x, chunks=(5,), maxshape=(None,))
        group.create_dataset("y", data=events.y, chunks=(64,), compression="gzip")
        group.create_dataset("t", data=events.t, chunks=(1000,), maxshape=(2000,), fletcher32=True)
        group.create_dataset("p", data=events.p)
        group.attrs["height"], group.attrs["width"] = 240, np.int16(304)
        file["t_offset"] = 7
    recording = Hdf5Recording(tmp_path / "a.h5")
    assert recording.size == SIZE
    got = events_of(recording, max_events=90)
    np.testing.assert_array_equal(got.t, events.t + 7)
    for column in "xyp":
        np.testing.assert_array_equal(getattr(got, column), getattr(events, column))


@pytest.mark.parametrize("geometry", ["304x240", np.bytes_("304x240"), "x" * 5000])
@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_geometry_as_text_of_any_kind(tmp_path, geometry, libver):
    path = tmp_path / "a.hdf5"
    tables(path, some_events(10), geometry=geometry, libver=libver)
    if len(geometry) > 10:
        with pytest.raises(EventDataError, match="expected a geometry as"):
            Hdf5Recording(path)
    else:
        assert Hdf5Recording(path).size == SIZE


# ---- time


@pytest.mark.parametrize("max_events", [1, 2, 3, 100])
def test_disorder_stays_and_only_large_steps_back_are_leaps(tmp_path, max_events):
    ts = [100_000, 100_000 - JITTER_US, 100_001, 100_000 - JITTER_US, 300_000, 90_000_000, 10]
    xs = [1, 1, 1, 1, 999, 1, 1]  # the event outside the sensor tells the time all the same
    path = plain(tmp_path / "a.h5", {"x": xs, "y": [2] * 7, "t": ts, "p": [1] * 7}, chunk=2)
    at, leaps, t = 0, [], []
    for chunk in Hdf5Recording(path).chunks(max_events):
        leaps += [(at + int(i), int(a), int(b)) for i, a, b in chunk.leaps]
        at, t = at + len(chunk), t + chunk.t.tolist()
        assert not chunk.in_order or (np.diff(chunk.t) >= 0).all()
    assert t == ts[:4] + ts[5:]
    assert leaps == [(3, 100_001, 50_000), (5, 90_000_000, 10)]  # silence of 90 s is none: a file is complete


@pytest.mark.parametrize("kind", ["i8", "u8"])
def test_impossible_times_are_dropped_and_counted(tmp_path, kind):
    worst = [-1, -(1 << 63)] if kind == "i8" else [1 << 63, (1 << 64) - 1]
    ts = np.array([5, worst[0], 6, worst[1], MAX_TIME_US, MAX_TIME_US + 1], kind)
    path = plain(tmp_path / "a.h5", {"x": [1, 999, 1, 1, 1, 1], "y": [1] * 6, "t": ts, "p": [0] * 6})
    (chunk,) = Hdf5Recording(path).chunks()
    assert (chunk.t.tolist(), chunk.losses) == ([5, 6, MAX_TIME_US], Losses(unknown=3))
    assert (chunk.t_reached, len(chunk.leaps)) == (MAX_TIME_US, 0)


@pytest.mark.parametrize("offset", [1_000_000, -500, 1 << 61])
def test_the_offset_of_dsec(tmp_path, offset):
    ts = np.array([0, 400, 600, 1000], np.uint32)
    columns = {"x": [1] * 4, "y": [1] * 4, "t": ts, "p": [1] * 4}
    path = plain(tmp_path / "a.h5", columns, extra={"t_offset": np.int64(offset)})
    (chunk,) = Hdf5Recording(path).chunks()
    assert chunk.t.tolist() == [t + offset for t in ts.tolist() if t + offset >= 0]
    assert chunk.losses == Losses(unknown=sum(t + offset < 0 for t in ts.tolist()))
    (chunk,) = Hdf5Recording(path, t_offset=False).chunks()
    assert chunk.t.tolist() == ts.tolist()
    assert rows_of(Hdf5Recording(path).chunks(start_us=600 + offset))[0][0] == 600 + offset


def test_an_impossible_offset(tmp_path):
    path = plain(tmp_path / "a.h5", some_events(3), extra={"t_offset": np.int64((1 << 61) + 1)})
    with pytest.raises(EventDataError, match="impossible t_offset"):
        Hdf5Recording(path)


# ---- seeking and pieces


def starts_of(t) -> list[int]:
    return [-10, 0, 1, int(t[0]), int(t[63]), int(t[64]), int(t[500]), int(t[500]) + 1, int(t[-1]), int(t[-1]) + 1]


@pytest.mark.parametrize("kind", ["no hint", "contiguous", "ms_to_idx", "wrong ms_to_idx", "table", "wrong table"])
@pytest.mark.parametrize("max_events", [1 << 16, 70])
def test_seeking_gives_what_a_pass_from_the_front_does(tmp_path, kind, max_events):
    events, path = some_events(1000), tmp_path / "a.h5"
    if "table" in kind:
        tables(path, events)
        if kind.startswith("wrong"):
            with h5py.File(path, "r+") as file:
                index = file["CD/indexes"][:][::-1]
                index["id"][::2] = 1 << 63
                file["CD/indexes"][...] = index
    else:
        index = np.searchsorted(events.t, np.arange(0, int(events.t[-1]), 1000))
        index = index[::-1] if kind.startswith("wrong") else index
        plain(
            path, events, chunk=None if kind == "contiguous" else 64, extra={"ms_to_idx": index} if "ms" in kind else {}
        )
    recording = Hdf5Recording(path)
    for start_us in starts_of(events.t):
        expected = events[int(np.searchsorted(events.t, start_us)) :]
        assert_same(events_of(recording, max_events=max_events, start_us=start_us), expected)


def test_seeking_reads_only_what_it_needs(tmp_path, monkeypatch):
    events = some_events(64 * 1024)
    recording = Hdf5Recording(plain(tmp_path / "a.h5", events, compression="gzip"))
    decoded, decode = [], hdf5_storage.decoded
    monkeypatch.setattr(hdf5_storage, "decoded", lambda *args: decoded.append(1) or decode(*args))
    chunk = next(recording.chunks(64, start_us=int(events.t[40_000])))
    assert chunk.t[0] == events.t[np.searchsorted(events.t, events.t[40_000])]
    assert len(decoded) <= 10 + 1 + 2 + 4 * 2  # bisection of 1024 chunks, the one before, and those of the piece
    decoded.clear()
    assert sum(map(len, recording.chunks(100, align_us=1000))) == len(events)
    assert len(decoded) == 4 * 1024  # each once


@pytest.mark.parametrize("back_us", [100, 2000])
def test_seeking_among_disorder_within_a_chunk(tmp_path, back_us):
    rng = np.random.default_rng(3)
    events = some_events(1000)
    t = np.maximum(events.t + rng.integers(-back_us, back_us, 1000), 0)
    events = EventArray(events.x, events.y, events.p, t, SIZE)
    recording = Hdf5Recording(plain(tmp_path / "a.h5", events, chunk=128))
    whole = list(recording.chunks(77))
    for start_us in range(-50, int(t.max()) + 100, 997):
        expected = rows_of(from_time_on(whole, start_us))
        first = np.flatnonzero(t >= start_us)
        assert len(expected) == (1000 - int(first[0]) if len(first) else 0)
        assert rows_of(recording.chunks(77, start_us=start_us)) == expected


@pytest.mark.parametrize(("max_events", "whole"), [(1 << 16, True), (200, True), (20, False)])
def test_pieces_end_at_multiples(tmp_path, max_events, whole):
    events = some_events(1000)  # some 33 a millisecond
    recording = Hdf5Recording(plain(tmp_path / "a.h5", events))
    chunks = list(recording.chunks(max_events, align_us=1000))
    assert_same(EventArray.concatenate([chunk.to_event_array() for chunk in chunks], SIZE), events)
    ends = [(int(a.t[-1]), int(b.t[0])) for a, b in pairwise(chunks)]
    at_multiples = [last // 1000 < first // 1000 for last, first in ends]
    assert all(at_multiples) == whole
    assert any(at_multiples) or max_events > 1000
    assert max(map(len, chunks)) <= max_events


@pytest.mark.parametrize("options", [{"max_events": 0}, {"align_us": 0}])
def test_chunks_hold_something(tmp_path, options):
    with pytest.raises(ValueError, match="at least 1"):
        next(Hdf5Recording(plain(tmp_path / "a.h5", some_events(3))).chunks(**options))


def test_progress_reaches_the_end_each_pass(tmp_path):
    recording = Hdf5Recording(plain(tmp_path / "a.h5", some_events(300), chunk=None))
    for _ in range(2):
        assert [recording.progress()[0] for _ in recording.chunks(100)] == [100, 200, 300]
        assert recording.progress() == (300, 300)


def test_two_passes_at_once_and_pieces_that_stay(tmp_path):
    events = some_events()
    path = plain(tmp_path / "a.h5", events)
    recording, kept = Hdf5Recording(path), []
    half = recording.chunks(50)
    next(half)
    for one, other in zip(recording.chunks(130), recording.chunks(130), strict=True):
        np.testing.assert_array_equal(one.t, other.t)
        other.x[:] = 0  # nobody else's
        kept.append(one)
    assert_same(EventArray.concatenate([chunk.to_event_array() for chunk in kept], SIZE), events)
    half.close()
    path.unlink()
    with h5py.File(path, "w"):  # would fail while a pass held the old one open by its name
        pass


# ---- round trip


def event_lists():
    """Lists of (t, x, y, p) in any order of time."""
    t = st.one_of(st.integers(0, 10**6), st.integers(0, MAX_TIME_US))
    return st.lists(st.tuples(t, st.integers(0, 303), st.integers(0, 239), st.integers(0, 1)), max_size=40)


def as_events(rows) -> EventArray:
    t, x, y, p = (np.array([row[i] for row in rows], kind) for i, kind in enumerate("qHHB"))
    return EventArray(x, y, p, t, SIZE)


@given(drawn=event_lists(), compression=st.sampled_from(["zstd", "gzip", None]), cut=st.integers(1, 17))
def test_round_trip(tmp_path_factory, drawn, compression, cut):
    events = as_events(drawn)
    path = tmp_path_factory.mktemp("h5") / "a.h5"
    pieces = [events[at : at + cut] for at in range(0, len(events), cut)]
    assert write_hdf5(path, pieces, SIZE, compression=compression) == len(events)
    recording = Hdf5Recording(path)
    assert (recording.size, recording.size_inferred) == (SIZE, False)
    assert rows_of(recording.chunks(7)) == drawn
    with h5py.File(path) as file:  # as anyone else reads it
        assert [file[f"events/{name}"].dtype for name in "xytp"] == [np.uint16, np.uint16, np.int64, np.uint8]
        np.testing.assert_array_equal(file["events/t"][:], events.t)


@pytest.mark.parametrize("compression", ["zstd", "gzip", None])
def test_many_chunks_round_trip(tmp_path, compression):
    events = some_events(200_000)
    pieces = [events[at : at + 30_011] for at in range(0, len(events), 30_011)]
    assert write_hdf5(tmp_path / "a.h5", pieces, SIZE, compression=compression) == 200_000
    recording = Hdf5Recording(tmp_path / "a.h5")
    assert_same(events_of(recording), events)
    assert [len(chunk) for chunk in recording.chunks()] == [65_536, 65_536, 65_536, 3_392]
    assert_same(
        events_of(recording, start_us=int(events.t[150_000])),
        events[int(np.searchsorted(events.t, events.t[150_000])) :],
    )


def test_writer_is_deterministic_and_replaces_only_when_whole(tmp_path):
    events = some_events()
    for name, cut in (("a.h5", 7), ("b.h5", 1000)):
        write_hdf5(tmp_path / name, [events[at : at + cut] for at in range(0, 1000, cut)], SIZE)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()

    def breaks_off():
        yield events
        raise RuntimeError("the source failed")

    with pytest.raises(RuntimeError, match="the source failed"):
        write_hdf5(tmp_path / "a.h5", breaks_off(), SIZE)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "b.h5"]


def test_without_the_plugin_it_is_gzip(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "hdf5plugin", None)
    write_hdf5(tmp_path / "a.h5", [some_events()], SIZE)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["events/t"].compression == "gzip"
    assert_same(events_of(Hdf5Recording(tmp_path / "a.h5")), some_events())


@pytest.mark.parametrize(
    ("row", "message"),
    [((5, 304, 0, 0), "outside"), ((5, 0, 240, 0), "outside"), ((5, 0, 0, 2), "outside"), ((-1, 0, 0, 0), "at a time")],
)
def test_writer_refuses_what_does_not_belong(tmp_path, row, message):
    with pytest.raises(EventDataError, match=f"event 1000 lies {message}"):
        write_hdf5(tmp_path / "a.h5", [some_events(), as_events([row])], SIZE)
    assert list(tmp_path.iterdir()) == []


def test_writer_refuses_unknown_compressions_and_places(tmp_path):
    with pytest.raises(EventDataError, match="got 'szip'"):
        write_hdf5(tmp_path / "a.h5", [], SIZE, compression="szip")
    with pytest.raises(SnnPerceptionError, match="folder"):
        write_hdf5(tmp_path / "missing" / "a.h5", [], SIZE)


def test_writer_turns_nanoseconds_into_microseconds(tmp_path):
    events = as_events([(1999, 1, 2, 1)])
    write_hdf5(tmp_path / "a.h5", [DecodedEvents(events.x, events.y, events.p, events.t, SIZE, "ns")], SIZE)
    assert rows_of(Hdf5Recording(tmp_path / "a.h5").chunks()) == [(1, 1, 2, 1)]
