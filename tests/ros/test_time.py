"""What disturbs time in a live stream, kind by kind: what becomes of the state, which counters tell, at which level.

The sensor tells whole nanoseconds in every event (``mono``) where a kind needs time that can run back: EVT3 cannot.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rosgraph_msgs.msg import Clock
from vision_msgs.msg import Detection2DArray

from snn_perception import DetectionPipeline, load_checkpoint
from snn_perception.checkpoint import save_checkpoint
from snn_perception.data.shapes import moving_shapes
from snn_perception.detector import build_preset
from snn_perception.events.evt3_encode import packetize
from snn_perception.events.stream import PacketWindows
from snn_perception.ros.messages import event_packet_from, ns_to_stamp, to_detection2d_array
from snn_perception.runtime.stream import StreamState
from snn_perception.types import EventArray, Packet, SensorSize
from tests.ros.test_detector_node import SIZE, boxes, play
from tests.ros.test_looking_in import Reports, values_of

MS = 1_000  # us
PERIOD_US = 10 * MS
LENGTH_US = 525 * MS  # ten windows and a half
OK, WARN = DiagnosticStatus.OK, DiagnosticStatus.WARN
OTHER_SIZE = SensorSize(120, 152)


def scene(seed=3, size=SIZE, length_us=LENGTH_US):
    return EventArray.joined(list(moving_shapes(size, length_us, seed=seed)), size)


def mono(events, *, seq=0, begin_us=0, stamp_us=0, size=SIZE):
    """Return packets of `PERIOD_US` each, which tell their events' times from `begin_us` on."""
    packets = []
    for start in range(0, int(events.t[-1]) + 1, PERIOD_US):
        part = events[(events.t >= start) & (events.t < start + PERIOD_US)]
        x, y, p = (getattr(part, name).astype(np.uint64) for name in "xyp")
        words = (part.t - start).astype(np.uint64) * 1000 | x << np.uint64(32) | y << np.uint64(48) | p << np.uint64(63)
        base_ns, stamp_ns = (begin_us + start) * 1000, (stamp_us + start) * 1000
        data = words.astype("<u8").view(np.uint8)
        packets.append(Packet(data, "mono", size, seq=seq + len(packets), time_base=base_ns, stamp_ns=stamp_ns))
    return packets


def evt3(events, *, seq=0, size=SIZE):
    return list(packetize([events], size, interval_us=PERIOD_US, seq=seq))


def cut_anywhere(packets, nbytes=1500):
    """Return the same EVT3 words in packets that begin in the middle of rows, as drivers cut them."""
    data = np.concatenate([packet.data for packet in packets])
    pieces = [data[k : k + nbytes] for k in range(0, len(data), nbytes)]
    return [replace(packets[0], data=piece, seq=k, stamp_ns=k * 1_000_000) for k, piece in enumerate(pieces)]


@dataclass(frozen=True)
class Disturbance:
    """Packets, and what must come of them.

    Attributes:
        counters: of the diagnostics, exactly; those of `some` are above 0.
        from_rest: what comes after the state's reset is what these packets alone would give. as_if: everything is what
            these would give.
    """

    packets: list
    counters: dict
    level: bytes = WARN
    some: tuple = ()
    from_rest: list = field(default_factory=list)
    as_if: list = field(default_factory=list)


def disturbances():
    whole, again = scene(), scene(seed=4)
    good = mono(whole)
    seq, later = len(good), LENGTH_US + 5 * MS
    rest = {"state resets": "1", "stream gaps": "1"}
    restart = {**rest, "stream restarts": "1", "lost packets": "0", "undecodable data": "0"}
    looped = mono(whole)
    resized = mono(scene(4, OTHER_SIZE), seq=seq, begin_us=later, stamp_us=later, size=OTHER_SIZE)
    ahead = mono(again, seq=seq, begin_us=3_600_000 * MS, stamp_us=later)
    back = mono(again, seq=seq, begin_us=-3_600_000 * MS + 7_200_000 * MS, stamp_us=later)
    words = cut_anywhere(evt3(whole))
    return {
        "nothing": Disturbance(good, {"state resets": "0", "stream gaps": "0", "lost packets": "0"}, OK, as_if=good),
        "sequence gap": Disturbance(
            good[:20] + good[23:],
            {"lost packets": "3", "sequence gaps": "1", "state resets": "0", "stream gaps": "0"},
        ),
        "resynchronisation": Disturbance(
            words[:20] + words[21:],
            {"lost packets": "1", "sequence gaps": "1", "state resets": "0", "stream gaps": "0"},
            some=("undecodable data",),
        ),
        "backward jump": Disturbance(
            mono(whole, begin_us=7_200_000 * MS) + back, {**rest, "stream restarts": "0"}, from_rest=back
        ),
        "forward jump": Disturbance(good + ahead, {**rest, "stream restarts": "0"}, from_rest=ahead),
        "bag loop": Disturbance(good + looped, restart, from_rest=looped),
        "size change": Disturbance(good + resized, restart, from_rest=resized),
        "encoding change": Disturbance(good + evt3(again, seq=seq), restart, from_rest=evt3(again, seq=seq)),
    }


