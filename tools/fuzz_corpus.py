"""Sound files of every format and its variants, small, as parts that damage can aim at."""

from __future__ import annotations

import io
import struct
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import hdf5plugin
import lz4.frame
import numpy as np
import zstandard

from snn_perception.data.labels import LAYOUTS
from snn_perception.events.atis_bin_writer import write_atis_bin
from snn_perception.events.dat_writer import write_dat
from snn_perception.events.raw_writer import write_raw
from snn_perception.types import EventArray, Packet, SensorSize
from tests import bag_support as bags
from tests import dataset_support, hdf5_support, rvt_support
from tools.fuzz_damage import Part, Sample

PACKETS, EVENTS, LABELS = 12, 200, 30  # in each sample
SIZE = SensorSize(240, 304)
RVT_SIZE, RVT_WINDOWS = SensorSize(24, 32), 6


def _events(seed: int, step_us: int, start_us: int, size: SensorSize = SIZE) -> EventArray:
    rng = np.random.default_rng(seed)
    t = np.cumsum(rng.integers(0, step_us, EVENTS)) + start_us
    x, y = rng.integers(0, size.width, EVENTS).astype(np.uint16), rng.integers(0, size.height, EVENTS)
    return EventArray(x, y.astype(np.uint16), (x & 1).astype(np.uint8), t, size)


# ---- files of events


def dat(folder: Path, event_type: int = 12, start_us: int = (1 << 32) - 5000) -> Sample:
    write_dat(folder / "a.dat", [_events(0, 100, start_us)], SIZE, event_type)  # over the wrap
    text, end, rest = (folder / "a.dat").read_bytes().partition(b"% end\n")
    return Sample((Part(text + end, is_text=True), Part(rest[:2], fields=((0, 1), (1, 1))), Part(rest[2:], 8)))


def bare_dat(folder: Path) -> Sample:
    return Sample(dat(folder).parts[2:])


def unsized_dat(folder: Path) -> Sample:
    """As N-CARS has them: type 0, no geometry, no end of the header."""
    text = Part(b"% Data file containing N9Chronocam7Event2dE events.\n% Version 2\n% Date 2017-1-1 0:0:0\n", 1, True)
    return Sample((text, *dat(folder, 0).parts[1:]))


def evt3_raw(folder: Path) -> Sample:
    write_raw(folder / "a.raw", [_events(1, 2_000, (1 << 24) - 5000)], SIZE)  # over the wrap
    text, end, words = (folder / "a.raw").read_bytes().partition(b"% end\n")
    return Sample((Part(text + end, is_text=True), Part(words, 2)))


def old_evt3_raw(folder: Path) -> Sample:
    """With a header of the older kind, that states no geometry."""
    text = Part(b"% date 2020-01-01 00:00:00\n% evt 3.0\n% serial_number 0001\n", is_text=True)
    return Sample((text, evt3_raw(folder).parts[1]))


def evt2_raw(name: str, order: str) -> Callable[[Path], Sample]:
    def make(_: Path) -> Sample:
        rng = np.random.default_rng(2)
        count = EVENTS if name == "EVT2" else EVENTS // 4
        t = np.cumsum(rng.integers(0, 100, count)) + (1 << 34) - 3000  # over the wrap
        upper = (t & 63) << 22 | rng.integers(0, 300, count) << 11 | rng.integers(0, 240, count) | (t & 1) << 28
        upper = np.stack([8 << 28 | t >> 6 & (1 << 28) - 1, upper], axis=1).reshape(-1)
        mask = np.tile([0, 0b1111], count)  # of time words and of events
        if name == "EVT2":
            words = upper
        else:
            words = np.stack([mask, upper] if order == "little" else [upper, mask], axis=1).reshape(-1)
        header = f"% date 2024\n% format {name};endianness={order};height=240;width=304\n% end\n"
        text = Part(header.encode(), is_text=True)
        return Sample((text, Part(words.astype("<u4").tobytes(), 4 if name == "EVT2" else 8)))

    return make


def atis_bin(folder: Path) -> Sample:
    write_atis_bin(folder / "a.bin", [_events(3, 1_000, (1 << 23) - 50_000, SensorSize(180, 240))])  # over overflows
    return Sample((Part((folder / "a.bin").read_bytes(), 5),))


def hdf5(chunk: int | None = 16, **options: object) -> Callable[[Path], Sample]:
    def make(folder: Path) -> Sample:
        events = hdf5_support.some_events(EVENTS)
        return _hdf5_sample(hdf5_support.plain(folder / "a.h5", events, chunk=chunk, **options))

    return make


def hdf5_tables(folder: Path) -> Sample:
    triggers = [(1, 50, 0), (0, 900, 0)]
    return _hdf5_sample(hdf5_support.tables(folder / "a.h5", hdf5_support.some_events(EVENTS), triggers=triggers))


