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

    def chunks(self, max_events=1 << 16):
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
        "duplicates": 1,
        "restarts": 1,
        "outside": 0,
        "unknown": 0,
        "unsynced": 1,
        "ragged": 3,
        "disordered": 1,
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
