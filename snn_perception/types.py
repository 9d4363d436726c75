"""Values that cross the borders between parts: events, windows, targets and detections.

All are frozen dataclasses; those of columns compare by identity, `Detections` by value. NumPy before and after the
model, torch only inside it. Pixels have their origin at the top left, x to the right and y down; a box is ``xyxy`` =
(x1, y1, x2, y2), half-open, in pixels of the sensor unless a name says otherwise. Sensor time is int64 microseconds
(``_us``), unwrapped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]

LEAP_US = 100_000  # forward steps of sensor time above this are reported as leaps; the user's gap limit is no lower
JITTER_US = 50_000  # backward steps up to this are disorder (EVT3 may repeat 10 x 4096 us); beyond it time jumped
MAX_SIDE_PX = 1 << 14  # no event camera comes near; a larger geometry is a damaged header


def _require(array: Any, name: str, dtype: Any, shape: tuple[int | None, ...]) -> None:
    """Raise ValueError unless `array` is a NumPy array of `dtype` and `shape` (None = any length)."""
    wanted = f"{np.dtype(dtype).name}[{', '.join('N' if n is None else str(n) for n in shape)}]"
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{name}: expected a NumPy array {wanted}, got {type(array).__name__}")
    fits = len(shape) == array.ndim and all(w is None or w == n for w, n in zip(shape, array.shape, strict=True))
    if array.dtype != dtype or not fits:
        raise ValueError(f"{name}: expected {wanted}, got {array.dtype.name}{list(array.shape)}")


def _require_same_length(**arrays: npt.NDArray[Any]) -> None:
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns differ in length: {lengths}")


@dataclass(frozen=True)
class SensorSize:
    """Height and width of a sensor or model input, in pixels."""

    height: int
    width: int

    def __post_init__(self) -> None:
        for name, side in (("height", self.height), ("width", self.width)):
            if not isinstance(side, (int, np.integer)) or not 1 <= side <= MAX_SIDE_PX:
                raise ValueError(f"{name} must be 1..{MAX_SIDE_PX} px, got {side!r}")
            object.__setattr__(self, name, int(side))  # NumPy's integers have no JSON form

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True, eq=False)
class EventArray:
    """Change-detection events in time order: columns of equal length and the sensor they belong to.

    Attributes:
        x, y: pixel columns, uint16 [N], inside `size`.
        p: polarity, uint8 [N]; 1 is ON (brighter), 0 is OFF.
        t: sensor time in microseconds, int64 [N], not decreasing.
        size: sensor size.

    Raises:
        ValueError: for a wrong dtype, shape or differing lengths. Order and range cost a pass over the data and are
            checked by `validate`, at the borders where foreign data enters.
    """

    x: U16
    y: U16
    p: U8
    t: I64
    size: SensorSize

    def __post_init__(self) -> None:
        _require(self.x, "x", np.uint16, (None,))
        _require(self.y, "y", np.uint16, (None,))
        _require(self.p, "p", np.uint8, (None,))
        _require(self.t, "t", np.int64, (None,))
        _require_same_length(x=self.x, y=self.y, p=self.p, t=self.t)

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, rows: slice | npt.NDArray[Any]) -> EventArray:
        """Return the chosen rows (a view for a slice)."""
        return EventArray(self.x[rows], self.y[rows], self.p[rows], self.t[rows], self.size)

    def validate(self) -> EventArray:
        """Return self after checking time order, sensor bounds and polarity; raise ValueError naming the event."""
        for name, column, limit in (("x", self.x, self.size.width), ("y", self.y, self.size.height), ("p", self.p, 2)):
            if len(column) and int(column.max()) >= limit:
                at = int(np.argmax(column >= limit))
                raise ValueError(f"event {at}: {name}={int(column[at])} lies outside 0..{limit - 1} ({self.size})")
        if len(self.t) > 1:
            back = self.t[1:] < self.t[:-1]
            if back.any():
                at = int(np.argmax(back)) + 1
                raise ValueError(f"event {at} at t={self.t[at]} us precedes t={self.t[at - 1]} us")
        return self

    @staticmethod
    def empty(size: SensorSize) -> EventArray:
        """Return no events of a sensor."""
        pixels, polarity, time = np.empty(0, np.uint16), np.empty(0, np.uint8), np.empty(0, np.int64)
        return EventArray(pixels, pixels, polarity, time, size)

    @staticmethod
    def concatenate(parts: list[EventArray], size: SensorSize) -> EventArray:
        """Return the events of `parts`, one after the other; a single part is returned as it is."""
        parts = [part for part in parts if len(part)]
        if not parts:
            return EventArray.empty(size)
        if len(parts) == 1:
            return parts[0]
        x, y, p, t = (np.concatenate([getattr(part, name) for part in parts]) for name in "xypt")
        return EventArray(x, y, p, t, size)


@dataclass(frozen=True, eq=False)
class EventWindow:
    """The events of one half-open interval ``[t_start_us, t_end_us)`` of sensor time; often none at all.

    Attributes:
        lossy: packets were lost inside it, so that it may lack events.
        after_gap: the stream was interrupted just before it (a long gap, a jump of time, another camera), so that
            state from before says nothing about it.
    """

    events: EventArray
    t_start_us: int
    t_end_us: int
    stream: str = ""
    lossy: bool = False
    after_gap: bool = False

    def __post_init__(self) -> None:
        if self.t_end_us <= self.t_start_us:
            raise ValueError(f"window must have a positive length, got [{self.t_start_us}, {self.t_end_us}) us")


@dataclass(frozen=True, eq=False)
class Targets:
    """Ground truth of one window: xyxy float32 [M, 4] in pixels of the model input, class_id int64 [M]."""

    xyxy: F32
    class_id: I64
    t_us: int = 0

    def __post_init__(self) -> None:
        _require(self.xyxy, "xyxy", np.float32, (None, 4))
        _require(self.class_id, "class_id", np.int64, (None,))
        _require_same_length(xyxy=self.xyxy, class_id=self.class_id)

    def __len__(self) -> int:
        return len(self.class_id)


@dataclass(frozen=True)
class Detections:
    """What a detector saw in one window, best first.

    Attributes:
        xyxy: float32 [N, 4], half-open boxes in pixels of the sensor (of the model input, as a head returns them).
        score: float32 [N], not increasing, in [0, 1].
        class_id: int64 [N], index into the model's class names.
        t_us: sensor time at the end of the window.
    """

    xyxy: F32
    score: F32
    class_id: I64
    t_us: int = 0

    def __post_init__(self) -> None:
        _require(self.xyxy, "xyxy", np.float32, (None, 4))
        _require(self.score, "score", np.float32, (None,))
        _require(self.class_id, "class_id", np.int64, (None,))
        _require_same_length(xyxy=self.xyxy, score=self.score, class_id=self.class_id)

    def __len__(self) -> int:
        return len(self.score)

    def __getitem__(self, rows: slice | npt.NDArray[Any]) -> Detections:
        """Return the chosen rows."""
        return Detections(self.xyxy[rows], self.score[rows], self.class_id[rows], self.t_us)

    def __eq__(self, other: object) -> bool:
        """Return whether every number is the same, bit for bit."""
        if not isinstance(other, Detections):
            return NotImplemented
        same = self.t_us == other.t_us and len(self) == len(other)
        return same and all(
            getattr(self, name).tobytes() == getattr(other, name).tobytes() for name in ("xyxy", "score", "class_id")
        )

    __hash__ = None  # type: ignore[assignment]

    @staticmethod
    def empty(t_us: int = 0) -> Detections:
        """Return no detections."""
        return Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64), t_us)


@dataclass(frozen=True)
class FeatureInfo:
    """What a head may rely on: channels and stride (input px per cell, nominal) of each feature map, fine to coarse."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.channels) != len(self.strides) or not self.channels:
            raise ValueError(f"one stride per map, got channels {self.channels} and strides {self.strides}")


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
    """

    x: U16
    y: U16
    p: U8
    t: I64
    size: SensorSize
    time_unit: str = "us"
    t_reached: int | None = None
    leaps: I64 = field(default_factory=lambda: np.empty((0, 3), np.int64))
    triggers: Triggers = field(default_factory=Triggers.empty)
    losses: Losses = Losses()

    def __post_init__(self) -> None:
        if self.time_unit not in ("us", "ns"):
            raise ValueError(f"time_unit must be 'us' or 'ns', got {self.time_unit!r}")
        _require_same_length(x=self.x, y=self.y, p=self.p, t=self.t)

    def __len__(self) -> int:
        return len(self.t)

    @property
    def us_divisor(self) -> int:
        """Source ticks per microsecond."""
        return 1000 if self.time_unit == "ns" else 1

    def to_event_array(self) -> EventArray:
        """Return the events with time in microseconds (``ns // 1000``); columns are shared where possible."""
        t = self.t if self.time_unit == "us" else self.t // 1000
        return EventArray(self.x, self.y, self.p, t, self.size)
