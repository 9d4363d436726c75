"""ROS 2 bags: both storages, order, topics, metadata that lies or is missing, and bags written by us read by others."""

import os
import sqlite3
import struct
from dataclasses import fields, replace
from pathlib import Path

import lz4.frame
import numpy as np
import pytest
import zstandard
from mcap.reader import make_reader
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from snn_perception.errors import EventDataError
from snn_perception.events.bag_messages import (
    EVENT_PACKET,
    EVENT_PACKET_DEFINITION,
    POINT_CLOUD,
    parse_message,
    serialize_event_packet,
)
from snn_perception.events.rosbag2 import BagRecording, write_bag
from snn_perception.events.stream import EventStream
from snn_perception.types import Packet, SensorSize
from tests import bag_support as support
from tests.bag_support import EPOCH_NS, SIZE, TOPIC, bag, packets, storage_file
from tests.paths import recording_path

REAL = ["evt3_trigger_b", "evt3_triggers_640x480_a", "libcaer_cmp_mcap", "libcaer_rollover", "mono_cd"]
STORAGES = ["sqlite3", "mcap"]
TYPE_HASH = "RIHS01_d6fa176260b1f37e5a40845305315e150a0f18191241eb64f407442aa29844aa"  # upstream's


def same(one: Packet, other: Packet) -> bool:
    """Return whether every field is equal."""
    names = [field.name for field in fields(Packet) if field.name != "data"]
    return np.array_equal(one.data, other.data) and all(getattr(one, name) == getattr(other, name) for name in names)


def assert_same(got, expected) -> None:
    got, expected = list(got), list(expected)
    assert len(got) == len(expected)
    assert all(same(a, b) for a, b in zip(got, expected, strict=True))


def seqs(path: Path, **options) -> list[int]:
    return [packet.seq for packet in BagRecording(path, **options).packets()]


def typestore():
    types = get_typestore(Stores.ROS2_JAZZY)
    types.register(get_types_from_msg(EVENT_PACKET_DEFINITION, EVENT_PACKET))
    types.register(get_types_from_msg(EVENT_PACKET_DEFINITION, "event_array_msgs/msg/EventArray"))
    return types


# ---- what we write, others read


@pytest.mark.parametrize("storage", STORAGES)
def test_written_bag_reads_back_here_and_with_rosbags(tmp_path, storage):
    path = bag(tmp_path, storage)
    recording = BagRecording(path)
    assert (recording.topic, recording.message_type, recording.encoding) == (TOPIC, EVENT_PACKET, "mono")
    assert (recording.size, recording.frame_id, recording.is_packets) == (SIZE, "cam", True)
    assert recording.notes == []
    for _ in range(2):  # any number of times
        assert_same(recording.packets(), packets())
    with AnyReader([path], default_typestore=typestore()) as reader:
        assert [connection.digest for connection in reader.connections] == [TYPE_HASH]
        messages = [(time, reader.deserialize(raw, con.msgtype)) for con, time, raw in reader.messages()]
    assert [time for time, _ in messages] == [packet.stamp_ns for packet in packets()]
    for (_, message), packet in zip(messages, packets(), strict=True):
        assert (message.width, message.height, message.seq, message.time_base) == (
            640,
            480,
            packet.seq,
            packet.time_base,
        )
        assert (message.encoding, message.is_bigendian, message.header.frame_id) == ("mono", False, "cam")
        assert np.array_equal(message.events, packet.data)
    assert oct(path.stat().st_mode & 0o777) == oct(0o777 & ~current_umask() & 0o755)


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_written_mcap_agrees_with_the_mcap_library(tmp_path):
    path = bag(tmp_path, "mcap")
    with storage_file(path).open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        raw = [(schema.name, channel.topic, message.data) for schema, channel, message in reader.iter_messages()]
    assert raw == [(EVENT_PACKET, TOPIC, serialize_event_packet(packet)) for packet in packets()]


@pytest.mark.parametrize("storage", STORAGES)
def test_bag_appears_only_when_whole(tmp_path, storage):
    def breaks_off():
        yield from packets(3)
        raise RuntimeError("the source failed")

    with pytest.raises(RuntimeError, match="the source failed"):
        write_bag(tmp_path / "bag", breaks_off(), storage)
    assert list(tmp_path.iterdir()) == []
    write_bag(tmp_path / "bag", packets(3), storage)
    assert [path.name for path in tmp_path.iterdir()] == ["bag"]
    with pytest.raises(EventDataError, match="exists already"):
        write_bag(tmp_path / "bag", packets(3), storage)


