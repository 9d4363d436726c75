"""Ten times more windows than a model takes: bounded, all accounted for, and afterwards as if nothing had been."""

import json
from dataclasses import replace

import pytest

from snn_perception import DetectionPipeline
from snn_perception.cli.soak import main
from snn_perception.ros.overload import overload
from tests.small_network import small_detector

WINDOWS, RUSHED = 40 + 200 + 40, 200
SMALL = ["st_vgg_ssd_16", "--size", "48x32"]


@pytest.fixture(scope="module")
def detector(registry):
    return small_detector(registry)


@pytest.fixture(scope="module")
def rushed(detector, registry):
    return overload(
        DetectionPipeline(detector, gap_policy="reset"), registry, times=10, duration_s=10, calm_s=2, looks=4
    )


def test_every_window_is_accounted_for_and_none_waits_long(rushed):
    assert rushed.faults() == []
    assert rushed.windows == WINDOWS and rushed.waiting == rushed.failed == 0
    assert rushed.published + rushed.caught_up + rushed.dropped == WINDOWS
    assert rushed.dropped == RUSHED - RUSHED // 10 - 8 + 1, "a tenth is run, and the queue is full at the end"
    assert rushed.most_waiting == rushed.queue_size == 8
    assert rushed.recovery_s == pytest.approx(8 * 0.05), "two windows are run while one comes"


def test_it_is_not_silent_while_it_lasts(rushed):
    """Catching up alone would publish nothing for as long as too much comes."""
    assert rushed.published_in_overload == 2 and rushed.caught_up >= 16


def test_after_it_the_stream_is_byte_for_byte_a_new_one(rushed):
    assert rushed.compared >= 35 and rushed.differing == 0 and rushed.detections > rushed.published


def test_without_a_reset_the_membranes_remember(detector, registry, monkeypatch):
    """The comparison can fail: a stream that holds its membranes over the gap is no new one."""
    held = DetectionPipeline(detector, gap_policy="hold")
    monkeypatch.setattr("snn_perception.ros.overload._comes_anew", lambda pipeline: True)
    report = overload(held, registry, times=10, duration_s=2, calm_s=1, looks=2, policy="drop_oldest")
    assert report.compared > 15 and report.differing > 0
    assert any("differ from those of a new stream" in fault for fault in report.faults())


def test_oldest_windows_are_dropped_alone_by_the_other_policy(detector, registry):
    pipeline = DetectionPipeline(detector, gap_policy="reset")
    report = overload(pipeline, registry, times=10, duration_s=5, calm_s=1, looks=2, queue_size=3, policy="drop_oldest")
    assert report.faults() == [] and report.caught_up == 0 and report.most_waiting == 3
    assert report.published_in_overload >= 9


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"dropped": 100}, "280 windows came and"),
        ({"most_waiting": 9}, "9 windows waited in a queue for 8"),
        ({"recovery_s": None}, "no more never"),
        ({"recovery_s": 1.5}, "no more after 1.50 s"),
        ({"published_in_overload": 0}, "nothing was published during"),
        ({"detections": 0}, "nothing was detected"),
    ],
)
def test_faults_are_told(rushed, changed, words):
    assert any(words in fault for fault in replace(rushed, **changed).faults())


def test_memory_that_grows_is_told(rushed):
    last = rushed.looks[-1]
    grown = (*rushed.looks[:-1], replace(last, resident_mib=last.resident_mib + 30))
    assert any("resident memory grew by" in fault for fault in replace(rushed, looks=grown).faults())


def test_the_command_tells_and_writes_it(tmp_path, capsys):
    code = main(
        [
            *SMALL,
            "--overload",
            "10",
            "--hours",
            "0.001",
            "--looks",
            "5",
            "-o",
            str(tmp_path / "overload.json"),
            "--json",
        ]
    )
    told = json.loads(capsys.readouterr().out)
    written = json.loads((tmp_path / "overload.json").read_text())
    assert code == (1 if told["faults"] else 0) and told["windows"] == 200 + 72 + 200
    assert told["dropped"] > 50 and told["compared"] > 190 and told["differing"] == 0
    assert len(written["looks"]) > 5 and written["windows"] == told["windows"]
    assert main([*SMALL, "--overload", "1"]) == 2
    assert main([*SMALL, "--overload", "10", "--streams", "2"]) == 1
    assert "leave --streams out" in capsys.readouterr().err
