"""DAT files: header rules, columns, time over the 32-bit wrap, damage, and the round trip through the writer."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snn_perception.errors import EventDataError, SnnPerceptionError
from snn_perception.events.dat import DatRecording
from snn_perception.events.dat_writer import write_dat
from snn_perception.types import JITTER_US, DecodedEvents, EventArray, SensorSize

SIZE = SensorSize(240, 304)
GEN1 = b"% Data file containing Event2D events.\n% Version 2\n% Date 2017-4-6 9:57:37\n% Height 240\n% Width 304\n"
NEWER = (
    b"% Data file containing CD events.\n% Height 720\n% Version 2\n% Width 1280\n% date 2020-01-01 00:00:00\n% end\n"
)
N_CARS = b"% Data file containing N9Chronocam7Event2dE events.\n% Version 2\n% Date 2018-1-1 0:0:0\n"
WRAP = 1 << 32


def word(t: int, x: int, y: int, p: int) -> bytes:
    """Return one event as its eight bytes."""
    return struct.pack("<II", t, x | y << 14 | p << 28)


def written(path, *parts: bytes):
    path.write_bytes(b"".join(parts))
    return path


def all_of(recording, max_events=1 << 16) -> DecodedEvents:
    """Return a recording's chunks as one (leaps and losses apart)."""
    chunks = list(recording.chunks(max_events))
    columns = [np.concatenate([getattr(chunk, name) for chunk in chunks]) for name in "xypt"]
    losses = sum((chunk.losses for chunk in chunks), start=type(chunks[0].losses)())
    return DecodedEvents(*columns, recording.size, losses=losses)


def times(*ts: int) -> bytes:
    """Return events at these 32-bit times, at pixel (1, 2)."""
    return b"".join(word(t, 1, 2, 1) for t in ts)


# ---- header


def test_gen1_file(tmp_path):
    recording = DatRecording(written(tmp_path / "a.dat", GEN1, bytes([0, 8]), word(7, 303, 239, 1), word(9, 0, 0, 0)))
    assert (recording.size, recording.size_inferred, recording.header.event_type) == (SIZE, False, 0)
    events = all_of(recording)
    assert list(zip(events.t, events.x, events.y, events.p, strict=True)) == [(7, 303, 239, 1), (9, 0, 0, 0)]
    assert [getattr(events, name).dtype for name in "txyp"] == [np.int64, np.uint16, np.uint16, np.uint8]
    assert not events.losses.total


def test_newer_header_ends_with_end(tmp_path):
    recording = DatRecording(written(tmp_path / "a.dat", NEWER, bytes([12, 8]), word(1, 1279, 719, 0)))
    assert (recording.size, recording.header.event_type) == (SensorSize(720, 1280), 12)
    assert len(all_of(recording)) == 1


def test_after_end_nothing_is_header_even_if_it_looks_like_it(tmp_path):
    events = b"% a" + bytes([2, 0]) + b"\n%\x00"  # one event whose bytes begin like a header line
    size = b"% Height 9999\n% Width 9999\n% end\n"
    recording = DatRecording(written(tmp_path / "a.dat", size, bytes([12, 8]), events))
    assert recording.header.data_offset == len(size) + 2
    assert all_of(recording).t.tolist() == [struct.unpack("<I", events[:4])[0]]


def test_first_line_that_starts_otherwise_ends_the_header(tmp_path):
    # Type 0 would be taken for a line by a reader that skips whatever starts with '%'.
    recording = DatRecording(written(tmp_path / "a.dat", GEN1, bytes([0, 8]), b"%!\n\n", b"\x01\x00\x00\x00"))
    assert recording.header.data_offset == len(GEN1) + 2
    assert all_of(recording).t.tolist() == [struct.unpack("<I", b"%!\n\n")[0]]


def test_first_record_of_a_real_n_cars_file(tmp_path):
    record = bytes.fromhex("0000000019000200")
    recording = DatRecording(written(tmp_path / "obj.dat", N_CARS, bytes([0, 8]), record, word(5, 63, 70, 1)))
    assert recording.size_inferred
    assert recording.size == SensorSize(71, 64)
    assert "64x71" in recording.notes[0]
    events = all_of(recording)
    assert (events.t[0], events.x[0], events.y[0], events.p[0]) == (0, 25, 8, 0)
    assert not events.losses.total