def test_what_a_bag_cannot_hold_is_refused(tmp_path):
    with pytest.raises(EventDataError, match="unknown bag storage 'tar'"):
        write_bag(tmp_path / "bag", packets(1), "tar")
    for change in ({"size": None}, {"stamp_ns": 1 << 62}, {"seq": -1}, {"time_base": 1 << 64}):
        with pytest.raises(EventDataError):
            write_bag(tmp_path / "bag", [replace(packets(1)[0], **change)])
    assert list(tmp_path.iterdir()) == []


# ---- real recordings, against other readers


@pytest.mark.parametrize("name", REAL)
def test_real_recording_agrees_with_rosbags(name):
    path = recording_path(name)
    types = typestore()
    got = list(BagRecording(path).packets())
    if name == "libcaer_cmp_mcap":  # its metadata names no storage, so rosbags refuses the folder
        with storage_file(path).open("rb") as file:
            raw = [(schema.name, message.data) for schema, _, message in make_reader(file).iter_messages()]
    else:
        with AnyReader([path], default_typestore=types) as reader:
            raw = [(connection.msgtype, data) for connection, _, data in reader.messages()]
    expected = [types.deserialize_cdr(data, kind) for kind, data in raw]
    assert len(got) == len(expected) > 1
    for packet, message in zip(got, expected, strict=True):
        stamp = message.header.stamp
        assert packet.stamp_ns == stamp.sec * 10**9 + stamp.nanosec
        assert (packet.seq, packet.time_base, packet.encoding) == (message.seq, message.time_base, message.encoding)
        assert (packet.size, packet.frame_id) == (SensorSize(message.height, message.width), message.header.frame_id)
        assert np.array_equal(packet.data, message.events)


@pytest.mark.parametrize("name", REAL)
def test_storage_file_alone_gives_the_same(name):
    path = recording_path(name)
    assert_same(BagRecording(storage_file(path)).packets(), BagRecording(path).packets())


def test_reading_writes_nothing_beside_the_bag(tmp_path):
    path = bag(tmp_path, "sqlite3")
    before = {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in path.iterdir()}
    path.chmod(0o555)
    assert len(seqs(path)) == 20
    path.chmod(0o755)
    assert {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in path.iterdir()} == before


# ---- order


@pytest.mark.parametrize("index", [True, False])
def test_sqlite_messages_come_by_log_time(tmp_path, index):
    rows = support.event_rows([support.mono_packet(seq) for seq in (3, 1, 2, 0)])
    path = support.sqlite_file(tmp_path / "a.db3", {TOPIC: EVENT_PACKET}, rows, index=index)
    assert seqs(path) == [0, 1, 2, 3]


def mcap_file(path: Path, *parts: bytes, end: bytes = support.MCAP_END) -> Path:
    path.write_bytes(b"".join([support.MCAP_MAGIC, support.MCAP_HEADER, *parts, end]))
    return path


HEAD = support.schema_record() + support.channel_record()


def messages(*numbers: int) -> bytes:
    return b"".join(support.message_record(support.mono_packet(seq)) for seq in numbers)


def chunk(*numbers: int, head: bytes = HEAD, **options) -> bytes:
    return support.chunk_record(head + messages(*numbers), EPOCH_NS + min(numbers) * 1_000_000, **options)


def test_mcap_chunks_that_overlap_are_merged_by_log_time(tmp_path):
    path = mcap_file(tmp_path / "a.mcap", chunk(5, 2, 8), chunk(0, 9, 1), chunk(3, 4, 6, 7))
    assert seqs(path) == list(range(10))


def test_mcap_messages_outside_chunks(tmp_path):
    path = mcap_file(tmp_path / "a.mcap", HEAD, messages(2, 0), chunk(1, 4), messages(3, 5))
    assert seqs(path) == list(range(6))


