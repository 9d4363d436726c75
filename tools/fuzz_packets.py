"""Feeds damaged packets to the packet decoders and checks what comes back.

    python tools/fuzz_packets.py --count 2000000 --seed 1

Inputs are pieces of real recordings (of encoded synthetic events where there is no recording), damaged in payload and
header. A decoder may raise EventDataError and nothing else; what it returns must be consistent, inside the sensor, and
account for every event of the payload. To check the compiled loops' indices too, run it with NUMBA_BOUNDSCHECK=1 and
NUMBA_CACHE_DIR set to an empty folder.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from snn_perception.errors import EventDataError
from snn_perception.events.evt2 import Evt2Decoder, Evt21Decoder, Evt21eDecoder
from snn_perception.events.evt3 import Evt3Decoder
from snn_perception.events.evt3_encode import packetize
from snn_perception.events.libcaer import LibcaerCmpDecoder, LibcaerDecoder
from snn_perception.events.mono import MonoDecoder
from snn_perception.events.pointcloud import PointCloudDecoder, layout_from_fields, pack_points
from snn_perception.events.rosbag2 import BagRecording
from snn_perception.events.stream import Decoder
from snn_perception.types import JITTER_US, LEAP_US, DecodedEvents, EventArray, Packet, PointLayout, SensorSize
from tools.fuzz_watch import BLOCK, Inputs, Violation, peak_mib

RECORDINGS = Path(os.environ.get("SNN_RECORDINGS_DIR", Path(__file__).resolve().parents[2] / "shared" / "recordings"))
RECORDS = {  # bytes
    "evt2": 4,
    "evt21": 8,
    "evt21e": 8,
    "evt3": 2,
    "libcaer_cmp": 2,
    "libcaer": 8,
    "mono": 8,
    "pointcloud2": 9,
}
DECODERS: dict[str, Callable[[], Decoder]] = {
    "evt2": Evt2Decoder,
    "evt21": Evt21Decoder,
    "evt21e": Evt21eDecoder,
    "evt3": Evt3Decoder,
    "libcaer_cmp": LibcaerCmpDecoder,
    "libcaer": LibcaerDecoder,
    "mono": MonoDecoder,
    "pointcloud2": PointCloudDecoder,
}
PIECE = 300  # records of an undamaged input, at most
SIZE = SensorSize(480, 640)


@dataclass
class Report:
    """What became of the inputs of one decoder.

    Attributes:
        inputs, refused: packets fed, and those answered with EventDataError.
        produced: inputs from which events came, so that they got past header and first words.
        damaged: inputs in which losses were counted.
        leaping: inputs in which time leapt.
        events: decoded in all.
    """

    encoding: str
    source: str
    inputs: int = 0
    refused: int = 0
    produced: int = 0
    damaged: int = 0
    leaping: int = 0
    events: int = 0
    seconds: float = 0.0

    @property
    def produced_share(self) -> float:
        """Share of the inputs from which events came."""
        return self.produced / max(1, self.inputs)


# --- sound packets --------------------------------------------------------------------------------------------------


@cache
def seeds(encoding: str) -> tuple[list[Packet], str]:
    """Return sound packets of an encoding, and where they come from."""
    found = []
    if encoding != "pointcloud2" and RECORDINGS.is_dir():
        for folder in sorted(path for path in RECORDINGS.iterdir() if path.is_dir()):
            recording = BagRecording(folder)
            if recording.encoding == encoding:
                found += list(recording.packets())
    if encoding == "evt3":  # recordings of single events hold no vectors
        found += found and _synthetic(encoding)[: len(found)]
    return (found, "recordings") if found else (_synthetic(encoding), "synthetic")


def _synthetic(encoding: str) -> list[Packet]:
    events = _synthetic_events(20_000)
    if encoding == "evt3":
        return list(packetize([events], SIZE, interval_us=500))
    chunks = [events[a : a + 200] for a in range(0, len(events), 200)]
    if encoding == "pointcloud2":
        return [_cloud(chunk) for chunk in chunks]
    if encoding in ("evt2", "evt21", "evt21e"):
        return [Packet(_evt2(chunk, encoding).view(np.uint8), encoding, SIZE) for chunk in chunks]
    base = 10**18
    data = {"libcaer_cmp": _libcaer_cmp, "libcaer": _libcaer, "mono": _mono}[encoding]
    return [Packet(data(chunk).view(np.uint8), encoding, SIZE, time_base=base) for chunk in chunks]


def _synthetic_events(count: int) -> EventArray:
    """Return events in short runs along x, as edges give them."""
    rng = np.random.default_rng(0)
    runs = count // 4
    x = (rng.integers(0, 630, runs)[:, None] + np.arange(4)).reshape(-1)
    y, p = np.repeat(rng.integers(0, 480, runs), 4), np.repeat(rng.integers(0, 2, runs), 4)
    t = np.repeat(np.cumsum(rng.integers(0, 40, runs)), 4)
    return EventArray(x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8), t.astype(np.int64), SIZE)


def _cloud(events: EventArray) -> Packet:
    stamp_ns = int(events.t[0]) * 1000
    layout, data = pack_points(events, stamp_ns)
    return Packet(np.frombuffer(data, np.uint8), "pointcloud2", SIZE, stamp_ns=stamp_ns, layout=layout)


def _evt2(events: EventArray, encoding: str) -> np.ndarray:
    """Return words of runs of four (of single events, in EVT2), a time word before each new high part."""
    step = 1 if encoding == "evt2" else 4
    x, y, p, t = (getattr(events, name)[::step].astype(np.int64) for name in "xypt")
    upper, mask = p << 28 | (t & 63) << 22 | x << 11 | y, np.full(len(t), 0b1111)
    high = t >> 6
    at = np.flatnonzero(np.diff(high, prepend=-1))
    upper, mask = np.insert(upper, at, 8 << 28 | high[at]), np.insert(mask, at, 0)
    if encoding == "evt2":
        return upper.astype("<u4")
    return np.stack((mask, upper) if encoding == "evt21" else (upper, mask), axis=1).astype("<u4").reshape(-1)


def _libcaer_cmp(events: EventArray) -> np.ndarray:
    words = np.empty((len(events), 4), "<u2")
    words[:, 0] = events.t >> 12 & 0xFFF
    words[:, 1] = 0x1000 | (events.t & 0xFFF)
    words[:, 2] = 0x2000 | events.x
    words[:, 3] = 0x3000 | events.p.astype(np.uint16) << 11 | events.y
    return words.reshape(-1)


def _libcaer(events: EventArray) -> np.ndarray:
    words = np.empty((len(events), 2), "<u4")
    words[:, 0] = events.x.astype(np.uint32) << 17 | events.y.astype(np.uint32) << 2 | events.p << 1 | 1
    words[:, 1] = events.t
    return words.reshape(-1)


def _mono(events: EventArray) -> np.ndarray:
    x, y, p, t = (getattr(events, name).astype(np.uint64) for name in "xypt")
    return (t * np.uint64(1000) | x << np.uint64(32) | y << np.uint64(48) | p << np.uint64(63)).astype("<u8")


# --- damage ---------------------------------------------------------------------------------------------------------


def damage(packet: Packet, rng: Random) -> Packet:
    """Return a piece of the packet with one to three kinds of damage in it."""
    record = RECORDS[packet.encoding]
    whole = len(packet.data) // record
    length = rng.randint(1, min(PIECE, whole)) if whole else 0
    start = rng.randint(0, whole - length) if rng.random() < 0.3 else 0
    data = packet.data[start * record : (start + length) * record]
    if rng.random() < 0.01:  # long enough to fill the buffers that the compiled loops work in
        data = np.tile(data, rng.randint(2, 80))
    for _ in range(rng.randint(1, 3)):
        data = rng.choice(_PAYLOAD)(data, record, rng)
    packet = replace(packet, data=data)
    return rng.choice(_HEADER)(packet, rng) if rng.random() < 0.15 else packet


def _spot(data: np.ndarray, record: int, rng: Random) -> tuple[int, int]:
    """Return the bounds, in bytes, of a few records."""
    first = rng.randint(0, len(data) // record)
    return first * record, min(len(data), (first + rng.randint(1, 8)) * record)


def _random_bytes(count: int, rng: Random) -> np.ndarray:
    return np.frombuffer(rng.randbytes(count), np.uint8)


def _flip_bits(data: np.ndarray, record: int, rng: Random) -> np.ndarray:
    data = data.copy()
    for _ in range(rng.randint(1, 8) if len(data) else 0):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _insert(data: np.ndarray, record: int, rng: Random) -> np.ndarray:
    at, _ = _spot(data, record, rng)
    return np.concatenate([data[:at], _random_bytes(record * rng.randint(1, 8), rng), data[at:]])


def _delete(data: np.ndarray, record: int, rng: Random) -> np.ndarray:
    start, end = _spot(data, record, rng)
    return np.concatenate([data[:start], data[end:]])


def _repeat(data: np.ndarray, record: int, rng: Random) -> np.ndarray:
    start, end = _spot(data, record, rng)
    return np.concatenate([data[:end], *[data[start:end]] * rng.randint(1, 8), data[end:]])


def _truncate(data: np.ndarray, record: int, rng: Random) -> np.ndarray:
    return data[: rng.randint(0, len(data))]


def _noise(data: np.ndarray, record: int, rng: Random) -> np.ndarray:
    start = rng.randint(0, len(data)) // record * record
    return np.concatenate([data[:start], _random_bytes(len(data) - start, rng)])


def _other_size(packet: Packet, rng: Random) -> Packet:
    sizes = (SensorSize(1, 1), SensorSize(16384, 16384), SensorSize(rng.randint(1, 800), rng.randint(1, 800)), None)
    return replace(packet, size=rng.choice(sizes))


def _other_base(packet: Packet, rng: Random) -> Packet:
    return replace(packet, time_base=rng.choice((0, -1, 2**63, 2**62 - 1, rng.randrange(2**62))))


def _other_stamp(packet: Packet, rng: Random) -> Packet:
    return replace(packet, stamp_ns=rng.choice((0, -1, 2**62 - 1, 2**70)))


def _other_endian(packet: Packet, rng: Random) -> Packet:
    return replace(packet, is_bigendian=not packet.is_bigendian)


def _other_layout(packet: Packet, rng: Random) -> Packet:
    if packet.layout is None:
        return packet
    if rng.random() < 0.1:
        return replace(packet, layout=None)
    width, height, row_step = (rng.choice((0, 1, 2, 7, 200, 2**32 - 1)) for _ in range(3))
    if rng.random() < 0.5:
        return replace(packet, layout=PointLayout(packet.layout.dtype, width, height, row_step))
    names = rng.sample(["x", "y", "t", "p", "time", "intensity", "z"], 7)
    if rng.random() < 0.8:  # one after the other, so that most are accepted
        fields = [(name, 8 * k, rng.randint(1, 8), 1) for k, name in enumerate(names)]
    else:
        fields = [(name, rng.randrange(40), rng.randrange(10), rng.randrange(3)) for name in names[:5]]
    try:
        layout = layout_from_fields(fields, rng.randint(1, 80), width, height, row_step, rng.random() < 0.5)
    except EventDataError:
        return packet
    return replace(packet, layout=layout)


_PAYLOAD = (_flip_bits, _flip_bits, _insert, _delete, _repeat, _truncate, _noise)
_HEADER = (_other_size, _other_base, _other_stamp, _other_endian, _other_layout)


# --- checks ---------------------------------------------------------------------------------------------------------


def check(packet: Packet, decoded: DecodedEvents) -> None:
    """Raise Violation if the events contradict themselves, the sensor or the payload."""
    n = len(decoded)
    for name, dtype, limit in (
        ("x", np.uint16, decoded.size.width),
        ("y", np.uint16, decoded.size.height),
        ("p", np.uint8, 2),
    ):
        column = getattr(decoded, name)
        _check_column(packet, column, n, dtype)
        _require(not n or int(column.max()) < limit, "x, y or p out of range")
    _check_column(packet, decoded.t, n, np.int64)
    losses, triggers = decoded.losses, decoded.triggers
    _require(min(losses.outside, losses.unknown, losses.unsynced, losses.ragged) >= 0, "negative losses")
    _require(decoded.t_reached is not None or n == 0, "events, but no time reached")
    _require(len(triggers.t) == len(triggers.edge) == len(triggers.id), "trigger columns differ")
    _require(not len(triggers) or (int(triggers.edge.max()) <= 1 and int(triggers.id.max()) <= 31), "trigger values")
    _check_leaps(packet, decoded)
    _check_accounts(packet, decoded)


def _check_column(packet: Packet, column: np.ndarray, n: int, dtype: type) -> None:
    _require(column.dtype == dtype and column.shape == (n,), "a column of another type or length")
    held = column if column.base is None else column.base
    _require(getattr(held, "nbytes", 0) <= 4096 + 2 * column.nbytes + len(packet.data), "a column holds more memory")


def _check_leaps(packet: Packet, decoded: DecodedEvents) -> None:
    leaps, ticks = decoded.leaps, decoded.us_divisor
    _require(leaps.dtype == np.int64 and leaps.ndim == 2 and leaps.shape[1] == 3, "leaps of another type or shape")
    index = leaps[:, 0]
    if len(leaps):
        step = leaps[:, 2] - leaps[:, 1]
        _require(index[0] >= 0 and index[-1] <= len(decoded), "leap outside the events")
        _require(bool((index[1:] >= index[:-1]).all()), "leaps out of order")
        _require(bool(((step > LEAP_US * ticks) | (step < -JITTER_US * ticks)).all()), "a leap that is none")
    if packet.encoding in ("mono", "libcaer", "pointcloud2") and len(decoded):
        found = decoded.t[1:] - decoded.t[:-1]
        at = np.flatnonzero((found > LEAP_US * ticks) | (found < -JITTER_US * ticks)) + 1
        _require(np.array_equal(at, index[index > 0]), "leaps are not those of the events")
        _require(decoded.t_reached == int(decoded.t[-1]), "t_reached is not the last event")


def _check_accounts(packet: Packet, decoded: DecodedEvents) -> None:
    """Every event of the payload is either there or counted as lost."""
    held = _held(packet)
    losses = decoded.losses
    told = len(decoded) + len(decoded.triggers) + losses.outside + losses.unsynced
    if packet.encoding in ("libcaer", "pointcloud2"):
        told += losses.unknown
    if held is not None and told != held:
        raise Violation(f"{held} events and triggers in the payload, {told} accounted for")


def _held(packet: Packet) -> int | None:
    """Return the number of events and triggers in the payload, None where only the decoder can tell."""
    if packet.encoding == "pointcloud2":
        layout = packet.layout
        assert layout is not None
        return (
            min(layout.width * layout.height, len(packet.data) // layout.dtype.itemsize) if layout.height <= 1 else None
        )
    if packet.encoding in ("evt2", "evt21", "evt21e"):
        return _held_evt2(packet)
    record = RECORDS[packet.encoding]
    if record == 8:
        return len(packet.data) // 8
    words = packet.data[: len(packet.data) // 2 * 2].view(">u2" if packet.is_bigendian else "<u2").astype(np.uint16)
    kind = words >> 12
    if packet.encoding == "libcaer_cmp":
        return int(np.count_nonzero(kind == 3)) + _bits(words[kind == 5] & 0xFF)
    return (
        int(np.count_nonzero((kind == 2) | (kind == 10)))
        + _bits(words[kind == 4] & 0xFFF)
        + _bits(words[kind == 5] & 0xFF)
    )


def _held_evt2(packet: Packet) -> int:
    record = RECORDS[packet.encoding]
    data, order = packet.data[: len(packet.data) // record * record], ">" if packet.is_bigendian else "<"
    if packet.encoding == "evt2":
        upper = data.view(f"{order}u4")
        mask = np.ones_like(upper)
    elif packet.encoding == "evt21":
        words = data.view(f"{order}u8")
        upper, mask = words >> np.uint64(32), words & np.uint64(0xFFFFFFFF)
    else:
        upper, mask = data.view(f"{order}u4").reshape(-1, 2).T
    kind = upper >> 28
    return int(np.count_nonzero(kind == 10)) + _bits(mask[kind <= 1])


def _bits(masks: np.ndarray) -> int:
    return int(np.unpackbits(np.ascontiguousarray(masks).view(np.uint8)).sum())


def _require(holds: bool | np.bool_, otherwise: str) -> None:
    if not holds:
        raise Violation(otherwise)


# --- runs -----------------------------------------------------------------------------------------------------------


class PacketInputs(Inputs):
    """Damaged packets for one decoder; each decoder sees a few in a row, some of them after a loss.

    Attributes:
        report: what became of them so far.
    """

    def __init__(self, encoding: str, make: Callable[[], Decoder] | None = None) -> None:
        self.name = encoding
        self._make = make or DECODERS[encoding]
        self._sound, source = seeds(encoding)
        self.report = Report(encoding, source)
        self.seed("0")

    def seed(self, text: str) -> None:
        self._rng = Random(text)
        self._left = 0

    def prepare(self) -> None:
        rng = self._rng
        if not self._left:
            self._decoder, self._left, self._next = self._make(), rng.randint(1, 5), rng.randrange(len(self._sound))
        if rng.random() < 0.2:
            self._decoder.resync()
        self.packet = damage(self._sound[self._next % len(self._sound)], rng)
        self._left, self._next = self._left - 1, self._next + 1

    def read(self) -> bool:
        report = self.report
        report.inputs += 1
        try:
            decoded = self._decoder.decode(self.packet)
        except EventDataError:
            report.refused += 1
            raise
        check(self.packet, decoded)
        report.produced += len(decoded) > 0
        report.damaged += decoded.losses.total > 0
        report.leaping += len(decoded.leaps) > 0
        report.events += len(decoded)
        return len(decoded) > 0

    def content(self) -> bytes:
        return self.packet.data.tobytes()


def fuzz(encoding: str, count: int, seed: int, make: Callable[[], Decoder] | None = None) -> Report:
    """Return what became of `count` inputs.

    Raises:
        Violation: at the first input that a decoder handled wrongly, with what reproduces it.
    """
    inputs = PacketInputs(encoding, make)
    started = time.perf_counter()
    for number in range(count):
        if number % BLOCK == 0:
            inputs.seed(f"{seed} {encoding} {number // BLOCK}")
        inputs.prepare()
        try:
            inputs.read()
        except EventDataError as error:
            _require("\n" not in str(error), "an error of more than one line")
        except Exception as error:
            raise Violation(
                f"{encoding}, seed {seed}, input {number}: {type(error).__name__}: {error}; {inputs.packet} "
                f"{inputs.content().hex()}"
            ) from error
    inputs.report.seconds = time.perf_counter() - started
    return inputs.report


def reports(count: int, seed: int) -> Iterator[Report]:
    """Yield one report per decoder, `count` inputs in all."""
    for encoding in DECODERS:
        yield fuzz(encoding, -(-count // len(DECODERS)), seed)


HEADER = "decoder      from          inputs  refused events from losses in leaps in inputs/s"


def line(r: Report) -> str:
    """Return a report as a line of the table below HEADER."""
    refused, damaged, leaping = (count / max(1, r.inputs) for count in (r.refused, r.damaged, r.leaping))
    shares = f"{refused:8.1%} {r.produced_share:11.1%} {damaged:9.1%} {leaping:8.1%}"
    return f"{r.encoding:12} {r.source:10} {r.inputs:9} {shares} {r.inputs / max(r.seconds, 1e-9):8.0f}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Feed damaged packets to the packet decoders.")
    parser.add_argument("--count", type=int, default=1_000_000, help="inputs in all (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args()
    found = []
    if not args.json:
        print(HEADER)
    try:
        for report in reports(args.count, args.seed):
            found.append(report)
            if not args.json:
                print(line(report), flush=True)
    except Violation as violation:
        print(f"violation: {violation}", file=sys.stderr)
        return 1
    if args.json:
        shares = [asdict(r) | {"produced_share": round(r.produced_share, 4)} for r in found]
        print(
            json.dumps(
                {
                    "seed": args.seed,
                    "inputs": sum(r.inputs for r in found),
                    "peak_mib": round(peak_mib()),
                    "decoders": shares,
                }
            )
        )
    else:
        print(f"{sum(r.inputs for r in found)} inputs, peak memory {peak_mib():.0f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
