"""Messages as they should not be, in the middle of good ones, over DDS: the node stays, says so, and goes on."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus
from event_camera_msgs.msg import EventPacket
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray

from snn_perception.events.payload import MAX_PACKET_BYTES
from snn_perception.ros.messages import event_packet_from
from tests.ros.test_detector_node import play
from tests.ros.test_looking_in import Reports, values_of
from tests.ros.test_time import SIZE, content, evt3, offline, scene

AT = 25  # good packets before the exceptional message
GOOD = evt3(scene(), seq=10)
OK, WARN = DiagnosticStatus.OK, DiagnosticStatus.WARN


def message(**fields):
    """Return an EventPacket that is good but for `fields`; `payload` is its bytes."""
    payload = fields.pop("payload", b"")
    msg = EventPacket(**{"height": SIZE.height, "width": SIZE.width, "encoding": "evt3", "seq": 10**6, **fields})
    msg.events.frombytes(bytes(payload))
    return msg


def swapped(packet):
    """Return the same words, the other way round, as the flag says."""
    msg = event_packet_from(packet)
    return message(
        header=msg.header, seq=msg.seq, is_bigendian=True, payload=packet.data.view("<u2").astype(">u2").tobytes()
    )


def stamped(packet, sec):
    msg = event_packet_from(packet)
    msg.header = Header(stamp=Time(sec=sec))
    return msg


def words(*values, repeat=1):
    return np.tile(np.array(values, "<u2"), repeat).tobytes()


@dataclass(frozen=True)
class Exceptional:
    """What is sent, and what must come of it.

    Attributes:
        sent: messages before the good one number `AT`, `instead` of so many good ones; those too large to keep are
            made when they are needed. With `renumbered` the good ones after them go on counting.
        counters: of the diagnostics. says: part of each error in the log.
        policy: "same" where the detections are those of the good messages alone; "from rest" where what comes after is
            what those alone would give; "goes on" where the state keeps a trace of it; "jumps" where it tells of other
            times besides.
    """

    sent: list
    counters: dict
    says: tuple = ()
    policy: str = "same"
    instead: int = 0
    renumbered: bool = False

    def messages(self):
        return [one() if callable(one) else one for one in self.sent]


def refused(**kinds):
    counters = {"bad packets": str(len(kinds)), "state resets": "0", "lost packets": "0"}
    return Exceptional([sent for sent, _ in kinds.values()], counters, tuple(says for _, says in kinds.values()))


FINE = {"bad packets": "0", "lost packets": "0", "state resets": "0", "undecodable data": "0", "stream restarts": "0"}
LARGE = MAX_PACKET_BYTES  # 64 MiB


def kinds():
    at = event_packet_from(GOOD[AT])
    return {
        "no bytes": Exceptional([message(seq=at.seq)], FINE, renumbered=True),
        "no events": Exceptional([message(seq=at.seq, payload=words(0xE000))], FINE, renumbered=True),
        "what cannot be read": refused(
            no_size=(message(width=0, height=0), "height must be 1..16384 px, got 0"),
            negative_size=(message(width=2**32 - 1, height=2**32 - 240), "height must be 1..16384 px, got 4294967056"),
            no_encoding=(message(encoding=""), "unknown event encoding ''"),
            unknown_encoding=(message(encoding="morse"), "unknown event encoding 'morse'; known: "),
            too_large=(lambda: message(payload=bytes(LARGE + 2)), "at most 67108864 bytes"),
        ),
        "64 MiB of events": refused(
            large=(
                lambda: message(payload=words(0x8000, 0x6000, 1, 0x3000) + words(0x4FFF, repeat=LARGE // 2 - 4)),
                "at most 67108864 events",
            )
        ),
        "64 MiB of nothing": Exceptional(
            [lambda: message(seq=at.seq, payload=words(0xE000, repeat=LARGE // 2))], FINE, renumbered=True
        ),
        "another size, once": Exceptional(
            [message(width=640, height=480, seq=at.seq, payload=words(0x8000, 0x6000, 0x0001, 0x2001))],
            {"bad packets": "0", "stream restarts": "2", "lost packets": "0"},
            policy="from rest",
            renumbered=True,
        ),
        "stamps of 0, before 1970 and of the last day": Exceptional(
            [stamped(packet, sec) for packet, sec in zip(GOOD[AT : AT + 3], (0, -5, 2**31 - 1), strict=True)],
            FINE,
            instead=3,
        ),
        "the same again": Exceptional([event_packet_from(GOOD[AT - 1])] * 2, {**FINE, "duplicate packets": "2"}),
        "out of order": Exceptional(
            [event_packet_from(GOOD[AT + 1]), at],
            {"late packets": "1", "lost packets": "1", "bad packets": "0", "state resets": "0"},
            policy="goes on",
            instead=2,
        ),
        "a number from nowhere": Exceptional(
            [message(seq=2**64 - 1)],
            {"bad packets": "0", "stream restarts": "1", "state resets": "1"},
            policy="from rest",
        ),
        "big-endian words": Exceptional([swapped(GOOD[AT])], FINE, instead=1),
        "a flag that lies": Exceptional(
            [message(header=at.header, seq=at.seq, is_bigendian=True, payload=at.events.tobytes())],
            {"bad packets": "0", "lost packets": "0"},
            policy="jumps",
            instead=1,
        ),
        "half a word": Exceptional(
            [message(header=at.header, seq=at.seq, payload=at.events.tobytes() + b"\7")],
            {**FINE, "undecodable data": "1"},
            instead=1,
        ),
    }


KINDS = kinds()
SLOW = {"64 MiB of nothing"}


@pytest.fixture(scope="module")
def undisturbed(checkpoint, registry):
    """Return what the good packets alone give, window by window."""
    return offline(checkpoint, registry, GOOD)


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow) if k in SLOW else k for k in KINDS])
def test_the_node_stays_says_so_and_handles_the_next_good_one(bench, checkpoint, registry, undisturbed, kind):
    case = KINDS[kind]
    b = bench(stamp_source="sensor")
    said = record_errors(b.detector)
    found, reports = b.listen(Detection2DArray, "detections"), Reports(b)
    b.start()
    step = len(case.sent) if case.renumbered else 0
    after = [replace(packet, seq=packet.seq + step) for packet in GOOD[AT + case.instead :]]
    play(b, b.publisher(), [*map(event_packet_from, GOOD[:AT]), *case.messages(), *map(event_packet_from, after)])
    counted = ("packets", "bad packets", "duplicate packets", "late packets")
    total = AT + len(case.sent) + len(after)
    b.spin_until(lambda: reports.of(": camera") and sum(int(values_of(reports.last())[k]) for k in counted) == total)
    b.spin_until(lambda: values_of(reports.last())["windows published"] == values_of(reports.last())["windows"])
    b.spin(0.15)
    values = values_of(reports.last())
    figures = b.detector._cameras[""].figures
    b.detector.trigger_deactivate()
    b.spin_until(lambda: len(found) >= figures.published)

    assert {key: values[key] for key in case.counters} == case.counters
    for text, part in zip(said, case.says, strict=True):
        assert text.startswith("topic '/events': ") and part in text
    told = [status for status in reports.of(": camera") if "since the last report" in status.message]
    warned = any(count != "0" for count in case.counters.values()) or case.policy == "jumps"
    assert max((status.level for status in told), default=OK) == (WARN if warned else OK)
    for key in ("bad packets", "duplicate packets", "lost packets"):
        assert case.counters.get(key, "0") == "0" or any(key in status.message for status in told)

    seen = [content(msg) for msg in found]
    alone = offline(checkpoint, registry, after) if case.policy == "from rest" else undisturbed
    assert sum(map(len, alone)) > 10, "a network that sees nothing proves nothing"
    if case.policy == "same":
        assert seen == alone
    elif case.policy == "from rest":
        assert seen[-len(alone) :] == alone
    else:
        assert case.policy == "jumps" or len(seen) == len(alone)
        assert seen[:5] == alone[:5] and sum(map(len, seen[6:])) > 10


def record_errors(node):
    """Return a list to which the node's errors are added from now on."""
    said, real = [], node.get_logger()

    class Log:
        def error(self, text, **_):
            said.append(text)

        def __getattr__(self, name):
            return getattr(real, name)

    node.get_logger = Log
    return said


def test_a_decoder_that_raises_whatever_it_likes_does_not_end_the_node(bench, checkpoint, registry):
    b = bench(stamp_source="sensor")
    said, found = record_errors(b.detector), b.listen(Detection2DArray, "detections")
    b.start()
    publisher = b.publisher()
    play(b, publisher, map(event_packet_from, GOOD[:AT]))
    stream = b.detector._cameras[""].packets.stream
    b.spin_until(lambda: stream.counts.packets == AT)
    decoder = stream._decoder
    decode = decoder.decode
    decoder.decode = lambda packet: (_ for _ in ()).throw(ZeroDivisionError("planted"))
    play(b, publisher, [message(seq=GOOD[AT].seq)])
    b.spin_until(lambda: said)
    decoder.decode = decode
    play(b, publisher, map(event_packet_from, GOOD[AT:]))
    b.spin_until(lambda: stream.counts.packets == len(GOOD))
    b.detector.trigger_deactivate()
    expected = offline(checkpoint, registry, GOOD)
    b.spin_until(lambda: len(found) >= len(expected))
    assert said == ["topic '/events': ZeroDivisionError: planted"]
    assert [content(msg) for msg in found] == expected
