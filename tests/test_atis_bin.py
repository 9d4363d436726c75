"""ATIS .bin files: records, overflows, damage, claims, the round trip, and N-Caltech101's annotations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snn_perception.errors import EventDataError
from snn_perception.events.atis_bin import AtisBinRecording, outline_box, read_ncaltech_annotation
from snn_perception.events.atis_bin_writer import write_atis_bin
from snn_perception.events.recording import find_reader, from_time_on
from snn_perception.types import JITTER_US, DecodedEvents, EventArray, SensorSize

MARKER = bytes([0, 240, 0, 0, 0])
STEP = 1 << 13


def record(t: int, x: int, y: int, p: int) -> bytes:
    return bytes([x, y, p << 7 | t >> 16, t >> 8 & 0xFF, t & 0xFF])


def written(path, *parts: bytes):
    path.write_bytes(b"".join(parts))
    return path


def rows_of(chunks) -> list[tuple[int, int, int, int]]:
    """Return (t, x, y, p) of every event."""
    return [tuple(map(int, row)) for c in chunks for row in zip(c.t, c.x, c.y, c.p, strict=True)]


def plain_reading(data: bytes) -> list[tuple[int, int, int, int]]:
    """Return (t, x, y, p) of every event, decoded one by one."""
    rows, overflow = [], 0
    for at in range(0, len(data) - 4, 5):
        x, y, a, b, c = data[at : at + 5]
        if y == 240:
            overflow += STEP
        else:
            rows.append((overflow + ((a & 0x7F) << 16 | b << 8 | c), x, y, a >> 7))
    return rows


def as_events(rows) -> EventArray:
    t, x, y, p = (np.array([row[i] for row in rows], kind) for i, kind in enumerate("qHHB"))
    return EventArray(x, y, p, t, SensorSize(180, 240))


# ---- records


def test_first_record_of_the_format(tmp_path):
    path = written(tmp_path / "a.bin", bytes([10, 20, 0x85, 0x01, 0x02]), bytes([33, 12, 0x05, 0x01, 0x03]))
    recording = AtisBinRecording(path)
    assert rows_of(recording.chunks()) == [(0x050102, 10, 20, 1), (0x050103, 33, 12, 0)]
    assert (recording.size, recording.size_inferred) == (SensorSize(21, 34), True)
    assert "34x21" in recording.notes[0]
    (chunk,) = recording.chunks()
    assert [getattr(chunk, name).dtype for name in "txyp"] == [np.int64, np.uint16, np.uint16, np.uint8]
    assert (chunk.in_order, chunk.t_reached, chunk.losses.total) == (True, 0x050103, 0)


@pytest.mark.parametrize("max_events", [1, 2, 3, 100])
def test_overflows_add_up_and_are_no_events(tmp_path, max_events):
    parts = [record(5, 1, 2, 1), MARKER, record(6, 1, 2, 0), MARKER, MARKER, record(0, 3, 4, 1)]
    recording = AtisBinRecording(written(tmp_path / "a.bin", *parts), size=(34, 34))
    chunks = list(recording.chunks(max_events))
    assert rows_of(chunks) == [(5, 1, 2, 1), (STEP + 6, 1, 2, 0), (3 * STEP, 3, 4, 1)]
    assert sum(chunk.losses.total for chunk in chunks) == 0
    assert all(not len(chunk.leaps) for chunk in chunks)


def test_size_by_hand_wins(tmp_path):
    path = written(tmp_path / "a.bin", record(1, 33, 33, 0), record(2, 34, 0, 0), record(3, 0, 34, 0))
    recording = AtisBinRecording(path, size=[34, 34])
    (chunk,) = recording.chunks()
    assert (recording.size, recording.size_inferred) == (SensorSize(34, 34), False)
    assert (chunk.t.tolist(), chunk.losses.outside, chunk.t_reached) == ([1], 2, 3)


@pytest.mark.parametrize("max_events", [1, 2, 100])
def test_disorder_stays_and_only_large_steps_back_are_leaps(tmp_path, max_events):
    ts = [100_000, 100_000 - JITTER_US, 100_001, 100_000 - JITTER_US, 200_000, 3]
    parts = [record(t, 1, 1, 1) for t in ts]
    parts.insert(4, record(300_000, 200, 1, 1))  # outside, yet time was there
    recording = AtisBinRecording(written(tmp_path / "a.bin", *parts), size=(34, 34))
    at, leaps, t = 0, [], []
    for chunk in recording.chunks(max_events):
        leaps += [(at + int(i), int(a), int(b)) for i, a, b in chunk.leaps]
        at, t = at + len(chunk), t + chunk.t.tolist()
        assert chunk.in_order <= bool((np.diff(chunk.t) >= 0).all())
    assert t == ts
    assert leaps == [(3, 100_001, 50_000), (4, 300_000, 200_000), (5, 200_000, 3)]


@pytest.mark.parametrize("tail", [1, 2, 3, 4])
def test_ragged_tail_is_ignored_and_counted(tmp_path, tail):
    path = written(tmp_path / "a.bin", record(1, 1, 1, 0), record(2, 1, 1, 0)[:tail])
    recording = AtisBinRecording(path)
    chunks = list(recording.chunks(1))
    assert (rows_of(chunks), sum(c.losses.ragged for c in chunks)) == ([(1, 1, 1, 0)], tail)
    assert any(f"{tail} bytes" in note for note in recording.notes)


@given(data=st.binary(max_size=600), max_events=st.sampled_from([1, 3, 64]))
def test_any_bytes_decode_as_the_plain_reading_does(tmp_path_factory, data, max_events):
    path = written(tmp_path_factory.mktemp("bin") / "a.bin", data)
    chunks = list(AtisBinRecording(path, size=(256, 256)).chunks(max_events))
    assert rows_of(chunks) == plain_reading(data)


def test_progress_reaches_the_end_each_pass(tmp_path):
    recording = AtisBinRecording(written(tmp_path / "a.bin", *[record(t, 1, 1, 0) for t in range(10)]), size=(2, 2))
    for _ in range(2):
        seen = [recording.progress()[0] for _ in recording.chunks(3)]
        assert seen == [15, 30, 45, 50]
        assert recording.progress() == (50, 50)


# ---- seeking


def events_with_disorder() -> list[bytes]:
    rng = np.random.default_rng(0)
    t = np.maximum(np.cumsum(rng.integers(0, 200, 500)) + rng.integers(-300, 300, 500), 0)
    return [record(int(now), int(now) % 30, 7, 1) for now in t] + [MARKER, record(5000, 1, 1, 0)]


@pytest.mark.parametrize("start_us", [-5, 0, 1, 777, 20_000, 30_000, 10**9])
@pytest.mark.parametrize("max_events", [7, 64, 1 << 16])
def test_seeking_gives_what_a_pass_from_the_front_does(tmp_path, start_us, max_events):
    recording = AtisBinRecording(written(tmp_path / "a.bin", *events_with_disorder()))
    rows = rows_of(recording.chunks())
    first = next((i for i, row in enumerate(rows) if row[0] >= start_us), len(rows))
    assert rows_of(recording.chunks(max_events, start_us=start_us)) == rows[first:]
    assert rows_of(from_time_on(recording.chunks(max_events), start_us)) == rows[first:]


@pytest.mark.parametrize("options", [{"max_events": 0}, {"align_us": 0}])
def test_chunks_hold_something(tmp_path, options):
    recording = AtisBinRecording(written(tmp_path / "a.bin", record(1, 1, 1, 1)))
    with pytest.raises(ValueError, match="at least 1"):
        next(recording.chunks(**options))


# ---- files that are none


def test_empty_file_without_size(tmp_path):
    with pytest.raises(EventDataError, match="give the size"):
        _ = AtisBinRecording(written(tmp_path / "a.bin")).size
    with pytest.raises(EventDataError, match="give the size"):
        _ = AtisBinRecording(written(tmp_path / "b.bin", MARKER * 9)).size
    assert list(AtisBinRecording(tmp_path / "a.bin", size=(4, 4)).chunks()) == []


def test_no_regular_file(tmp_path):
    for path in (tmp_path, tmp_path / "missing.bin"):
        with pytest.raises(EventDataError, match="expected an ATIS"):
            AtisBinRecording(path)


PLAUSIBLE = b"".join(record(100 * i, i % 30, i % 20, i % 2) for i in range(50))
DAT = b"% Data file containing Event2D events.\n% Version 2\n% Height 240\n% Width 304\n" + bytes([0, 8])


@pytest.mark.parametrize(
    ("name", "content", "claimed"),
    [
        ("a.bin", PLAUSIBLE, True),
        ("a.BIN", PLAUSIBLE + b"\x01\x02", True),
        ("a.bin", MARKER * 4 + PLAUSIBLE + MARKER, True),
        ("a.dat", PLAUSIBLE, False),
        ("a", PLAUSIBLE, False),
        ("a.bin", b"", False),
        ("a.bin", PLAUSIBLE[:20], False),
        ("a.bin", bytes(5000), False),
        ("a.bin", b"\xff" * 5000, False),
        ("a.bin", bytes(range(256)) * 20, False),
        ("a.bin", b"Dear reader, this is a letter.\n" * 90, False),
        ("a.bin", np.random.default_rng(0).bytes(5000), False),
        ("a.bin", np.random.default_rng(0).normal(size=2000).astype("<f4").tobytes(), False),
        ("a.bin", np.arange(2000, dtype="<u4").tobytes(), False),
        ("a.bin", np.arange(2000, dtype=">u2").tobytes(), False),
        ("a.bin", b"PK\x03\x04" + bytes(4000), False),
        ("a.bin", DAT + bytes(800), False),
        ("a.bin", PLAUSIBLE + record(6000, 250, 3, 0), False),
        ("a.bin", PLAUSIBLE[::-1][:245], False),
    ],
)
def test_claims(tmp_path, name, content, claimed):
    assert AtisBinRecording.claims(written(tmp_path / name, content)) is claimed


def test_the_registry_finds_it(tmp_path, registry):
    assert find_reader(written(tmp_path / "image_0001.bin", PLAUSIBLE), registry) == "atis_bin"
    assert find_reader(written(tmp_path / "gen1.bin", DAT + bytes(80)), registry) == "dat"


# ---- round trip


def event_lists():
    """Lists of (t, x, y, p) in time order, some beyond what a record's time holds."""
    step = st.one_of(st.integers(0, 3_000), st.integers(0, 1 << 24))
    row = st.tuples(step, st.integers(0, 239), st.integers(0, 179), st.integers(0, 1))
    return st.lists(row, max_size=40)


