"""Reports become rows: rates, silence, restarts, patterns; and rows become tables and JSON. No ROS here."""

import json
from dataclasses import replace

import pytest

from snn_perception.cli.monitor_table import cells_of, columns_of, drawn, remarks_of
from snn_perception.runtime.monitoring import SILENT_S, Board, Report, Row


def report(at_s, *, name="/detector: left", level=0, message="detecting", arrived_s=None, **counts):
    """Return a report of a camera that has had 100 packets, 5,000 events, 20 windows and 8 detections per second."""
    values = {
        "packets": 100 * at_s, "events": 5_000 * at_s, "windows published": 20 * at_s, "detections": 8 * at_s,
        "latency p50 ms": 7.25, "latency p95 ms": 11.5, "windows waiting": 2, "dropped windows": 3, "lost packets": 4,
        "late packets": 5, "bad packets": 6, "failed windows": 1, "failed messages": 1, "state resets": 7,
    }  # fmt: skip
    values |= {key.replace("_", " "): value for key, value in counts.items()}
    text = {key: str(int(value) if float(value).is_integer() else value) for key, value in values.items()}
    return Report(name, level, message, text, stamp_s=1_000 + at_s, arrived_s=at_s if arrived_s is None else arrived_s)


def board_of(*reports, pattern="*"):
    board = Board(pattern)
    for one in reports:
        board.take(one)
    return board


def only_row(board, now_s, states=None):
    [row] = board.rows(now_s, states or {})
    return row


def test_rates_come_from_counters_between_reports():
    row = only_row(board_of(report(1), report(2), report(3)), 3.2, {"/detector": "active"})
    assert (row.packets_per_s, row.events_per_s, row.windows_per_s, row.detections_per_s) == (100, 5_000, 20, 8)
    assert (row.node, row.camera, row.state, row.level) == ("/detector", "left", "active", "OK")
    assert (row.latency_p50_ms, row.latency_p95_ms, row.waiting) == (7.25, 11.5, 2)
    assert (row.dropped, row.lost, row.failed, row.resets) == (3, 4 + 5 + 6, 2, 7)
    assert row.steps is None and row.firing_rate is None


def test_rates_are_of_the_last_second_not_of_the_whole_run():
    slow = [report(0.25 * k) for k in range(1, 9)]
    fast = [report(2 + 0.25 * k, packets=200 + 250 * k) for k in range(1, 9)]
    assert only_row(board_of(*slow, *fast), 4).packets_per_s == pytest.approx(1_000)


def test_rates_follow_the_nodes_clock_not_the_arrival():
    """The second report was held up for a second on its way."""
    row = only_row(board_of(report(1), report(2, arrived_s=3)), 3)
    assert row.windows_per_s == 20


def test_a_clock_that_stands_still_leaves_the_arrival():
    still = replace(report(2), stamp_s=1_001)
    assert only_row(board_of(report(1), still), 2).windows_per_s == 20


def test_one_report_gives_no_rates():
    board = board_of(report(1))
    assert not board.is_complete
    row = only_row(board, 1.5)
    assert row.packets_per_s is None and row.waiting == 2


def test_a_node_that_begins_anew_has_no_negative_rates():
    board = board_of(report(50), report(51), report(1, arrived_s=52))
    assert only_row(board, 52).packets_per_s is None
    board.take(report(2, arrived_s=53))
    assert only_row(board, 53).packets_per_s == 100


def test_a_silent_node_is_shown_as_such():
    board = board_of(report(1), report(2))
    assert only_row(board, 4.5).level == "OK"
    row = only_row(board, 12)
    assert (row.level, row.message, row.packets_per_s) == ("STALE", "no report for 10 s", None)
    board.take(report(13))
    assert only_row(board, 13).level == "OK"


def test_silence_is_told_by_how_often_a_node_reports():
    seldom = board_of(report(10), report(40))
    assert only_row(seldom, 40 + 80).level == "OK"
    assert only_row(seldom, 40 + 100).level == "STALE"
    first = board_of(report(1))
    assert only_row(first, 1 + SILENT_S - 0.1).level == "OK" and only_row(first, 1 + SILENT_S + 0.1).level == "STALE"