def test_size_by_hand_wins(tmp_path):
    path = written(tmp_path / "a.dat", N_CARS, bytes([0, 8]), word(1, 100, 5, 0), word(2, 10, 5, 0))
    recording = DatRecording(path, size=(120, 100))
    assert (recording.size, recording.size_inferred) == (SensorSize(120, 100), False)
    events = all_of(recording)
    assert (events.x.tolist(), events.losses.outside) == ([10], 1)


def test_no_header_is_type_0(tmp_path):
    recording = DatRecording(written(tmp_path / "old.dat", word(3, 10, 20, 1), word(4, 11, 21, 0)))
    assert (recording.header.event_type, recording.header.data_offset) == (0, 0)
    assert (recording.size, all_of(recording).t.tolist()) == (SensorSize(22, 12), [3, 4])


def test_no_header_but_a_first_time_that_begins_like_one(tmp_path):
    first = struct.unpack("<I", b"% \x00\x00")[0]
    recording = DatRecording(written(tmp_path / "old.dat", word(first, 1, 2, 0), word(first + 1, 1, 2, 0)))
    assert all_of(recording).t.tolist() == [first, first + 1]


REFUSED = {
    "external triggers": (GEN1, bytes([14, 8]), "type 14 .external triggers."),
    "optical flow": (GEN1, bytes([40, 8]), "type 40 .optical flow."),
    "unknown type": (GEN1, bytes([99, 8]), "type 99"),
    "event size": (GEN1, bytes([12, 16]), "8 bytes, got 16"),
    "version 1 words": (GEN1.replace(b"Version 2", b"Version 1"), bytes([0, 8]), "version '1'"),
    "raw evt3": (b"% date 2020\n% evt 3.0\n% end\n", bytes([0, 8]), "RAW.*evt 3.0"),
    "newer raw": (b"% format EVT3;height=720;width=1280\n% end\n", b"", "RAW"),
    "impossible geometry": (GEN1.replace(b"304", b"1000000000"), bytes([0, 8]), "Width 1000000000"),
    "geometry in words": (GEN1.replace(b"304", b"wide"), bytes([0, 8]), "Width wide"),
    "half a geometry": (GEN1.replace(b"% Width 304\n", b""), bytes([0, 8]), "Width None"),
    "negative geometry": (GEN1.replace(b"304", b"-304"), bytes([0, 8]), "-304"),
    "ends after the header": (GEN1, b"", "before event type"),
    "header without end": (GEN1 + b"% " + b"x" * (1 << 17), b"", "text header of at most"),
    "binary in a header line": (GEN1 + b"% \x00\x01\x02\n", bytes([0, 8]), "text header"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_headers_name_the_file_and_the_reason(tmp_path, name):
    header, types, message = REFUSED[name]
    path = written(tmp_path / "odd.dat", header, types, word(1, 2, 3, 0) if types else b"")
    with pytest.raises(EventDataError, match=message) as caught:
        DatRecording(path)
    assert str(path) in str(caught.value)


def test_impossible_geometry_can_be_overruled(tmp_path):
    path = written(tmp_path / "a.dat", GEN1.replace(b"304", b"1000000000"), bytes([0, 8]), word(1, 2, 3, 0))
    assert len(all_of(DatRecording(path, size=(240, 304)))) == 1


def test_other_files_called_dat_are_refused_by_their_bytes(tmp_path):
    path = written(tmp_path / "other.dat", np.random.default_rng(0).bytes(80_000))
    with pytest.raises(EventDataError, match="not a DAT file"):
        _ = DatRecording(path).size


def test_empty_file_without_size(tmp_path):
    with pytest.raises(EventDataError, match="give the size"):
        _ = DatRecording(written(tmp_path / "a.dat")).size
    assert list(DatRecording(tmp_path / "a.dat", size=(4, 4)).chunks()) == []


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_no_regular_file(tmp_path, kind):
    path = tmp_path / "a.dat"
    if kind == "folder":
        path.mkdir()
    with pytest.raises(EventDataError, match="expected a DAT file"):
        DatRecording(path)


# ---- claims


@pytest.mark.parametrize(
    ("name", "content", "claimed"),
    [
        ("a.dat", b"", True),
        ("a.DAT", b"whatever", True),
        ("a.bin", GEN1 + bytes([0, 8]), True),
        ("a", NEWER + bytes([12, 8]), True),
        ("a.raw", b"% evt 3.0\n% end\n\x00\x08", False),
        ("a.raw", b"% date 2020\n% format EVT3;height=720;width=1280\n% end\n\x00\x08", False),
        ("a.tex", b"% a comment\n\\documentclass{article}\n", False),
        ("a.bin", word(1, 2, 3, 0) * 10, False),
        ("a.bin", b"", False),
    ],
)
def test_claims(tmp_path, name, content, claimed):
    assert DatRecording.claims(written(tmp_path / name, content)) is claimed


def test_claims_no_folder(tmp_path):
    assert not DatRecording.claims(tmp_path)


# ---- time


def unwrapped(path, ts, max_events=1 << 16):
    recording = DatRecording(written(path, GEN1, bytes([12, 8]), times(*ts)))
    chunks = list(recording.chunks(max_events))
    leaps, start = [], 0
    for chunk in chunks:
        leaps += [(start + int(at), int(a), int(b)) for at, a, b in chunk.leaps]
        start += len(chunk)
    return [int(t) for chunk in chunks for t in chunk.t], leaps


@pytest.mark.parametrize("max_events", [1, 2, 3, 100])
def test_wrap_is_unwrapped_across_chunks(tmp_path, max_events):
    t, leaps = unwrapped(tmp_path / "a.dat", [WRAP - 2, WRAP - 1, 0, 5, WRAP - 4, 3], max_events)
    assert t == [WRAP - 2, WRAP - 1, WRAP, WRAP + 5, WRAP - 4, WRAP + 3]  # a straggler of the old epoch, 9 us late
    assert leaps == []


@pytest.mark.parametrize("max_events", [1, 2, 100])
def test_drop_of_more_than_half_wraps_and_of_half_does_not(tmp_path, max_events):
    half = 1 << 31
    t, leaps = unwrapped(tmp_path / "a.dat", [half + 1, 0], max_events)
    assert (t, leaps) == ([half + 1, WRAP], [])
    t, leaps = unwrapped(tmp_path / "b.dat", [half, 0], max_events)
    assert (t, leaps) == ([half, 0], [(1, half, 0)])


@pytest.mark.parametrize("max_events", [1, 2, 100])
def test_disorder_stays_and_only_large_steps_back_are_leaps(tmp_path, max_events):
    ts = [100_000, 100_000 - JITTER_US, 100_001, 100_000 - JITTER_US, 90_000_000, 10]
    t, leaps = unwrapped(tmp_path / "a.dat", ts, max_events)
    assert t == ts
    # Silence of 90 s is none: a file is complete.
    assert leaps == [(3, 100_001, 100_000 - JITTER_US), (5, 90_000_000, 10)]


def test_long_silence_late_after_a_wrap_is_no_straggler(tmp_path):
    t, _ = unwrapped(tmp_path / "a.dat", [WRAP - 1, 0, JITTER_US + 1, WRAP - 1])
    assert t == [WRAP - 1, WRAP, WRAP + JITTER_US + 1, 2 * WRAP - 1]


def test_leaps_count_kept_events_only(tmp_path):
    outside = word(200_000, 304, 0, 0)
    path = written(tmp_path / "a.dat", GEN1, bytes([12, 8]), times(1), outside, word(3, 1, 1, 0))
    (chunk,) = DatRecording(path).chunks()
    assert (chunk.t.tolist(), chunk.losses.outside) == ([1, 3], 1)
    assert chunk.leaps.tolist() == [[1, 200_000, 3]]
    assert chunk.t_reached == 3


def test_events_outside_are_dropped_and_counted(tmp_path):
    rows = [(1, 303, 239), (2, 304, 0), (3, 0, 240), (4, 16383, 16383), (5, 0, 0)]
    path = written(tmp_path / "a.dat", GEN1, bytes([12, 8]), *(word(t, x, y, 1) for t, x, y in rows))
    events = all_of(DatRecording(path))
    assert (events.t.tolist(), events.losses.outside) == ([1, 5], 3)


def test_polarity_is_bit_28_alone(tmp_path):
    bits = [struct.pack("<II", t, p << 28) for t, p in enumerate([0, 1, 2, 15])]
    path = written(tmp_path / "a.dat", GEN1, bytes([12, 8]), *bits)
    assert all_of(DatRecording(path)).p.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("tail", range(1, 8))
def test_ragged_tail_is_ignored_and_counted(tmp_path, tail, caplog):
    path = written(tmp_path / "a.dat", GEN1, bytes([12, 8]), times(1, 2), times(3)[:tail])
    recording = DatRecording(path)
    events = all_of(recording)
    assert (events.t.tolist(), events.losses.ragged) == ([1, 2], tail)
    assert f"{tail} bytes" in recording.notes[0]
    assert [record.message for record in caplog.records if "ends within an event" in record.message]


def test_progress_reaches_the_end_each_pass(tmp_path):
    path = written(tmp_path / "a.dat", GEN1, bytes([12, 8]), times(*range(10)))
    recording = DatRecording(path)
    for _ in range(2):
        seen = []
        for _ in recording.chunks(4):
            done, total = recording.progress()
            seen.append(done)
        assert seen == sorted(seen)
        assert seen[0] < seen[-1] == total == path.stat().st_size


def test_chunks_do_not_share_memory(tmp_path):
    """A consumer may keep every chunk."""
    path = written(tmp_path / "a.dat", GEN1, bytes([12, 8]), times(*range(100)))
    kept = list(DatRecording(path).chunks(10))
    assert np.concatenate([chunk.t for chunk in kept]).tolist() == list(range(100))


def test_chunks_hold_something(tmp_path):
    path = written(tmp_path / "a.dat", GEN1, bytes([12, 8]), times(1))
    with pytest.raises(ValueError, match="at least 1"):
        next(DatRecording(path).chunks(0))


def test_a_file_that_shrinks_meanwhile_ends_early(tmp_path):
    path = written(tmp_path / "a.dat", GEN1, bytes([12, 8]), times(*range(1000)))
    chunks = DatRecording(path).chunks(10)
    next(chunks)
    with path.open("r+b") as file:
        file.truncate(len(GEN1) + 2 + 15 * 8)
    assert sum(len(chunk) for chunk in chunks) == 5


# ---- against a plain reading, and back


def plain_reading(data: bytes) -> list[tuple[int, int, int, int]]:
    """Return (t, x, y, p) of every event, decoded one by one."""
    rows = []
    for t, place in struct.iter_unpack("<II", data):
        rows.append((t, place & 0x3FFF, place >> 14 & 0x3FFF, place >> 28 & 1))
    return rows


@given(data=st.binary(max_size=800), max_events=st.sampled_from([1, 3, 64]))
def test_any_bytes_decode_as_the_plain_reading_does(tmp_path_factory, data, max_events):
    path = tmp_path_factory.mktemp("dat") / "a.dat"
    recording = DatRecording(written(path, GEN1, bytes([12, 8]), data), size=(1 << 14, 1 << 14))
    chunks = list(recording.chunks(max_events))
    expected = plain_reading(data[: len(data) // 8 * 8])
    got = [row for c in chunks for row in zip(c.t & (WRAP - 1), c.x, c.y, c.p, strict=True)]
    assert got == expected
    # The unwrapped time never falls by more than half a wrap.
    t = np.concatenate([c.t for c in chunks]) if chunks else np.empty(0, np.int64)
    assert (np.diff(t) >= -(1 << 31)).all()


def event_lists():
    """Lists of (step of time, x, y, p), steps both ways, around a wrap too."""
    step = st.one_of(st.integers(0, 5_000), st.integers(-JITTER_US, 0), st.integers(0, (1 << 31) - 1))
    row = st.tuples(step, st.integers(0, 303), st.integers(0, 239), st.integers(0, 1))
    return st.tuples(st.integers(JITTER_US * 40, WRAP - 1), st.lists(row, max_size=40))


def as_events(start: int, rows, size=SIZE) -> EventArray:
    t = start + np.cumsum([row[0] for row in rows], dtype=np.int64)
    x, y, p = (np.array([row[i] for row in rows], kind) for i, kind in ((1, np.uint16), (2, np.uint16), (3, np.uint8)))
    return EventArray(x, y, p, t, size)


@given(drawn=event_lists(), event_type=st.sampled_from([0, 12]), cut=st.integers(1, 17))
def test_round_trip_is_exact_or_refused(tmp_path_factory, drawn, event_type, cut):
    events = as_events(*drawn)
    path = tmp_path_factory.mktemp("dat") / "a.dat"
    pieces = [events[at : at + cut] for at in range(0, len(events), cut)]
    try:
        assert write_dat(path, pieces, SIZE, event_type) == len(events)
    except EventDataError as error:
        # Only a first time beyond 32 bits, or a step back over a wrap by more than a straggler's, cannot be told.
        assert "cannot tell" in str(error)
        steps = np.diff(events.t, prepend=0)
        crossing = events.t // WRAP != np.concatenate([[0], events.t[:-1]]) // WRAP
        assert (crossing & ((steps >= 1 << 31) | (steps < 0))).any() or events.t.min() < 0
        assert not path.exists()
        return
    recording = DatRecording(path)
    assert (recording.size, recording.header.event_type) == (SIZE, event_type)
    if len(events):
        again = all_of(recording, 7)
        for name in "xypt":
            np.testing.assert_array_equal(getattr(again, name), getattr(events, name))
        assert not again.losses.total


def test_three_hours_round_trip(tmp_path):
    """Two wraps, in steps that 32 bits can tell."""
    t = np.arange(0, 3 * 3600 * 10**6, 60 * 10**6, dtype=np.int64)
    rows = [(0, 1, 2, 1)] * len(t)
    events = EventArray(*(getattr(as_events(0, rows), name) for name in "xyp"), t, SIZE)
    write_dat(tmp_path / "a.dat", [events], SIZE)
    assert all_of(DatRecording(tmp_path / "a.dat")).t.tolist() == t.tolist()


@pytest.mark.parametrize(
    "t", [[-1], [1 << 61], [WRAP - 1, 2 * WRAP], [5, WRAP + 4], [WRAP - 10, WRAP - 10 + (1 << 31)]]
)
def test_times_that_32_bits_cannot_tell_are_refused(tmp_path, t):
    rows = [(0, 1, 2, 1)] * len(t)
    plain = as_events(0, rows)
    events = EventArray(plain.x, plain.y, plain.p, np.array(t, np.int64), SIZE)
    with pytest.raises(EventDataError, match=f"event {len(t) - 1} lies at a time"):
        write_dat(tmp_path / "a.dat", [events], SIZE)
    assert list(tmp_path.iterdir()) == []


def test_silence_that_just_can_be_told(tmp_path):
    plain = as_events(0, [(0, 1, 2, 1)] * 2)
    for ts in ([5, WRAP - 1], [WRAP - 10, WRAP - 10 + (1 << 31) - 1]):  # within an epoch, and across a wrap
        events = EventArray(plain.x, plain.y, plain.p, np.array(ts, np.int64), SIZE)
        write_dat(tmp_path / "a.dat", [events], SIZE)
        assert all_of(DatRecording(tmp_path / "a.dat")).t.tolist() == ts


@pytest.mark.parametrize(("x", "y", "p"), [(304, 0, 0), (0, 240, 0), (0, 0, 2)])
def test_writer_refuses_events_outside(tmp_path, x, y, p):
    good, bad = as_events(0, [(1, 1, 1, 1)]), as_events(5, [(1, x, y, p)])
    with pytest.raises(EventDataError, match="event 1 lies outside"):
        write_dat(tmp_path / "a.dat", [good, bad], SIZE)


def test_writer_turns_nanoseconds_into_microseconds(tmp_path):
    plain = as_events(0, [(1999, 1, 2, 1)])
    write_dat(tmp_path / "a.dat", [DecodedEvents(plain.x, plain.y, plain.p, plain.t, SIZE, "ns")], SIZE)
    assert all_of(DatRecording(tmp_path / "a.dat")).t.tolist() == [1]


def test_writer_is_deterministic_and_replaces_only_when_whole(tmp_path):
    events = as_events(0, [(1, 1, 2, 1), (1, 3, 4, 0)])
    for name in ("a.dat", "b.dat"):
        write_dat(tmp_path / name, [events], SIZE)
    assert (tmp_path / "a.dat").read_bytes() == (tmp_path / "b.dat").read_bytes()

    def breaks_off():
        yield events
        raise RuntimeError("the source failed")

    with pytest.raises(RuntimeError, match="the source failed"):
        write_dat(tmp_path / "a.dat", breaks_off(), SIZE)
    assert (tmp_path / "a.dat").read_bytes() == (tmp_path / "b.dat").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.dat", "b.dat"]


def test_writer_refuses_unknown_types_and_places(tmp_path):
    with pytest.raises(EventDataError, match="got 14"):
        write_dat(tmp_path / "a.dat", [], SIZE, 14)
    with pytest.raises(SnnPerceptionError, match="folder"):
        write_dat(tmp_path / "missing" / "a.dat", [], SIZE)
