"""What a set consists of: its sizes, the formats it can be written in, and which drives go to which split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from snn_perception.errors import SnnPerceptionError
from snn_perception.synth.style import SPLITS
from snn_perception.types import SensorSize

GENERATOR_VERSION = 1  # rises with every change that changes one bit of a set
FRAMES_PER_S = 250  # rendered; 500 gives 2 % more events at twice the time


@dataclass(frozen=True)
class SetSize:
    """How many recordings of which length, and how many of them are of one drive."""

    name: str
    recordings: Mapping[str, int]
    duration_us: int
    per_drive: int = 2

    def drives(self, split: str) -> int:
        """Return how many drives the recordings of a split come from."""
        return -(-self.recordings[split] // self.per_drive)


@dataclass(frozen=True)
class SetFormat:
    """What tells the formats apart.

    Attributes:
        name: of the data set that opens it, and of its label layout.
        sensor: its size.
        numbers: kind of an actor -> its class number there. Kinds that are missing are not labelled.
        label_hz: rates of labelling, of which a recording has one.
        size_filter: label filter whose least sizes are the usual ones.
        mev_per_s: usual event rate, for the estimate of disk space.
    """

    name: str
    sensor: SensorSize
    numbers: Mapping[str, int]
    label_hz: tuple[int, ...]
    size_filter: str
    mev_per_s: float

    @property
    def generator(self) -> str:
        """What every report and checkpoint tells of the data."""
        return f"synthetic-{self.name}/{GENERATOR_VERSION}"


SIZES: dict[str, SetSize] = {
    size.name: size
    for size in (
        SetSize("tiny", {"train": 2, "val": 1, "test": 1}, 3_000_000, per_drive=1),
        SetSize("small", {"train": 20, "val": 5, "test": 5}, 20_000_000),
        SetSize("full", {"train": 200, "val": 40, "test": 40}, 60_000_000),
    )
}
FORMATS: dict[str, SetFormat] = {
    form.name: form
    for form in (
        SetFormat("gen1", SensorSize(240, 304), {"car": 0, "pedestrian": 1}, (1, 2, 4), "gen1", 0.5),
        # Two-wheelers, trucks and buses have numbers there, and 1Mpx is labelled by the frame of a second camera.
        SetFormat(
            "one_mpx",
            SensorSize(720, 1280),
            {"pedestrian": 0, "cyclist": 1, "car": 2, "truck": 3, "bus": 4},
            (30, 60),
            "one_mpx",
            6.0,
        ),
    )
}
_FIRST_DAY = datetime(2000, 1, 1, 8)  # GEN1's cameras drove in 2017: no name of ours is one of theirs


@dataclass(frozen=True)
class SetRequest:
    """Which set is wanted.

    Attributes:
        size, format: names in `SIZES` and `FORMATS`.
        seed: each takes drives of its own, so that sets of two seeds share nothing.
        duplicates: write events beyond column 255 twice, as GEN1 has them.
    """

    size: str = "small"
    format: str = "gen1"
    seed: int = 0
    frames_per_s: int = FRAMES_PER_S
    duplicates: bool = False

    def __post_init__(self) -> None:
        for name, value, known in (("size", self.size, SIZES), ("format", self.format, FORMATS)):
            if value not in known:
                raise SnnPerceptionError(f"synthetic set: unknown {name} {value!r}; there are {', '.join(known)}")
        if not 0 <= self.seed < self.seeds:
            raise SnnPerceptionError(f"synthetic set: seed must lie in 0..{self.seeds - 1}, got {self.seed}")
        if not 50 <= self.frames_per_s <= 2000:
            raise SnnPerceptionError(f"synthetic set: frames per second must lie in 50..2000, got {self.frames_per_s}")

    @property
    def seeds(self) -> int:
        """How many seeds there are before a split runs out of drives."""
        largest = SIZES["full"]
        return min(count // largest.drives(split) for split, (_, count) in SPLITS.items())


@dataclass(frozen=True)
class RecordingPlan:
    """One recording to make.

    Attributes:
        drive: number of the drive in its split; its style and everything seen in it follow from the two.
        recording: number of the recording in its drive.
    """

    split: str
    drive: int
    recording: int
    duration_us: int
    format: str = "gen1"
    frames_per_s: int = FRAMES_PER_S
    duplicates: bool = False
    name: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self._name())

    def _name(self) -> str:
        """Return a name of GEN1's pattern, ``<drive date_time>_<t0>_<t1>``, another for every drive of every split."""
        first, _ = SPLITS[self.split]
        began = _FIRST_DAY + timedelta(days=first + self.drive, minutes=37 * self.drive % 600, seconds=self.drive % 60)
        t0 = self.recording * 60_000_000
        return f"{began:%y-%m-%d_%H-%M-%S}_{t0}_{t0 + self.duration_us}"


def plan_set(request: SetRequest, limit: int | None = None) -> tuple[RecordingPlan, ...]:
    """Return the recordings of a set, split after split; at most `limit` of each split."""
    size, largest = SIZES[request.size], SIZES["full"]
    plans = []
    for split, count in size.recordings.items():
        base = request.seed * largest.drives(split)
        for number in range(count if limit is None else min(limit, count)):
            drive, recording = divmod(number, size.per_drive)
            plans.append(
                RecordingPlan(
                    split,
                    base + drive,
                    recording,
                    size.duration_us,
                    request.format,
                    request.frames_per_s,
                    request.duplicates,
                )
            )
    return tuple(plans)


def amount(count: int) -> str:
    """Return a number of bytes in MB or GB."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"


def bytes_needed(plans: tuple[RecordingPlan, ...]) -> int:
    """Return about how much disk space recordings take."""
    return round(sum(plan.duration_us * FORMATS[plan.format].mev_per_s * 8 for plan in plans))