def _hdf5_sample(path: Path) -> Sample:
    """Return the file with all that may be an address, a length or a number in its structures."""
    data = path.read_bytes()
    path.unlink()
    numbers = ((at, int.from_bytes(data[at : at + 8], "little")) for at in range(8, len(data) - 8, 8))
    longs = ((at, 8) for at, number in numbers if 0 < number < len(data))
    marks = (data.find(mark, at) for mark in (b"TREE", b"HEAP", b"SNOD", b"OHDR") for at in range(0, len(data), 512))
    near = {(at + k, size) for at in marks if at >= 0 for k, size in ((4, 1), (5, 1), (6, 2), (8, 8), (24, 8))}
    return Sample((Part(data, fields=(*longs, *sorted(near), *((at, 1) for at in range(8, 24)))),))


# ---- bags


def db3(_: Path) -> Sample:
    """Return a storage file of small pages, so that damage meets every part of the structure."""
    return _sqlite_sample(bags.TOPIC, bags.EVENT_PACKET, bags.event_rows([_packet(seq) for seq in range(PACKETS)]))


def clouds(_: Path) -> Sample:
    return _sqlite_sample("/points", bags.POINT_CLOUD, list(bags.cloud_rows(PACKETS)))


def packed_db3(_: Path) -> Sample:
    """Return a storage file whose messages are compressed one by one."""
    rows = bags.event_rows([_packet(seq) for seq in range(PACKETS)])
    return _sqlite_sample(bags.TOPIC, bags.EVENT_PACKET, rows, zstandard.compress)


def _packet(seq: int) -> Packet:
    return bags.mono_packet(seq, events=20)


