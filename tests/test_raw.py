"""RAW files: header rules, all four encodings, pieces, seeking, time over a day, damage, and the round trip."""

import struct
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snn_perception.errors import EventDataError, SnnPerceptionError
from snn_perception.events import raw, raw_pieces
from snn_perception.events.evt3_encode import MAX_SILENCE_US
from snn_perception.events.raw import RawRecording
from snn_perception.events.raw_writer import write_raw
from snn_perception.events.recording import open_recording
from snn_perception.events.rosbag2 import BagRecording
from snn_perception.events.windower import Windower
from snn_perception.types import DecodedEvents, EventArray, Losses, Packet, SensorSize
from tests import reference_decoders as reference
from tests.paths import recording_path
from tests.runtime_support import file_size_limit

SIZE = SensorSize(480, 640)
WRAP = 1 << 24
DAY_US = 24 * 3600 * 10**6
REFERENCES = {
    "evt2": (reference.Evt2, 4),
    "evt21": (reference.Evt21, 8),
    "evt21e": (reference.Evt21e, 8),
    "evt3": (reference.Evt3, 2),
}
FORMATS = {
    "evt2": b"EVT2;height=480;width=640",
    "evt21": b"EVT21;endianness=little;height=480;width=640",
    "evt21e": b"EVT21;endianness=legacy;height=480;width=640",
    "evt3": b"EVT3;height=480;width=640",
}


def header(encoding: str) -> bytes:
    return b"% date 2024-01-01 00:00:00\n% format " + FORMATS[encoding] + b"\n% end\n"


def written(path, *parts: bytes):
    path.write_bytes(b"".join(parts))
    return path


def u16(*words: int) -> bytes:
    return struct.pack(f"<{len(words)}H", *words)


def u32(*words: int) -> bytes:
    return struct.pack(f"<{len(words)}I", *words)


EVT3 = u16(0x8001, 0x6002, 0x0005, 0x2803, 0x2004)  # (4098, 3, 5, 1), (4098, 4, 5, 0)
EVT3_ROWS = [(4098, 3, 5, 1), (4098, 4, 5, 0)]
EVT2 = u32(0x80000002, 1 << 28 | 3 << 22 | 5 << 11 | 6)  # (131, 5, 6, 1)
EVT21 = u32(0, 0x80000002, 0b101, 1 << 28 | 3 << 22 | 32 << 11 | 6)  # (131, 32, 6, 1), (131, 34, 6, 1)
EVT21E = u32(0x80000002, 0, 1 << 28 | 3 << 22 | 32 << 11 | 6, 0b101)
EVT21_ROWS = [(131, 32, 6, 1), (131, 34, 6, 1)]


def rows_of(pieces) -> list[tuple[int, ...]]:
    return [row for piece in pieces for row in zip(*(getattr(piece, c).tolist() for c in "txyp"), strict=True)]


def rows(recording, *args, **options) -> list[tuple[int, ...]]:
    return rows_of(recording.chunks(*args, **options))


def whole(pieces: list[DecodedEvents]) -> tuple:
    """Events, triggers, leaps (by the index of the event in all), last time reached, and losses of a pass."""
    triggers = [
        row
        for piece in pieces
        for row in zip(*(getattr(piece.triggers, name).tolist() for name in ("t", "edge", "id")), strict=True)
    ]
    firsts = np.cumsum([0] + [len(piece) for piece in pieces]).tolist()
    leaps = [
        (first + at, a, b) for piece, first in zip(pieces, firsts, strict=False) for at, a, b in piece.leaps.tolist()
    ]
    reached = [piece.t_reached for piece in pieces if piece.t_reached is not None]
    return rows_of(pieces), triggers, leaps, reached[-1:], sum((piece.losses for piece in pieces), Losses())


def events(rows, size=SIZE) -> EventArray:
    t, x, y, p = np.array(rows, np.int64).reshape(-1, 4).T
    return EventArray(x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8), t.copy(), size)


