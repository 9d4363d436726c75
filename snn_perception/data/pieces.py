"""Parts of a recording: a stretch of its time, a box of its pixels, a coarser grid.

Classification samples are such parts of detection recordings, and half-size 1Mpx is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from snn_perception.errors import EventDataError
from snn_perception.events.recording import CHUNK_EVENTS, Recording
from snn_perception.types import I64, DecodedEvents, EventArray, SensorSize

DownsampleMode = Literal["merge", "nearest"]
DOWNSAMPLE_MODES = ("merge", "nearest")
Rows = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Piece:
    """Which part of a recording is meant; the default is all of it.

    Attributes:
        t_start_us, t_end_us: half-open stretch of sensor time; None reaches to the start or the end. Times stay sensor
            time.
        crop_xyxy: box in whole sensor pixels, half-open, inside the sensor; None for the whole image. Pixels of the
            piece count from its corner.
        downsample: pixels of the crop per pixel of the piece, along each side.
        downsample_mode: ``merge`` moves every event to its coarser pixel. ``nearest`` keeps only the events of the
            sampled pixel in each cell, ``factor // 2`` from its corner along each side: RVT's half-size 1Mpx, which
            loses three quarters of the events.
    """

    t_start_us: int | None = None
    t_end_us: int | None = None
    crop_xyxy: tuple[int, int, int, int] | None = None
    downsample: int = 1
    downsample_mode: DownsampleMode = "merge"

    def __post_init__(self) -> None:
        if self.downsample < 1 or self.downsample_mode not in DOWNSAMPLE_MODES:
            raise EventDataError(
                f"downsampling takes a factor from 1 and {' or '.join(DOWNSAMPLE_MODES)}, "
                f"got {self.downsample} and {self.downsample_mode!r}"
            )
        if None not in (self.t_start_us, self.t_end_us) and self.t_start_us >= self.t_end_us:  # type: ignore[operator]
            raise EventDataError(f"a piece must have a positive length, got [{self.t_start_us}, {self.t_end_us}) us")
        if self.crop_xyxy is not None:
            x1, y1, x2, y2 = self.crop_xyxy
            if x1 < 0 or y1 < 0 or x2 <= x1 or y2 <= y1:
                raise EventDataError(f"a crop is x1, y1, x2, y2 in whole pixels of the sensor, got {self.crop_xyxy}")

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left out or moved."""
        return self == Piece()

    def size_of(self, sensor: SensorSize) -> SensorSize:
        """Return the size of the piece of a sensor.

        Raises:
            EventDataError: if it lies outside the sensor, or nothing of it is left.
        """
        width, height = sensor.width, sensor.height
        if self.crop_xyxy is not None:
            x1, y1, x2, y2 = self.crop_xyxy
            if x2 > width or y2 > height:
                raise EventDataError(f"the crop {self.crop_xyxy} reaches beyond the sensor, {sensor}")
            width, height = x2 - x1, y2 - y1
        if min(width, height) < self.downsample:
            raise EventDataError(f"{width}x{height} px cannot be made {self.downsample} times smaller")
        return SensorSize(height // self.downsample, width // self.downsample)


def crop_events(events: EventArray, xyxy: tuple[int, int, int, int]) -> EventArray:
    """Return the events inside a box of whole pixels (half-open), with pixels counted from its corner.

    Raises:
        EventDataError: if the box reaches beyond the sensor.
    """
    return _placed_array(events, Piece(crop_xyxy=xyxy))


def select_time(events: EventArray, t_start_us: int | None = None, t_end_us: int | None = None) -> EventArray:
    """Return the events of ``[t_start_us, t_end_us)`` as a view; None reaches to the start or the end."""
    start = 0 if t_start_us is None else int(np.searchsorted(events.t, t_start_us))
    end = len(events) if t_end_us is None else int(np.searchsorted(events.t, t_end_us))
    return events[start : max(start, end)]


def downsample_events(events: EventArray, factor: int, mode: DownsampleMode = "merge") -> EventArray:
    """Return the events on a grid `factor` times coarser along each side; the modes are those of `Piece`.

    Pixels that do not fill a cell at the right and bottom edge are dropped.
    """
    return _placed_array(events, Piece(downsample=factor, downsample_mode=mode))


class PieceRecording(Recording):
    """A part of a file recording, read as a recording of its own.

    A stretch of time begins with the first event that reaches it and ends before the first that leaves it, so that
    events which come late by some microseconds stay where the file has them.

    Raises:
        EventDataError: if the recording holds packets, or the piece does not lie inside it.
    """

    def __init__(self, whole: Recording, piece: Piece) -> None:
        if whole.is_packets:
            raise EventDataError(
                f"{whole.path}: holds packets, of which no piece can be cut; make it DAT with 'convert'"
            )
        self.whole, self.piece = whole, piece
        self.path, self.format, self.encoding = whole.path, whole.format, whole.encoding
        self.frame_id = whole.frame_id
        self.size = piece.size_of(whole.size)

    @staticmethod
    def claims(path: Any) -> bool:
        """Return False: a piece is cut in code, never found on disk."""
        return False

    def chunks(
        self, max_events: int = CHUNK_EVENTS, *, start_us: int | None = None, align_us: int | None = None
    ) -> Iterator[DecodedEvents]:
        """Yield the piece's events; see `Recording.chunks`."""
        begin = max((t for t in (start_us, self.piece.t_start_us) if t is not None), default=None)
        end = self.piece.t_end_us
        for events in self.whole.chunks(max_events, start_us=begin, align_us=align_us):
            stop = len(events) if end is None else _first_at(events, end)
            inside = events if stop == len(events) else events.split(stop)[0]
            yield _placed(inside, self.piece, self.size)
            if inside is not events:
                return

    def progress(self) -> tuple[int, int]:
        """Return the progress in the whole recording."""
        return self.whole.progress()


def read_events(recording: Recording) -> EventArray:
    """Return all events of a file recording, late ones set to the time already reached; they must fit in memory.

    Raises:
        EventDataError: if the recording holds packets or cannot be read.
    """
    if recording.is_packets:
        raise EventDataError(f"{recording.path}: holds packets, not events; make it DAT with 'convert'")
    return recording.read()


def _first_at(events: DecodedEvents, t_us: int) -> int:
    """Return the index of the first event at or after a time, their number if there is none."""
    reached = np.flatnonzero(events.t >= t_us * events.us_divisor)
    return int(reached[0]) if len(reached) else len(events)


def _placed_array(events: EventArray, piece: Piece) -> EventArray:
    size = piece.size_of(events.size)
    x, y, kept = _place(events.x, events.y, piece, size)
    return EventArray(x, y, events.p[kept], events.t[kept], size)


def _placed(events: DecodedEvents, piece: Piece, size: SensorSize) -> DecodedEvents:
    """Return the events of a crop on its grid; a leap moves to the next event that stays."""
    x, y, kept = _place(events.x, events.y, piece, size)
    leaps: I64 = events.leaps.copy()
    if len(leaps):
        leaps[:, 0] = np.concatenate([[0], np.cumsum(kept)])[leaps[:, 0]]
    return replace(events, x=x, y=y, p=events.p[kept], t=events.t[kept], size=size, leaps=leaps)


def _place(
    x: npt.NDArray[np.uint16], y: npt.NDArray[np.uint16], piece: Piece, size: SensorSize
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint16], Rows]:
    """Return the kept events' pixels in the piece, and which events are kept."""
    x1, y1, _, _ = piece.crop_xyxy or (0, 0, 0, 0)
    factor = np.uint16(piece.downsample)
    x, y = x - np.uint16(x1), y - np.uint16(y1)  # what lies before the corner wraps to beyond any piece
    cell_x, cell_y = x // factor, y // factor
    kept = (cell_x < size.width) & (cell_y < size.height)
    if piece.downsample_mode == "nearest":
        kept &= (x % factor == factor // 2) & (y % factor == factor // 2)
    return cell_x[kept], cell_y[kept], kept
