"""Hostile files: whatever the bytes, a reader yields what is whole and says what is not, or raises EventDataError.

It never crashes, hangs, makes events up, or takes memory that the file does not justify (the address space is limited
while it reads). `make test-slow` runs the long form.
"""

import os
import random
import resource
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lz4.frame
import numpy as np
import pytest
import zstandard

from snn_perception.errors import EventDataError
from snn_perception.events.atis_bin import AtisBinRecording
from snn_perception.events.dat import DatRecording
from snn_perception.events.hdf5 import Hdf5Recording
from snn_perception.events.raw import RawRecording
from snn_perception.events.recording import open_recording
from snn_perception.events.rosbag2 import BagRecording
from tests import bag_support as support
from tools import fuzz_corpus as corpus
from tools.fuzz_corpus import EVENTS, PACKETS
from tools.fuzz_damage import damage, damaged
from tools.fuzz_files import read
from tools.fuzz_watch import EXTRA_BYTES, limit_memory

NORMAL, LONG = 400, 5_000  # damaged copies of each sample
# Files of events and bags; tests/test_fuzz.py has the rest too.
LABELS = ("labels", "ncaltech_annotation")
SAMPLES = {name: make for group, files in corpus.SAMPLES.items() if group not in LABELS for name, make in files.items()}


@contextmanager
def memory_limit() -> Iterator[None]:
    """Refuse any allocation beyond `EXTRA_BYTES` more, whether it is used or not."""
    before = limit_memory()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_memory_limit_works():
    with memory_limit(), pytest.raises(MemoryError):
        np.empty(EXTRA_BYTES * 2, np.uint8)
    np.empty(EXTRA_BYTES * 2, np.uint8)


# ---- damaged copies of sound files


def holds_events(path: Path) -> bool:
    return path.suffix in (".dat", ".raw", ".bin", ".h5")


class Tally:
    """How the reading of many damaged files ended."""

    def __init__(self) -> None:
        self.whole = self.partial = self.refused = self.silent = 0

    def read(self, path: Path, expected: int) -> None:
        try:
            with memory_limit():
                count, told = read(path)
        except EventDataError as error:
            assert str(path) in str(error), f"names no file: {error}"
            assert len(str(error)) < 1000
            self.refused += 1
        else:
            self.whole += count == expected
            self.partial += count != expected
            self.silent += count < expected and not told


def fuzz(folder: Path, name: str, count: int) -> Tally:
    """Read `count` damaged copies of a sample; any exception but EventDataError comes through with its number."""
    sample = SAMPLES[name](folder)
    data = sample.data
    path = folder / f"fuzzed{Path(name).suffix}"
    path.write_bytes(data)
    expected, _ = read(path)  # compiled, and libraries loaded
    assert expected == (EVENTS if holds_events(path) else PACKETS)
    tally = Tally()
    for number in range(count):
        path.write_bytes(damage(sample, (), random.Random(f"{name} {number}")))
        try:
            tally.read(path, expected)
        except BaseException:
            print(f"{name}, damaged copy {number}")  # pytest shows it with the failure
            raise
    return tally


@pytest.mark.parametrize("name", SAMPLES)
def test_damaged_files(tmp_path, name):
    tally = fuzz(tmp_path, name, NORMAL)
    share = 40 if name.endswith(".h5") else 20  # most of so small an HDF5 file is structure
    assert tally.partial > NORMAL / share, "damage must get past the header, or this shows little"
    assert tally.refused > 0 or name == "image.bin"  # any five bytes are an event
    assert tally.whole < NORMAL * 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLES)
def test_damaged_files_long(tmp_path, name):
    tally = fuzz(tmp_path, name, LONG)
    assert tally.partial > LONG / (40 if name.endswith(".h5") else 20)


