"""HDF5 recordings that are compressed in many ways, damaged, or no such files."""

import io
import random
import struct
import zlib

import h5py
import hdf5plugin
import numpy as np
import pytest

from snn_perception.errors import EventDataError
from snn_perception.events import hdf5_filters
from snn_perception.events.hdf5 import Hdf5Recording
from snn_perception.events.hdf5_messages import BadStructure
from snn_perception.events.hdf5_objects import FileBytes, object_messages
from snn_perception.events.recording import find_reader
from snn_perception.types import SensorSize
from tests.hdf5_support import TABLE, assert_same, events_of, plain, some_events, tables
from tools.fuzz_damage import damaged

# ---- compressions


COMPRESSIONS = {
    "gzip": {"compression": "gzip"},
    "shuffle": {"shuffle": True},
    "gzip, shuffle": {"compression": "gzip", "shuffle": True},
    "gzip, checksum": {"compression": "gzip", "shuffle": True, "fletcher32": True},
    "checksum": {"fletcher32": True},
    "lzf": {"compression": "lzf", "shuffle": True},
    "blosc": hdf5plugin.Blosc(),
    "blosc zstd": hdf5plugin.Blosc(cname="zstd", clevel=1, shuffle=1),
    "blosc bits": hdf5plugin.Blosc(cname="zlib", clevel=1, shuffle=2),
    "blosc lz": hdf5plugin.Blosc(cname="blosclz", clevel=9),
    "bitshuffle": hdf5plugin.Bitshuffle(cname="none"),
    "bitshuffle lz4": hdf5plugin.Bitshuffle(),
    "bitshuffle zstd": hdf5plugin.Bitshuffle(nelems=64, cname="zstd"),
    "zstd": hdf5plugin.Zstd(),
    "lz4": hdf5plugin.LZ4(),
    "bzip2": hdf5plugin.BZip2(),
}


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_compressions(tmp_path, name):
    events = some_events(3000)
    recording = Hdf5Recording(plain(tmp_path / "a.h5", events, chunk=257, **COMPRESSIONS[name]))
    assert_same(events_of(recording), events)
    assert_same(events_of(recording, start_us=int(events.t[2000]), max_events=100), events[2000:])


@pytest.mark.parametrize("name", ["checksum", "gzip, checksum"])
@pytest.mark.parametrize("count", [1, 2, 256, 257])
def test_checksums_of_odd_lengths(tmp_path, name, count):
    columns = {"x": np.full(count, 255), "y": np.full(count, 255), "t": np.arange(count), "p": np.ones(count)}
    kinds = {"x": "u1", "y": "u1", "t": "u2", "p": "u1"}
    path = plain(tmp_path / "a.h5", columns, size=SensorSize(256, 256), chunk=count, dtypes=kinds, **COMPRESSIONS[name])
    assert sum(map(len, Hdf5Recording(path).chunks())) == count


def test_ecf_says_how_to_convert(tmp_path):
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        with_filter(file, "CD/events", np.zeros(10, TABLE), 36559)
    assert Hdf5Recording.claims(path)
    with pytest.raises(EventDataError, match=r"ECF \(HDF5 filter 36559\).*convert it to RAW or DAT"):
        Hdf5Recording(path)


