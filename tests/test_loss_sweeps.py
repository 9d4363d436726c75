"""Packets lost at 0.1 to 20 % and an hour's jumps of sensor time, through a network that fires.

Nothing fails, every loss is counted, every jump puts the membranes to rest once, and what comes after the last of it is
what a stream without it would give.

What is asserted after a loss: windows from there on hold the same events, and the same membranes give the same
detections whatever the gap policy is, so that nothing but the membranes remembers a loss. Put to rest, as a jump or a
reset does, the stream is byte for byte one that began there.
"""

from dataclasses import replace
from functools import lru_cache
from itertools import count, pairwise

import numpy as np
import pytest

from snn_perception import DetectionPipeline
from snn_perception.data.shapes import MovingShapes
from snn_perception.events.evt3_encode import packetize
from snn_perception.events.stream import PacketWindows
from snn_perception.runtime.serving import Serving
from snn_perception.runtime.stream import StreamState
from snn_perception.types import EventArray, Packet
from tests.small_network import SIZE, WINDOW_US, small_detector
from tests.time_support import cut, evt2_words, rows

INTERVAL_US = 1_000
SECTION_US = 10 * WINDOW_US  # of steady time, before a jump
CLEAN_US = 4 * WINDOW_US  # at the end of the last section
HOUR_US = 3_600_000_000
MAX_GAP_US = 1_000_000
STARTS_US = {"no jumps": (0,), "+1 h": (0, HOUR_US), "-1 h": (HOUR_US, 0), "+1 h, -1 h": (0, HOUR_US, 0)}
LOSSES = (0.001, 0.01, 0.05, 0.2)


@pytest.fixture(scope="module")
def detector(registry):
    return small_detector(registry)


def evt3(events, start_us):
    return [packet.data for packet in packetize(events, SIZE, interval_us=INTERVAL_US)]


def evt2(events, start_us):
    """Return the words of each interval; a packet begins with the high half of its time."""
    joined = EventArray.concatenate(list(events), SIZE)
    cuts = np.searchsorted(joined.t, start_us + np.arange(0, SECTION_US + INTERVAL_US, INTERVAL_US)).tolist()
    pieces = [joined[a:b] for a, b in pairwise(cuts) if b > a]
    return [evt2_words("evt2", piece)[0].astype("<u4").view(np.uint8) for piece in pieces]


@lru_cache
def sections(starts_us, words_of):
    """Return the packets of each section: sensor time jumps between them, the numbers and the host's time go on."""
    numbers, found = count(), []
    for k, start_us in enumerate(starts_us):
        scene = MovingShapes(SIZE, SECTION_US, seed=k, pause=None, t_start_us=start_us, noise_hz=4.0)
        found.append(
            [
                Packet(
                    data,
                    words_of.__name__,
                    SIZE,
                    seq=(seq := next(numbers)),
                    stamp_ns=10**18 + seq * INTERVAL_US * 1000,
                )
                for data in words_of(scene, start_us)
            ]
        )
    return found