def test_several_nodes_and_cameras_are_kept_apart():
    board = board_of(
        report(1), report(1, name="/detector: right", packets=7), report(1, name="/b/detector: camera"), report(2)
    )
    assert [(r.node, r.camera) for r in board.rows(2, {})] == [
        ("/b/detector", "camera"),
        ("/detector", "left"),
        ("/detector", "right"),
    ]
    assert not board.is_complete
    assert board.nodes == ("/detector", "/b/detector")


def test_other_programs_reports_are_left_aside():
    foreign = Report("/lidar: temperature", 2, "hot", {"celsius": "99"}, 1.0, 1.0)
    assert board_of(foreign).rows(1, {}) == []


@pytest.mark.parametrize(
    ("pattern", "shown"),
    [
        ("*", {"/detector", "/car/front"}),
        ("detector", {"/detector"}),
        ("/car/*", {"/car/front"}),
        ("car/*", {"/car/front"}),
        ("front", {"/car/front"}),
        ("fr", set()),
    ],
)
def test_patterns(pattern, shown):
    board = board_of(report(1), report(1, name="/car/front: left"), pattern=pattern)
    assert set(board.nodes) == shown
    assert board.others == {"/detector", "/car/front"} - shown


def test_activity_goes_to_its_camera_and_its_complaint_shows():
    activity = Report("/detector: left: activity", 1, "silent layer: a.b", {"firing rate": "0.125"}, 1.0, 1.0)
    row = only_row(board_of(report(1), activity), 1)
    assert (row.firing_rate, row.level, row.message) == (0.125, "WARN", "silent layer: a.b")
    worse = only_row(board_of(report(1, level=2, message="every window failed"), activity), 1)
    assert (worse.level, worse.message) == ("ERROR", "every window failed")


def test_a_node_that_has_not_reported_gets_a_row():
    rows = board_of(report(1)).rows(1, {"/idle": "inactive"}, ["/idle", "/detector"])
    assert [(r.node, r.state, r.message) for r in rows] == [
        ("/detector", "", "detecting"),
        ("/idle", "inactive", "no camera has reported"),
    ]


def test_values_that_are_no_numbers_are_not_known():
    row = only_row(board_of(report(1), replace(report(2), values={**report(2).values, "packets": "many"})), 2)
    assert row.packets_per_s is None and row.events_per_s == 5_000
    assert (
        only_row(board_of(replace(report(1), values={**report(1).values, "latency p50 ms": "nan"})), 1).latency_p50_ms
        is None
    )


def test_tables_show_columns_that_some_row_needs():
    rows = [Row("/detector", "left", level="OK", message="detecting", events_per_s=1234567.4, windows_per_s=20.04)]
    plain = dict(zip(columns_of(rows), cells_of(rows)[0], strict=True))
    assert plain["events/s"] == "1,234,567" and plain["windows/s"] == "20.0" and plain["dropped"] == "-"
    assert "steps" not in plain and "firing" not in plain
    rows.append(Row("/detector", "right", level="WARN", message="no packet", steps=2.25, firing_rate=0.1234))
    second = dict(zip(columns_of(rows), cells_of(rows)[1], strict=True))
    assert second["steps"] == "2.2" and second["firing"] == "12.3%"
    assert remarks_of(rows) == [("WARN", "WARN /detector right: no packet")]


def test_rows_draw_in_a_terminal_without_markup():
    from io import StringIO

    from rich.console import Console

    out = StringIO()
    console = Console(file=out, width=200, markup=False, color_system=None)
    console.print(drawn([Row("/d[bold]", "left", level="STALE", message="no report for 9 s [x]", packets_per_s=5.0)]))
    assert "/d[bold]" in out.getvalue() and "STALE /d[bold] left: no report for 9 s [x]" in out.getvalue()


def test_rows_are_json():
    row = only_row(board_of(report(1), report(2)), 2)
    assert json.loads(json.dumps(row.as_dict(), allow_nan=False))["windows_per_s"] == 20


def test_absurd_counters_are_not_known():
    before, after = report(1), report(2)
    huge = {"lost packets": "1e308", "late packets": "1e308", "events": "1.7e308"}
    low = {**before.values, "events": "-1.7e308"}
    row = only_row(board_of(replace(before, values=low), replace(after, values={**after.values, **huge})), 2)
    assert (row.lost, row.events_per_s) == (None, None) and row.packets_per_s == 100
    json.dumps(row.as_dict(), allow_nan=False)
