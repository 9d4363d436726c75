"""Processing and cyclic time, and when they are complained about."""

from snn_perception.runtime.pace import FINE, LATE, NOT_YET, SLOW, Pace, PaceLimits

MS = 1_000_000
LIMITS = PaceLimits(processing_ms=20.0, delay_ms=200.0)


def paced(*results, limits=LIMITS):
    pace = Pace()
    for at_ms, processing_ms in results:
        pace.published(at_ms * MS, processing_ms, limits)
    return pace


def test_before_the_first_result_nothing_is_known_and_nothing_is_wrong():
    report = Pace().report(10**15, LIMITS)
    assert report.level == FINE
    names = ("processing_time_ms", "cyclic_time_ms", "consecutive_processing_delay_ms")
    assert [report.values[name] for name in names] == [NOT_YET] * 3


def test_figures_of_results_in_time():
    report = paced((100, 5.0), (150, 7.5)).report(160 * MS, LIMITS)
    assert report.level == FINE and report.message == ""
    assert report.values == {
        "processing_time_ms": "7.500",
        "cyclic_time_ms": "50.000",
        "consecutive_processing_delay_ms": "10.000",
        "is_processing_time_ms_in_expected_range": "True",
        "is_consecutive_processing_delay_in_range": "True",
    }


def test_a_slow_result_warns_once_also_when_a_quick_one_came_after_it():
    pace = paced((100, 30.0), (150, 5.0))
    report = pace.report(160 * MS, LIMITS)
    assert report.level == SLOW and "30.0 ms" in report.message and "max_allowed_processing_time_ms" in report.message
    assert report.values["is_processing_time_ms_in_expected_range"] == "False"
    assert pace.report(170 * MS, LIMITS).level == FINE


def test_slow_results_for_too_long_are_an_error():
    pace = paced((100, 5.0), *((at, 30.0) for at in range(150, 400, 50)))
    assert pace.report(290 * MS, LIMITS).level == SLOW
    pace.published(400 * MS, 30.0, LIMITS)
    report = pace.report(400 * MS, LIMITS)
    assert report.level == LATE and "no result in time for 300 ms" in report.message
    pace.published(450 * MS, 5.0, LIMITS)
    assert pace.report(451 * MS, LIMITS).level == FINE


def test_slow_from_the_very_first_result():
    pace = paced(*((at, 30.0) for at in range(100, 400, 50)))
    assert pace.report(301 * MS, LIMITS).level == LATE


def test_silence_is_an_error_for_as_long_as_it_lasts():
    pace = paced((100, 5.0))
    assert pace.report(299 * MS, LIMITS).level == FINE
    for at_ms in (301, 10_000):
        report = pace.report(at_ms * MS, LIMITS)
        assert report.level == LATE and report.values["is_consecutive_processing_delay_in_range"] == "False"
    pace.published(10_050 * MS, 5.0, LIMITS)
    report = pace.report(10_051 * MS, LIMITS)
    assert report.level == FINE and report.values["cyclic_time_ms"] == "9950.000"


def test_zero_allows_everything():
    off = PaceLimits()
    report = paced((100, 5_000.0), limits=off).report(10**15, off)
    assert report.level == FINE
    assert not [name for name in report.values if name.startswith("is_")]


def test_silence_alone_can_be_limited():
    limits = PaceLimits(delay_ms=200.0)
    pace = paced((100, 5_000.0), limits=limits)
    assert pace.report(250 * MS, limits).level == FINE, "no limit on processing: it came in time"
    assert pace.report(301 * MS, limits).level == LATE