def random_payload(encoding: str, count: int, seed: int = 0) -> bytes:
    """Words that mostly make sense: time runs on, with steps back, silences, triggers, vectors and garbage."""
    rng = np.random.default_rng(seed)
    steps = rng.choice([0, 1, 40, 3_000, 150_000, -60_000], count, p=[0.5, 0.3, 0.17, 0.02, 0.007, 0.003])
    t = np.abs(np.cumsum(steps) + 10_000)
    x, y, p = rng.integers(0, 660, count), rng.integers(0, 500, count), rng.integers(0, 2, count)
    if encoding == "evt3":
        kind = rng.choice(
            [0, 2, 3, 4, 5, 6, 8, 10, 14, 1], count, p=[0.2, 0.3, 0.05, 0.1, 0.04, 0.15, 0.13, 0.01, 0.01, 0.01]
        )
        value = np.select(
            [kind == 0, kind == 2, kind == 3, kind == 6, kind == 8],
            [y, p << 11 | x, p << 11 | x, t & 0xFFF, t >> 12 & 0xFFF],
            rng.integers(0, 1 << 12, count),
        )
        return (kind << 12 | value).astype("<u2").tobytes()
    kind = rng.choice([0, 1, 8, 10, 14, 3], count, p=[0.4, 0.4, 0.16, 0.02, 0.01, 0.01])
    upper = kind << 28 | np.where(kind == 8, t >> 6, (t & 63) << 22 | x << 11 | y)
    if encoding == "evt2":
        return upper.astype("<u4").tobytes()
    mask = np.where(rng.random(count) < 0.5, 1 << rng.integers(0, 32, count), rng.integers(0, 2**32, count))
    pair = (mask, upper) if encoding == "evt21" else (upper, mask)
    return np.stack(pair, axis=1).astype("<u4").tobytes()


@pytest.fixture
def small_buffers(monkeypatch):
    """Everything that happens now and then in a large file, in a small one."""
    monkeypatch.setattr(raw_pieces, "BUFFER_BYTES", 512)
    monkeypatch.setattr(raw_pieces, "PIECE_BYTES", 4_096)
    monkeypatch.setattr(raw_pieces, "LEAST_ROWS", 128)
    monkeypatch.setattr(raw, "MARK_BYTES", 1_024)


# ---- header