CASES = disturbances()


def offline(checkpoint, registry, packets):
    """Return the boxes and scores of packets alone, window by window."""
    pipeline = DetectionPipeline(
        load_checkpoint(checkpoint, registry=registry), score_threshold=0.5, max_detections=100
    )
    source, stream, seen = PacketWindows(registry, 50_000, max_gap_us=1_000_000), StreamState(), []
    windows = [window for packet in packets for window in source.push(packet)] + list(source.flush())
    for window in windows:
        found, stream = pipeline.step(window, stream)
        seen.append(content(to_detection2d_array(found, _header(0), pipeline.spec.classes)))
    return seen


def _header(stamp_ns):
    return Detection2DArray().header.__class__(stamp=ns_to_stamp(stamp_ns))


def content(msg):
    return [(box, found.results[0].hypothesis.score) for box, found in zip(boxes(msg), msg.detections, strict=True)]


def run(b, packets):
    """Play packets to a node at work; return its messages, its reports and its last figures, once all is through."""
    found, reports = b.listen(Detection2DArray, "detections"), Reports(b)
    b.start()
    play(b, b.publisher(), map(event_packet_from, packets))
    b.spin_until(lambda: b.detector._cameras[""].packets.stream.counts.packets == len(packets))
    figures = b.detector._cameras[""].figures
    windows = b.detector._cameras[""].packets.windower
    b.spin_until(lambda: figures.published == windows.windows and len(found) == figures.published)
    b.spin_until(lambda: values_of(reports.last())["windows published"] == str(figures.published))
    b.spin(0.25)  # one more report
    values = values_of(reports.last())
    b.detector.trigger_deactivate()
    b.spin_until(lambda: len(found) > windows.windows - 1)
    b.spin(0.1)
    return found, reports, values


@pytest.mark.parametrize("kind", CASES)
def test_each_kind_of_disturbance_is_counted_told_and_handled(bench, checkpoint, registry, kind):
    case = CASES[kind]
    found, reports, values = run(bench(stamp_source="sensor"), case.packets)
    assert {key: values[key] for key in case.counters} == case.counters
    assert all(int(values[key]) > 0 for key in case.some)
    told = [status for status in reports.of(": camera") if "since the last report" in status.message]
    assert max((status.level for status in told), default=OK) == case.level
    for key, count in (item for item in case.counters.items() if case.level == WARN and item[1] != "0"):
        if key not in ("sequence gaps", "stream restarts"):
            assert any(f"{count} {key}" in status.message for status in told), key
    seen = [content(msg) for msg in found]
    assert sum(map(len, seen)) > 20, "a network that sees nothing proves nothing"
    if case.as_if:
        assert seen == offline(checkpoint, registry, case.as_if)
    if case.from_rest:
        alone = offline(checkpoint, registry, case.from_rest)
        assert seen[-len(alone) :] == alone and sum(map(len, alone)) > 10
        assert len(seen) == 11 + len(alone), "the window that was open comes out too"
        assert seen[:10] == offline(checkpoint, registry, case.packets[:53])[:10]


@pytest.mark.parametrize("clock_goes_on", [False, True])
def test_a_pause_is_told_while_it_lasts_and_costs_no_state_while_the_sensor_stands(
    bench, checkpoint, registry, clock_goes_on
):
    b = bench(stamp_source="sensor", silence_warning_s=0.4)
    found, reports = b.listen(Detection2DArray, "detections"), Reports(b)
    b.start()
    first = mono(scene())
    shift = 5_000 * MS if clock_goes_on else 0
    second = mono(scene(4), seq=len(first), begin_us=LENGTH_US + 5 * MS + shift, stamp_us=LENGTH_US + 5 * MS + shift)
    publisher = b.publisher()
    play(b, publisher, map(event_packet_from, first))
    b.spin_until(lambda: any("no packet on" in s.message and s.level == WARN for s in reports.of(": camera")))
    play(b, publisher, map(event_packet_from, second))
    b.spin_until(lambda: b.detector._cameras[""].packets.stream.counts.packets == len(first) + len(second))
    b.spin_until(lambda: len(found) >= 20)
    b.spin_until(lambda: int(values_of(reports.last())["windows published"]) >= 20)
    values = values_of(reports.last())
    resets = "1" if clock_goes_on else "0"
    assert (values["state resets"], values["stream gaps"], values["lost packets"]) == (resets, resets, "0")
    b.detector.trigger_deactivate()
    b.spin(0.3)
    seen = [content(msg) for msg in found]
    if clock_goes_on:
        alone = offline(checkpoint, registry, second)
        assert seen[-len(alone) :] == alone
    else:
        assert seen == offline(checkpoint, registry, first + second)
    assert sum(map(len, seen)) > 20