def lossy(parts, share, seed):
    """Return the packets that arrive, and the number of the last one lost.

    At least one of each section is lost, none of those that begin and end it, nor of the last `CLEAN_US`.
    """
    rng, arrived, last = np.random.default_rng(seed), [], 0
    for at, part in enumerate(parts):
        end = len(part) - 1 - (CLEAN_US // INTERVAL_US if at == len(parts) - 1 else 0)
        lost = rng.random(len(part)) < share
        lost[0] = False
        lost[end:] = False
        if not lost.any():
            lost[end // 2] = True
        arrived += [packet for packet, is_lost in zip(part, lost, strict=True) if not is_lost]
        last = part[int(np.flatnonzero(lost)[-1])].seq
    return arrived, last


class Stream:
    """One camera's way from packets to detections."""

    def __init__(self, registry, pipeline):
        self.maker = PacketWindows(registry, WINDOW_US, max_gap_us=MAX_GAP_US, make_filler=pipeline.make_filler)
        self.serving = Serving(pipeline)
        self.windows, self.found = [], []

    def push(self, packets):
        for packet in packets:
            for window in self.maker.push(packet):
                self.take(window)

    def rest(self, packets):
        """Yield the windows of the last packets, not yet taken."""
        for packet in packets:
            yield from self.maker.push(packet)
        yield from self.maker.flush()

    def take(self, window):
        self.windows.append(window)
        self.found.append(self.serving.window("", window))

    @property
    def state(self):
        return self.serving.streams.get("", StreamState())


def same(found, expected):
    """Assert equality byte for byte of detections that have something in them."""
    assert len(found) == len(expected) > 0 and sum(map(len, expected)) >= len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.t_us == other.t_us
        for name in ("xyxy", "score", "class_id"):
            assert getattr(one, name).tobytes() == getattr(other, name).tobytes()


@pytest.mark.parametrize("share", LOSSES)
@pytest.mark.parametrize("gap_policy", ["hold", "leak", "reset"])
def test_losses_are_counted_and_leave_nothing_but_what_membranes_remember(share, gap_policy, detector, registry):
    pipeline = DetectionPipeline(detector, max_gap_us=MAX_GAP_US, gap_policy=gap_policy, max_detections=10)
    parts = sections(STARTS_US["+1 h, -1 h"], evt3)
    arrived, last_lost = lossy(parts, share, seed=int(1000 * share))
    whole, _ = cut(registry, [packet for part in parts for packet in part], WINDOW_US, max_gap_us=MAX_GAP_US)
    stream = Stream(registry, pipeline)
    stream.push(packet for packet in arrived if packet.seq < last_lost)
    disturbed = len(stream.windows)
    for window in stream.rest(packet for packet in arrived if packet.seq > last_lost):
        if window.lossy:
            disturbed = len(stream.windows) + 1
        elif len(stream.windows) == disturbed:
            state = stream.state  # the disturbance is over
        stream.take(window)
    counts, sent = stream.maker.stream.counts, sum(map(len, parts))
    assert counts.lost_packets == sent - len(arrived) >= 3 and counts.packets == len(arrived)
    assert counts.sequence_gaps == sum(b.seq - a.seq > 1 for a, b in pairwise(arrived))
    assert counts.restarts == counts.bad_packets == counts.duplicates == counts.late_packets == 0
    assert [w.t_start_us for w in stream.windows] == [w.t_start_us for w in whole], "one for each, lossy or not"
    assert stream.state.resets == stream.maker.windower.gaps == 2, "one for each jump, none for a loss"
    assert any(window.lossy for window in stream.windows)
    assert len(stream.windows) - disturbed >= 3
    for found, sent in zip(stream.windows[disturbed:], whole[disturbed:], strict=True):
        assert rows(found.events) == rows(sent.events) and not found.lossy
    again, rest = Serving(pipeline), Serving(pipeline)
    again.streams[""] = rest.streams[""] = state
    rest.reset("")
    same([again.window("", window) for window in whole[disturbed:]], stream.found[disturbed:])
    same([rest.window("", window) for window in stream.windows[disturbed:]], fresh(pipeline, whole[disturbed:]))


def fresh(pipeline, windows):
    """Return what a stream gives that begins with these windows."""
    serving = Serving(pipeline)
    return [serving.window("", replace(window, after_gap=False)) for window in windows]


@pytest.mark.parametrize("jumps", [name for name in STARTS_US if name != "no jumps"])
@pytest.mark.parametrize("words_of", [evt2, evt3])
def test_a_jump_of_an_hour_is_one_reset_after_which_the_stream_is_as_a_new_one(jumps, words_of, detector, registry):
    """The last packets before a jump are lost too; EVT3 tells time modulo 16.8 s alone, EVT2 tells the hour."""
    pipeline = DetectionPipeline(detector, max_gap_us=MAX_GAP_US, max_detections=10)
    parts = sections(STARTS_US[jumps], words_of)
    before = [packet for part in parts[:-1] for packet in part[:-3]]
    stream, new = Stream(registry, pipeline), Stream(registry, pipeline)
    stream.push(before)
    for camera in (stream, new):
        for window in camera.rest(parts[-1]):
            camera.take(window)
    assert stream.maker.stream.counts.lost_packets == 3 * (len(parts) - 1)
    assert stream.state.resets == stream.maker.windower.gaps == len(parts) - 1
    assert sum(window.after_gap for window in stream.windows) == len(parts) - 1
    assert len(new.found) >= SECTION_US // WINDOW_US - 1
    last = stream.windows[max(k for k, window in enumerate(stream.windows) if window.after_gap) :]
    same(stream.found[-len(last) :], fresh(pipeline, last))
    times, alone = (np.concatenate([w.events.t for w in windows]) for windows in (last, new.windows))
    assert len(times) > 1000 and len(set((times - alone).tolist())) == 1, "the same events"
    if words_of is evt2:
        assert times[0] == alone[0], "it can tell an hour"
        same(stream.found[-len(last) :], new.found)
