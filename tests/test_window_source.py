from itertools import pairwise

import numpy as np
import pytest

from snn_perception.errors import EventDataError
from snn_perception.events.dat_writer import write_dat
from snn_perception.events.recording import Recording, open_recording
from snn_perception.runtime.replay import WindowSource, replay
from snn_perception.runtime.report import ReplayReport, losses_of
from snn_perception.types import DecodedEvents, Losses
from tests.paths import recording_path
from tests.runtime_support import SIZE, broken_packet, decoded, tiny_packet, tiny_pipeline, tiny_registry

REGISTRY = tiny_registry()
WINDOW_US = 10_000


class InMemory(Recording):
    """A recording of packets or chunks that are there already."""

    format = encoding = "memory"

    def __init__(self, packets=None, chunks=(), size=SIZE):
        self.path, self.size, self.is_packets = "memory", size, packets is not None
        self._packets, self._chunks = packets, chunks

    @staticmethod
    def claims(path):
        return False

    def packets(self):
        return iter(self._packets)

    def chunks(self, max_events=1 << 16, *, start_us=None, align_us=None):
        return iter(self._chunks)


def source_of(recording, **options):
    return WindowSource(recording, REGISTRY, WINDOW_US, **{"max_gap_us": 1_000_000, **options})


def test_a_file_recording_is_complete_so_silence_is_silence():
    chunks = [decoded([(5_000, True)]), decoded([(3_000_000, True)], before=5_000)]
    windows = list(source_of(InMemory(chunks=chunks)))
    assert len(windows) == 301
    assert not any(window.after_gap for window in windows)


def test_a_packet_recording_has_gaps():
    packets = [tiny_packet([(5_000, True)], 0), tiny_packet([(3_000_000, True)], 1)]
    windows = list(source_of(InMemory(packets)))
    assert [(w.t_start_us, w.after_gap) for w in windows] == [(0, False), (3_000_000, True)]
    assert len(list(source_of(InMemory(packets), max_gap_us=4_000_000))) == 301


def test_a_data_set_starts_at_zero():
    windows = list(source_of(InMemory(chunks=[decoded([(25_000, True)])]), t_start_us=0))
    assert [window.t_start_us for window in windows] == [0, 10_000, 20_000]


def test_a_packet_that_cannot_be_read_is_passed_over_with_one_warning(caplog):
    packets = [tiny_packet([(1_000, True)], 0), broken_packet(1), broken_packet(2), tiny_packet([(2_000, True)] * 3, 3)]
    source = source_of(InMemory(packets))
    (window,) = source
    assert window.lossy and len(window.events) == 3
    assert (losses_of(source)["bad_packets"], losses_of(source)["lost_packets"]) == (2, 2)
    assert caplog.text.count("a packet cannot be read") == 1


def test_a_recording_of_which_no_packet_can_be_read_is_refused():
    with pytest.raises(EventDataError, match=r"no packet can be read: .*impossible record"):
        list(source_of(InMemory([broken_packet(0), broken_packet(1)])))


def test_a_recording_may_be_given_as_it_is_or_by_its_path(tmp_path):
    write_dat(tmp_path / "e.dat", [decoded([(5_000, True), (25_000, True)])], SIZE)
    recording = open_recording(tmp_path / "e.dat", REGISTRY)
    pipeline = tiny_pipeline()
    runs = [
        list(replay(given, pipeline, registry=REGISTRY))
        for given in (recording, tmp_path / "e.dat", source_of(recording))
    ]
    assert [len(run) for run in runs] == [3, 3, 3]
    assert len({tuple(step.window.t_start_us for step in run) for run in runs}) == 1
    assert all(step.wall_ns > 0 for step in runs[0])


def test_losses_are_told_by_kind():
    packets = [
        tiny_packet([(1_000, True), (900, True)], 0, extra=b"xyz"),
        tiny_packet([(1_000, True), (900, True)], 0, extra=b"xyz"),
        tiny_packet([(12_000, True), (13_000, True)], 4),
        tiny_packet([(50_000, True)], 1),
    ]
    source = source_of(InMemory(packets))
    report = ReplayReport(("square", "circle"))
    for step in replay(source, tiny_pipeline()):
        report.add(step)
    assert losses_of(source) == {
        "lost_packets": 3,
        "sequence_gaps": 1,
        "bad_packets": 0,
        "late_packets": 0,
        "duplicates": 1,
        "restarts": 1,
        "outside": 0,
        "unknown": 0,
        "unsynced": 1,
        "ragged": 3,
        "disordered": 1,
        "overflowed": 0,
    }
    numbers = report.as_dict()
    assert (numbers["events"], numbers["windows"], numbers["resets"]) == (4, 3, 1)
    assert numbers["lossy_windows"] == 2


def test_losses_of_a_file_are_told_too():
    chunk = decoded([(1_000, True)])
    damaged = DecodedEvents(
        chunk.x, chunk.y, chunk.p, chunk.t, SIZE, t_reached=1_000, losses=Losses(outside=2, ragged=5)
    )
    source = source_of(InMemory(chunks=[damaged, damaged]))
    assert sum(len(window.events) for window in source) == 2
    assert source.counts.events == 2
    assert (losses_of(source)["outside"], losses_of(source)["ragged"]) == (4, 10)