@given(drawn=event_lists(), cut=st.integers(1, 17))
def test_round_trip(tmp_path_factory, drawn, cut):
    t = np.cumsum([row[0] for row in drawn], dtype=np.int64)
    rows = [(int(now), *row[1:]) for now, row in zip(t, drawn, strict=True)]
    events = as_events(rows)
    path = tmp_path_factory.mktemp("bin") / "a.bin"
    assert write_atis_bin(path, [events[at : at + cut] for at in range(0, len(events), cut)]) == len(rows)
    assert rows_of(AtisBinRecording(path, size=(180, 240)).chunks(7)) == rows == plain_reading(path.read_bytes())


def test_disorder_is_written_while_no_overflow_came_between(tmp_path):
    rows = [(90, 1, 1, 1), (50, 2, 2, 0), (1 << 23, 1, 1, 0), (9000, 1, 1, 0)]
    write_atis_bin(tmp_path / "a.bin", [as_events(rows)])
    assert rows_of(AtisBinRecording(tmp_path / "a.bin").chunks()) == rows
    with pytest.raises(EventDataError, match="event 3 lies at a time"):
        write_atis_bin(tmp_path / "b.bin", [as_events(rows[:3]), as_events([(8000, 1, 1, 1)])])
    assert not (tmp_path / "b.bin").exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((5, 256, 0, 0), "outside 256x256"),
        ((5, 0, 256, 0), "outside 256x256"),
        ((5, 0, 240, 0), "row 240"),
        ((5, 0, 0, 2), "polarity"),
        ((-1, 0, 0, 0), "cannot tell"),
        ((1 << 40, 0, 0, 0), "cannot tell"),
    ],
)
def test_writer_refuses_what_records_cannot_hold(tmp_path, row, message):
    with pytest.raises(EventDataError, match=f"event 1 lies .*{message}"):
        write_atis_bin(tmp_path / "a.bin", [as_events([(1, 1, 1, 1)]), as_events([row])])
    assert list(tmp_path.iterdir()) == []


