"""Recordings into recordings: every pair of formats, times, faults of the source, refusals, and interruptions."""

import json
import re
import resource
import struct
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snn_perception.cli.convert import main
from snn_perception.errors import EventDataError, SnnPerceptionError
from snn_perception.events import transfer
from snn_perception.events.dat import DatRecording
from snn_perception.events.dat_writer import write_dat
from snn_perception.events.evt3_encode import MAX_SILENCE_US, Evt3Encoder, packetize
from snn_perception.events.recording import Recording, open_recording
from snn_perception.events.rosbag2 import BagRecording, write_bag
from snn_perception.events.statistics import survey
from snn_perception.events.transfer import FORMATS, Selection, TransferOptions, convert_recording
from snn_perception.events.walk import EventWalk
from snn_perception.types import DecodedEvents, EventArray, Losses, SensorSize
from tests import bag_support as support
from tests.paths import ROOT, recording_path

GEN1, MEGAPIXEL = SensorSize(240, 304), SensorSize(720, 1280)
DAY_US = 24 * 3600 * 1_000_000
EPOCH_US = 1_700_000_000_123_456
WRAP = 1 << 32

# What can be written: format, and how.
TARGETS = {
    "dat": ("out.dat", TransferOptions()),
    "dat type 0": ("out.dat", TransferOptions(event_type=0)),
    "h5": ("out.h5", TransferOptions()),
    "raw": ("out.raw", TransferOptions()),
    "bag": ("bag", TransferOptions(packet_us=100_000)),
    "mcap": ("bag", TransferOptions(packet_us=100_000, storage="mcap")),
    "clouds": ("bag", TransferOptions(packet_us=100_000, message="pointcloud2")),
}


class Made(Recording):
    """A recording that exists nowhere: pieces of events, then an error if one is given."""

    format = encoding = "made"

    def __init__(self, pieces, size=GEN1, error=None):
        self.path, self.size, self.pieces, self.error = Path("made"), size, pieces, error

    @staticmethod
    def claims(path):
        return False

    def chunks(self, max_events=1 << 16, *, start_us=None, align_us=None):
        yield from self.pieces
        if self.error is not None:
            raise self.error


def made(rows, size=GEN1, unit="us", cut=1 << 16, **more) -> Made:
    """A recording of events from rows (t, x, y, p)."""
    t, x, y, p = np.array(rows, np.int64).reshape(-1, 4).T
    events = x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8), t.copy()
    pieces = [
        DecodedEvents(*(column[at : at + cut] for column in events), size, unit, **more) for at in range(0, len(t), cut)
    ]
    return Made(pieces, size)