@pytest.mark.parametrize("compression", ["", "lz4", "zstd"])
def test_mcap_compressions(tmp_path, compression):
    content = HEAD + messages(*range(50))
    pack = {"": bytes, "lz4": lz4.frame.compress, "zstd": zstandard.compress}[compression]
    whole = support.chunk_record(content, EPOCH_NS, packed=pack(content), compression=compression)
    assert seqs(mcap_file(tmp_path / "a.mcap", whole)) == list(range(50))


def test_equal_log_times_keep_the_order_of_the_file(tmp_path):
    parts = [support.message_record(support.mono_packet(seq), log_time=7) for seq in (4, 1, 3)]
    assert seqs(mcap_file(tmp_path / "a.mcap", HEAD, *parts)) == [4, 1, 3]


def test_memory_of_disordered_chunks_is_bounded(tmp_path, monkeypatch):
    """Chunks that all claim time 0 are still read one by one; order is given up before memory is."""
    monkeypatch.setattr("snn_perception.events.bag_mcap._MAX_PENDING_BYTES", 1000)
    parts = [support.chunk_record(HEAD + messages(seq), 0) for seq in range(200)]
    recording = BagRecording(mcap_file(tmp_path / "a.mcap", *parts))
    waiting = max(held for held in pending_after_each(recording))
    assert waiting < 2000
    assert sorted(packet.seq for packet in recording.packets()) == list(range(200))


def pending_after_each(recording):
    """Yield, at each message, the bytes read ahead of it."""
    generator = recording._bag._storage(0).messages(TOPIC)
    for _ in generator:
        yield generator.gi_frame.f_locals["held"]


# ---- several files


def split_bag(folder: Path, names: list[str], metadata: str | None) -> Path:
    """Write a bag of several storage files, each of 5 packets, in the order of `names`."""
    folder.mkdir()
    for number, name in enumerate(names):
        part = [support.mono_packet(seq) for seq in range(number * 5, number * 5 + 5)]
        support.sqlite_file(folder / name, {TOPIC: EVENT_PACKET}, support.event_rows(part))
    if metadata is not None:
        (folder / "metadata.yaml").write_text(metadata)
    return folder


def metadata_of(names: list[str], identifier: str = "sqlite3") -> str:
    lines = "\n".join(f"    - {name}" for name in names)
    return (
        f"rosbag2_bagfile_information:\n  version: 5\n  storage_identifier: {identifier!r}\n"
        f"  relative_file_paths:\n{lines}\n  duration:\n    nanoseconds: 1\n"
    )


def test_several_files_in_the_order_of_the_metadata(tmp_path):
    names = ["z.db3", "m.db3", "a.db3"]
    path = split_bag(tmp_path / "bag", names, metadata_of(names))
    assert seqs(path) == list(range(15))
    assert BagRecording(path).notes == []


def test_without_metadata_files_are_ordered_by_number(tmp_path):
    path = split_bag(tmp_path / "bag", [f"bag_{number}.db3" for number in range(12)], None)
    recording = BagRecording(path)
    assert [packet.seq for packet in recording.packets()] == list(range(60))
    assert recording.notes == ["has no metadata.yaml; its storage files are read by name"]


@pytest.mark.parametrize(
    "metadata",
    ["", "\0\1\2", "{", "relative_file_paths", "rosbag2_bagfile_information: [1, 2]", "a: " * 1000, "[" * 100_000],
)
def test_damaged_metadata_is_done_without(tmp_path, metadata):
    path = split_bag(tmp_path / "bag", ["bag_0.db3", "bag_1.db3"], metadata)
    recording = BagRecording(path)
    assert [packet.seq for packet in recording.packets()] == list(range(10))
    assert "damaged" in recording.notes[0]


@pytest.mark.parametrize(
    "form", ["    - {}", "    - '{}'", '    - "{}"', "  [{}]", "    - bag/{}", "    - ../../etc/{}"]
)
def test_names_in_metadata_in_any_form_stay_in_the_folder(tmp_path, form):
    text = "rosbag2_bagfile_information:\n  relative_file_paths:" + ("" if "[" in form else "\n") + form.format("b.db3")
    path = split_bag(tmp_path / "bag", ["b.db3"], text)
    assert seqs(path) == list(range(5))
    assert BagRecording(path).notes == []


def test_empty_storage_identifier(tmp_path):
    assert seqs(split_bag(tmp_path / "bag", ["b.db3"], metadata_of(["b.db3"], ""))) == list(range(5))