def test_writer_turns_nanoseconds_into_microseconds(tmp_path):
    plain = as_events([(1999, 1, 2, 1)])
    write_atis_bin(tmp_path / "a.bin", [DecodedEvents(plain.x, plain.y, plain.p, plain.t, plain.size, "ns")])
    assert rows_of(AtisBinRecording(tmp_path / "a.bin").chunks()) == [(1, 1, 2, 1)]


# ---- annotations


def annotation(*outlines: np.ndarray) -> bytes:
    parts = [
        np.array(outline.shape, "<i2").tobytes() + outline.astype("<i2").tobytes(order="F") for outline in outlines
    ]
    return b"".join(parts)


BOX = np.array([[12, 90, 90, 12, 12], [7, 7, 150, 150, 7]])
OUTLINE = np.array([[-3, 40, 300], [8, 149, 60]])


@pytest.mark.parametrize("flip", [False, True])
def test_annotation(tmp_path, flip):
    data = annotation(*(part.T if flip else part for part in (BOX, OUTLINE)))
    assert data[4:8] == (np.array([12, 90], "<i2") if flip else np.array([12, 7], "<i2")).tobytes()
    box, outline = read_ncaltech_annotation(written(tmp_path / "annotation_0001.bin", data))
    np.testing.assert_array_equal(box, BOX)
    np.testing.assert_array_equal(outline, OUTLINE)
    assert box.dtype == outline.dtype == np.int16
    assert outline_box(box).tolist() == [12, 7, 78, 143]
    assert outline_box(outline).tolist() == [-3, 8, 303, 141]


def test_annotation_cut_anywhere(tmp_path):
    data = annotation(BOX, OUTLINE)
    for at in range(len(data)):
        with pytest.raises(EventDataError, match="expected the outline of the (box|object)"):
            read_ncaltech_annotation(written(tmp_path / "a.bin", data[:at]))


@pytest.mark.parametrize(
    "data",
    [
        np.array([3, 3, *range(40)], "<i2").tobytes(),
        np.array([-2, -5, *range(40)], "<i2").tobytes(),
        np.array([2, 32767, *range(40)], "<i2").tobytes(),
        np.array([0, 2, 0, 2], "<i2").tobytes(),
        bytes(1 << 21),
    ],
)
def test_impossible_annotations(tmp_path, data):
    with pytest.raises(EventDataError, match="annotation"):
        read_ncaltech_annotation(written(tmp_path / "a.bin", data))


def test_no_annotation_file(tmp_path):
    with pytest.raises(EventDataError, match="got a folder"):
        read_ncaltech_annotation(tmp_path)
