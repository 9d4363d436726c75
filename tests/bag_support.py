"""Small bags and messages for tests of what reads them."""

import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from snn_perception.events.bag_messages import EVENT_PACKET, POINT_CLOUD, serialize_event_packet
from snn_perception.events.rosbag2 import write_bag
from snn_perception.types import Packet, SensorSize

SIZE = SensorSize(480, 640)
EPOCH_NS = 1_700_000_000_000_000_000
TOPIC = "/event_camera/events"


def mono_packet(seq: int, events: int = 3) -> Packet:
    """Return a packet of the simplest encoding: (dt, x = seq, y = 0.., p) of consecutive events."""
    words = [(i * 1000) | (seq % 640) << 32 | i << 48 | (i % 2) << 63 for i in range(events)]
    return Packet(
        np.array(words, "<u8").view(np.uint8),
        "mono",
        SIZE,
        seq=seq,
        time_base=seq * 1_000_000,
        stamp_ns=EPOCH_NS + seq * 1_000_000,
        frame_id="cam",
    )


def packets(count: int = 20) -> list[Packet]:
    return [mono_packet(seq) for seq in range(count)]


def bag(folder: Path, storage: str, messages: list[Packet] | None = None, topic: str = TOPIC) -> Path:
    """Write a bag and return its folder."""
    path = folder / f"bag_{storage}"
    write_bag(path, packets() if messages is None else messages, storage, topic)
    return path


def storage_file(folder: Path) -> Path:
    return next(file for file in folder.iterdir() if file.suffix in (".db3", ".mcap"))


def sqlite_file(
    path: Path,
    topics: dict[str, str],
    rows: list[tuple[str, int, bytes]],
    *,
    index: bool = True,
    page_bytes: int = 4096,
) -> Path:
    """Write a storage file by hand: topic -> type, and rows of (topic, log time, message)."""
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA page_size = {page_bytes}")
        database.execute("CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT, serialization_format TEXT)")
        database.execute(
            "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, data BLOB)"
        )
        if index:
            database.execute("CREATE INDEX timestamp_idx ON messages (timestamp ASC)")
        numbers = {name: number for number, name in enumerate(topics, start=1)}
        for name, kind in topics.items():
            database.execute("INSERT INTO topics VALUES (?, ?, ?, 'cdr')", (numbers[name], name, kind))
        for topic, log_time, data in rows:
            database.execute(
                "INSERT INTO messages(topic_id, timestamp, data) VALUES (?, ?, ?)", (numbers[topic], log_time, data)
            )
    database.close()
    return path


def event_rows(messages: list[Packet], topic: str = TOPIC) -> list[tuple[str, int, bytes]]:
    return [(topic, packet.stamp_ns, serialize_event_packet(packet)) for packet in messages]


# ---- MCAP by hand: every record is opcode, length, body


def record(opcode: int, body: bytes, length: int | None = None) -> bytes:
    return struct.pack("<BQ", opcode, len(body) if length is None else length) + body


def text(value: str) -> bytes:
    return struct.pack("<I", len(value.encode())) + value.encode()


MCAP_MAGIC = b"\x89MCAP0\r\n"
MCAP_HEADER = record(1, text("ros2") + text("tests"))
MCAP_END = record(15, bytes(4)) + record(2, bytes(20)) + MCAP_MAGIC


def schema_record(number: int = 1, name: str = EVENT_PACKET) -> bytes:
    return record(3, struct.pack("<H", number) + text(name) + text("ros2msg") + struct.pack("<I", 0))


def channel_record(number: int = 1, schema: int = 1, topic: str = TOPIC, encoding: str = "cdr") -> bytes:
    return record(4, struct.pack("<HH", number, schema) + text(topic) + text(encoding) + struct.pack("<I", 0))


def message_record(packet: Packet, log_time: int | None = None, channel: int = 1) -> bytes:
    log_time = packet.stamp_ns if log_time is None else log_time
    return record(5, struct.pack("<HIQQ", channel, 0, log_time, log_time) + serialize_event_packet(packet))


def chunk_record(
    content: bytes,
    start_ns: int,
    *,
    packed: bytes | None = None,
    compression: str = "",
    crc: int = 0,
    unpacked_bytes: int | None = None,
) -> bytes:
    packed = content if packed is None else packed
    unpacked_bytes = len(content) if unpacked_bytes is None else unpacked_bytes
    head = struct.pack("<QQQI", start_ns, start_ns, unpacked_bytes, crc)
    return record(6, head + text(compression) + struct.pack("<Q", len(packed)) + packed)


# ---- PointCloud2 by hand


def point_cloud(points: np.ndarray, stamp_ns: int, order: str = "<") -> bytes:
    """Return a structured array [N] as a serialized sensor_msgs/PointCloud2."""
    codes = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 8}
    body = bytearray()

    def put(code: str, value: int) -> None:
        body.extend(bytes(-len(body) % struct.calcsize("=" + code)))
        body.extend(struct.pack(order + code, value))

    def string(value: str) -> None:
        put("I", len(value) + 1)
        body.extend(value.encode() + b"\0")

    put("i", stamp_ns // 10**9)
    put("I", stamp_ns % 10**9)
    string("cam")
    put("I", 1)
    put("I", len(points))
    put("I", len(points.dtype.names))
    for name in points.dtype.names:
        kind, offset = points.dtype.fields[name][:2]
        string(name)
        put("I", offset)
        put("B", codes[kind.str[1:]])
        put("I", 1)
    put("B", int(points.dtype[0].str[0] == ">"))
    put("I", points.dtype.itemsize)
    put("I", points.nbytes)
    put("I", points.nbytes)
    body.extend(points.tobytes())
    put("B", 1)
    return (b"\0\1\0\0" if order == "<" else b"\0\0\0\0") + bytes(body)


def cloud_rows(count: int, topic: str = "/points") -> Iterator[tuple[str, int, bytes]]:
    """Yield rows of PointCloud2 messages of four events each."""
    for seq in range(count):
        points = np.zeros(4, np.dtype([("x", "<u2"), ("y", "<u2"), ("t", "<u4"), ("p", "u1")]))
        points["x"], points["y"], points["t"], points["p"] = 10 + seq, [1, 2, 3, 4], [0, 10, 20, 30], [0, 1, 0, 1]
        stamp = EPOCH_NS + seq * 1_000_000
        yield topic, stamp, point_cloud(points, stamp)


__all__ = ["EVENT_PACKET", "POINT_CLOUD"]