HEADERS = {
    "older": (b"% date 2020\n% evt 3.0\n% geometry 640x480\n", EVT3, "evt3", SIZE, EVT3_ROWS),
    "older, with end": (b"% evt 3.0\n% geometry 640x480\n% end\n", EVT3, "evt3", SIZE, EVT3_ROWS),
    "newer": (header("evt3"), EVT3, "evt3", SIZE, EVT3_ROWS),
    "both": (
        b"% evt 3.0\n% format EVT3;height=480;width=640\n% geometry 640x480\n% end\n",
        EVT3,
        "evt3",
        SIZE,
        EVT3_ROWS,
    ),
    "upper case": (b"% EVT 3.0\n% GEOMETRY 640X480\n% END\n", EVT3, "evt3", SIZE, EVT3_ROWS),
    "lower case": (b"% format evt3;HEIGHT=480;Width=640\n% end\n", EVT3, "evt3", SIZE, EVT3_ROWS),
    "sides": (b"% evt 3.0\n% Height 480\n% Width 640\n", EVT3, "evt3", SIZE, EVT3_ROWS),
    "carriage returns": (b"% evt 3.0\r\n% geometry 640x480\r\n% end\r\n", EVT3, "evt3", SIZE, EVT3_ROWS),
    "evt2": (b"% evt 2.0\n% geometry 640x480\n", EVT2, "evt2", SIZE, [(131, 5, 6, 1)]),
    "newer evt2": (header("evt2"), EVT2, "evt2", SIZE, [(131, 5, 6, 1)]),
    "little": (header("evt21"), EVT21, "evt21", SIZE, EVT21_ROWS),
    "legacy": (header("evt21e"), EVT21E, "evt21e", SIZE, EVT21_ROWS),
    "stated order wins": (header("evt21"), EVT21E, "evt21", SIZE, []),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers(tmp_path, name):
    head, payload, encoding, size, expected = HEADERS[name]
    recording = RawRecording(written(tmp_path / "a.raw", head, payload))
    assert (recording.encoding, recording.size, recording.size_inferred) == (encoding, size, False)
    assert (recording.format, recording.is_packets, recording.header.data_offset) == ("raw", False, len(head))
    assert rows(recording) == expected
    assert recording.notes == []


def test_after_end_nothing_is_header_even_if_it_looks_like_it(tmp_path):
    words = u16(0x2025, 0x6161, 0x0A61) + EVT3  # begins with "% aaa\n"
    assert words.startswith(b"% aaa\n")
    recording = RawRecording(written(tmp_path / "a.raw", header("evt3"), words))
    assert recording.header.data_offset == len(header("evt3"))
    assert rows(recording) == EVT3_ROWS


@pytest.mark.parametrize("first", [b"% \x00\x01", b"% \x00\n", b"%\x20"])
def test_words_that_begin_like_a_line_end_a_header_without_end(tmp_path, first):
    head = b"% evt 3.0\n% geometry 640x480\n"
    recording = RawRecording(written(tmp_path / "a.raw", head, first + EVT3 if len(first) % 2 == 0 else first))
    assert recording.header.data_offset == len(head)
    list(recording.chunks())


REFUSED = {
    "evt4": (b"% format EVT4;height=480;width=640\n% end\n", "EVT2, EVT21 or EVT3, got 'EVT4;height=480;width=640'"),
    "histogram": (b"% format HISTO3D;height=320;width=320\n% end\n", "got 'HISTO3D"),
    "evt 1": (b"% evt 1.0\n% end\n", "got 'evt 1.0'"),
    "no encoding": (
        b"% date 2020\n% geometry 640x480\n% end\n",
        "'% evt' or '% format', got neither; give the encoding",
    ),
    "no header": (b"", "got neither"),
    "two encodings": (b"% evt 2.0\n% format EVT3;height=480;width=640\n% end\n", "'evt 2.0' and 'format EVT3"),
    "order": (b"% format EVT21;endianness=middle;height=480;width=640\n% end\n", "little or legacy, got 'middle'"),
    "huge geometry": (b"% evt 3.0\n% geometry 1000000000x480\n% end\n", "width 1000000000"),
    "endless digits": (b"% evt 3.0\n% geometry " + b"9" * 6_000 + b"x480\n% end\n", "impossible geometry"),
    "geometry in words": (b"% evt 3.0\n% geometry wide\n% end\n", "impossible geometry"),
    "half a geometry": (b"% format EVT3;height=480\n% end\n", "width None"),
    "negative": (b"% format EVT3;height=-480;width=640\n% end\n", "height -480"),
    "line without end": (b"% evt 3.0\n% " + b"x" * (1 << 17), "text header of at most"),
    "binary line": (b"% evt 3.0\n% a\x00b\n% geometry 640x480\n% end\n", "no text; the header is damaged"),
    "offset": (b"% evt 3.0\n% geometry 640x480\n% time_offset_us soon\n% end\n", "whole us.*'soon'"),
    "huge offset": (b"% evt 3.0\n% geometry 640x480\n% time_offset_us " + b"9" * 5_000 + b"\n% end\n", "whole us"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_headers_name_the_file_and_the_reason(tmp_path, name):
    head, message = REFUSED[name]
    path = written(tmp_path / "odd.raw", head, EVT3)
    with pytest.raises(EventDataError, match=message) as caught:
        RawRecording(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("name", ["evt4", "no encoding", "no header", "two encodings", "huge geometry", "binary line"])
def test_options_overrule_the_header(tmp_path, name):
    recording = RawRecording(written(tmp_path / "a.raw", REFUSED[name][0], EVT3), size=[480, 640], encoding="evt3")
    assert (recording.encoding, recording.size, recording.size_inferred) == ("evt3", SIZE, False)
    assert rows(recording)[-2:] == EVT3_ROWS


def test_an_unknown_encoding_option_is_refused(tmp_path):
    with pytest.raises(EventDataError, match="evt2, evt21, evt21e, evt3, got 'evt9'"):
        RawRecording(written(tmp_path / "a.raw", header("evt3")), encoding="evt9")


@pytest.mark.parametrize("encoding", ["evt21", "evt21e"])
def test_an_order_that_is_not_stated_is_told_by_time(tmp_path, encoding, caplog):
    payload = random_payload(encoding, 400)
    for head in (b"% evt 2.1\n% geometry 640x480\n% end\n", b"% format EVT21;height=480;width=640\n% end\n"):
        recording = RawRecording(written(tmp_path / "a.raw", head, payload))
        assert recording.encoding == encoding
        assert f"taken is {encoding}, in which time runs on" in recording.notes[0]
    stated = RawRecording(written(tmp_path / "b.raw", header(encoding), payload))
    assert rows(recording) == rows(stated) != []
    assert not stated.notes and caplog.records


def test_an_order_that_nothing_tells_is_the_legacy_one(tmp_path):
    recording = RawRecording(written(tmp_path / "a.raw", b"% evt 2.1\n% geometry 640x480\n% end\n", EVT21E))
    assert recording.encoding == "evt21e" and rows(recording) == EVT21_ROWS
    assert "time does not tell" in recording.notes[0]
    other = RawRecording(tmp_path / "a.raw", encoding="evt21")
    assert rows(other) == [] and not other.notes


def test_size_is_inferred_by_a_pass(tmp_path):
    recording = RawRecording(written(tmp_path / "a.raw", b"% evt 3.0\n% end\n", EVT3 + u16(0x0123, 0x2FFF)))
    assert recording.size_inferred
    assert recording.size == SensorSize(0x124, 2048)
    assert f"2048x{0x124}" in recording.notes[0]
    assert len(rows(recording)) == 3


def test_no_size_and_no_events(tmp_path):
    path = written(tmp_path / "a.raw", b"% evt 3.0\n% end\n")
    with pytest.raises(EventDataError, match="give the size"):
        _ = RawRecording(path).size
    assert list(RawRecording(path, size=(4, 4)).chunks()) == []


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_no_regular_file(tmp_path, kind):
    path = tmp_path / "a.raw"
    if kind == "folder":
        path.mkdir()
    with pytest.raises(EventDataError, match="expected a RAW file"):
        RawRecording(path)


@pytest.mark.parametrize(
    ("name", "content", "claimed"),
    [
        ("a.raw", b"", True),
        ("a.RAW", b"whatever", True),
        ("a", b"% evt 3.0\n% end\n\x00\x08", True),
        ("a.bin", header("evt2"), True),
        ("a.bin", b"% format HISTO3D;height=320;width=320\n% end\n", True),  # to be refused in words
        ("a.dat", b"% Data file containing CD events.\n% Version 2\n% end\n\x0c\x08", False),
        ("a.tex", b"% a comment\n\\documentclass{article}\n", False),
        ("a.bin", EVT3 * 9, False),
        ("a.bin", b"", False),
    ],
)
def test_claims(tmp_path, name, content, claimed):
    assert RawRecording.claims(written(tmp_path / name, content)) is claimed


def test_the_reader_is_registered(tmp_path, registry):
    assert not RawRecording.claims(tmp_path)
    recording = open_recording(written(tmp_path / "a.raw", header("evt3"), EVT3), registry)
    assert isinstance(recording, RawRecording) and rows(recording) == EVT3_ROWS
    odd = open_recording(written(tmp_path / "b.raw", EVT2), registry, encoding="evt2", size=[480, 640])
    assert rows(odd) == [(131, 5, 6, 1)]


# ---- pieces


@pytest.mark.parametrize("encoding", FORMATS)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_file_equals_the_reference(tmp_path, encoding, seed, small_buffers):
    payload = random_payload(encoding, 6_000, seed)
    recording = RawRecording(written(tmp_path / "a.raw", header(encoding), payload))
    make, _ = REFERENCES[encoding]
    found, triggers, leaps, reached, losses = make().decode(Packet(np.frombuffer(payload, np.uint8), encoding, SIZE))
    expected = Losses(losses["outside"], losses["unknown"], losses["unsynced"], losses["ragged"])
    assert whole(list(recording.chunks())) == (found, triggers, leaps, [reached], expected)
    assert len(found) > 500 and triggers and leaps


@pytest.mark.parametrize("encoding", FORMATS)
@pytest.mark.parametrize("align_us", [None, 1, 1_000, 50_000])
@pytest.mark.parametrize("max_events", [1, 7, 100, 128, 1_000, 1 << 16])
def test_the_length_of_pieces_does_not_show(tmp_path, encoding, max_events, align_us, small_buffers):
    count = 3_000 if encoding in ("evt2", "evt3") else 500
    recording = RawRecording(written(tmp_path / "a.raw", header(encoding), random_payload(encoding, count)))
    pieces = list(recording.chunks(max_events, align_us=align_us))
    assert max(map(len, pieces)) <= max_events
    assert whole(pieces) == whole(list(recording.chunks()))
    for piece in pieces:
        assert not piece.in_order or piece.t.tolist() == sorted(piece.t.tolist())
        assert (piece.leaps[:, 0] <= len(piece)).all() and (np.diff(piece.leaps[:, 0]) >= 0).all()


@given(
    encoding=st.sampled_from(list(FORMATS)),
    seed=st.integers(0, 50),
    buffer=st.integers(1, 40),
    max_events=st.integers(1, 200),
)
def test_how_the_file_is_read_does_not_show(tmp_path_factory, encoding, seed, buffer, max_events):
    """Words cut into bufferfuls of any length; the first time may be cut in two as well."""
    path = tmp_path_factory.mktemp("raw") / "a.raw"
    written(path, header(encoding), random_payload(encoding, 300, seed))
    expected = whole(list(RawRecording(path).chunks()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(raw_pieces, "BUFFER_BYTES", buffer * 8)
        patch.setattr(raw_pieces, "LEAST_ROWS", 64)
        assert whole(list(RawRecording(path).chunks(max_events))) == expected


@given(encoding=st.sampled_from(list(FORMATS)), seed=st.integers(0, 50), cut=st.integers(0, 1 << 16))
def test_a_file_cut_at_any_byte_gives_what_lies_before(tmp_path_factory, encoding, seed, cut):
    path = tmp_path_factory.mktemp("raw") / "a.raw"
    payload = random_payload(encoding, 200, seed)
    cut %= len(payload)
    make, record = REFERENCES[encoding]
    recording = RawRecording(written(path, header(encoding), payload[:cut]))
    pieces = list(recording.chunks())
    found, *_ = make().decode(Packet(np.frombuffer(payload[: cut // record * record], np.uint8), encoding, SIZE))
    assert rows_of(pieces) == found
    ragged = cut % record
    assert sum(piece.losses.ragged for piece in pieces) == ragged
    assert [f"{ragged} bytes" in note for note in recording.notes] == [True] * (ragged > 0)


def test_pieces_end_at_multiples(tmp_path):
    rng = np.random.default_rng(4)
    t = np.sort(rng.integers(0, 3_000_000, 50_000))
    array = events(np.stack([t, rng.integers(0, 640, 50_000), rng.integers(0, 480, 50_000), t % 2], axis=1))
    write_raw(tmp_path / "a.raw", [array], SIZE)
    pieces = list(RawRecording(tmp_path / "a.raw").chunks(8_192, align_us=100_000))
    for piece, following in pairwise(pieces):
        assert piece.t[-1] // 100_000 < following.t[0] // 100_000
    assert len(pieces) < 10


@pytest.mark.parametrize("align_us", [None, 50_000])
def test_windows_are_those_of_one_piece(tmp_path, align_us, small_buffers):
    rng = np.random.default_rng(5)
    t = np.sort(rng.integers(0, 2_000_000, 20_000)) + 12_345
    array = events(np.stack([t, rng.integers(0, 640, 20_000), rng.integers(0, 480, 20_000), t % 2], axis=1))
    write_raw(tmp_path / "a.raw", [array], SIZE)

    def windows(pieces):
        windower = Windower(50_000, SIZE)
        found = [window for piece in pieces for window in windower.push(piece)] + list(windower.flush())
        return [(w.t_start_us, w.t_end_us, w.after_gap, w.events.t.tolist(), w.events.x.tolist()) for w in found]

    recording = RawRecording(tmp_path / "a.raw")
    assert windows(recording.chunks(700, align_us=align_us)) == windows([array])


def test_silence_ends_pieces_and_tells_its_time(tmp_path, monkeypatch):
    monkeypatch.setattr(raw_pieces, "PIECE_BYTES", 1_000)
    monkeypatch.setattr(raw_pieces, "BUFFER_BYTES", 512)
    highs = u16(*(0x8000 | high & 0xFFF for high in range(2, 10_002)))
    recording = RawRecording(written(tmp_path / "a.raw", header("evt3"), EVT3, highs))
    pieces = list(recording.chunks())
    reached = [piece.t_reached for piece in pieces]
    assert len(pieces) > 10 and reached == sorted(reached) and reached[-1] == 10_001 * 4096
    assert rows_of(pieces) == EVT3_ROWS and not sum(len(piece.leaps) for piece in pieces)


def test_many_triggers_do_not_gather(tmp_path):
    payload = u16(0x8001, 0x6000, *(0xA000 | k & 1 for k in range(500_000)))
    pieces = list(RawRecording(written(tmp_path / "a.raw", header("evt3"), payload)).chunks())
    assert sum(len(piece.triggers) for piece in pieces) == 500_000
    assert max(len(piece.triggers) for piece in pieces) <= raw_pieces.BUFFER_BYTES // 2


def test_huge_pieces_may_be_asked_for(tmp_path):
    recording = RawRecording(written(tmp_path / "a.raw", header("evt3"), EVT3))
    assert rows(recording, 1 << 60) == EVT3_ROWS


@pytest.mark.parametrize("options", [{"max_events": 0}, {"align_us": 0}])
def test_impossible_pieces_are_refused(tmp_path, options):
    with pytest.raises(ValueError, match="at least 1"):
        RawRecording(written(tmp_path / "a.raw", header("evt3"), EVT3)).chunks(**options)


def test_progress_reaches_the_end_each_pass(tmp_path, small_buffers):
    path = written(tmp_path / "a.raw", header("evt2"), random_payload("evt2", 3_000), b"xyz")
    recording = RawRecording(path)
    for _ in range(2):
        seen = []
        for _ in recording.chunks(500):
            done, total = recording.progress()
            seen.append(done)
        assert seen == sorted(seen) and seen[0] < seen[-1] == total == path.stat().st_size


def test_pieces_do_not_share_memory(tmp_path, small_buffers):
    recording = RawRecording(written(tmp_path / "a.raw", header("evt3"), random_payload("evt3", 5_000)))
    copies, kept = [], []
    for piece in recording.chunks(200, align_us=1_000):
        kept.append(piece)
        copies += rows_of([piece])
    assert rows_of(kept) == copies


@pytest.mark.parametrize("growing", [False, True])
def test_a_file_that_changes_meanwhile(tmp_path, growing, small_buffers):
    payload = random_payload("evt3", 5_000)
    path = written(tmp_path / "a.raw", header("evt3"), payload)
    expected = rows(RawRecording(path))
    recording = RawRecording(path)
    pieces = recording.chunks(100)
    first = next(pieces)
    with path.open("r+b") as file:
        file.truncate(2 * len(payload) if growing else len(payload) // 2 + 1)
    found = rows_of([first, *pieces])
    assert found[: len(expected)] == expected if growing else 100 < len(found) < len(expected)


def test_a_file_that_vanishes_meanwhile(tmp_path):
    path = written(tmp_path / "a.raw", header("evt3"), EVT3)
    recording = RawRecording(path)
    path.unlink()
    with pytest.raises(EventDataError, match="cannot be read"):
        list(recording.chunks())


# ---- start


@pytest.mark.parametrize("encoding", FORMATS)
def test_start_us_gives_the_tail_of_a_pass(tmp_path, encoding, small_buffers):
    count = 6_000 if encoding in ("evt2", "evt3") else 1_500
    recording = RawRecording(written(tmp_path / "a.raw", header(encoding), random_payload(encoding, count)))
    everything = rows(recording)
    times = [row[0] for row in everything]
    rng = np.random.default_rng(6)
    starts = [-1, 0, times[0], times[0] + 1, max(times), *rng.integers(0, max(times), 15).tolist(), *times[::900]]
    for start in starts:
        first = next((i for i, t in enumerate(times) if t >= start), len(times))
        for fresh in (RawRecording(recording.path), recording):  # without and with marks
            assert rows(fresh, 150, start_us=start) == everything[first:]
    assert rows(recording, 150, start_us=max(times) + 1) == []
    assert rows(recording, 100, start_us=times[700], align_us=1_000) == rows(recording, start_us=times[700])


def test_a_second_seek_begins_near(tmp_path, monkeypatch, small_buffers):
    offsets = []

    class Noting(raw_pieces.WordFile):
        def __init__(self, file, offset, decoder):
            offsets.append(offset)
            super().__init__(file, offset, decoder)

    monkeypatch.setattr(raw, "WordFile", Noting)
    n = 20_000
    array = events([(k * 10, k % 640, k % 480, k % 2) for k in range(n)])
    write_raw(tmp_path / "a.raw", [array], SIZE)
    recording = RawRecording(tmp_path / "a.raw")
    total = recording.path.stat().st_size
    assert rows(recording, start_us=150_000)[0][0] == 150_000
    assert rows(recording, start_us=150_000)[0][0] == 150_000
    assert rows(recording, start_us=100_000)[0][0] == 100_000
    assert offsets[0] == recording.header.data_offset
    assert 0.6 * total < offsets[1] < 0.76 * total and 0.4 * total < offsets[2] < 0.51 * total


# ---- time


def test_a_day_of_evt3_has_no_error(tmp_path):
    """24 h: 5,149 wraps, some of them without an event."""
    rng = np.random.default_rng(7)
    t = np.sort(np.concatenate([rng.integers(0, DAY_US, 4_000), [5, DAY_US]]))
    array = events(np.stack([t, t % 640, t % 480, t % 2], axis=1))
    write_raw(tmp_path / "day.raw", [array[:1000], array[1000:]], SIZE)
    recording = RawRecording(tmp_path / "day.raw")
    pieces = list(recording.chunks())
    np.testing.assert_array_equal(np.concatenate([piece.t for piece in pieces]), t)
    assert t[-1] // WRAP == 5149 and not sum(len(piece.leaps) for piece in pieces)
    assert len(recording._marks) > 2  # of its 42 MB of time words
    start = int(t[3_000])
    assert [row[0] for row in rows(recording, start_us=start)] == t[3_000:].tolist()


def test_times_of_an_epoch_keep_their_offset(tmp_path):
    first = 1_700_000_000 * 10**6 + 1
    array = events([(first + k * 1_000_000, k, k, k & 1) for k in range(40)])
    write_raw(tmp_path / "a.raw", [array], SIZE)
    recording = RawRecording(tmp_path / "a.raw")
    assert int(recording.header.text["time_offset_us"]) == first // WRAP * WRAP
    assert rows(recording) == rows_of([array])
    assert recording.path.stat().st_size < 40_000
    assert rows(recording, start_us=first + 20_500_000) == rows_of([array[21:]])
    pieces = list(recording.chunks())
    assert pieces[-1].t_reached == array.t[-1]


@pytest.mark.parametrize(
    ("first", "t_start_us", "offset"),
    [
        (5, None, 0),
        (MAX_SILENCE_US, None, 0),
        (MAX_SILENCE_US + 1, None, (MAX_SILENCE_US + 1) // WRAP * WRAP),
        (-1, None, -WRAP),
        (3 * WRAP, 0, 0),
        (3 * WRAP, 2 * WRAP + 7, 2 * WRAP),
        (3 * WRAP, 3 * WRAP, 3 * WRAP),
    ],
)
def test_where_the_words_begin(tmp_path, first, t_start_us, offset):
    array = events([(first, 1, 2, 1), (first + 10, 3, 4, 0)])
    write_raw(tmp_path / "a.raw", [array], SIZE, t_start_us=t_start_us)
    recording = RawRecording(tmp_path / "a.raw")
    assert int(recording.header.text.get("time_offset_us", 0)) == offset
    assert rows(recording) == rows_of([array])


def test_a_stream_that_begins_anywhere(tmp_path):
    """Bytes cut off the front at any word: what comes is the tail of the whole, but for a multiple of 2^24 us."""
    rng = np.random.default_rng(8)
    t = np.cumsum(rng.integers(0, 30_000, 700)) + 3 * WRAP
    array = events(np.stack([t, rng.integers(0, 640, 700), rng.integers(0, 480, 700), t % 2], axis=1))
    write_raw(tmp_path / "a.raw", [array], SIZE)
    data = (tmp_path / "a.raw").read_bytes()
    head = RawRecording(tmp_path / "a.raw").header.data_offset
    everything = rows_of([array])
    lost = 0
    for cut in range(head, len(data), 2 * 7):
        pieces = list(RawRecording(written(tmp_path / "b.raw", header("evt3"), data[cut:])).chunks())
        found = rows_of(pieces)
        if found:
            tail = everything[-len(found) :]
            ahead = tail[0][0] - found[0][0]
            assert ahead % WRAP == 0
            assert [(t + ahead, *rest) for t, *rest in found] == tail
        held = len(np.flatnonzero(np.frombuffer(data[cut:], "<u2") >> 12 == 2))
        unsynced = sum(piece.losses.unsynced for piece in pieces)
        assert len(found) + unsynced == held and unsynced <= 2
        lost += unsynced
    assert lost > 0


@pytest.mark.parametrize("encoding", ["evt2", "evt21", "evt21e"])
def test_an_evt2_stream_that_begins_anywhere(tmp_path, encoding):
    """From its first time word on it gives the very events of the whole."""
    rng = np.random.default_rng(9)
    t = np.cumsum(rng.integers(0, 90, 300)) + (1 << 34) - 10_000  # over the wrap
    upper = np.stack([8 << 28 | t >> 6 & (1 << 28) - 1, 1 << 28 | (t & 63) << 22 | t % 600 << 11 | 7], axis=1).reshape(
        -1
    )
    halves = {"evt2": [upper], "evt21": [np.ones_like(upper), upper], "evt21e": [upper, np.ones_like(upper)]}
    data = np.stack(halves[encoding], axis=1).astype("<u4").tobytes()
    record, wrapped = REFERENCES[encoding][1], int(np.argmax(t >= 1 << 34))
    for cut in range(600):
        found = rows(RawRecording(written(tmp_path / "a.raw", header(encoding), data[cut * record :])))
        first = (cut + 1) // 2
        assert [row[0] for row in found] == (t[first:] - (first >= wrapped) * (1 << 34)).tolist()


@pytest.mark.parametrize(("low", "in_order"), [(6, True), (5, True), (4, False)])
def test_times_that_fall_are_not_vouched_for(tmp_path, low, in_order):
    payload = u16(0x8001, 0x6005, 0x0001, 0x2801, 0x6000 | low, 0x2802)
    (piece,) = RawRecording(written(tmp_path / "a.raw", header("evt3"), payload)).chunks()
    assert piece.t.tolist() == [4101, 4096 + low] and piece.in_order is in_order


# ---- writing

STEP = st.integers(0, 60) | st.integers(0, 100_000) | st.integers(0, 10**8)
ROW = st.tuples(
    STEP, st.integers(0, 40) | st.integers(0, 639), st.integers(0, 3) | st.integers(0, 479), st.integers(0, 1)
)


@given(
    first=st.integers(0, 10**9) | st.integers(-(10**12), 10**17),
    drawn=st.lists(ROW, max_size=60),
    cut=st.integers(1, 20),
    max_events=st.integers(1, 100),
    in_ns=st.booleans(),
)
def test_what_is_written_is_read(tmp_path_factory, first, drawn, cut, max_events, in_ns):
    path = tmp_path_factory.mktemp("raw") / "a.raw"
    t = first + np.cumsum([row[0] for row in drawn], dtype=np.int64)
    array = events([(now, *row[1:]) for now, row in zip(t.tolist(), drawn, strict=True)])
    parts = [array[at : at + cut] for at in range(0, len(array), cut)]
    if in_ns and abs(first) < 10**15:
        parts = [DecodedEvents(part.x, part.y, part.p, part.t * 1000 + 999, SIZE, "ns") for part in parts]
    assert write_raw(path, parts, SIZE) == len(array)
    recording = RawRecording(path)
    assert (recording.size, recording.encoding, recording.size_inferred) == (SIZE, "evt3", False)
    pieces = list(recording.chunks(max_events))
    assert rows_of(pieces) == rows_of([array])
    assert sum((piece.losses for piece in pieces), Losses()) == Losses()
    assert all(piece.in_order for piece in pieces)


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([[(5, 1, 1, 1), (9, 1, 1, 1)], [(10, 1, 1, 1), (8, 1, 1, 1)]], "event 3 at t=8 us precedes t=10 us; sort"),
        ([[(5, 1, 1, 1), (9, 1, 1, 1)], [(8, 1, 1, 1)]], "event 2 at t=8 us precedes t=9 us; sort"),
        ([[(5, 640, 1, 1)]], "from event 0 on: .*x=640 lies outside"),
        ([[(5, 1, 1, 1)], [(5 + MAX_SILENCE_US + 1, 1, 1, 1)]], "from event 1 on: .*silence"),
    ],
)
@pytest.mark.parametrize("epoch_us", [0, 10**15 // WRAP * WRAP])
def test_what_cannot_be_told_is_refused(tmp_path, chunks, message, epoch_us):
    arrays = [events(chunk) for chunk in chunks]
    arrays = [EventArray(a.x, a.y, a.p, a.t + epoch_us, SIZE) for a in arrays]
    if epoch_us and "t=" in message:
        message = "us precedes t=9999999869911"
    with pytest.raises(EventDataError, match=message) as caught:
        write_raw(tmp_path / "a.raw", arrays, SIZE)
    assert "a.raw: cannot be written as EVT3" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_refused_before_anything_is_written(tmp_path):
    for size, rows_, t_start, message in (
        (SensorSize(100, 2049), [(5, 1, 1, 1)], None, "2048x2048"),
        (SIZE, [(5, 1, 1, 1)], WRAP, "time 0"),
        (SIZE, [(5 + 2 * MAX_SILENCE_US, 1, 1, 1)], 0, "within a day"),
    ):
        with pytest.raises(EventDataError, match=message):
            write_raw(tmp_path / "a.raw", [events(rows_, size)], size, t_start_us=t_start)
    with pytest.raises(SnnPerceptionError, match="folder"):
        write_raw(tmp_path / "missing" / "a.raw", [], SIZE)
    assert list(tmp_path.iterdir()) == []


def test_no_events_are_a_recording_too(tmp_path):
    assert write_raw(tmp_path / "a.raw", [EventArray.empty(SIZE)], SIZE) == 0
    assert list(RawRecording(tmp_path / "a.raw").chunks()) == []


def test_writer_is_deterministic_and_replaces_only_when_whole(tmp_path):
    array = events([(k, k % 640, 5, 1) for k in range(100)])
    for name in ("a.raw", "b.raw"):
        write_raw(tmp_path / name, [array], SIZE)
    before = (tmp_path / "a.raw").read_bytes()
    assert before == (tmp_path / "b.raw").read_bytes()
    assert before.startswith(b"% evt 3.0\n% format EVT3;height=480;width=640\n% geometry 640x480\n% end\n")

    def breaks_off():
        yield array
        raise RuntimeError("the source failed")

    with pytest.raises(RuntimeError, match="the source failed"):
        write_raw(tmp_path / "a.raw", breaks_off(), SIZE)
    assert (tmp_path / "a.raw").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.raw", "b.raw"]


# ---- real cameras' words


@pytest.mark.parametrize("name", ["evt3_triggers_640x480_a", "evt3_trigger_b"])
def test_a_cameras_packets_put_into_a_file(tmp_path, name, registry):
    packets = list(BagRecording(recording_path(name)).packets())
    decoder = registry.build("event_decoder", "evt3")
    expected = whole([decoder.decode(packet) for packet in packets])
    size = packets[0].size
    head = f"% format EVT3;height={size.height};width={size.width}\n% end\n".encode()
    recording = RawRecording(written(tmp_path / "a.raw", head, *(packet.data.tobytes() for packet in packets)))
    assert whole(list(recording.chunks())) == expected
    assert whole(list(recording.chunks(5_000, align_us=50_000))) == expected
    write_raw(tmp_path / "b.raw", recording.chunks(), recording.size)
    assert rows(RawRecording(tmp_path / "b.raw")) == expected[0]


def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path):
    n = 20_000
    t = np.arange(n, dtype=np.int64) * 10
    columns = [(np.arange(n) * 7 % 200).astype(kind) for kind in ("u2", "u2")]
    array = EventArray(*columns, np.ones(n, np.uint8), t, SensorSize(240, 304))
    with file_size_limit(5_000), pytest.raises(SnnPerceptionError, match=r"a\.raw: cannot be written: File too large"):
        write_raw(tmp_path / "a.raw", [array], array.size)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("header", ["% evt 3.0\n% geometry 64x48\n", "% format EVT3;height=48;width=64\n"])
def test_a_raw_file_called_dat_is_a_raw_file(header, tmp_path, registry):
    (tmp_path / "drive.dat").write_bytes(header.encode() + b"% end\n" + bytes(8))
    recording = open_recording(tmp_path / "drive.dat", registry)
    assert (recording.format, recording.encoding, recording.size) == ("raw", "evt3", SensorSize(48, 64))
