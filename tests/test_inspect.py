"""`inspect` and the statistics behind it: real recordings to the last figure, and every count on made ones."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from snn_perception.cli import inspect as command
from snn_perception.cli.inspect_labels import judge, labels_beside
from snn_perception.cli.inspect_sequence import report_of_sequence, tiles_of_sequence
from snn_perception.cli.inspect_sheet import chosen_spans
from snn_perception.data.labels import Labels, write_labels
from snn_perception.data.rvt import RvtSequence
from snn_perception.discovery import PLUGINS_VARIABLE
from snn_perception.errors import EventDataError
from snn_perception.events.dat import DatRecording
from snn_perception.events.dat_writer import write_dat
from snn_perception.events.recording import open_recording
from snn_perception.events.rosbag2 import BagRecording, write_bag
from snn_perception.events.statistics import PEAK_US, EventStatistics, survey
from snn_perception.events.walk import EventWalk
from snn_perception.types import DecodedEvents, EventArray, Losses, SensorSize, Triggers
from tests import bag_support as support
from tests.paths import ROOT, recording_path, recordings_dir
from tests.runtime_support import file_size_limit
from tests.rvt_support import WINDOW_US, random_events, write_sequence
from tests.rvt_support import labels_at as labels_of_frames
from tests.test_discovery import install

REAL = ["evt3_trigger_b", "evt3_triggers_640x480_a", "libcaer_cmp_mcap", "libcaer_rollover", "mono_cd"]
SIZE = SensorSize(240, 304)
ADDED = {
    *("limit_s", "on_share", "rate", "burst", "gaps", "pixels", "labels", "duplicate_events", "duplicate_share"),
    *("rate_mean_hz", "rate_peak_hz", "losses_by_kind", "notes"),
}
CONTRACT = {
    *("format", "encoding", "width", "height", "messages", "events", "on", "off", "t_first_us", "t_last_us"),
    *("sum_x", "sum_y", "triggers", "losses", "time_unit", "sha256"),
}


def expected_of(name: str) -> dict:
    recording_path(name)
    return json.loads((recordings_dir() / "expected_results.json").read_text())[name]


def events(t, *, x=1, y=2, p=1, unit="us", **rest) -> DecodedEvents:
    t = np.array(t, np.int64)
    columns = (np.broadcast_to(np.array(value, kind), t.shape) for value, kind in ((x, "u2"), (y, "u2"), (p, "u1")))
    return DecodedEvents(*(np.ascontiguousarray(column) for column in columns), t, SIZE, unit, **rest)


def of(*pieces: DecodedEvents) -> EventStatistics:
    statistics = EventStatistics()
    for piece in pieces:
        statistics.add(piece)
    return statistics


# ---- real recordings


@pytest.mark.parametrize("name", REAL)
def test_every_figure_of_a_real_recording(name, registry):
    expected = expected_of(name)
    recording = open_recording(recording_path(name), registry)
    walk = EventWalk(recording, registry)
    statistics, digest = survey(walk)
    falls, rises = statistics.trigger_edges
    first, last = statistics.first_packet, statistics.last_packet
    figures = {
        "message_type": recording.message_type,
        "encoding": recording.encoding,
        "width": recording.size.width,
        "height": recording.size.height,
        "messages": statistics.messages,
        "first_seq": first.seq,
        "last_seq": last.seq,
        "first_header_stamp_ns": first.stamp_ns,
        "first_time_base": first.time_base,
        "frame_id": recording.frame_id,
        "is_bigendian": first.is_bigendian,
        "time_unit": statistics.time_unit,
        "cd_events": statistics.events,
        "on": statistics.on,
        "off": statistics.off,
        "sum_t": statistics.sum_t,
        "sum_x": statistics.sum_x,
        "sum_y": statistics.sum_y,
        "sum_p": statistics.on,
        "t_min": statistics.t_min,
        "t_max": statistics.t_max,
        "time_goes_backwards": statistics.backwards,
        "max_x": statistics.max_x,
        "max_y": statistics.max_y,
        "first_events_txyp": [list(row) for row in statistics.first_events],
        "last_events_txyp": [list(row) for row in statistics.last_events],
        "events_in_first_messages": statistics.events_in_first_messages,
        "events_in_last_message": statistics.events_in_last_message,
        "empty_messages": statistics.empty_messages,
        "triggers": statistics.triggers,
        "trigger_edge_0": falls,
        "trigger_edge_1": rises,
        "trigger_ids": sorted(statistics.trigger_ids),
        "trigger_sum_t": statistics.trigger_sum_t,
        "first_triggers_t_edge_id": [list(row) for row in statistics.first_triggers],
        "sha256_of_little_endian_t_i64_x_u16_y_u16_p_u8_columns": digest,
    }
    if "time_wraps_seen" in expected:  # of EVT3's 24 bits
        figures["time_wraps_seen"] = statistics.t_max >> 24
    assert figures.keys() == expected.keys(), "a figure that is expected is not compared"
    assert figures == expected
    assert statistics.losses.total == walk.undecodable == walk.counts.lost_packets == walk.counts.sequence_gaps == 0


def rows_of(name, registry) -> np.ndarray:
    """Return a recording's events as rows (t, x, y, p)."""
    walk = EventWalk(open_recording(recording_path(name), registry), registry)
    return np.concatenate([np.stack([getattr(piece, c).astype(np.int64) for c in "txyp"], 1) for _, piece in walk])