@pytest.mark.parametrize("name", SAMPLES)
def test_truncated_anywhere(tmp_path, name):
    """Nothing is lost without a word. (A DAT or RAW file cut between two events is a whole one, for all it says.)"""
    data = SAMPLES[name](tmp_path).data
    path = tmp_path / f"cut{Path(name).suffix}"
    tally = Tally()
    for at in range(0, len(data), max(1, len(data) // 300)):
        path.write_bytes(data[:at])
        tally.read(path, EVENTS if holds_events(path) else PACKETS)
        if not holds_events(path):
            assert tally.silent == 0, at
    assert tally.refused > 0
    assert tally.partial > 20 or path.suffix in (".db3", ".h5")  # sqlite needs its last pages early, HDF5 its length


def test_damaged_metadata(tmp_path):
    folder = support.bag(tmp_path, "sqlite3", support.packets(PACKETS))
    text = (folder / "metadata.yaml").read_bytes()
    for number in range(NORMAL):
        (folder / "metadata.yaml").write_bytes(damaged(text, random.Random(number)))
        with memory_limit():
            assert read(folder)[0] == PACKETS  # what holds the messages is whole


@pytest.mark.parametrize("kind", ["fifo", "folder", "huge"])
def test_metadata_that_is_no_text(tmp_path, kind):
    folder = support.bag(tmp_path, "mcap", support.packets(PACKETS))
    (folder / "metadata.yaml").unlink()
    if kind == "fifo":
        os.mkfifo(folder / "metadata.yaml")
    elif kind == "folder":
        (folder / "metadata.yaml").mkdir()
    else:
        with (folder / "metadata.yaml").open("wb") as file:
            file.truncate(1 << 40)  # of holes
    with memory_limit():
        assert BagRecording.claims(folder)
        assert read(folder) == (PACKETS, True)


# ---- files that lie about lengths


def mcap_of(folder: Path, *parts: bytes) -> Path:
    path = folder / "a.mcap"
    path.write_bytes(b"".join([support.MCAP_MAGIC, support.MCAP_HEADER, *parts, support.MCAP_END]))
    return path


HEAD = support.schema_record() + support.channel_record()
GOOD = support.chunk_record(HEAD + support.message_record(support.mono_packet(0)), support.EPOCH_NS)


def late_chunk(**options) -> bytes:
    return support.chunk_record(HEAD + support.message_record(support.mono_packet(1)), support.EPOCH_NS + 1, **options)


ZEROS = bytes(1 << 30)
LIES = {
    "unpacked length": late_chunk(unpacked_bytes=1 << 60),
    "unpacked length, lz4": late_chunk(unpacked_bytes=1 << 60, compression="lz4", packed=lz4.frame.compress(HEAD)),
    "zstd bomb": late_chunk(unpacked_bytes=1 << 60, compression="zstd", packed=zstandard.compress(ZEROS)),
    "lz4 bomb": late_chunk(unpacked_bytes=1 << 60, compression="lz4", packed=lz4.frame.compress(ZEROS)),
    "zstd bomb, announced": late_chunk(unpacked_bytes=1 << 30, compression="zstd", packed=zstandard.compress(ZEROS)),
    "zstd bomb, denied": late_chunk(unpacked_bytes=1 << 27, compression="zstd", packed=zstandard.compress(ZEROS)),
    "lz4 bomb, denied": late_chunk(unpacked_bytes=1 << 27, compression="lz4", packed=lz4.frame.compress(ZEROS)),
    "zstd content size": late_chunk(compression="zstd", packed=b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 8 + bytes(20)),
    "unknown compression": late_chunk(compression="brotli"),
    "name of a compression": late_chunk(compression="z" * 100_000),
    "record in a chunk": support.chunk_record(struct.pack("<BQ", 5, 1 << 62), support.EPOCH_NS + 1),
    "schema name": support.record(3, struct.pack("<HI", 2, 0xFFFFFFFF)),
    "channel topic": support.record(4, struct.pack("<HHI", 2, 1, 0xFFFFFFFF)),
    "short records": support.record(3, b"")
    + support.record(4, b"\1")
    + support.record(5, b"\2")
    + support.record(6, b""),
    "zero bytes of a message": support.record(5, struct.pack("<HIQQ", 1, 0, support.EPOCH_NS + 1, 0)),
}
del ZEROS


@pytest.mark.parametrize("name", LIES)
def test_mcap_lies(tmp_path, name):
    path = mcap_of(tmp_path, GOOD, LIES[name])
    read(path)
    with memory_limit():
        recording = BagRecording(path)
        assert [packet.seq for packet in recording.packets()] == [0]
    assert recording.notes or recording.skipped or name == "short records"


@pytest.mark.parametrize("length", [1 << 33, (1 << 63) - 1, (1 << 64) - 1])
@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 9, 0x80])
def test_mcap_record_longer_than_the_file(tmp_path, opcode, length):
    path = mcap_of(tmp_path, GOOD, support.record(opcode, b"x" * 50, length))
    with memory_limit():
        recording = BagRecording(path)
        assert [packet.seq for packet in recording.packets()] == [0]
    assert any("breaks off" in note for note in recording.notes)