def rows_of(path, registry, unit="us", **options):
    """Return (t, x, y, p) of every event of a recording, time in `unit`."""
    rows = []
    for _, events in EventWalk(open_recording(path, registry, **options), registry):
        t = events.to_event_array().t if unit == "us" else events.t * (1000 // events.us_divisor)
        rows += zip(t.tolist(), events.x.tolist(), events.y.tolist(), events.p.tolist(), strict=True)
    return rows


def all_rows(recording: Made):
    return [
        row
        for piece in recording.pieces
        for row in zip(piece.t.tolist(), piece.x.tolist(), piece.y.tolist(), piece.p.tolist(), strict=True)
    ]


@st.composite
def recordings(draw, latest_us=DAY_US):
    """Recordings in order of time, of either size, that begin anywhere within a day."""
    size = draw(st.sampled_from([GEN1, MEGAPIXEL]))
    edges = st.sampled_from([0, 1, 2, 3])
    x = st.one_of(edges, edges.map(lambda e: size.width - 1 - e), st.integers(0, size.width - 1))
    y = st.one_of(edges, edges.map(lambda e: size.height - 1 - e), st.integers(0, size.height - 1))
    step = st.one_of(st.just(0), st.integers(0, 20), st.integers(0, 2_000_000))
    events = draw(st.lists(st.tuples(step, x, y, st.integers(0, 1)), max_size=40))
    start = draw(st.one_of(st.just(0), st.integers(0, 1 << 25), st.integers(0, latest_us)))
    t = start + np.cumsum([row[0] for row in events], dtype=np.int64) - (events[0][0] if events else 0)
    return made([(now, *row[1:]) for now, row in zip(t, events, strict=True)], size, cut=draw(st.integers(1, 50)))


# ---- there and back


@pytest.mark.parametrize("second", TARGETS)
@pytest.mark.parametrize("first", TARGETS)
@settings(max_examples=6)
@given(source=recordings())
def test_every_pair_of_formats_keeps_every_event(first, second, registry, tmp_path_factory, source):
    folder, recording = tmp_path_factory.mktemp("pair"), source
    for number, name in enumerate((first, second, first)):
        file, options = TARGETS[name]
        (folder / str(number)).mkdir()
        path = folder / str(number) / file
        done = convert_recording(recording, path, registry=registry, options=options)
        assert done.events == done.events_read == len(all_rows(source)) and not sum(done.losses.values())
        assert (done.disordered, done.moved, done.t_shift_us, done.notes) == (0, 0, 0, ())
        recording = open_recording(path, registry)
        assert recording.size == source.size
    assert rows_of(recording.path, registry) == all_rows(source)


@pytest.mark.parametrize("name", TARGETS)
def test_a_recording_without_events_becomes_one_without_events(name, registry, tmp_path):
    file, options = TARGETS[name]
    done = convert_recording(Made([]), tmp_path / file, registry=registry, options=options)
    assert (done.events, done.t_first_us, done.t_last_us) == (0, 0, 0)
    assert done.messages == (1 if file == "bag" else 0)
    recording = open_recording(tmp_path / file, registry)
    assert recording.size == GEN1 and rows_of(tmp_path / file, registry) == []
    again = convert_recording(recording, tmp_path / "again.dat", registry=registry)
    assert again.events == 0 and DatRecording(tmp_path / "again.dat").size == GEN1


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("t", [0, 1, (1 << 24) - 1, 1 << 24, WRAP - 1, WRAP, DAY_US])
def test_one_event_at_any_time_of_a_day(name, t, registry, tmp_path):
    file, options = TARGETS[name]
    convert_recording(made([(t, 303, 239, 1)]), tmp_path / file, registry=registry, options=options)
    assert rows_of(tmp_path / file, registry) == [(t, 303, 239, 1)]


@pytest.mark.parametrize("name", TARGETS)
def test_verification_reads_back_and_finds_a_difference(name, registry, tmp_path, monkeypatch):
    file, options = TARGETS[name]
    options = TransferOptions(**{**vars(options), "verify": True})
    rows = [(k * 1000, k, k, k % 2) for k in range(200)]
    assert convert_recording(made(rows), tmp_path / file, registry=registry, options=options).verified
    monkeypatch.setattr(transfer, "walk_digest", lambda *_, **__: transfer.ColumnDigest())
    (tmp_path / "other").mkdir()
    with pytest.raises(EventDataError, match="gives 0 events that differ from the 200 written"):
        convert_recording(made(rows), tmp_path / "other" / file, registry=registry, options=options)


def test_nanoseconds_stay_in_clouds_and_are_told_elsewhere(registry, tmp_path):
    rows = [(EPOCH_US * 1000 + step, 5, 6, 1) for step in (0, 1, 999, 1000, 4_000_001, 9_999_999_999)]
    clouds = TransferOptions(message="pointcloud2", verify=True)
    done = convert_recording(made(rows, unit="ns"), tmp_path / "bag", registry=registry, options=clouds)
    assert done.notes == () and rows_of(tmp_path / "bag", registry, "ns") == rows
    done = convert_recording(made(rows, unit="ns"), tmp_path / "out.dat", registry=registry)
    assert done.notes == ("4 events lost the part of their time below a microsecond; point clouds keep it",)
    assert [row[0] for row in rows_of(tmp_path / "out.dat", registry)] == [t // 1000 for t, *_ in rows]


def test_a_bag_tells_the_time_as_ros_does(registry, tmp_path):
    """Stamp plus point time is sensor time; all intervals are there, and an empty one tells its time."""
    rows = [(10_500, 1, 2, 1), (10_501, 3, 4, 0), (30_000, 5, 6, 1)]
    options = TransferOptions(message="pointcloud2", packet_us=5_000, frame_id="left", topic="/left/points")
    done = convert_recording(made(rows), tmp_path / "bag", registry=registry, options=options)
    recording = BagRecording(tmp_path / "bag")
    assert (recording.topic, recording.frame_id, recording.message_type) == (
        "/left/points",
        "left",
        support.POINT_CLOUD,
    )
    assert not recording.size_inferred and recording.size == GEN1
    packets = list(recording.packets())
    assert [packet.stamp_ns for packet in packets] == [10_000_000, 15_000_000, 20_000_000, 25_000_000, 30_000_000]
    assert done.messages == 5 and [len(packet.data) // 9 for packet in packets] == [2, 0, 0, 0, 1]
    first = packets[0].data.tobytes()
    assert struct.unpack_from("<HHIB", first) == (1, 2, 500_000, 1)
    assert packets[0].layout is not None and packets[0].layout.dtype.names == ("x", "y", "t", "p")


def test_clouds_equal_those_that_another_writer_makes(registry, tmp_path):
    """Byte for byte, but for the padding that `rosbags` may leave."""
    from rosbags.rosbag2 import Reader
    from rosbags.typesys import Stores, get_typestore

    rows = [(k * 700, k, 2 * k, k % 2) for k in range(30)]
    options = TransferOptions(message="pointcloud2", frame_id="cam", storage="mcap")
    convert_recording(made(rows), tmp_path / "bag", registry=registry, options=options)
    types, back = get_typestore(Stores.ROS2_JAZZY), []
    with Reader(tmp_path / "bag") as reader:
        for connection, log_time, data in reader.messages():
            cloud = types.deserialize_cdr(data, connection.msgtype)
            stamp_ns = cloud.header.stamp.sec * 10**9 + cloud.header.stamp.nanosec
            assert (cloud.height, cloud.point_step, cloud.row_step) == (1, 9, 9 * cloud.width)
            assert [(f.name, f.offset, f.datatype, f.count) for f in cloud.fields] == [
                ("x", 0, 4, 1), ("y", 2, 4, 1), ("t", 4, 6, 1), ("p", 8, 2, 1),
            ]  # fmt: skip
            assert stamp_ns == log_time and cloud.header.frame_id == "cam" and cloud.is_dense and not cloud.is_bigendian
            assert bytes(types.serialize_cdr(cloud, connection.msgtype)) == bytes(data)
            for x, y, t, p in struct.iter_unpack("<HHIB", cloud.data.tobytes()):
                back.append(((stamp_ns + t) // 1000, x, y, p))
    assert back == rows


# ---- stamps


def stamps(path):
    return [packet.stamp_ns for packet in BagRecording(path).packets()]


def test_stamps_follow_an_offset_a_start_or_the_source(registry, tmp_path):
    rows = [(9_000, 1, 1, 1), (13_000, 1, 1, 1)]

    def converted(name, recording=None, **options):
        options = TransferOptions(**options)
        convert_recording(recording or made(rows), tmp_path / name, registry=registry, options=options)
        return stamps(tmp_path / name)

    assert converted("plain") == [8_000_000, 12_000_000]
    assert converted("offset", stamp_offset_ns=10**18 + 1) == [10**18 + 8_000_001, 10**18 + 12_000_001]
    # The event at 9 ms happens at the start; its interval began 1 ms earlier.
    assert converted("start", first_stamp_ns=10**18) == [10**18 - 1_000_000, 10**18 + 3_000_000]
    source = BagRecording(tmp_path / "start")
    assert converted("again", source) == [10**18 - 2_000_000, 10**18 + 2_000_000]  # as if the first had that stamp
    assert converted("zero", source, stamp_offset_ns=0) == [8_000_000, 12_000_000]
    with pytest.raises(EventDataError, match="give one of them"):
        TransferOptions(stamp_offset_ns=1, first_stamp_ns=2)


def test_a_bag_keeps_topic_and_frame_of_a_bag_of_its_kind(registry, tmp_path):
    options = TransferOptions(topic="/front/events", frame_id="front")
    convert_recording(made([(1, 1, 1, 1)]), tmp_path / "bag", registry=registry, options=options)
    convert_recording(BagRecording(tmp_path / "bag"), tmp_path / "same", registry=registry)
    again = BagRecording(tmp_path / "same")
    assert (again.topic, again.frame_id) == ("/front/events", "front")
    clouds = TransferOptions(message="pointcloud2")
    convert_recording(BagRecording(tmp_path / "bag"), tmp_path / "clouds", registry=registry, options=clouds)
    assert BagRecording(tmp_path / "clouds").topic == "/event_camera/points"


def test_an_offset_of_cloud_stamps_moves_the_times_and_is_told(registry, tmp_path):
    options = TransferOptions(message="pointcloud2", stamp_offset_ns=7_000, verify=True)
    done = convert_recording(made([(10, 1, 1, 1)]), tmp_path / "bag", registry=registry, options=options)
    assert done.notes == ("times read from these clouds are 7000 ns later than the source's: stamps are part of them",)
    assert rows_of(tmp_path / "bag", registry) == [(17, 1, 1, 1)]


def test_stamps_before_1970_are_refused(registry, tmp_path):
    with pytest.raises(EventDataError, match="expected a stamp from 1970 on, got -1 ns"):
        convert_recording(
            made([(1, 1, 1, 1)]), tmp_path / "bag", registry=registry, options=TransferOptions(stamp_offset_ns=-1)
        )
    assert list(tmp_path.iterdir()) == []


# ---- times


@pytest.mark.parametrize("t", [WRAP, WRAP + 5, 7 * WRAP - 1, EPOCH_US])
def test_dat_that_begins_beyond_32_bits_says_so(t, registry, tmp_path):
    rows = [(t + step, 1, 2, 1) for step in (0, 10, 1 << 20, (1 << 31) - 1, 1 << 31, WRAP - 1, WRAP + (1 << 30))]
    path = tmp_path / "a.dat"
    write_dat(path, made(rows).pieces, GEN1)
    header, _, body = path.read_bytes().partition(b"% end\n")
    assert f"% Time_offset_us {t // WRAP * WRAP}\n".encode() in header
    assert struct.unpack_from("<I", body, 2) == (t % WRAP,)  # other tools read this
    recording = DatRecording(path)
    assert rows_of(path, registry) == rows
    for start, *_ in rows:
        for start_us in (start, start - 1):
            from_there = [now for chunk in recording.chunks(2, start_us=start_us) for now in chunk.t.tolist()]
            assert from_there == [row[0] for row in rows if row[0] >= start_us]


@pytest.mark.parametrize("t", [WRAP + 5, EPOCH_US])
def test_pieces_of_a_shifted_dat_end_on_the_grid_of_true_time(t, tmp_path):
    times = [t + 137 * k for k in range(200)]
    write_dat(tmp_path / "a.dat", made([(now, 1, 2, 1) for now in times]).pieces, GEN1)
    aligned = list(DatRecording(tmp_path / "a.dat").chunks(align_us=1000))
    assert [now for chunk in aligned for now in chunk.t.tolist()] == times
    assert len(aligned) == len({now // 1000 for now in times})
    for chunk in aligned[:-1]:
        assert len(set(chunk.t // 1000)) == 1 and chunk.t_reached == (chunk.t[0] // 1000 + 1) * 1000


def test_ordinary_dat_is_as_it_was(tmp_path):
    write_dat(tmp_path / "a.dat", made([(WRAP - 1, 1, 2, 1), (WRAP + 1, 1, 2, 0)]).pieces, GEN1)
    assert (tmp_path / "a.dat").read_bytes() == (
        b"% Data file containing CD events.\n% Version 2\n% Height 240\n% Width 304\n% end\n\x0c\x08"
        + struct.pack("<IIII", WRAP - 1, 1 | 2 << 14 | 1 << 28, 1, 1 | 2 << 14)
    )


@pytest.mark.parametrize(
    "stated", ["1", "-4294967296", "4294967297", "x", "", str(WRAP << 40), "9" * 30, "4294967296.0"]
)
def test_dat_with_an_impossible_offset_is_refused(stated, tmp_path):
    write_dat(tmp_path / "a.dat", made([(WRAP, 1, 2, 1)]).pieces, GEN1)
    damaged = (
        (tmp_path / "a.dat").read_bytes().replace(b"Time_offset_us 4294967296", b"Time_offset_us " + stated.encode())
    )
    (tmp_path / "a.dat").write_bytes(damaged)
    with pytest.raises(EventDataError, match="expected a Time_offset_us that is a multiple of 2"):
        DatRecording(tmp_path / "a.dat")


@pytest.mark.parametrize("name", ["bag"])
@pytest.mark.parametrize("t", [-1, DAY_US + 1, EPOCH_US])
def test_times_that_evt3_cannot_tell_name_the_cure(name, t, registry, tmp_path):
    file, options = TARGETS[name]
    with pytest.raises(EventDataError, match=rf"made: its first event lies at {t / 1e6:.6f} s.*--rebase"):
        convert_recording(made([(t, 1, 1, 1)]), tmp_path / file, registry=registry, options=options)
    assert list(tmp_path.iterdir()) == []
    rows = [(t, 1, 1, 1), (t + 5_000, 2, 2, 0)]
    options = TransferOptions(**{**vars(options), "selection": Selection(rebase=True)})
    done = convert_recording(made(rows), tmp_path / file, registry=registry, options=options)
    assert (done.t_shift_us, done.t_first_us, done.t_last_us) == (-t, 0, 5_000)
    assert rows_of(tmp_path / file, registry) == [(0, 1, 1, 1), (5_000, 2, 2, 0)]


@pytest.mark.parametrize("name", ["dat", "h5", "raw"])
def test_times_since_1970_stay_where_a_file_can_tell_them(name, registry, tmp_path):
    file, options = TARGETS[name]
    rows = [(EPOCH_US, 1, 1, 1), (EPOCH_US + 30_000_000, 2, 2, 0)]
    convert_recording(made(rows), tmp_path / file, registry=registry, options=options)
    assert rows_of(tmp_path / file, registry) == rows


def test_rebasing_keeps_what_lies_below_a_microsecond(registry, tmp_path):
    options = TransferOptions(Selection(rebase=True), message="pointcloud2")
    rows = [(EPOCH_US * 1000 + 123, 1, 1, 1), (EPOCH_US * 1000 + 1_456, 2, 2, 0)]
    done = convert_recording(made(rows, unit="ns"), tmp_path / "bag", registry=registry, options=options)
    assert done.t_shift_us == -EPOCH_US
    assert [row[0] for row in rows_of(tmp_path / "bag", registry, "ns")] == [123, 1_456]


@given(source=recordings(latest_us=1_000_000), bounds=st.tuples(st.integers(0, 3_000_000), st.integers(1, 3_000_000)))
@settings(max_examples=60)
def test_a_cut_is_half_open(source, bounds, registry, tmp_path_factory):
    folder, (first, length) = tmp_path_factory.mktemp("cut"), bounds
    write_dat(folder / "a.dat", source.pieces, source.size)
    write_bag(folder / "bag", packets_of(source), "sqlite3")
    expected = [row for row in all_rows(source) if first <= row[0] < first + length]
    for name in ("a.dat", "bag"):
        options = TransferOptions(Selection(from_us=first, to_us=first + length))
        recording = open_recording(folder / name, registry)
        if not expected:
            with pytest.raises(EventDataError, match="no event from .* to .* s of sensor time"):
                convert_recording(recording, folder / f"{name}.dat", registry=registry, options=options)
            continue
        done = convert_recording(recording, folder / f"{name}.dat", registry=registry, options=options)
        assert rows_of(folder / f"{name}.dat", registry) == expected
        assert done.events_read == len(expected)
        assert (done.t_first_us, done.t_last_us) == (expected[0][0], expected[-1][0])


def packets_of(source):
    packets = list(packetize((piece.to_event_array() for piece in source.pieces), source.size, from_zero=True))
    if packets:
        return packets
    words = Evt3Encoder(source.size, t_start_us=0).encode(EventArray.empty(source.size), 0)
    return [support.Packet(np.frombuffer(words, np.uint8), "evt3", source.size, seq=0)]


def test_a_late_event_belongs_where_its_time_says(registry, tmp_path):
    rows = [(0, 0, 0, 1), (100, 1, 0, 1), (200, 2, 0, 1), (150, 3, 0, 1), (300, 4, 0, 1), (190, 5, 0, 1)]
    write_dat(tmp_path / "a.dat", made(rows).pieces, GEN1)
    options = TransferOptions(Selection(from_us=100, to_us=200))
    done = convert_recording(DatRecording(tmp_path / "a.dat"), tmp_path / "b.dat", registry=registry, options=options)
    assert [row[1] for row in rows_of(tmp_path / "b.dat", registry)] == [1, 3, 5]
    assert done.disordered == 0


# ---- faults of the source

DISORDER = [(100, 0, 0, 1), (300, 1, 0, 1), (200, 2, 0, 1), (250, 3, 0, 1), (400, 4, 0, 1), (350, 5, 0, 1)]


@pytest.mark.parametrize("name", ["raw", "bag", "clouds"])
@pytest.mark.parametrize("cut", [1, 2, 100])
def test_disorder_is_refused_where_it_cannot_be_told(name, cut, registry, tmp_path):
    file, options = TARGETS[name]
    unit = "ns" if name == "clouds" else "us"
    late = 200 * (1000 if unit == "ns" else 1)
    with pytest.raises(EventDataError, match=rf"made: event 2 at t={late} {unit} precedes t=.*--fix-order"):
        convert_recording(made(DISORDER, cut=cut), tmp_path / file, registry=registry, options=options)
    assert list(tmp_path.iterdir()) == []
    options = TransferOptions(**{**vars(options), "selection": Selection(fix_order=True)})
    done = convert_recording(made(DISORDER, cut=cut), tmp_path / file, registry=registry, options=options)
    assert (done.moved, done.furthest_us) == (3, 100)
    assert rows_of(tmp_path / file, registry) == [
        (100, 0, 0, 1), (300, 1, 0, 1), (300, 2, 0, 1), (300, 3, 0, 1), (400, 4, 0, 1), (400, 5, 0, 1),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["dat", "h5"])
@pytest.mark.parametrize("cut", [1, 2, 100])
def test_disorder_stays_where_it_can_be_told(name, cut, registry, tmp_path):
    file, options = TARGETS[name]
    done = convert_recording(made(DISORDER, cut=cut), tmp_path / file, registry=registry, options=options)
    assert (done.disordered, done.moved) == (2, 0) and (done.t_first_us, done.t_last_us) == (100, 400)
    assert rows_of(tmp_path / file, registry) == DISORDER


def test_lost_and_broken_packets_are_counted(registry, tmp_path):
    packets = support.packets(10)
    rows = support.event_rows(packets[:3] + packets[5:])
    rows[1] = (*rows[1][:2], b"no message")
    unknown = support.serialize_event_packet(
        support.Packet(packets[9].data, "nobody_knows", support.SIZE, seq=10, stamp_ns=packets[9].stamp_ns + 1)
    )
    support.sqlite_file(
        tmp_path / "a.db3",
        {support.TOPIC: support.EVENT_PACKET},
        [*rows, (support.TOPIC, packets[9].stamp_ns + 1, unknown)],
    )
    done = convert_recording(open_recording(tmp_path / "a.db3", registry), tmp_path / "a.dat", registry=registry)
    assert done.events == 3 * 7
    counted = {kind: count for kind, count in done.losses.items() if count}
    assert counted == {"lost_packets": 3, "undecodable_packets": 1, "unreadable_messages": 1}
    assert done.sequence_gaps == 2


def test_losses_within_are_counted_and_nothing_at_all_is_an_error(registry, tmp_path):
    lossy = Made([DecodedEvents(*empty_columns(), GEN1, losses=Losses(outside=3, ragged=2)), *made(DISORDER).pieces])
    done = convert_recording(lossy, tmp_path / "a.dat", registry=registry)
    assert (done.losses["outside"], done.losses["ragged"], done.events) == (3, 2, 6)
    with pytest.raises(EventDataError, match=r"not one event can be read \(outside 3, ragged 2\)"):
        convert_recording(Made(lossy.pieces[:1]), tmp_path / "b.dat", registry=registry)
    assert not (tmp_path / "b.dat").exists()


def empty_columns():
    nothing = EventArray.empty(GEN1)
    return nothing.x, nothing.y, nothing.p, nothing.t


def test_a_second_sensor_is_refused(registry, tmp_path):
    with pytest.raises(EventDataError, match="expected one sensor, got 304x240 first and 1280x720 later"):
        convert_recording(
            Made([*made(DISORDER[:2]).pieces, *made(DISORDER[:2], MEGAPIXEL).pieces]),
            tmp_path / "a.dat",
            registry=registry,
        )


def test_duplicates_are_left_out_on_demand(registry, tmp_path):
    rows = [(1, 1, 1, 1), (1, 1, 1, 1), (2, 1, 1, 1), (2, 1, 1, 1), (2, 1, 1, 1)]
    for drop, expected in ((False, rows), (True, [rows[0], rows[2]])):
        options = TransferOptions(Selection(drop_duplicates=drop))
        done = convert_recording(made(rows), tmp_path / "a.dat", registry=registry, options=options)
        assert rows_of(tmp_path / "a.dat", registry) == expected
        assert (done.duplicates_dropped, done.events_read) == (5 - len(expected), 5)


# ---- interruptions


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), EventDataError("the source broke"), RuntimeError("a bug")])
def test_nothing_half_written_stays(name, error, registry, tmp_path):
    file, options = TARGETS[name]
    rows = [(k * 100, k % 304, k % 240, 1) for k in range(5_000)]
    source = made(rows, cut=1_000)
    source.error = error
    with pytest.raises(type(error)):
        convert_recording(source, tmp_path / file, registry=registry, options=options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["dat", "h5", "raw"])
def test_an_older_file_stays_until_the_new_one_is_whole(name, registry, tmp_path):
    file, options = TARGETS[name]
    convert_recording(made(DISORDER[:2]), tmp_path / file, registry=registry, options=options)
    before = (tmp_path / file).read_bytes()
    source = made(DISORDER[:2])
    source.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        convert_recording(source, tmp_path / file, registry=registry, options=options)
    assert (tmp_path / file).read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    convert_recording(made([(5, 1, 1, 1)]), tmp_path / file, registry=registry, options=options)
    assert rows_of(tmp_path / file, registry) == [(5, 1, 1, 1)]


@contextmanager
def files_of_at_most(limit: int):
    """Let the system refuse longer files, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", TARGETS)
def test_a_full_disk_is_told_and_leaves_nothing(name, registry, tmp_path):
    file, options = TARGETS[name]
    chance = np.random.default_rng(0)
    t = np.sort(chance.integers(0, 10**7, 100_000))
    rows = np.stack([t, chance.integers(0, 304, len(t)), chance.integers(0, 240, len(t)), t % 2], axis=1)
    (tmp_path / "first").mkdir()
    convert_recording(made(rows), tmp_path / "first" / file, registry=registry, options=options)  # compiled, if need be
    (tmp_path / "second").mkdir()
    with files_of_at_most(50_000), pytest.raises((SnnPerceptionError, OSError), match=r"cannot be written|too large"):
        convert_recording(made(rows, cut=1_000), tmp_path / "second" / file, registry=registry, options=options)
    assert list((tmp_path / "second").iterdir()) == []


# ---- the command


@pytest.fixture
def source(tmp_path):
    """A small DAT file: 2,000 events over 4 s."""
    rows = [(k * 2_000, k % 304, k % 240, k % 2) for k in range(2_000)]
    write_dat(tmp_path / "drive.dat", made(rows).pieces, GEN1)
    return tmp_path / "drive.dat"


def told(capsys, *arguments):
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *arguments):
    """Return the one line of error that the command gives."""
    capsys.readouterr()
    assert main([*map(str, arguments)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and err.startswith("error: ")
    return err.strip()


def test_the_suffix_tells_the_format(source, tmp_path, capsys, registry):
    expected = rows_of(source, registry)
    names = {"a.dat": "dat", "a.h5": "h5", "a.hdf5": "h5", "a.RAW": "raw", "a": "bag", "b.with.dots/": "bag"}
    for name, kind in names.items():
        result = told(capsys, source, "-o", f"{tmp_path}/{name}", "--verify")
        assert (result["format"], result["events"], result["verified"]) == (kind, 2_000, True)
        assert result["off"] == result["on"] == 1_000 and (result["t_first_us"], result["t_last_us"]) == (0, 3_998_000)
        assert result["bytes_in"] == source.stat().st_size and result["bytes_out"] > 2_000
        assert rows_of(result["output"], registry) == expected
    result = told(capsys, source, "-o", tmp_path / "odd.name", "--to", "bag", "--storage", "mcap", "--packet-ms", "2.5")
    assert result["messages"] == 1_600 and (tmp_path / "odd.name" / "odd.name.mcap").is_file()


def test_there_and_back_on_the_command_line(source, tmp_path, capsys):
    assert main([str(source), "-o", str(tmp_path / "bag"), "--start-time", "2026-01-31T12:00:00"]) == 0
    assert stamps(tmp_path / "bag")[0] == 1_769_860_800 * 10**9
    assert main([str(tmp_path / "bag"), "-o", str(tmp_path / "back.dat")]) == 0
    assert (tmp_path / "back.dat").read_bytes() == source.read_bytes()
    out, err = capsys.readouterr()
    assert "events: 2,000 (1,000 ON, 1,000 OFF)" in out and "losses of the source: none" in out and err == ""


def test_the_digest_of_inspect_is_that_of_the_source(source, tmp_path, registry):
    digests = set()
    for name in ("dat", "h5", "raw", "bag", "mcap"):
        file, options = TARGETS[name]
        (tmp_path / name).mkdir()
        convert_recording(DatRecording(source), tmp_path / name / file, registry=registry, options=options)
        digests.add(survey(EventWalk(open_recording(tmp_path / name / file, registry), registry))[1])
    assert digests == {survey(EventWalk(DatRecording(source), registry))[1]}


def test_a_cut_and_a_new_zero(source, tmp_path, capsys):
    result = told(capsys, source, "-o", tmp_path / "a.dat", "--from-s", "1.5", "--to-s", "2", "--rebase")
    assert (result["events"], result["t_shift_us"], result["t_last_us"]) == (250, -1_500_000, 498_000)


def test_faults_are_told_in_one_warning(tmp_path, capsys):
    write_dat(tmp_path / "a.dat", made(DISORDER).pieces, GEN1)
    (tmp_path / "a.dat").write_bytes((tmp_path / "a.dat").read_bytes() + b"123")
    assert main([str(tmp_path / "a.dat"), "-o", str(tmp_path / "b"), "--fix-order"]) == 0
    out, err = capsys.readouterr()
    assert "a.dat: not all of it could be read: ragged 3" in err
    assert "a.dat: 3 late events moved up to the time reached, by at most 100 us" in err
    assert "out of order: 2 (3 moved up to the time reached)" in out and "note: ends within an event" in out
    assert main([str(tmp_path / "a.dat"), "-o", str(tmp_path / "b.dat")]) == 0
    assert "2 events precede the one before them; they are written as they are" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["-o", "{tmp}/a.mcap"],
            r"a ROS 2 bag is a folder .* name the folder \(.*/a\) and its storage \(--storage mcap\)",
        ),
        (["-o", "{tmp}/a.db3"], "--storage sqlite3"),
        (["-o", "{tmp}/a.aedat4"], r"'.aedat4' stands for no recording that can be written; .dat: Prophesee DAT; .h5"),
        (["-o", "{tmp}/a.safetensors"], r"drive.dat: is a recording, not weights; DST is .dat, .h5"),
        (["-o", "{tmp}/drive.dat"], "is the source itself"),
        (["-o", "{tmp}/link.dat"], "is the source itself"),
        (["-o", "{tmp}"], "exists already"),
        (["-o", "{tmp}/folder.dat"], "is a folder"),
        (["-o", "{tmp}/none/a.dat"], "the folder '.*none' does not exist"),
        (["-o", "{tmp}/none/a"], "the folder '.*none' does not exist"),
        (["-o", "{tmp}/a.dat", "--topic", "/a"], "--topic is for bag, not for dat"),
        (["-o", "{tmp}/a.dat", "--packet-ms", "1"], "--packet-ms is for bag, not for dat"),
        (["-o", "{tmp}/a", "--event-type", "0"], "--event-type is for dat, not for bag"),
        (
            ["-o", "{tmp}/a", "--topic", "events"],
            "expected a full topic name such as /event_camera/events, got 'events'",
        ),
        (["-o", "{tmp}/a", "--packet-ms", "0"], "expected messages of 0.001..4294.967 ms, got 0 us"),
        (["-o", "{tmp}/a", "--packet-ms", "5000"], "expected messages of"),
        (
            ["-o", "{tmp}/a.dat", "--from-s", "100"],
            "drive.dat: no event from 100.0 s to the end of sensor time; the recording spans 0.000000 to 3.998000 s",
        ),
        (["-o", "{tmp}/a.dat", "--from-s", "2", "--to-s", "1"], "nothing lies from 2.0 s to 1.0 s"),
        (["-o", "{tmp}/a.dat", "--reader", "rosbag3"], "unknown event_reader 'rosbag3'; did you mean"),
        (["-o", "{tmp}/a.dat", "--reader", "rosbag2"], "drive.dat"),
        (
            ["-o", "{tmp}/a.dat", "--source-topic", "/a"],
            "drive.dat: --source-topic is not for recordings of",
        ),
        (["-o", "{tmp}/a.dat", "--encoding", "evt3"], "drive.dat: --encoding is not for recordings of format dat"),
        (["-o", "{tmp}/a.dat", "--size", "640x480"], "drive.dat: its header says 304x240; --size is for recordings"),
        (["-o", "{tmp}/a.dat", "--importer", "none"], "drive.dat: is a recording, and --importer is for weights"),
        (["-o", "{tmp}/a.dat", "--to", "h5"], r"a.dat: '.dat' stands for dat, not for h5 \(.h5 or .hdf5\); choose one"),
        (["-o", "{tmp}/a.raw", "--to", "bag"], r"a.raw: '.raw' stands for raw, not for bag \(no suffix\)"),
    ],
)
def test_what_a_user_may_get_wrong(arguments, message, source, tmp_path, capsys):
    (tmp_path / "folder.dat").mkdir()
    (tmp_path / "link.dat").symlink_to(source)
    before = sorted(tmp_path.iterdir()), source.read_bytes()
    error = refused(capsys, source, *(text.format(tmp=tmp_path) for text in arguments))
    assert re.search(message, error), error
    assert (sorted(tmp_path.iterdir()), source.read_bytes()) == before


def test_usage_errors(source, tmp_path, capsys):
    output = ["-o", str(tmp_path / "a")]
    for wrong in (
        ["--from-s", "x"],
        ["--from-s", "0.0000001"],
        ["--to-s", "nan"],
        ["--start-time", "yesterday"],
        ["--start-time", "-1"],
        ["--start-time", "1", "--stamp-offset-ns", "1"],
        ["--to", "aedat"],
        ["--size", "304"],
        ["--size", "0x5"],
        ["--storage", "sqlite"],
    ):
        assert main([str(source), *output, *wrong]) == 2, wrong
    assert main([str(source)]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_sources_that_are_no_recordings(source, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("words")
    assert "no such file" in refused(capsys, tmp_path / "none", "-o", tmp_path / "a.dat")
    assert "is a folder, and no recording" in refused(capsys, tmp_path / "empty", "-o", tmp_path / "a.dat")
    error = refused(capsys, tmp_path / "text.txt", "-o", tmp_path / "a.dat")
    assert "is no recording that is known here" in error and "--reader" in error
    assert "--rebase is for recordings" in refused(
        capsys, tmp_path / "text.txt", "-o", tmp_path / "a.safetensors", "--rebase"
    )
    bag = support.bag(tmp_path, "sqlite3")
    assert "lies within the source" in refused(capsys, bag, "-o", bag / "a.dat")
    assert "epoch" not in refused(capsys, bag, "-o", bag)


def test_a_folder_tells_the_recordings_in_it(source, tmp_path, capsys):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "notes.txt").write_text("words")
    for name in ("b.raw", "a.dat"):
        assert main([str(source), "-o", str(tmp_path / "set" / name)]) == 0
    capsys.readouterr()
    told_of = refused(capsys, tmp_path / "set", "-o", tmp_path / "x.dat")
    assert "set: is a folder with 2 recordings (a.dat, b.raw): name one; or convert all that are in it" in told_of
    (tmp_path / "root").mkdir()
    (tmp_path / "set").rename(tmp_path / "root" / "train")
    told_of = refused(capsys, tmp_path / "root", "-o", tmp_path / "x.dat")
    assert "is a folder whose folders hold recordings (train, for instance)" in told_of
    assert "see open_dataset in docs/events.md" in told_of


def test_a_raw_file_is_read_whatever_it_is_called(source, tmp_path, capsys, registry):
    assert main([str(source), "-o", str(tmp_path / "a.raw")]) == 0
    capsys.readouterr()
    (tmp_path / "a.raw").rename(tmp_path / "misnamed.dat")
    result = told(capsys, tmp_path / "misnamed.dat", "-o", tmp_path / "b.dat")
    assert (result["source_format"], result["source_encoding"]) == ("raw", "evt3")
    assert rows_of(tmp_path / "b.dat", registry) == rows_of(source, registry)


def test_the_encoding_of_a_raw_file_without_header_is_given(source, tmp_path, capsys, registry):
    assert main([str(source), "-o", str(tmp_path / "a.raw")]) == 0
    capsys.readouterr()
    bare = tmp_path / "bare.raw"
    bare.write_bytes((tmp_path / "a.raw").read_bytes().partition(b"% end\n")[2])
    asked = ["-o", tmp_path / "b.dat", "--size", "304x240"]
    refused(capsys, bare, *asked)
    refused(capsys, bare, *asked, "--encoding", "evt9")
    result = told(capsys, bare, *asked, "--encoding", "evt3")
    assert (result["source_encoding"], result["width"]) == ("evt3", 304)
    assert rows_of(tmp_path / "b.dat", registry) == rows_of(source, registry)


def test_a_recording_of_the_core_is_converted_without_loading_torch(source, tmp_path):
    code = (
        "import sys\nfrom snn_perception.cli.convert import main\n"
        "assert main(sys.argv[1:]) == 0\nassert 'torch' not in sys.modules"
    )
    arguments = [sys.executable, "-c", code, str(source), "-o", str(tmp_path / "a.raw")]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_table_tells_time_in_seconds(source, tmp_path, capsys):
    assert main([str(source), "-o", str(tmp_path / "a.raw")]) == 0
    assert "sensor time: 0.000 to 3.998 s (3.998 s), in us: 0 to 3,998,000\n" in capsys.readouterr().out


def test_ctrl_c_leaves_nothing(source, tmp_path, capsys, monkeypatch):
    chunks = DatRecording.chunks

    def interrupted(self, *arguments, **options):
        yield next(chunks(self, 100))
        raise KeyboardInterrupt

    monkeypatch.setattr(DatRecording, "chunks", interrupted)
    for name in ("a.dat", "a.h5", "a.raw", "a"):
        assert main([str(source), "-o", str(tmp_path / name)]) == 130
        assert [path.name for path in tmp_path.iterdir()] == ["drive.dat"]


def test_a_damaged_source_leaves_nothing(tmp_path, capsys):
    bag = support.bag(tmp_path, "sqlite3")
    storage = support.storage_file(bag)
    storage.write_bytes(b"SQLite format 3\0" + bytes(500))
    refused(capsys, bag, "-o", tmp_path / "a.dat")
    assert [path.name for path in tmp_path.iterdir()] == [bag.name]


# ---- real recordings


@pytest.mark.parametrize("name", ["dat", "h5", "raw", "bag", "mcap", "clouds"])
def test_a_real_recording_there_and_back(name, registry, tmp_path):
    recording = open_recording(recording_path("evt3_triggers_640x480_a"), registry)
    statistics, digest = survey(EventWalk(recording, registry))
    file, options = TARGETS[name]
    done = convert_recording(recording, tmp_path / file, registry=registry, options=options)
    assert (done.events, done.on, done.size) == (statistics.events, statistics.on, recording.size)
    assert done.triggers_left_out == statistics.triggers == 4_157
    assert any("4157 trigger edges were left out" in note for note in done.notes)
    done = convert_recording(open_recording(tmp_path / file, registry), tmp_path / "back", registry=registry)
    assert survey(EventWalk(open_recording(tmp_path / "back", registry), registry))[1] == digest


def test_a_real_recording_with_times_since_1970(registry, tmp_path):
    recording = open_recording(recording_path("libcaer_rollover"), registry)
    _, digest = survey(EventWalk(recording, registry))
    fixed = Selection(fix_order=True)
    with pytest.raises(EventDataError, match="--rebase"):
        convert_recording(recording, tmp_path / "bag", registry=registry, options=TransferOptions(fixed))
    clouds = TransferOptions(message="pointcloud2")
    convert_recording(recording, tmp_path / "clouds", registry=registry, options=clouds)
    assert survey(EventWalk(BagRecording(tmp_path / "clouds"), registry))[1] == digest
    convert_recording(recording, tmp_path / "a.dat", registry=registry)
    assert rows_of(tmp_path / "a.dat", registry) == rows_of(recording.path, registry)


def test_the_limit_is_a_day():
    assert MAX_SILENCE_US == DAY_US and set(FORMATS) == {"dat", "h5", "raw", "bag"}
    assert issubclass(EventDataError, SnnPerceptionError)