def exact_duplicates(name, registry) -> int:
    rows = rows_of(name, registry)
    return len(rows) - len(np.unique(rows, axis=0))


def active_pixels(name, registry) -> int:
    return len(np.unique(rows_of(name, registry)[:, 1:3], axis=0))


@pytest.mark.parametrize("name", REAL)
def test_json_of_a_real_recording(name, registry, capsys):
    expected = expected_of(name)
    assert command.main([str(recording_path(name)), "--json"]) == 0
    out, _ = capsys.readouterr()
    report = json.loads(out)
    assert report.keys() >= CONTRACT | ADDED
    assert sum(report["rate"]["events"]) == report["events"]
    assert sum(report["rate"]["on"]) == report["on"]
    assert report["duplicate_events"] == exact_duplicates(name, registry)
    assert report["pixels"]["active"] == active_pixels(name, registry)
    ticks = {"us": 1, "ns": 1000}[expected["time_unit"]]
    same_names = CONTRACT & expected.keys() - {"losses"}
    assert {key: report[key] for key in same_names} == {key: expected[key] for key in same_names}
    assert (report["format"], report["events"]) == ("rosbag2", expected["cd_events"])
    assert report["t_first_us"] == expected["t_min"] // ticks
    assert report["t_last_us"] == expected["t_max"] // ticks
    assert report["sha256"] == expected["sha256_of_little_endian_t_i64_x_u16_y_u16_p_u8_columns"]
    assert report["losses"] == 0
    assert (report["first_seq"], report["last_seq"]) == (expected["first_seq"], expected["last_seq"])
    assert report["first_events_txyp"] == expected["first_events_txyp"]


def test_same_events_in_another_format_have_the_same_digest(tmp_path, registry):
    """A real bag in microseconds, written as DAT, in other pieces."""
    walk = EventWalk(open_recording(recording_path("evt3_trigger_b"), registry), registry)
    _, of_bag = survey(walk)
    write_dat(tmp_path / "a.dat", (piece for _, piece in walk), walk.recording.size)
    statistics, of_dat = survey(EventWalk(DatRecording(tmp_path / "a.dat"), registry))
    assert of_dat == of_bag
    assert (statistics.messages, statistics.events) == (0, 82_469)


# ---- statistics


def test_sums_are_exact_beyond_64_bits():
    late = (1 << 62) + 12345
    statistics = of(*[events([late + i for i in range(1000)]) for _ in range(30)])
    assert statistics.sum_t == 30 * sum(late + i for i in range(1000)) > 1 << 64
    negative = of(events([-5, -(1 << 40), 3]))
    assert (negative.sum_t, negative.t_min, negative.t_max) == (-5 - (1 << 40) + 3, -(1 << 40), 3)


