"""Packets of a camera, and what decoding makes of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from snn_perception.types.arrays import I64, U8, U16, require_same_length
from snn_perception.types.events import EventArray, SensorSize


@dataclass(frozen=True, eq=False)
class Triggers:
    """External trigger edges: t int64 [K] in the source's own unit, edge uint8 [K] (the raw bit), id uint8 [K]."""

    t: I64
    edge: U8
    id: U8

    def __len__(self) -> int:
        return len(self.t)

    @staticmethod
    def empty() -> Triggers:
        """Return no triggers."""
        return Triggers(np.empty(0, np.int64), np.empty(0, np.uint8), np.empty(0, np.uint8))


@dataclass(frozen=True)
class PointLayout:
    """Where the columns of a packed point cloud lie: NumPy dtype of one point, points per row, bytes per row."""

    dtype: np.dtype[Any]
    width: int
    height: int
    row_step: int


@dataclass(frozen=True, eq=False)
class Packet:
    """One message of an event camera, as a ROS topic or a bag holds it, without ROS.

    Attributes:
        data: payload, uint8 [bytes]; a read-only view is fine.
        encoding: name of the event decoder (``evt3``, ``mono``, ``libcaer``, ``libcaer_cmp``, ``pointcloud2``).
        size: sensor size the message states; None where it states none.
        seq: the driver's packet counter; None where the message has none.
        time_base: base of the payload's times, in the encoding's unit.
        stamp_ns: header stamp (host clock), nanoseconds.
    """

    data: U8
    encoding: str
    size: SensorSize | None
    seq: int | None = None
    time_base: int = 0
    is_bigendian: bool = False
    stamp_ns: int = 0
    frame_id: str = ""
    layout: PointLayout | None = None


@dataclass(frozen=True)
class Losses:
    """What a decoder could not use, counted: never an exception for damaged data inside a packet.

    Attributes:
        outside: events outside the sensor, dropped.
        unknown: words or records of an unknown kind, skipped.
        unsynced: events dropped while the decoder waited for its first time and row words (start, after a loss).
        ragged: payload bytes that do not fill a record.
    """

    outside: int = 0
    unknown: int = 0
    unsynced: int = 0
    ragged: int = 0

    def __add__(self, other: Losses) -> Losses:
        return Losses(
            self.outside + other.outside,
            self.unknown + other.unknown,
            self.unsynced + other.unsynced,
            self.ragged + other.ragged,
        )

    @property
    def total(self) -> int:
        """Number of lost items of any kind (bytes for `ragged`)."""
        return self.outside + self.unknown + self.unsynced + self.ragged


NO_LOSSES = Losses()
_NO_TRIGGERS, _NO_LEAPS = Triggers.empty(), np.empty((0, 3), np.int64)  # shared, since nearly every piece has none


@dataclass(frozen=True, eq=False)
class DecodedEvents:
    """What one packet (or one chunk of a file) held, in the source's own integer time.

    Attributes:
        x, y: uint16 [N], inside the sensor; p: uint8 [N]; t: int64 [N] in `time_unit`, as the source gives them.
        time_unit: ``us`` or ``ns``.
        t_reached: the last sensor time the source told of, by an event or a time word (`time_unit`); None if it told
            of none. It closes windows while nothing moves.
        leaps: int64 [K, 3]: (event index, time before, time after) for each step between two successive known times
            (events and time words) that runs forward by more than `LEAP_US` or backwards by more than
            `JITTER_US`; the step lies just before the event with that index. In `time_unit`.
        triggers, losses: trigger edges, and what could not be used.
        in_order: the source vouches for it that `t` does not decrease, so that nobody needs to look.
    """

    x: U16
    y: U16
    p: U8
    t: I64
    size: SensorSize
    time_unit: str = "us"
    t_reached: int | None = None
    leaps: I64 = field(default_factory=lambda: _NO_LEAPS)
    triggers: Triggers = field(default_factory=lambda: _NO_TRIGGERS)
    losses: Losses = NO_LOSSES
    in_order: bool = False

    def __post_init__(self) -> None:
        if self.time_unit not in ("us", "ns"):
            raise ValueError(f"time_unit must be 'us' or 'ns', got {self.time_unit!r}")
        if not len(self.x) == len(self.y) == len(self.p) == len(self.t):
            require_same_length(x=self.x, y=self.y, p=self.p, t=self.t)

    def __len__(self) -> int:
        return len(self.t)

    def split(self, at: int) -> tuple[DecodedEvents, DecodedEvents]:
        """Return the events before index `at` (all of them, if there are fewer) and the rest; losses go with the first.

        A leap lies before an event, and goes with it; triggers go by time.
        """
        at = min(at, len(self))
        x, y, p, t, triggers, leaps = self.x, self.y, self.p, self.t, self.triggers, self.leaps
        earlier = later = triggers
        if len(triggers):
            late = triggers.t >= t[at] if at < len(t) else np.zeros(len(triggers), bool)
            k = int(np.argmax(late)) if late.any() else len(triggers)
            earlier = Triggers(triggers.t[:k], triggers.edge[:k], triggers.id[:k])
            later = Triggers(triggers.t[k:], triggers.edge[k:], triggers.id[k:])
        before = after = leaps
        if len(leaps):
            rise = int(np.searchsorted(leaps[:, 0], at))
            before, after = leaps[:rise], leaps[rise:] - np.array([at, 0, 0], np.int64)
        shared = (self.size, self.time_unit)
        reached = int(t[at - 1]) if at else None
        front = (x[:at], y[:at], p[:at], t[:at], *shared, reached, before, earlier, self.losses, self.in_order)
        rest = (x[at:], y[at:], p[at:], t[at:], *shared, self.t_reached, after, later, NO_LOSSES, self.in_order)
        return DecodedEvents(*front), DecodedEvents(*rest)

    @property
    def us_divisor(self) -> int:
        """Source ticks per microsecond."""
        return 1000 if self.time_unit == "ns" else 1

    def to_event_array(self) -> EventArray:
        """Return the events with time in microseconds (``ns // 1000``); columns are shared where possible."""
        t = self.t if self.time_unit == "us" else self.t // 1000
        return EventArray(self.x, self.y, self.p, t, self.size)