def _sqlite_sample(
    topic: str, kind: str, rows: list[tuple[str, int, bytes]], pack: Callable[[bytes], bytes] = bytes
) -> Sample:
    """Return a database; damage aims at it as a whole, since its pages hold no lengths of what they are part of."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.db3"
        bags.sqlite_file(path, {topic: kind}, [(t, at, pack(data)) for t, at, data in rows], page_bytes=512)
        data = path.read_bytes()
    fields = [(at, size) for at, size in ((16, 2), (18, 1), (19, 1), (20, 1), (28, 4), (32, 4), (36, 4), (44, 4))]
    for page in range(0, len(data), 512):
        top = page or 100
        cells = int.from_bytes(data[top + 3 : top + 5], "big")
        fields += [(top, 1), (top + 1, 2), (top + 3, 2), (top + 5, 2), (top + 8, 4)]
        fields += [(top + 8 + 2 * k, 2) for k in range(min(cells, 40))]
    return Sample((Part(data, fields=tuple(fields), order="big"),))


def mcap(compression: str) -> Callable[[Path], Sample]:
    """Return what makes files whose chunks hold four messages each, their content a part of its own."""
    pack = {"": bytes, "lz4": lz4.frame.compress, "zstd": zstandard.compress}[compression]
    head = bags.schema_record() + bags.channel_record()

    def join(parts: Sequence[bytes]) -> bytes:
        chunks = (
            bags.chunk_record(part, bags.EPOCH_NS + k * 4_000_000, packed=pack(part), compression=compression)
            for k, part in enumerate(parts)
        )
        return b"".join([bags.MCAP_MAGIC, bags.MCAP_HEADER, *chunks, head, bags.MCAP_END])

    def make(_: Path) -> Sample:
        contents = []
        for first in range(0, PACKETS, 4):
            messages = [bags.message_record(bags.mono_packet(seq)) for seq in range(first, first + 4)]
            contents.append(head + b"".join(messages))
        return Sample(tuple(Part(content, fields=_record_fields(content)) for content in contents), join)

    return make


def plain_mcap(_: Path, topic: str = bags.TOPIC) -> Sample:
    messages = [bags.message_record(bags.mono_packet(seq)) for seq in range(PACKETS)]
    content = b"".join([bags.MCAP_HEADER, bags.schema_record(), bags.channel_record(topic=topic), *messages])
    return Sample((Part(bags.MCAP_MAGIC), Part(content, fields=_record_fields(content)), Part(bags.MCAP_END)))


def cloud_mcap(_: Path) -> Sample:
    """Return PointCloud2 messages, the first of a layout that damage aims at."""
    head = bags.MCAP_HEADER + bags.schema_record(name=bags.POINT_CLOUD) + bags.channel_record(topic="/points")
    rows = [
        bags.record(5, struct.pack("<HIQQ", 1, 0, at, at) + data) for _, at, data in bags.cloud_rows(PACKETS, "/points")
    ]
    content = head + b"".join(rows)
    return Sample((Part(bags.MCAP_MAGIC), Part(content, fields=_record_fields(content)), Part(bags.MCAP_END)))


def _record_fields(content: bytes) -> tuple[tuple[int, int], ...]:
    """Return opcode and length of each record, and the numbers its body begins with (of messages also those that the
    message itself begins with)."""
    fields, at = [], 0
    while at + 9 <= len(content):
        length = int.from_bytes(content[at + 1 : at + 9], "little")
        fields += [(at, 1), (at + 1, 8), (at + 9, 2), (at + 11, 4)]
        first = at + 9 + 22 if content[at] == 5 else at + 9
        fields += [(k, 4) for k in range(first, min(at + 9 + length - 4, first + 120), 4)]
        at += 9 + length
    return tuple(fields)


# ---- labels


def npy(layout: str, *, version: int = 1, order: str = "<", invalid: bool = False) -> Callable[[Path], Sample]:
    """Return what makes label files; their header is a part of its own."""

    def make(_: Path) -> Sample:
        rows = rvt_support.label_rows(rvt_support.labels_at([100_000 * k for k in range(10)], 3, SIZE), layout)
        dtype = LAYOUTS[layout].newbyteorder(order)
        if invalid:
            dtype = np.dtype([*((name, dtype[name]) for name in dtype.names or ()), ("invalid", "?")])
        table = np.zeros(len(rows), dtype)
        for name in rows.dtype.names or ():
            table[name] = rows[name]
        return _npy_sample(table, version)

    return make


def _npy_sample(array: np.ndarray, version: int = 1) -> Sample:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=(version, 0))
    raw, length_bytes = file.getvalue(), 2 if version == 1 else 4
    at = 8 + length_bytes
    end = at + int.from_bytes(raw[8:at], "little")

    def join(parts: Sequence[bytes]) -> bytes:
        text, rows = parts
        return raw[:8] + (len(text) % (1 << 8 * length_bytes)).to_bytes(length_bytes, "little") + text + rows

    return Sample((Part(raw[at:end], is_text=True), Part(raw[end:], array.dtype.itemsize)), join)


def annotation(folder: Path) -> Sample:
    dataset_support.annotation_file(folder / "a.bin")
    data = (folder / "a.bin").read_bytes()
    return Sample((Part(data, 2, fields=tuple((at, 2) for at in (0, 2, 4, 24, 26, 28))),))


def rvt(folder: Path) -> dict[str, Sample]:
    """Return the files of a preprocessed sequence by their place in its folder."""
    events = rvt_support.random_events(2000, RVT_WINDOWS * rvt_support.WINDOW_US, RVT_SIZE)
    labels = rvt_support.labels_at([50_000, 150_000, 250_000], 4, RVT_SIZE)
    root = rvt_support.write_sequence(folder / "made", events, labels, windows=RVT_WINDOWS)
    return {str(path.relative_to(root)): _rvt_file(path) for path in sorted(root.rglob("*")) if path.is_file()}


def _rvt_file(path: Path) -> Sample:
    if path.suffix == ".npy":
        return _npy_sample(np.load(path))
    if path.suffix == ".h5":
        return _hdf5_sample(path)
    with np.load(path) as archive:
        members = {name: _npy_sample(archive[name]) for name in archive.files}

    def join(parts: Sequence[bytes]) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for k, (name, member) in enumerate(members.items()):
                archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.join(parts[2 * k : 2 * k + 2]))
        return out.getvalue()

    return Sample(tuple(part for member in members.values() for part in member.parts), join)


SAMPLES: dict[str, dict[str, Callable[[Path], Sample]]] = {
    "dat": {
        "gen1.dat": lambda folder: dat(folder, 0),
        "newer.dat": dat,
        "bare.dat": bare_dat,
        "unsized.dat": unsized_dat,
        "shifted.dat": lambda folder: dat(folder, start_us=1_700_000_000_000_000),
    },
    "raw_evt2": {"evt2.raw": evt2_raw("EVT2", "little")},
    "raw_evt21": {"evt21.raw": evt2_raw("EVT21", "little")},
    "raw_evt21e": {"evt21e.raw": evt2_raw("EVT21", "legacy")},
    "raw_evt3": {"evt3.raw": evt3_raw, "old evt3.raw": old_evt3_raw},
    "atis_bin": {"image.bin": atis_bin},
    "labels": {
        "gen1.npy": npy("gen1"),
        "one_mpx.npy": npy("one_mpx"),
        "version 2.npy": npy("one_mpx", version=2),
        "big.npy": npy("gen1", order=">"),
        "invalid.npy": npy("gen1", invalid=True),
    },
    "ncaltech_annotation": {"annotation.bin": annotation},
    "hdf5": {
        "one piece.h5": hdf5(None),
        "chunks.h5": hdf5(),
        "checksums.h5": hdf5(compression="gzip", shuffle=True, fletcher32=True),
        "blosc.h5": hdf5(64, **hdf5plugin.Blosc(cname="zstd", clevel=1, shuffle=1)),
        "newer.h5": hdf5(libver="latest"),  # structures with checksums, left to the library
        "tables.h5": hdf5_tables,
    },
    "rosbag2_sqlite3": {"sqlite.db3": db3, "clouds.db3": clouds, "packed.db3": packed_db3},
    "rosbag2_mcap": {
        "plain.mcap": plain_mcap,
        "clouds.mcap": cloud_mcap,
        "chunks.mcap": mcap(""),
        "lz4.mcap": mcap("lz4"),
        "zstd.mcap": mcap("zstd"),
    },
}