def test_figures_do_not_depend_on_the_pieces():
    rng = np.random.default_rng(1)
    t = np.cumsum(rng.integers(-20, 200, 5000))
    whole = events(t, x=rng.integers(0, 304, 5000), y=rng.integers(0, 240, 5000), p=rng.integers(0, 2, 5000))
    in_pieces = EventStatistics()
    at = 0
    while at < 5000:
        n = int(rng.integers(0, 7)) or 900
        in_pieces.add(
            DecodedEvents(whole.x[at : at + n], whole.y[at : at + n], whole.p[at : at + n], t[at : at + n], SIZE)
        )
        at += n
    one = of(whole)
    figures = ("events", "on", "off", "sum_t", "sum_x", "sum_y", "t_min", "t_max", "max_x", "max_y", "backwards")
    for name in (*figures, "rate_mean_hz", "rate_peak_hz"):
        assert getattr(in_pieces, name) == getattr(one, name), name
    assert (in_pieces.first_events, in_pieces.last_events) == (one.first_events, one.last_events)
    assert one.backwards == int((np.diff(t) < 0).sum()) > 0
    assert (one.on, one.sum_x, one.max_y) == (int(whole.p.sum()), int(whole.x.sum()), int(whole.y.max()))
    assert one.last_events[-1] == (t[-1], whole.x[-1], whole.y[-1], whole.p[-1])
    bins = np.unique(t // PEAK_US, return_counts=True)[1]
    assert one.rate_peak_hz == pytest.approx(bins.max() * 1e6 / PEAK_US, rel=0.01)  # disorder may split a bin


@pytest.mark.parametrize("unit", ["us", "ns"])
def test_rates_in_both_units(unit):
    ticks = {"us": 1, "ns": 1000}[unit]
    busy = [20_000 * ticks + i for i in range(500)]  # 500 events in one of 10 ms
    statistics = of(events([0, *busy, 1_000_000 * ticks], unit=unit))
    assert (statistics.duration_us, statistics.ticks_per_us) == (1_000_000, ticks)
    assert statistics.rate_mean_hz == pytest.approx(502)
    assert statistics.rate_peak_hz == pytest.approx(500 / 0.01)


def test_nothing_at_all():
    statistics = of(events([]))
    assert (statistics.events, statistics.t_min, statistics.t_max, statistics.duration_us) == (0, 0, 0, 0)
    assert (statistics.rate_mean_hz, statistics.rate_peak_hz) == (0.0, 0.0)
    assert (statistics.first_events, statistics.last_events) == ([], [])


def test_triggers_and_leaps_and_losses_add_up():
    triggers = Triggers(np.array([5, 6, 9], np.int64), np.array([0, 1, 1], np.uint8), np.array([6, 6, 0], np.uint8))
    leaps = np.array([[0, 1, 2]], np.int64)
    piece = events([1], triggers=triggers, leaps=leaps, losses=Losses(outside=1, ragged=2))
    statistics = of(piece, piece)
    assert (statistics.triggers, statistics.trigger_edges, statistics.trigger_ids) == (6, [2, 4], {0, 6})
    assert (statistics.trigger_sum_t, statistics.leaps) == (40, 2)
    assert statistics.first_triggers == [(5, 0, 6), (6, 1, 6), (9, 1, 0)]
    assert statistics.losses == Losses(outside=2, ragged=4)


def test_digest_is_of_columns_one_after_the_other(tmp_path, registry):
    t, x, y, p = [3, 4, 9], [1, 2, 300], [5, 6, 7], [1, 0, 1]
    array = EventArray(
        np.array(x, np.uint16), np.array(y, np.uint16), np.array(p, np.uint8), np.array(t, np.int64), SIZE
    )
    write_dat(tmp_path / "a.dat", [array], SIZE)
    columns = [np.array(column, kind) for column, kind in ((t, "<i8"), (x, "<u2"), (y, "<u2"), (p, "u1"))]
    by_hand = hashlib.sha256(b"".join(column.tobytes() for column in columns)).hexdigest()
    recording = DatRecording(tmp_path / "a.dat")
    assert survey(EventWalk(recording, registry))[1] == by_hand
    assert survey(EventWalk(recording, registry), digest=False)[1] == ""


def test_progress_covers_all_passes(tmp_path, registry):
    path = support.bag(tmp_path, "sqlite3")
    seen = []
    survey(EventWalk(BagRecording(path), registry), advance=lambda done, total: seen.append(done / total))
    assert seen == sorted(seen)
    assert seen[0] < 0.1
    assert seen[-1] == 1.0
    assert len(seen) == 4 * 20


# ---- bags with trouble


def test_lost_packets_and_gaps_are_counted(tmp_path, capsys):
    seqs = [0, 1, 2, 6, 7, 9]
    packets = [replace(support.mono_packet(i), seq=seq) for i, seq in enumerate(seqs)]
    write_bag(tmp_path / "bag", [*packets[:5], *packets[4:]])  # the fifth comes twice
    assert command.main([str(tmp_path / "bag"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["losses_by_kind"]["lost_packets"], report["sequence_gaps"], report["duplicates"]) == (4, 2, 1)
    assert report["losses"] == 4
    assert (report["messages"], report["events"]) == (6, 18)


def test_packets_that_cannot_be_decoded_are_counted(tmp_path, registry, caplog):
    messages = support.packets(5)
    messages[2] = replace(messages[2], encoding="no_such")
    write_bag(tmp_path / "bag", messages)
    walk = EventWalk(BagRecording(tmp_path / "bag"), registry)
    statistics, _ = survey(walk)
    assert (statistics.messages, walk.undecodable) == (4, 1)
    assert len([record for record in caplog.records if "no_such" in record.message]) == 1  # of four passes
    write_bag(tmp_path / "all", [replace(message, encoding="no_such") for message in messages])
    with pytest.raises(EventDataError, match="not one of 5 packets"):
        survey(EventWalk(BagRecording(tmp_path / "all"), registry))


def test_damage_shows_in_the_report(tmp_path, capsys):
    rows = support.event_rows(support.packets(6))
    rows[3] = (rows[3][0], rows[3][1], b"\0\1\0\0")
    path = support.sqlite_file(tmp_path / "a.db3", {support.TOPIC: support.EVENT_PACKET}, rows)
    assert command.main([str(path), "--json"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["losses_by_kind"]["unreadable_messages"] == 1
    assert report["losses_by_kind"]["lost_packets"] == 1  # its seq is missing then
    assert "message 4" in report["notes"][0]
    assert "message 4" in err


# ---- the command


def dat_file(path, n=100):
    array = EventArray(*(getattr(events(range(n)), name) for name in "xypt"), SIZE)
    write_dat(path, [array], SIZE)
    return path


def test_dat_json(tmp_path, capsys):
    path = dat_file(tmp_path / "a.dat")
    path.write_bytes(path.read_bytes() + b"\0\0\0")
    assert command.main([str(path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [report[key] for key in ("format", "encoding", "width", "height", "messages", "events", "on", "off")] == [
        *("dat", "dat", 304, 240, 0, 100, 100, 0)
    ]
    assert (report["t_first_us"], report["t_last_us"], report["time_unit"], report["size_inferred"]) == (
        0,
        99,
        "us",
        False,
    )
    assert (report["losses"], report["losses_by_kind"]["ragged"]) == (3, 3)
    assert "3 bytes" in report["notes"][0]


def test_size_by_hand_and_inferred(tmp_path, capsys):
    path = dat_file(tmp_path / "a.dat")
    bare = tmp_path / "bare.dat"
    bare.write_bytes(path.read_bytes().partition(b"% end\n\x0c\x08")[2])
    assert command.main([str(bare), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["width"], report["height"], report["size_inferred"]) == (2, 3, True)
    assert command.main([str(bare), "--json", "--size", "304x240"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["width"], report["height"], report["size_inferred"]) == (304, 240, False)


def test_table_for_people(tmp_path, capsys):
    assert command.main([str(support.bag(tmp_path, "mcap"))]) == 0
    out, err = capsys.readouterr()
    for text in ("640x480", "60", "mono", "/event_camera/events", "none", "sha256"):
        assert text in out
    assert err == ""
    assert command.main([str(dat_file(tmp_path / "a.dat")), "--no-digest"]) == 0
    assert "sha256" not in capsys.readouterr().out


def test_the_table_tells_time_in_seconds_and_no_sums(tmp_path, capsys):
    assert command.main([str(long_dat(tmp_path / "a.dat"))]) == 0
    out = capsys.readouterr().out
    assert "sensor time: 0.000 to 2.999 s (2.999 s), in us: 0 to 2,999,500\n" in out
    assert "sums" not in out


@pytest.mark.parametrize("columns", [1, 10, 24, 25, 26, 40])
def test_narrow_terminals_get_their_table(tmp_path, capsys, monkeypatch, columns):
    path = long_dat(tmp_path / "a.dat")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    assert command.main([str(path)]) == 0
    assert capsys.readouterr().out


def test_the_picture_is_told(tmp_path, capsys):
    path, page = long_dat(tmp_path / "a.dat"), tmp_path / "page.png"
    assert command.main([str(path), "--png", str(page)]) == 0
    assert f"picture in: {page}\n" in capsys.readouterr().out
    assert command.main([str(path), "--json", "--png", str(page)]) == 0
    assert json.loads(capsys.readouterr().out)["png"] == str(page)
    assert command.main([str(path)]) == 0
    assert "picture in" not in capsys.readouterr().out


def test_a_full_disk_is_told_with_the_name_of_the_picture(tmp_path, capsys):
    path, page = long_dat(tmp_path / "a.dat"), tmp_path / "page.png"
    with file_size_limit(2_000):
        assert command.main([str(path), "--png", str(page)]) == 1
    assert f"error: {page}: cannot be written: File too large\n" in capsys.readouterr().err
    assert not page.exists()


def test_a_folder_of_recordings_tells_their_names(tmp_path, capsys):
    for name in ("drive.dat", "other.dat"):
        dat_file(tmp_path / name)
    assert command.main([str(tmp_path)]) == 1
    assert "is a folder with 2 recordings (drive.dat, other.dat): name one" in capsys.readouterr().err


def test_a_size_stands_in_for_one_that_is_impossible(tmp_path, capsys):
    path = dat_file(tmp_path / "a.dat")
    path.write_bytes(path.read_bytes().replace(b"Width 304", b"Width 0"))
    assert command.main([str(path), "--json"]) == 1
    assert "give the sensor size by hand" in capsys.readouterr().err
    assert command.main([str(path), "--json", "--size", "304x240"]) == 0
    assert json.loads(capsys.readouterr().out)["width"] == 304


def test_a_size_is_refused_by_a_bag_that_states_another(tmp_path, capsys):
    path = support.bag(tmp_path, "mcap")
    assert command.main([str(path), "--size", "304x240"]) == 1
    assert "it states 640x480; --size is for recordings that state none" in capsys.readouterr().err
    assert command.main([str(path), "--json", "--size", "640x480"]) == 0


def test_topic_and_reader_options(tmp_path, capsys):
    rows = support.event_rows(support.packets(3), "/left") + support.event_rows(support.packets(5), "/right")
    kinds = dict.fromkeys(("/left", "/right"), support.EVENT_PACKET)
    path = support.sqlite_file(tmp_path / "a.db3", kinds, rows)
    assert command.main([str(path), "--json"]) == 1
    assert "choose one: /left, /right" in capsys.readouterr().err
    assert command.main([str(path), "--json", "--topic", "/right"]) == 0
    assert json.loads(capsys.readouterr().out)["messages"] == 5
    hidden = tmp_path / "hidden.bin"
    dat_file(tmp_path / "a.dat").rename(hidden)
    hidden.write_bytes(hidden.read_bytes().partition(b"% end\n\x0c\x08")[2])
    assert command.main([str(hidden), "--json"]) == 1
    err = capsys.readouterr().err
    assert "hidden.bin: not a recording that is known here; readers: " in err
    assert {"dat", "rosbag2"} <= set(err.rpartition("readers: ")[2].strip().split(", "))
    assert command.main([str(hidden), "--json", "--reader", "dat"]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["missing.dat"], 1, "missing.dat: no such file"),
        (["{dat}", "--topic", "/x"], 1, "a.dat: --topic is not for recordings of format dat; leave it out"),
        (["{dat}", "--size", "640x480"], 1, "a.dat: its header says 304x240; --size is for recordings that state none"),
        (["{dat}", "--size", "0x0"], 2, "both sides must lie in 1..16384 pixels, got 0x0"),
        (["{dat}", "--reader", "no_such"], 1, "unknown event_reader 'no_such'"),
        (["{dat}", "--size", "304"], 2, "invalid size, such as 304x240 value"),
        (["{dat}", "--limit-s", "0"], 2, "must lie in 1e-6..1e9"),
        (["{dat}", "--limit-s", "nan"], 2, "must lie in 1e-6..1e9"),
        (["{dat}", "--frames", "0"], 2, "must lie in 1..100"),
        (["{dat}", "--png", "{dat}.jpg"], 1, "a sheet ends in .png, got '.jpg'"),
        (["{dat}", "--png", "missing/a.png"], 1, "the folder 'missing' does not exist"),
        (["{dat}", "--labels", "missing.npy"], 1, "missing.npy: no such file; --labels names an .npy file of boxes"),
        (["{dat}", "--labels", "{dat}"], 1, "{dat}"),
        (["{dat}", "--labels", "a.npy", "--no-labels"], 2, "not allowed with"),
        ([], 2, "RECORDING"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, capsys, arguments, code, told):
    path = dat_file(tmp_path / "a.dat")
    assert command.main([argument.format(dat=path) for argument in arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert told.format(dat=path) in err
    assert code == 2 or (err.startswith("error: ") and err.count("\n") == 1)


# ---- only the first seconds


def long_dat(path, seconds=3):
    t = np.arange(0, seconds * 1_000_000, 500, dtype=np.int64)
    array = EventArray(*(getattr(events(t), name) for name in "xypt"), SIZE)
    write_dat(path, [array], SIZE)
    return path


@pytest.mark.parametrize("option", ["--limit-s", "--quick"])
def test_only_the_first_seconds(tmp_path, capsys, option):
    path = long_dat(tmp_path / "a.dat")
    assert command.main([str(path), "--json", option, "0.5"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["limit_s"], report["events"], report["t_last_us"], report["sha256"]) == (0.5, 1000, 499_500, None)
    assert command.main([str(path), option, "0.5"]) == 0
    assert "looked at: the first 0.5 s only\n" in capsys.readouterr().out
    assert command.main([str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["limit_s"] is None


# ---- labels


def labels_at(times, boxes, class_ids) -> Labels:
    n = len(times)
    return Labels(
        np.array(times, np.int64),
        np.array(boxes, np.float32).reshape(n, 4),
        np.array(class_ids, np.int64),
        np.arange(n, dtype=np.int64),
        np.ones(n, np.float32),
    )


GOOD = labels_at([500_000, 500_000, 1_500_000], [[10, 20, 60, 40], [100, 100, 30, 80], [12, 22, 60, 40]], [0, 1, 0])


def test_labels_beside_a_recording_are_found_and_judged(tmp_path, capsys):
    path = long_dat(tmp_path / "a_td.dat")
    write_labels(tmp_path / "a_bbox.npy", GOOD)
    assert command.main([str(path), "--json", "--no-digest"]) == 0
    labels = json.loads(capsys.readouterr().out)["labels"]
    assert (labels["path"], labels["boxes"], labels["frames"]) == (str(tmp_path / "a_bbox.npy"), 3, 2)
    assert (labels["classes"], labels["per_class"]) == (["car", "pedestrian"], {"car": 2, "pedestrian": 1})
    assert (labels["t_first_us"], labels["t_last_us"], labels["faults"]) == (500_000, 1_500_000, {})
    assert command.main([str(path), "--no-digest"]) == 0
    out = capsys.readouterr().out
    assert "label health: no faults\n" in out
    assert "classes: car 2, pedestrian 1\n" in out
    assert command.main([str(path), "--json", "--no-digest", "--no-labels"]) == 0
    assert json.loads(capsys.readouterr().out)["labels"] is None


def test_faulty_labels_are_told_of(tmp_path, capsys):
    path = long_dat(tmp_path / "a_td.dat")
    bad = labels_at([0, 9_000_000, 5], [[400, 0, 5, 5], [0, 0, 5, 5], [9, 0, 0, 5]], [0, 7, 1])
    write_labels(tmp_path / "a_bbox.npy", bad)
    assert command.main([str(path), "--json", "--no-digest"]) == 0
    faults = json.loads(capsys.readouterr().out)["labels"]["faults"]
    assert faults == {"unknown_class": 1, "outside": 1, "non_positive": 1, "after_end": 1}
    assert command.main([str(path), "--json", "--limit-s", "1"]) == 0
    assert "after_end" not in json.loads(capsys.readouterr().out)["labels"]["faults"]
    assert command.main([str(path), "--no-digest"]) == 0
    assert "label health: unknown class 1, outside 1, non positive 1, after end 1\n" in capsys.readouterr().out


def test_labels_of_unknown_classes_go_by_number(tmp_path, capsys):
    path = long_dat(tmp_path / "a.dat")
    write_labels(tmp_path / "mine.npy", labels_at([1000, 2000], [[1, 2, 3, 4]] * 2, [9, 4]))
    assert command.main([str(path), "--json", "--no-digest", "--labels", str(tmp_path / "mine.npy")]) == 0
    labels = json.loads(capsys.readouterr().out)["labels"]
    assert labels["per_class"] == {"4": 1, "9": 1}


def test_damaged_labels_stop_the_command_only_if_they_were_asked_for(tmp_path, capsys):
    path = long_dat(tmp_path / "a_td.dat")
    (tmp_path / "a_bbox.npy").write_bytes(b"no labels at all")
    assert command.main([str(path), "--json", "--no-digest"]) == 0
    out, err = capsys.readouterr()
    labels = json.loads(out)["labels"]
    assert labels.keys() == {"path", "error"}
    assert "a_bbox.npy" in err
    assert command.main([str(path), "--no-digest"]) == 0
    assert "label health: cannot be read: " in capsys.readouterr().out
    assert command.main([str(path), "--labels", str(tmp_path / "a_bbox.npy")]) == 1
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    ("recording", "labels"),
    [
        ("a_td.dat", "a_bbox.npy"),
        ("a.dat", "a_bbox.npy"),
        ("a_td.dat.h5", "a_bbox.npy"),
        ("a_td.h5", "a_bbox.npy"),
        ("a.b_td.RAW", "a.b_bbox.npy"),
        ("a_td.bag", None),
        ("a_td.dat", "b_bbox.npy"),
    ],
)
def test_where_labels_are_looked_for(tmp_path, recording, labels):
    (tmp_path / (labels or "a_bbox.npy")).touch()
    expected = tmp_path / labels if labels and labels[0] == "a" else None
    assert labels_beside(tmp_path / recording) == expected


# ---- the page


def test_the_page_of_a_recording(tmp_path, capsys):
    path, page = long_dat(tmp_path / "a_td.dat"), tmp_path / "a.png"
    write_labels(tmp_path / "a_bbox.npy", GOOD)
    assert command.main([str(path), "--json", "--no-digest", "--png", str(page), "--theme", "light"]) == 0
    json.loads(capsys.readouterr().out)
    with Image.open(page) as image:
        assert image.format == "PNG"
        assert image.width > 600
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.png", "a_bbox.npy", "a_td.dat"]
    before = page.read_bytes()
    path.write_bytes(b"% Version 1\n")
    assert command.main([str(path), "--png", str(page)]) == 1
    assert page.read_bytes() == before


def test_the_page_may_not_replace_its_input(tmp_path, capsys):
    path = long_dat(tmp_path / "a.png")
    assert command.main([str(path), "--reader", "dat", "--png", str(path)]) == 1
    assert "is an input of this command" in capsys.readouterr().err
    assert DatRecording(path).header.event_type == 12


def test_moments_lie_before_labels_or_evenly():
    report = {"t_first_us": 100_000, "t_last_us": 3_000_000}
    even = chosen_spans(report, None, frames=4, window_us=50_000)
    assert len(even) == 4
    assert {end - begin for begin, end in even} == {50_000}
    judged = judge(Path("x"), GOOD, (), SIZE, None, None)
    assert chosen_spans(report, judged, frames=4, window_us=50_000) == [(450_001, 500_001), (1_450_001, 1_500_001)]
    late = {"t_first_us": 5_000_000, "t_last_us": 6_000_000}
    assert len(chosen_spans(late, judged, frames=4, window_us=50_000)) == 4


# ---- preprocessed sequences


GEN1_SIZE = SensorSize(240, 304)


def sequence(folder, *, size=GEN1_SIZE, halved=False, n=60_000, windows=10):
    events_of_it = random_events(n, windows * WINDOW_US, size)
    labels = labels_of_frames([100_000, 200_000, 350_000], 2, size)
    return write_sequence(folder / "seq", events_of_it, labels, windows=windows, halved=halved), events_of_it, labels


def test_a_sequence_is_told_of_as_a_recording_is(tmp_path, capsys):
    path, events_of_it, labels = sequence(tmp_path)
    assert command.main([str(path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    dat_file(tmp_path / "a.dat")
    assert command.main([str(tmp_path / "a.dat"), "--json"]) == 0
    assert report.keys() == json.loads(capsys.readouterr().out).keys() | {"windows", "window_us", "saturated_cells"}
    # Windows are closed at both ends, so what lies on an inner border counts twice; at this rate no cell saturates.
    on_border = events_of_it.t[(events_of_it.t > 0) & (events_of_it.t % WINDOW_US == 0)]
    assert report["saturated_cells"] == 0
    assert report["events"] == 60_000 + len(on_border[on_border < 10 * WINDOW_US])
    assert report["on"] + report["off"] == report["events"] == sum(report["rate"]["events"])
    assert (report["format"], report["width"], report["height"], report["windows"]) == ("rvt", 304, 240, 10)
    assert (report["t_first_us"], report["t_last_us"], report["window_us"]) == (0, 500_000, 50_000)
    assert report["rate"]["bin_us"] == 50_000
    assert report["rate_peak_hz"] == max(report["rate"]["events"]) * 20
    assert report["pixels"]["active"] == len(np.unique(events_of_it.y.astype(int) * 304 + events_of_it.x))
    assert (report["sha256"], report["gaps"], report["losses"]) == (None, None, None)
    assert (report["labels"]["boxes"], report["labels"]["frames"]) == (len(labels), 3)


def test_a_sequence_as_lines_and_as_a_page(tmp_path, capsys):
    path, _, _ = sequence(tmp_path)
    page = tmp_path / "a.png"
    assert command.main([str(path), "--png", str(page)]) == 0
    out = capsys.readouterr().out
    for line in ("windows: 10 of 50 ms", "sensor: 304x240", "labelled: 6 boxes of 6 tracks at 3 times"):
        assert line in out
    with Image.open(page) as image:
        assert image.width > 600
    assert command.main([str(path), "--json", "--limit-s", "0.21", "--no-labels"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["windows"], report["t_last_us"], report["labels"]) == (4, 200_000, None)
    assert command.main([str(path), "--topic", "/x"]) == 1
    assert "takes no --topic" in capsys.readouterr().err


def test_the_moments_of_a_sequence_are_its_labelled_windows(tmp_path):
    """Of a halved one: labels stay in pixels of the sensor."""
    path, events_of_it, labels = sequence(tmp_path, size=SensorSize(720, 1280), halved=True)
    one = RvtSequence(path)
    judged = judge(path, one.labels(), (), one.sensor_size, None, None)
    tiles = tiles_of_sequence(one, judged, windows=10, frames=12)
    assert [tile.snapshot.t_end_us for tile in tiles] == [100_000, 200_000, 350_000]
    for tile in tiles:
        end = tile.snapshot.t_end_us
        there = labels[labels.t_us == end]
        np.testing.assert_allclose(tile.boxes.xyxy[:, :2], there.xywh[:, :2])
        np.testing.assert_allclose(tile.boxes.xyxy[:, 2:], there.xywh[:, :2] + there.xywh[:, 2:], rtol=1e-6)
        kept = (events_of_it.t >= end - 50_000) & (events_of_it.t <= end)
        kept &= (events_of_it.x % 2 == 1) & (events_of_it.y % 2 == 1)
        assert tile.snapshot.events == kept.sum()
    assert [tile.snapshot.t_end_us for tile in tiles_of_sequence(one, None, windows=3, frames=2)] == [50_000, 150_000]
    assert tiles_of_sequence(one, judged, windows=1, frames=5)[0].snapshot.t_end_us == 50_000


def test_saturated_cells_and_long_sequences(tmp_path):
    events_of_it = random_events(30_000, 300 * WINDOW_US, SensorSize(4, 4))
    path = write_sequence(tmp_path / "seq", events_of_it, Labels.empty(), windows=300)
    report = report_of_sequence(RvtSequence(path))
    assert report["rate"]["bin_us"] == 100_000
    assert len(report["rate"]["events"]) == 150
    assert sum(report["rate"]["events"]) == report["events"]
    assert report["saturated_cells"] == 0
    dense = write_sequence(
        tmp_path / "dense", random_events(30_000, WINDOW_US, SensorSize(4, 4)), Labels.empty(), windows=1
    )
    report = report_of_sequence(RvtSequence(dense))
    assert report["saturated_cells"] == 2 * 10 * 16
    assert report["events"] == 10 * 2 * 10 * 16


# ---- start-up


def test_reading_what_the_core_knows_loads_no_plugin(tmp_path):
    """Torch alone takes seconds to load."""
    path = dat_file(tmp_path / "a.dat")
    code = (
        "import sys\nfrom snn_perception.__main__ import main\n"
        f"assert main(['inspect', {str(path)!r}]) == 0\n"
        "print(sorted({'torch', 'rosbags', 'h5py', 'matplotlib'} & sys.modules.keys()), file=sys.stderr)"
    )
    environment = {name: value for name, value in os.environ.items() if name != PLUGINS_VARIABLE}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, env=environment
    )
    assert result.stderr == "[]\n"


READER = """
from snn_perception.api import Component, Recording, SensorSize, hookimpl

class Odd(Recording):
    format = encoding = "odd"
    def __init__(self, path): self.path, self.size = path, SensorSize(4, 4)
    @staticmethod
    def claims(path): return path.suffix == ".odd"
    def chunks(self, *arguments, **options): return iter(())

@hookimpl
def snn_event_readers():
    return [Component("odd", Odd)]
"""
DECODER = """
from snn_perception.api import Component, hookimpl
from snn_perception.events.mono import MonoDecoder

@hookimpl
def snn_event_decoders():
    return [Component("odd_words", MonoDecoder)]
"""


def test_installed_plugins_are_asked_for_what_the_core_does_not_know(tmp_path, monkeypatch, capsys):
    install(tmp_path, "odd_reader", READER)
    install(tmp_path, "odd_decoder", DECODER)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "a.odd").touch()
    assert command.main([str(tmp_path / "a.odd"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["format"] == "odd"
    of_plugin = [replace(packet, encoding="odd_words") for packet in support.packets(4)]
    write_bag(tmp_path / "first", of_plugin)
    write_bag(tmp_path / "later", [*support.packets(3), *of_plugin[3:]])
    for name, encodings in (("first", {"odd_words": 4}), ("later", {"mono": 3, "odd_words": 1})):
        assert command.main([str(tmp_path / name), "--json", "--no-digest"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert (report["encodings"], report["losses"]) == (encodings, 0)