def test_sqlite_that_leads_in_circles(tmp_path):
    """Inner pages whose children are all the same page hold more rows than any file; the work stays bounded."""
    rows = support.event_rows([support.mono_packet(seq, events=20) for seq in range(3000)])
    path = support.sqlite_file(tmp_path / "a.db3", {support.TOPIC: support.EVENT_PACKET}, rows, index=False)
    data = bytearray(path.read_bytes())
    page_bytes = struct.unpack_from(">H", data, 16)[0]
    with sqlite3.connect(path) as database:
        root = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'messages'").fetchone()[0]
    database.close()
    top = bytearray(data[(root - 1) * page_bytes : root * page_bytes])
    assert top[0] == 5, "the root of the table is an inner page"
    cells = struct.unpack_from(f">{struct.unpack_from('>H', top, 3)[0]}H", top, 12)
    leaf = struct.unpack_from(">I", top, cells[0])[0]
    pages = len(data) // page_bytes
    levels = [*range(pages + 1, pages + 13), leaf]
    inner = []
    for child in levels:  # the root leads to the first new page, that to the second, ..., the last to the leaf
        for at in (8, *cells):
            struct.pack_into(">I", top, at, child)
        inner.append(bytes(top))
    data[(root - 1) * page_bytes : root * page_bytes] = inner[0]
    struct.pack_into(">I", data, 28, pages + 12)
    path.write_bytes(bytes(data) + b"".join(inner[1:]))
    with memory_limit(), pytest.raises(EventDataError, match="interrupted"):
        BagRecording(path)


def test_sqlite_row_that_no_memory_holds(tmp_path):
    path = support.sqlite_file(tmp_path / "a.db3", {support.TOPIC: support.EVENT_PACKET}, [], page_bytes=512)
    data = bytearray(path.read_bytes())
    at = data.find(b"indextimestamp_idx")  # behind the row's length, number and types
    assert data[at - 7] < 10, "the row's number, in one byte"
    data[at - 8 : at - 1] = b"\xff" * 7
    path.write_bytes(data)
    with memory_limit(), pytest.raises(EventDataError, match="cannot be read"):
        BagRecording(path)


def test_sqlite_computed_columns(tmp_path):
    path = tmp_path / "a.db3"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT)")
        database.execute(
            "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, "
            "data BLOB AS (zeroblob(900000000)))"
        )
        database.execute("INSERT INTO topics VALUES (1, ?, ?)", (support.TOPIC, support.EVENT_PACKET))
        database.execute("INSERT INTO messages(topic_id, timestamp) VALUES (1, 5)")
    database.close()
    with memory_limit(), pytest.raises(EventDataError):
        BagRecording(path)


@pytest.mark.parametrize("value", ["text", 3.5, None, 7])
def test_sqlite_rows_of_other_types(tmp_path, value):
    path = support.sqlite_file(
        tmp_path / "a.db3", {support.TOPIC: support.EVENT_PACKET}, support.event_rows(support.packets(3))
    )
    with sqlite3.connect(path) as database:
        database.execute("UPDATE messages SET data = ? WHERE id = 2", (value,))
        database.execute("INSERT INTO messages(topic_id, timestamp, data) VALUES (1, 'noon', x'00')")
    database.close()
    recording = BagRecording(path)
    assert [packet.seq for packet in recording.packets()] == [0, 2]
    assert any("left out" in note for note in recording.notes)


def test_compressed_message_that_unpacks_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr("snn_perception.events.bag_storage.MAX_MESSAGE_BYTES", 1 << 20)
    rows = support.event_rows(support.packets(2))
    rows.append((support.TOPIC, support.EPOCH_NS + 9, zstandard.compress(bytes(1 << 24))))
    recording = BagRecording(support.sqlite_file(tmp_path / "a.db3", {support.TOPIC: support.EVENT_PACKET}, rows))
    assert len(list(recording.packets())) == 2
    assert recording.skipped == 1


# ---- things that are no files of events


@pytest.mark.parametrize("suffix", [".dat", ".raw", ".db3", ".mcap", ".bin", ".h5", ""])
@pytest.mark.parametrize("kind", ["folder", "fifo", "empty", "text", "other"])
def test_no_recordings_at_all(tmp_path, registry, kind, suffix):
    path = tmp_path / f"thing{suffix}"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        content = {
            "empty": b"",
            "text": b"Dear reader,\nthis is a letter.\n" * 9,
            "other": b"\x7fELF" + bytes(range(256)) * 40,
        }
        path.write_bytes(content[kind])
    with pytest.raises(EventDataError, match="thing"):
        recording = open_recording(path, registry)
        list(recording.packets() if recording.is_packets else recording.chunks())


@pytest.mark.parametrize("reader", [DatRecording, RawRecording, BagRecording, AtisBinRecording, Hdf5Recording])
@pytest.mark.parametrize("suffix", [".dat", ".raw", ".db3", ".mcap", ".bin", ".h5"])
@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_files_that_the_system_will_not_read(tmp_path, monkeypatch, reader, suffix, error):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"% ")

    def refuse(self, *args, **kwargs):
        raise error

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(EventDataError, match=f"{path}: cannot be read: {error.strerror}; check the file"):
        reader(path)
    assert reader.claims(path) in (True, False)


def test_a_bag_that_vanishes_meanwhile(tmp_path):
    path = tmp_path / "a.mcap"
    path.write_bytes(corpus.mcap("")(tmp_path).data)
    recording = BagRecording(path)
    path.unlink()
    with pytest.raises(EventDataError, match="cannot be read"):
        list(recording.packets())