def with_filter(file: h5py.File, name: str, data: np.ndarray, filter_id: int) -> None:
    """Make a data set that claims a filter nobody has here; the library lets that pass only as an optional one."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((max(1, len(data)),))
    properties.set_filter(filter_id, h5py.h5z.FLAG_OPTIONAL, (1, 2))
    group, _, last = name.rpartition("/")
    where = file.require_group(group) if group else file
    kind = h5py.h5t.py_create(data.dtype)
    dataset = h5py.h5d.create(where.id, last.encode(), kind, h5py.h5s.create_simple((len(data),)), properties)
    h5py.Dataset(dataset)[...] = data


@pytest.mark.parametrize(("number", "name"), [(31999, "31999,"), (32026, r"32026 \(Blosc2\)"), (4, r"4 \(SZIP\)")])
def test_other_filters_are_named(tmp_path, number, name):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for column in "xytp":
            with_filter(file, f"events/{column}", np.zeros(10, np.int64), number)
    with pytest.raises(EventDataError, match=f"events/x is compressed with HDF5 filter {name}.*hdf5plugin.*h5repack"):
        Hdf5Recording(path)


CODECS = {
    f"{code} {level} {shuffle}": hdf5plugin.Blosc(cname=code, clevel=level, shuffle=shuffle)
    for code in ("blosclz", "lz4", "zlib", "zstd")
    for level in (1, 9)
    for shuffle in (0, 1, 2)
} | {name: COMPRESSIONS[name] for name in ("lzf", "zstd", "lz4", "bitshuffle", "bitshuffle lz4", "bitshuffle zstd")}


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("count", [1, 7, 100, 8193, 70_000])
def test_codecs_undo_what_their_filters_do(name, count):
    """Numbers that compress well, badly and not at all, in blocks of all kinds."""
    rng = np.random.default_rng(0)
    kinds = [
        np.cumsum(rng.integers(0, 3, count)),
        rng.integers(0, 256, count),
        np.zeros(count),
        np.arange(count) // 9 % 7,
    ]
    for number, numbers in enumerate(kinds):
        for dtype in ("u1", "u2", "i8"):
            data = numbers.astype(dtype)
            memory = h5py.File(f"{number} {dtype}", "w", driver="core", backing_store=False)
            with memory as file:
                made = file.create_dataset("a", data=data, chunks=(count,), **CODECS[name])
                properties = made.id.get_create_plist()
                found = [properties.get_filter(at) for at in range(properties.get_nfilters())]
                skipped, stored = made.id.read_direct_chunk((0,))
            filters = [hdf5_filters.Filter(code, values) for code, _, values, _ in found]
            assert hdf5_filters.decoded(bytes(stored), filters, skipped, data.nbytes) == data.tobytes()


@pytest.mark.parametrize("name", CODECS)
def test_damaged_codecs_say_so_or_make_the_right_length(name):
    data = np.cumsum(np.random.default_rng(0).integers(0, 3, 3000))
    with h5py.File("damaged", "w", driver="core", backing_store=False) as file:
        made = file.create_dataset("a", data=data, chunks=(3000,), **CODECS[name])
        code, _, values, _ = made.id.get_create_plist().get_filter(made.id.get_create_plist().get_nfilters() - 1)
        _, stored = made.id.read_direct_chunk((0,))
    refused = 0
    for number in range(300):
        bad = damaged(bytes(stored), random.Random(f"{name} {number}"))
        try:
            assert len(hdf5_filters.decoded(bad, [hdf5_filters.Filter(code, values)], 0, data.nbytes)) == data.nbytes
        except hdf5_filters.BadChunk:
            refused += 1
    assert refused > 50


def stored_as(path, name: str, stored: bytes, options, count: int = 64) -> Hdf5Recording:
    """Return a recording whose first chunk of a column holds these bytes, whatever they are."""
    plain(path, some_events(count), **options)
    with h5py.File(path, "r+") as file:
        file[f"events/{name}"].id.write_direct_chunk((0,), stored)
    return Hdf5Recording(path)


GZIP, BLOSC, ZSTD = COMPRESSIONS["gzip"], COMPRESSIONS["blosc zstd"], COMPRESSIONS["zstd"]
BOMB = zlib.compress(bytes(1 << 30))
DAMAGE = {
    "no gzip": (GZIP, b"nonsense", "incorrect header"),
    "gzip cut off": (GZIP, zlib.compress(bytes(512))[:-9], "0 bytes in place of 512|decodes to"),
    "gzip too short": (GZIP, zlib.compress(bytes(511)), "511 bytes in place of 512"),
    "gzip bomb": (GZIP, BOMB[:60_000], "in place of 512"),
    "larger than any chunk": (GZIP, BOMB, "claims 1042|claims"),
    "blosc cut off": (BLOSC, b"\x02\x01\x91", "ends within its compression header"),
    "blosc of another length": (BLOSC, b"\x02\x01\x91\x08" + b"\xff\xff\xff\x7f" * 3 + bytes(40), "header is damaged"),
    "blosc longer than it is": (BLOSC, b"\2\1\x91\x08\0\2\0\0\0\2\0\0\0\2\0\0" + bytes(40), "header is damaged"),
    "zstd that announces much": (ZSTD, b"\x28\xb5\x2f\xfd\xe0" + bytes(4) + b"\1" + bytes(23), "announces more"),
    "no zstd": (ZSTD, b"nonsense", "error|cannot be decoded"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_chunks_are_named(tmp_path, name):
    options, stored, message = DAMAGE[name]
    recording = stored_as(tmp_path / "a.h5", "t", stored, options)
    with pytest.raises(EventDataError, match=f"events/t, rows 0 to 64 cannot be decoded: .*({message})") as caught:
        list(recording.chunks())
    assert str(tmp_path / "a.h5") in str(caught.value)


def test_a_wrong_checksum(tmp_path):
    options = {"compression": "gzip", "fletcher32": True}
    path = plain(tmp_path / "a.h5", some_events(64), **options)
    with h5py.File(path, "r+") as file:
        identifier = file["events/t"].id
        _, stored = identifier.read_direct_chunk((0,))
        assert len(zlib.decompress(stored[:-4])) == 512  # the checksum is of what gzip made
        identifier.write_direct_chunk((0,), stored[:-1] + bytes([stored[-1] ^ 1]))
    with pytest.raises(EventDataError, match="checksum does not match"):
        list(Hdf5Recording(path).chunks())


# ---- files that are not as they should be


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": None}, "'events/y' is missing"),
        ({"t": np.zeros(9, np.int64)}, "columns of one length, got.*'events/t': 9"),
        ({"t": np.zeros(10)}, "whole numbers.*events/t, got float64.*whole microseconds"),
        ({"x": np.zeros((10, 2), np.uint16)}, r"events/x, got uint16 of shape \[10, 2\]"),
        ({"x": np.uint16(3)}, "without axes"),
        ({"p": np.zeros(10, "S3")}, r"events/p, got \|S3"),
        ({"p": np.array(["a"] * 10, h5py.string_dtype())}, "expected numbers in events/p"),
        ({"height": 100_000}, "impossible sensor size"),
        ({"height": -1}, "impossible sensor size"),
    ],
)
def test_columns_that_do_not_fit(tmp_path, change, message):
    columns = {name: np.zeros(10, np.int64) for name in "xytp"} | {"height": 240, "width": 304} | change
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for name, column in columns.items():
            if column is not None:
                file[f"events/{name}"] = column
    assert Hdf5Recording.claims(path)
    with pytest.raises(EventDataError, match=message) as caught:
        Hdf5Recording(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("geometry", ["wide", "0x0", "1280", "99999x5"])
def test_an_impossible_geometry(tmp_path, geometry):
    path = tables(tmp_path / "a.hdf5", some_events(10), geometry=geometry)
    with pytest.raises(EventDataError, match="give the size"):
        Hdf5Recording(path)


def test_no_geometry_is_inferred(tmp_path):
    events = some_events(500)
    recording = Hdf5Recording(tables(tmp_path / "a.hdf5", events, geometry=None))
    assert recording.size == SensorSize(int(events.y.max()) + 1, int(events.x.max()) + 1)


def test_a_table_of_other_fields(tmp_path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["CD/events"] = np.zeros(5, [("x", "u2"), ("y", "u2"), ("time", "i8")])
    with pytest.raises(EventDataError, match="expected rows of whole numbers x, y, p and t in CD/events"):
        Hdf5Recording(tmp_path / "a.hdf5")


def test_chunks_that_no_memory_should_hold(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in "xytp":
            file.create_dataset(
                f"events/{name}", (10,), np.int64, chunks=(1 << 28,), maxshape=(None,), compression="gzip"
            )
    with pytest.raises(EventDataError, match="chunks of at most 64 MiB in events/x"):
        Hdf5Recording(tmp_path / "a.h5")


@pytest.mark.parametrize("options", [{"chunks": (1024,), "compression": "gzip"}, {"chunks": (1024,)}, {}])
def test_a_small_file_that_states_many_events(tmp_path, options):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for name in "xytp":
            file.create_dataset(f"events/{name}", (1 << 50,), np.uint16, **options)
        file["events/height"], file["events/width"] = 240, 304
    assert path.stat().st_size < 100_000
    with pytest.raises(EventDataError, match="never written|holds 0 of its"):
        next(Hdf5Recording(path).chunks())
    if options:
        with pytest.raises(EventDataError, match="never written"):
            next(Hdf5Recording(path).chunks(start_us=5))


def test_data_in_other_files_are_not_followed(tmp_path):
    plain(tmp_path / "other.h5", some_events(10))
    kinds = {
        "external": lambda file, name: file.__setitem__(name, h5py.ExternalLink("other.h5", "events/x")),
        "soft": lambda file, name: file.__setitem__(name, h5py.SoftLink("/events/y")),
        "raw": lambda file, name: file.create_dataset(name, (10,), "u2", external=[("other.h5", 0, 20)]),
        "virtual": lambda file, name: file.create_virtual_dataset(name, virtual()),
    }

    def virtual() -> h5py.VirtualLayout:
        layout = h5py.VirtualLayout((10,), "u2")
        layout[:] = h5py.VirtualSource("other.h5", "events/x", (10,))
        return layout

    for kind, make in kinds.items():
        path = plain(tmp_path / f"{kind}.h5", some_events(10))
        with h5py.File(path, "r+") as file:
            del file["events/x"]
            make(file, "events/x")
        with pytest.raises(EventDataError, match="not followed"):
            Hdf5Recording(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.h5", b"", "does not begin as HDF5 files do"),
        ("a.hdf5", b"Dear reader, this is a letter." * 99, "does not begin as HDF5 files do"),
        ("a.h5", b"\x89HDF\r\n\x1a\n", "cannot be read"),
    ],
)
def test_no_hdf5_file(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert Hdf5Recording.claims(tmp_path / name)
    with pytest.raises(EventDataError, match=message):
        Hdf5Recording(tmp_path / name)


def test_no_regular_file(tmp_path):
    for path, got in ((tmp_path, "a folder"), (tmp_path / "missing.h5", "nothing there")):
        assert not Hdf5Recording.claims(path)
        with pytest.raises(EventDataError, match=got):
            Hdf5Recording(path)


def test_claims_go_by_content(tmp_path, registry):
    assert Hdf5Recording.claims(plain(tmp_path / "a.h5", some_events(5)))
    assert Hdf5Recording.claims(plain(tmp_path / "b.weird", some_events(5)))
    assert find_reader(plain(tmp_path / "c_td.dat.h5", some_events(5)), registry) == "hdf5"
    with h5py.File(tmp_path / "frames.h5", "w") as file:
        file["data"] = np.zeros((2, 20, 4, 4), np.uint8)
    assert not Hdf5Recording.claims(tmp_path / "frames.h5")
    with pytest.raises(EventDataError, match="expected events in.*got a file that holds data"):
        Hdf5Recording(tmp_path / "frames.h5")


def pointers_to(path, signature: bytes, first: int, step: int, count: int, target: int) -> None:
    """Let the `count` addresses in the first such structure that begin at `first` all be `target` (-1: its own)."""
    data = bytearray(path.read_bytes())
    where = data.index(signature)
    for number in range(count):
        struct.pack_into("<Q", data, where + first + number * step, where if target < 0 else target)
    path.write_bytes(data)


def test_an_index_that_leads_in_circles(tmp_path):
    path = plain(tmp_path / "a.h5", some_events(700), chunk=2)
    inner = b"TREE\x01\x01"  # of chunks, above leaves
    count = struct.unpack_from("<H", path.read_bytes(), path.read_bytes().index(inner) + 6)[0]
    assert count > 2
    for target in (-1, path.read_bytes().index(b"TREE\x01\x00")):
        pointers_to(path, inner, 24 + 24, 32, count, target)
        with pytest.raises(EventDataError, match="an index of it is damaged"):
            list(Hdf5Recording(path).chunks())


def test_names_that_lead_in_circles(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for number in range(300):
            file[f"number {number}"] = number
    inner = b"TREE\x00\x01"
    count = struct.unpack_from("<H", path.read_bytes(), path.read_bytes().index(inner) + 6)[0]
    pointers_to(path, inner, 24 + 8, 16, count, -1)
    with pytest.raises(EventDataError, match="an index of it is damaged"):
        Hdf5Recording(path)


@pytest.mark.parametrize("kind", ["older", "newer"])
def test_a_header_that_goes_on_at_itself(kind):
    """Each of its blocks says that the header goes on at that very block."""
    more = struct.pack("<QQ", 16, 24)
    if kind == "older":
        data = struct.pack("<BxHII4x", 1, 65_535, 1, 24) + struct.pack("<HHB3x", 0x10, 16, 0) + more
    else:
        message = struct.pack("<BHBQQ", 0x10, 16, 0, 64, 28)
        data = (b"OHDR" + struct.pack("<BBB", 2, 0, 20) + message).ljust(64) + b"OCHK" + message + bytes(4)
    source = FileBytes(io.BytesIO(data))
    with pytest.raises(BadStructure, match="header is too long"):
        object_messages(source, 0)


def test_a_text_in_a_heap_of_empty_ones(tmp_path):
    """What makes the HDF5 library read without end: an object of no length in the heap of texts."""
    path = tables(tmp_path / "a.hdf5", some_events(10))
    data = bytearray(path.read_bytes())
    at = data.index(b"GCOL") + 16
    data[at : at + 2] = b"\7\0"
    data[at + 8 : at + 16] = bytes(8)
    path.write_bytes(data)
    with pytest.raises(EventDataError, match="attribute geometry cannot be read"):
        Hdf5Recording(path)


def test_truncated_anywhere(tmp_path):
    """A file without its end is none; the library says so before anything is read."""
    events = some_events(500)
    data = plain(tmp_path / "a.h5", events, compression="gzip").read_bytes()
    path = tmp_path / "cut.h5"
    for at in range(0, len(data), 97):
        path.write_bytes(data[:at])
        with pytest.raises(EventDataError, match=r"cut\.h5"):
            list(Hdf5Recording(path).chunks())


def test_a_file_that_changes_meanwhile(tmp_path):
    path = plain(tmp_path / "a.h5", some_events(10))
    recording = Hdf5Recording(path)
    plain(path, some_events(20))
    with pytest.raises(EventDataError, match="changed since"):
        list(recording.chunks())
    path.unlink()
    with pytest.raises(EventDataError, match="nothing there"):
        list(recording.chunks())