@pytest.mark.parametrize("name", ["evt3_triggers_640x480_a", "evt3_trigger_b"])
def test_a_real_stream_cut_into_other_packets_gives_the_same_windows(name):
    """The bytes of a real camera, joined and cut again at any word: what the driver did does not show."""
    recording = open_recording(recording_path(name), REGISTRY)
    packets = list(recording.packets())
    stream = np.concatenate([packet.data for packet in packets])
    rng = np.random.default_rng(0)
    edges = [0, *np.sort(rng.choice(np.arange(2, len(stream), 2), 300, replace=False)).tolist(), len(stream)]
    again = [
        type(packets[0])(stream[a:b], packets[0].encoding, packets[0].size, seq=seq)
        for seq, (a, b) in enumerate(pairwise(edges))
    ]
    expected, recut = list(source_of(recording)), list(source_of(InMemory(again, size=recording.size)))
    assert len(expected) > 50 and sum(len(window.events) for window in expected) > 50_000
    assert [(w.t_start_us, w.lossy, w.after_gap) for w in expected] == [
        (w.t_start_us, w.lossy, w.after_gap) for w in recut
    ]
    for one, other in zip(expected, recut, strict=True):
        for column in "xypt":
            np.testing.assert_array_equal(getattr(one.events, column), getattr(other.events, column))


@pytest.mark.parametrize("is_packets", [False, True])
def test_duplicates_are_left_out_on_request_and_counted(is_packets):
    events = decoded([(1_000, True), (1_500, True)])
    twice = DecodedEvents(*(np.repeat(getattr(events, name), 2) for name in "xypt"), SIZE, t_reached=1_500)
    recording = InMemory([tiny_packet([(1_000, True), (1_000, True)], 0)]) if is_packets else InMemory(chunks=[twice])
    plain, without = source_of(recording), source_of(recording, drop_duplicates=True)
    kept, cut = (sum(len(window.events) for window in source) for source in (plain, without))
    assert (plain.duplicate_events, without.duplicate_events) == (0, kept - cut)
    assert (kept, cut) == ((2, 1) if is_packets else (4, 2))


def with_copies(t, copies, before=-1):
    """Return events at times `t`, each `copies` times."""
    events = decoded([(time, True) for time in t], before=before)
    return DecodedEvents(*(np.repeat(getattr(events, name), copies) for name in "xypt"), SIZE, t_reached=int(t[-1]))


def recording_of_copies(is_packets, copies, each_us=1_000, until_us=100_000, cut=7):
    """Return a recording with an event every millisecond, so many times each, in pieces of `cut` times."""
    t = list(range(0, until_us, each_us))
    parts = [t[at : at + cut] for at in range(0, len(t), cut)]
    if not is_packets:
        return InMemory(chunks=[with_copies(part, copies) for part in parts])
    return InMemory(
        [tiny_packet([(time, True) for time in part for _ in range(copies)], seq) for seq, part in enumerate(parts)]
    )


@pytest.mark.parametrize("is_packets", [False, True])
@pytest.mark.parametrize(("begin", "end"), [(None, None), (20_000, 50_000), (25_000, 55_000), (None, 30_000)])
@pytest.mark.parametrize("stride_us", [None, 5_000])
def test_only_duplicates_within_the_windows_shown_are_counted(is_packets, begin, end, stride_us):
    recording = recording_of_copies(is_packets, 3)
    source = source_of(recording, start_us=begin, stop_us=end, stride_us=stride_us, drop_duplicates=True)
    windows = list(source)
    first, last = windows[0].t_start_us, windows[-1].t_end_us
    expected = sum(first <= t < last for t in range(0, 100_000, 1_000))
    assert expected >= 30
    assert source.duplicate_events == 2 * expected


@pytest.mark.parametrize("is_packets", [False, True])
def test_duplicates_are_counted_up_to_the_window_that_was_taken_last(is_packets):
    source = source_of(recording_of_copies(is_packets, 2, cut=40), drop_duplicates=True)
    windows = iter(source)
    for number in range(1, 6):
        next(windows)
        assert source.duplicate_events == 10 * number
    assert len(list(windows)) == 5 and source.duplicate_events == 100


def test_duplicates_after_a_jump_back_count_when_their_windows_come():
    parts = [with_copies([500_000, 505_000], 2), with_copies([100_000, 105_000, 111_000], 2)]
    columns = [np.concatenate([getattr(part, name) for part in parts]) for name in "xypt"]
    leaps = np.array([[4, 505_000, 100_000]], np.int64)
    jumped = DecodedEvents(*columns, SIZE, t_reached=111_000, leaps=leaps)
    source = source_of(InMemory(chunks=[jumped]), drop_duplicates=True)
    counts = [(window.t_start_us, source.duplicate_events) for window in source]
    assert counts == [(500_000, 2), (100_000, 4), (110_000, 5)]


def test_late_duplicates_count_at_the_time_they_are_moved_to():
    chunks = [with_copies([5_000, 12_000], 2), with_copies([9_000, 25_000], 2, before=12_000)]
    source = source_of(InMemory(chunks=chunks), drop_duplicates=True)
    assert [(len(window.events), source.duplicate_events) for window in source] == [(1, 1), (2, 3), (1, 4)]