class SimClock:
    """A publisher of /clock on the bench's peer."""

    def __init__(self, b):
        self._publisher = b.peer.create_publisher(Clock, "/clock", 10)
        b.spin_until(lambda: self._publisher.get_subscription_count() > 0)

    def tell(self, time_s):
        self._publisher.publish(Clock(clock=ns_to_stamp(int(time_s * 1e9))))


def stamp_s(msg):
    return msg.header.stamp.sec + msg.header.stamp.nanosec / 1e9


def test_a_simulated_clock_that_stands_or_jumps_stamps_reports_and_stops_nothing(bench, checkpoint, registry):
    b = bench(use_sim_time=True, stamp_source="sensor")
    found, reports = b.listen(Detection2DArray, "detections"), b.listen(DiagnosticArray, "/diagnostics")
    timings = b.listen(DiagnosticArray, "detections/timing")
    b.start()
    b.spin_until(lambda: len(reports) >= 3)
    assert {stamp_s(msg) for msg in reports} == {0.0}, "no clock has been heard, and reports come all the same"
    clock, publisher, packets = SimClock(b), b.publisher(), mono(scene())
    for part, sim_s in ((packets[:15], 100.0), (packets[15:30], 3_700.0), (packets[30:], 20.0)):
        clock.tell(sim_s)
        b.spin_until(lambda at=sim_s: stamp_s(reports[-1]) == at)
        before = len(reports)
        play(b, publisher, map(event_packet_from, part))
        b.spin_until(lambda count=before: len(reports) >= count + 4)  # it stands still
        assert stamp_s(reports[-1]) == sim_s
    b.spin_until(lambda: len(found) == 10 == len(timings))
    b.detector.trigger_deactivate()
    b.spin_until(lambda: len(found) == 11)
    assert [content(msg) for msg in found] == offline(checkpoint, registry, packets), "detections know no clock"
    assert [stamp_s(msg) for msg in found[:10]] == pytest.approx([0.05 * k for k in range(1, 11)])
    values = values_of([s for msg in reports for s in msg.status][-1])
    assert (values["state resets"], values["stream gaps"], values["dropped windows"]) == ("0", "0", "0")
    for timing in timings:
        took = {pair.key: float(pair.value) for pair in timing.status[0].values}
        assert 0 < took["total_ms"] < 60_000 and 0 < took["inference_ms"] < 60_000


def test_drift_is_told_and_nothing_else_comes_of_it(bench, registry, tmp_path):
    """Twelve seconds of a sensor whose clock runs 200 ppm slow; the stamps of the detections follow the host's."""
    rng = np.random.default_rng(0)
    t = np.sort(rng.integers(0, 12_000 * MS, 24_000))
    x, y = rng.integers(0, SIZE.width, len(t)), rng.integers(0, SIZE.height, len(t))
    events = EventArray(x.astype(np.uint16), y.astype(np.uint16), (t % 2).astype(np.uint8), t.astype(np.int64), SIZE)
    host_ns = 1_700_000_000 * 10**9
    sent = []
    for packet in mono(events):
        first_ns = packet.time_base + int(packet.data.view("<u8")[0] & np.uint64(0xFFFFFFFF))
        sent.append(replace(packet, stamp_ns=host_ns + first_ns + first_ns // 5000))
    path = tmp_path / "long_windows.safetensors"
    save_checkpoint(path, build_preset("st_vgg_ssd_16", registry=registry, window_us=500_000))
    found, _, values = run(bench(checkpoint=str(path)), sent)
    assert float(values["sensor clock drift ppm"]) == pytest.approx(200, abs=5)
    assert (values["state resets"], values["stream gaps"]) == ("0", "0")
    end_ns = 23 * 500_000_000
    stamp = found[22].header.stamp
    error_ns = stamp.sec * 10**9 + stamp.nanosec - host_ns - end_ns - end_ns // 5000
    assert abs(error_ns) < 200_000, "2.3 ms off if drift were not followed"