def test_a_file_that_is_missing_is_told(tmp_path):
    path = split_bag(tmp_path / "bag", ["bag_0.db3"], metadata_of(["bag_0.db3", "bag_1.db3"]))
    recording = BagRecording(path)
    assert len(list(recording.packets())) == 5
    assert "bag_1.db3, which is not there" in recording.notes[0]


def test_a_damaged_file_beside_whole_ones_is_left_out(tmp_path):
    names = ["bag_0.db3", "bag_1.db3", "bag_2.db3"]
    path = split_bag(tmp_path / "bag", names, metadata_of(names))
    (path / "bag_1.db3").write_bytes(b"nothing of use")
    recording = BagRecording(path)
    assert [packet.seq for packet in recording.packets()] == [*range(5), *range(10, 15)]
    assert "bag_1.db3" in recording.notes[0]


def test_progress_runs_over_all_files(tmp_path):
    path = split_bag(tmp_path / "bag", ["bag_0.db3", "bag_1.db3"], None)
    recording = BagRecording(path)
    seen = []
    for _ in recording.packets():
        done, total = recording.progress()
        seen.append(done)
    assert seen == sorted(seen)
    assert seen[0] < total / 4
    assert seen[-1] == total == sum(file.stat().st_size for file in path.glob("*.db3"))


# ---- topics


TWO = {"/left/events": EVENT_PACKET, "/imu": "sensor_msgs/msg/Imu", "/right/events": EVENT_PACKET}


def two_cameras(path: Path) -> Path:
    rows = support.event_rows(packets(3), "/left/events") + support.event_rows(packets(5), "/right/events")
    return support.sqlite_file(path, TWO, [*rows, ("/imu", EPOCH_NS, b"\0\1\0\0")])


def test_several_event_topics_need_a_choice(tmp_path):
    path = two_cameras(tmp_path / "a.db3")
    with pytest.raises(EventDataError, match="choose one: /left/events, /right/events"):
        BagRecording(path)
    assert len(seqs(path, topic="/right/events")) == 5


def test_unknown_and_unfit_topics_list_what_there_is(tmp_path):
    path = two_cameras(tmp_path / "a.db3")
    for topic in ("/middle/events", "/imu"):
        with pytest.raises(EventDataError, match=r"/imu \(sensor_msgs/msg/Imu\), /left/events") as caught:
            BagRecording(path, topic=topic)
        assert str(path) in str(caught.value)
        assert f"'{topic}'" in str(caught.value)


def test_a_cut_off_database_is_told_of(tmp_path):
    """Within its last page sqlite takes what is missing for zeros, in which a row can vanish without a word."""
    path = support.sqlite_file(tmp_path / "a.db3", {TOPIC: EVENT_PACKET}, support.event_rows(packets(3)))
    assert BagRecording(path).notes == []
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    assert f"is cut off: {len(data) - 1} of {len(data)} bytes" in BagRecording(path).notes[0]


