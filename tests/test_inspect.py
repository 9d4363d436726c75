"""`inspect` and the statistics behind it: real recordings to the last figure, and every count on made ones."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from snn_perception.cli import inspect as command
from snn_perception.errors import EventDataError
from snn_perception.events.dat import DatRecording
from snn_perception.events.dat_writer import write_dat
from snn_perception.events.recording import open_recording
from snn_perception.events.rosbag2 import BagRecording, write_bag
from snn_perception.events.statistics import PEAK_US, EventStatistics, EventWalk, survey
from snn_perception.types import DecodedEvents, EventArray, Losses, SensorSize, Triggers
from tests import bag_support as support
from tests.paths import recording_path, recordings_dir

REAL = ["evt3_trigger_b", "evt3_triggers_640x480_a", "libcaer_cmp_mcap", "libcaer_rollover", "mono_cd"]
SIZE = SensorSize(240, 304)
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


@pytest.mark.parametrize("name", REAL)
def test_json_of_a_real_recording(name, capsys):
    expected = expected_of(name)
    assert command.main([str(recording_path(name)), "--json"]) == 0
    out, _ = capsys.readouterr()
    report = json.loads(out)
    assert report.keys() >= CONTRACT
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
    assert "readers: dat, rosbag2" in capsys.readouterr().err
    assert command.main([str(hidden), "--json", "--reader", "dat"]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["missing.dat"], 1, "missing.dat: no such file"),
        (["{dat}", "--topic", "/x"], 1, "topic"),
        (["{dat}", "--reader", "no_such"], 1, "unknown event_reader 'no_such'"),
        (["{dat}", "--size", "304"], 2, "invalid size, such as 304x240 value"),
        ([], 2, "RECORDING"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, capsys, arguments, code, told):
    path = dat_file(tmp_path / "a.dat")
    assert command.main([argument.format(dat=path) for argument in arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert code == 2 or (err.startswith("error: ") and err.count("\n") == 1)
