"""Real cameras' recordings, decoded to the exact values that are given with them."""

import hashlib
import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from snn_perception.events.rosbag2 import BagRecording
from snn_perception.types import DecodedEvents, Losses, Packet
from tests.paths import recording_path, recordings_dir

NAMES = ["evt3_triggers_640x480_a", "evt3_trigger_b", "libcaer_cmp_mcap", "libcaer_rollover", "mono_cd"]
DIGEST = "sha256_of_little_endian_t_i64_x_u16_y_u16_p_u8_columns"


@pytest.fixture(params=NAMES)
def recording(request) -> BagRecording:
    return BagRecording(recording_path(request.param))


@pytest.fixture
def expected(recording) -> dict:
    return json.loads((recordings_dir() / "expected_results.json").read_text())[recording.path.name]


@pytest.fixture
def decoded(recording, registry) -> list[DecodedEvents]:
    decoder = registry.build("event_decoder", recording.encoding)
    return [decoder.decode(packet) for packet in recording.packets()]


def column(decoded: list[DecodedEvents], name: str) -> np.ndarray:
    return np.concatenate([getattr(part, name) for part in decoded])


def digest(decoded: list[DecodedEvents]) -> str:
    types = {"t": "<i8", "x": "<u2", "y": "<u2", "p": "u1"}
    return hashlib.sha256(b"".join(column(decoded, name).astype(d).tobytes() for name, d in types.items())).hexdigest()


def test_packets(recording, expected):
    packets = list(recording.packets())
    assert len(packets) == expected["messages"]
    first = packets[0]
    assert (packets[0].seq, packets[-1].seq) == (expected["first_seq"], expected["last_seq"])
    assert first.stamp_ns == expected["first_header_stamp_ns"] and first.time_base == expected["first_time_base"]
    assert (first.size.width, first.size.height) == (expected["width"], expected["height"])
    assert first.frame_id == expected["frame_id"] and first.is_bigendian == expected["is_bigendian"]
    assert {packet.encoding for packet in packets} == {expected["encoding"]}


def test_events(decoded, expected):
    t, x, y, p = (column(decoded, name) for name in "txyp")
    assert len(t) == expected["cd_events"] and int(p.sum()) == expected["on"]
    sums = {name: sum(c.tolist()) for name, c in zip("txyp", (t, x, y, p), strict=True)}  # t overflows int64
    assert sums == {name: expected[f"sum_{name}"] for name in "txyp"}
    assert (int(t.min()), int(t.max())) == (expected["t_min"], expected["t_max"])
    assert (int(x.max()), int(y.max())) == (expected["max_x"], expected["max_y"])
    rows = np.stack([t, x, y, p], axis=1)
    assert rows[:5].tolist() == expected["first_events_txyp"] and rows[-5:].tolist() == expected["last_events_txyp"]
    assert int(np.count_nonzero(np.diff(t) < 0)) == expected["time_goes_backwards"]
    assert {part.time_unit for part in decoded} == {expected["time_unit"]}
    assert digest(decoded) == expected[DIGEST]


def test_packets_one_by_one(decoded, expected):
    counts = [len(part) for part in decoded]
    assert counts[:5] == expected["events_in_first_messages"][: len(counts)]
    assert counts[-1] == expected["events_in_last_message"] and counts.count(0) == expected["empty_messages"]


def test_triggers(decoded, expected):
    t, edge, number = (
        np.concatenate([getattr(part.triggers, name) for part in decoded]) for name in ("t", "edge", "id")
    )
    assert len(t) == expected["triggers"] and int(t.sum()) == expected["trigger_sum_t"]
    assert np.bincount(edge, minlength=2).tolist() == [expected["trigger_edge_0"], expected["trigger_edge_1"]]
    assert sorted(set(number.tolist())) == expected["trigger_ids"]
    firsts = expected["first_triggers_t_edge_id"]
    assert np.stack([t, edge, number], axis=1)[: len(firsts)].tolist() == firsts


def test_nothing_is_lost_and_time_runs_on(decoded):
    assert sum((part.losses for part in decoded), Losses()) == Losses()
    assert sum(len(part.leaps) for part in decoded) == 0
    for part, following in pairwise(decoded):
        assert part.t_reached is not None and part.t[-1] <= part.t_reached <= following.t[0]


@pytest.mark.parametrize("name", NAMES[:2])
def test_the_cut_into_packets_does_not_show(name, registry):
    packets = list(BagRecording(recording_path(name)).packets())
    words = np.concatenate([packet.data for packet in packets]).view("<u2")
    rng = np.random.default_rng(11)
    cuts = np.sort(rng.integers(100, len(words), 3_000))  # the first words start time

    def decode(parts: list[np.ndarray]) -> list[DecodedEvents]:
        decoder = registry.build("event_decoder", "evt3")
        return [decoder.decode(replace(packets[0], data=part.view(np.uint8))) for part in parts]

    whole, pieces = decode([words]), decode(np.split(words, cuts))
    assert digest(pieces) == digest(whole) and pieces[-1].t_reached == whole[-1].t_reached
    np.testing.assert_array_equal(
        np.concatenate([part.triggers.t for part in pieces]), np.concatenate([part.triggers.t for part in whole])
    )


@pytest.mark.parametrize("name", NAMES[:2])
def test_a_loss_costs_few_events_and_no_wrong_ones(name, registry):
    """Packets are left out; all that comes back are events of the whole stream, and the leap where it is one."""
    packets = list(BagRecording(recording_path(name)).packets())

    def events(kept: list[Packet], lost: bool) -> tuple[set[tuple[int, ...]], list[list[int]]]:
        decoder = registry.build("event_decoder", "evt3")
        found, leaps = set(), []
        for packet in kept:
            if lost and packet is kept[30]:
                decoder.resync()
            part = decoder.decode(packet)
            found |= set(zip(*(getattr(part, c).tolist() for c in "txyp"), strict=True))
            leaps += part.leaps[:, 1:].tolist()
        return found, leaps

    everything, _ = events(packets, lost=False)
    kept, leaps = events(packets[:30] + packets[60:], lost=True)
    untouched, _ = events(packets[60:], lost=False)
    assert kept <= everything
    assert len(untouched - kept) < 200
    assert len(leaps) == 1 and leaps[0][1] - leaps[0][0] > 100_000