def test_damaged_names_stay_on_one_line(tmp_path):
    topics = {f"/a\n\x00{number}": "type\nof " + "nothing" * 99 for number in range(50)}
    path = support.sqlite_file(tmp_path / "a.db3", topics, [])
    with pytest.raises(EventDataError, match=r"topics: /a\?\?0 \(type\?of noth") as caught:
        BagRecording(path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


def test_no_event_topic(tmp_path):
    path = support.sqlite_file(tmp_path / "a.db3", {"/imu": "sensor_msgs/msg/Imu"}, [])
    with pytest.raises(EventDataError, match="expected a topic of type event_camera_msgs/msg/EventPacket or"):
        BagRecording(path)


def test_topic_without_messages(tmp_path):
    path = support.sqlite_file(tmp_path / "a.db3", {TOPIC: EVENT_PACKET}, [])
    with pytest.raises(EventDataError, match="holds no messages"):
        BagRecording(path)


def test_only_messages_of_the_topic_come(tmp_path):
    other = support.channel_record(2, topic="/other/events")
    first, second = (support.message_record(support.mono_packet(seq), channel=2) for seq in (100, 101))
    path = mcap_file(tmp_path / "a.mcap", HEAD, other, first, messages(0, 1), second)
    assert seqs(path, topic=TOPIC) == [0, 1]
    assert seqs(path, topic="/other/events") == [100, 101]


def test_channels_that_only_chunks_tell_of(tmp_path):
    """A recorder that lost power wrote no summary."""
    path = mcap_file(tmp_path / "a.mcap", chunk(0, 1), chunk(2, 3), end=b"")
    recording = BagRecording(path)
    assert recording.topic == TOPIC
    assert [packet.seq for packet in recording.packets()] == [0, 1, 2, 3]
    assert "before its footer" in recording.notes[0]


def test_another_message_encoding_is_refused(tmp_path):
    path = mcap_file(
        tmp_path / "a.mcap", support.schema_record() + support.channel_record(encoding="json"), messages(0)
    )
    with pytest.raises(EventDataError, match="expected messages in CDR, got 'json'"):
        BagRecording(path)


# ---- compression by rosbag2 itself


@pytest.mark.parametrize("storage", STORAGES)
def test_messages_compressed_one_by_one(tmp_path, storage):
    packed = [(TOPIC, p.stamp_ns, zstandard.compress(serialize_event_packet(p))) for p in packets(4)]
    if storage == "sqlite3":
        path = support.sqlite_file(tmp_path / "a.db3", {TOPIC: EVENT_PACKET}, packed)
    else:
        parts = [support.record(5, struct.pack("<HIQQ", 1, 0, t, t) + data) for _, t, data in packed]
        path = mcap_file(tmp_path / "a.mcap", HEAD, *parts)
    assert_same(BagRecording(path).packets(), packets(4))


def test_storage_compressed_as_a_whole_says_what_to_do(tmp_path):
    folder = tmp_path / "bag"
    folder.mkdir()
    (folder / "bag_0.db3.zstd").write_bytes(zstandard.compress(b"anything"))
    (folder / "metadata.yaml").write_text(metadata_of(["bag_0.db3.zstd"]))
    with pytest.raises(EventDataError, match=r"zstd -d bag_0\.db3\.zstd"):
        BagRecording(folder)


# ---- messages


def big_endian(packet: Packet) -> bytes:
    """Return the packet serialized as a big-endian machine would."""
    body = bytearray()

    def put(code: str, *values: int) -> None:
        for one, value in zip(code, values, strict=True):
            body.extend(bytes(-len(body) % struct.calcsize("=" + one)) + struct.pack(">" + one, value))

    def string(value: str) -> None:
        put("I", len(value) + 1)
        body.extend(value.encode() + b"\0")

    put("iI", *divmod(packet.stamp_ns, 10**9))
    string(packet.frame_id)
    put("IIQQ", packet.size.height, packet.size.width, packet.seq, packet.time_base)
    string(packet.encoding)
    put("?I", packet.is_bigendian, len(packet.data))
    return b"\0\0\0\0" + bytes(body) + packet.data.tobytes()


@pytest.mark.parametrize("frame_id", ["", "a", "ab", "abc", "camera", "Kamera äöü"])
@pytest.mark.parametrize("encoding", ["evt3", "mono", "libcaer", "libcaer_cmp"])
def test_serialized_packet_agrees_with_rosbags(frame_id, encoding):
    packet = replace(support.mono_packet(7), frame_id=frame_id, encoding=encoding, is_bigendian=True, time_base=2**63)
    data = serialize_event_packet(packet)
    message = typestore().deserialize_cdr(data, EVENT_PACKET)
    assert bytes(typestore().serialize_cdr(message, EVENT_PACKET)) == data
    assert (message.header.frame_id, message.encoding, message.time_base) == (frame_id, encoding, 2**63)
    assert same(parse_message(data, EVENT_PACKET), packet)


def test_big_endian_message():
    packet = support.mono_packet(7)
    assert same(parse_message(big_endian(packet), EVENT_PACKET), packet)


def test_payload_is_a_view_of_the_message():
    data = serialize_event_packet(support.mono_packet(7, events=100))
    payload = parse_message(data, EVENT_PACKET).data
    assert np.shares_memory(payload, np.frombuffer(data, np.uint8))
    assert not payload.flags.writeable


@pytest.mark.parametrize("cut", range(1, 84, 3))
def test_messages_that_are_cut_off(cut):
    data = serialize_event_packet(support.mono_packet(7))[:-cut]
    with pytest.raises(EventDataError, match=f"EventPacket of {len(data)} bytes"):
        parse_message(data, EVENT_PACKET)


@pytest.mark.parametrize("change", ["width", "height", "count", "name", "encapsulation"])
def test_messages_that_lie(change):
    data = bytearray(serialize_event_packet(support.mono_packet(7)))
    at, value = {
        "height": (4 + 16, 0),
        "width": (4 + 20, 1_000_000_000),
        "count": (len(data) - 24 - 4, 0xFFFFFFFF),
        "name": (4 + 8, 0xFFFFFFF0),
        "encapsulation": (0, 0x0700),
    }[change]
    struct.pack_into("<I" if change != "encapsulation" else "<H", data, at, value)
    with pytest.raises(EventDataError, match="damaged"):
        parse_message(bytes(data), EVENT_PACKET)


def test_messages_that_cannot_be_read_are_counted_and_left_out(tmp_path):
    rows = support.event_rows(packets(6))
    rows[2] = (TOPIC, rows[2][1], b"\0\1\0\0short")
    rows[4] = (TOPIC, rows[4][1], b"")
    recording = BagRecording(support.sqlite_file(tmp_path / "a.db3", {TOPIC: EVENT_PACKET}, rows))
    assert [packet.seq for packet in recording.packets()] == [0, 1, 3, 5]
    assert recording.skipped == 2
    assert "message 3" in recording.notes[0]


def test_not_one_readable_message_is_an_error(tmp_path):
    rows = [(TOPIC, EPOCH_NS + i, b"\0\1\0\0short") for i in range(4)]
    path = support.sqlite_file(tmp_path / "a.db3", {TOPIC: EVENT_PACKET}, rows)
    with pytest.raises(EventDataError, match="none of 4 messages"):
        BagRecording(path)


# ---- point clouds


@pytest.mark.parametrize("order", ["<", ">"])
def test_point_cloud_agrees_with_rosbags(order):
    points = np.zeros(5, np.dtype([("x", "<u2"), ("y", "<u2"), ("t", "<f8"), ("p", "u1")]))
    points["x"], points["t"] = range(5), np.arange(5) / 8
    data = support.point_cloud(points, EPOCH_NS, order)
    message = get_typestore(Stores.ROS2_JAZZY).deserialize_cdr(data, POINT_CLOUD)
    packet = parse_message(data, POINT_CLOUD)
    assert (packet.encoding, packet.stamp_ns, packet.frame_id, packet.size) == ("pointcloud2", EPOCH_NS, "cam", None)
    assert np.array_equal(packet.data, message.data)
    assert np.array_equal(packet.data.view(packet.layout.dtype), points)
    assert (packet.layout.width, packet.layout.row_step) == (message.width, message.row_step)


def test_bag_of_point_clouds(tmp_path, registry):
    rows = list(support.cloud_rows(3))
    path = support.sqlite_file(tmp_path / "a.db3", {"/points": POINT_CLOUD, "/imu": "sensor_msgs/msg/Imu"}, rows)
    recording = BagRecording(path)
    assert (recording.topic, recording.encoding) == ("/points", "pointcloud2")
    assert (recording.size_inferred, recording.size) == (True, SensorSize(5, 13))
    assert "13x5" in recording.notes[0]
    stream = EventStream(registry, size=recording.size)
    events = [stream.decode(packet).events for packet in recording.packets()]
    assert [e.t.tolist() for e in events] == [[EPOCH_NS + i * 10**6 + dt for dt in (0, 10, 20, 30)] for i in range(3)]
    assert all(e.y.tolist() == [1, 2, 3, 4] and e.p.tolist() == [0, 1, 0, 1] for e in events)
    assert stream.counts.losses.total == 0
    assert BagRecording(path, size=(48, 64)).size == SensorSize(48, 64)


def test_event_packets_come_before_point_clouds(tmp_path):
    """A car's bag holds clouds of its lidar too."""
    rows = list(support.cloud_rows(3)) + support.event_rows(packets(4))
    path = support.sqlite_file(tmp_path / "a.db3", {"/points": POINT_CLOUD, TOPIC: EVENT_PACKET}, rows)
    assert BagRecording(path).topic == TOPIC


def test_clouds_that_lie_are_refused():
    data = bytearray(support.point_cloud(np.zeros(2, [("x", "<u2"), ("t", "<u4")]), EPOCH_NS))
    struct.pack_into("<I", data, 4 + 24, 1_000_000)  # number of fields
    with pytest.raises(EventDataError):
        parse_message(bytes(data), POINT_CLOUD)


# ---- damage of whole files (every other kind is in test_fuzz_files.py)


@pytest.mark.parametrize("left", [0.3, 0.5, 0.7, 0.95])
@pytest.mark.parametrize("compression", ["", "lz4", "zstd"])
def test_truncated_mcap_gives_what_is_whole(tmp_path, compression, left):
    pack = {"": bytes, "lz4": lz4.frame.compress, "zstd": zstandard.compress}[compression]
    parts = []
    for first in range(0, 100, 20):
        content = HEAD + messages(*range(first, first + 20))
        start = EPOCH_NS + first * 1_000_000
        parts.append(support.chunk_record(content, start, packed=pack(content), compression=compression))
    whole = mcap_file(tmp_path / "whole.mcap", *parts)
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(whole.read_bytes()[: int(len(whole.read_bytes()) * left)])
    recording = BagRecording(cut)
    got = [packet.seq for packet in recording.packets()]
    assert got == list(range(len(got)))
    assert int(left * 5) * 20 <= len(got) < 100
    assert any("breaks off" in note for note in recording.notes)


def test_mcap_chunk_that_fails_its_checksum_is_left_out(tmp_path):
    path = mcap_file(tmp_path / "a.mcap", chunk(0, 1), chunk(2, 3, crc=12345), chunk(4, 5))
    recording = BagRecording(path)
    assert [packet.seq for packet in recording.packets()] == [0, 1, 4, 5]
    assert any("checksum" in note for note in recording.notes)


def test_truncated_sqlite_gives_what_is_whole_or_an_error(tmp_path):
    big = [support.mono_packet(seq, events=200) for seq in range(200)]
    whole = storage_file(bag(tmp_path, "sqlite3", big)).read_bytes()
    counts = []
    for tenth in range(1, 10):
        cut = tmp_path / "cut.db3"
        cut.write_bytes(whole[: len(whole) * tenth // 10])
        try:
            recording = BagRecording(cut)
            got = [packet.seq for packet in recording.packets()]
        except EventDataError as error:
            assert str(cut) in str(error)
            continue
        assert got == list(range(len(got)))
        assert any("damaged after" in note for note in recording.notes)
        counts.append(len(got))
    assert counts == sorted(counts)


def test_log_beside_the_database_is_told(tmp_path):
    path = bag(tmp_path, "sqlite3")
    file = storage_file(path)
    file.with_name(file.name + "-wal").write_bytes(b"x")
    recording = BagRecording(path)
    assert len(list(recording.packets())) == 20
    assert "-wal" in recording.notes[0]


def test_views_in_place_of_tables_are_refused(tmp_path):
    path = tmp_path / "a.db3"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE topics(id, name, type)")
        database.execute(
            "CREATE VIEW messages AS WITH RECURSIVE c(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM c) "
            "SELECT id, 1 AS topic_id, id AS timestamp, zeroblob(100000000) AS data FROM c"
        )
    database.close()
    with pytest.raises(EventDataError, match="got another sqlite database"):
        BagRecording(path)


# ---- claims


def test_claims(tmp_path):
    for storage in STORAGES:
        folder = bag(tmp_path, storage)
        assert BagRecording.claims(folder)
        assert BagRecording.claims(storage_file(folder))
        storage_file(folder).rename(folder / "renamed")
        assert BagRecording.claims(folder)  # by its metadata
        (folder / "metadata.yaml").unlink()
        assert not BagRecording.claims(folder)
    (tmp_path / "odd").write_bytes((tmp_path / "bag_mcap" / "renamed").read_bytes())
    assert BagRecording.claims(tmp_path / "odd")
    assert len(seqs(tmp_path / "odd")) == 20
    assert not BagRecording.claims(tmp_path / "bag_sqlite3" / "renamed")  # any database begins so
    assert not BagRecording.claims(tmp_path)
    assert not BagRecording.claims(tmp_path / "missing")
