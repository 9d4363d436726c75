"""A page of sample frames: the events of the window, what was there, and what the detector said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from snn_perception.data.dataset import LabelledRecording
from snn_perception.evaluation.samples import SampleFrame
from snn_perception.events.window_source import events_between
from snn_perception.registry import Registry
from snn_perception.runtime.render import THEMES, BoxPen, Colour, class_name, draw_counts, font, pillow_of
from snn_perception.runtime.sheet import shortened
from snn_perception.runtime.snapshots import shrink
from snn_perception.types import F32, U8, EventArray, SensorSize
from snn_perception.whole_file import cannot_write, whole_file

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

HEADINGS = {
    "best": "Where it went best",
    "worst": "Where it went worst",
    "silent": "Objects that emit no events",
}
_TILE_WIDTH_PX = 608
_MARGIN_PX, _GAP_PX, _TEXT_PX = 16, 10, 15
_BAND_PX = _TEXT_PX + 10
_MISSED: Colour = (255, 90, 90)
_THEME = THEMES["dark"]


@dataclass(frozen=True, eq=False)
class Shot:
    """A sample frame and the events of its window, or the image where that is what the model sees."""

    frame: SampleFrame
    recording: str
    events: EventArray
    image: U8 | None = None


def shots_of(
    picked: Mapping[str, Sequence[SampleFrame]],
    recordings: Sequence[LabelledRecording],
    registry: Registry,
    window_us: int,
) -> dict[str, list[Shot]]:
    """Return the frames with their events, read again from the recordings, those without frames left out."""
    shots: dict[str, list[Shot]] = {}
    for kind, frames in picked.items():
        for frame in frames:
            recording = recordings[frame.recording]
            if recording.is_sequence:  # its events are gone
                continue
            if recording.is_image:
                image = recording.image()
                nothing = EventArray.empty(SensorSize(*image.shape[:2]))
                shots.setdefault(kind, []).append(Shot(frame, recording.name, nothing, image))
                continue
            events = events_between(recording.open(registry), registry, frame.end_us - window_us, frame.end_us)
            shots.setdefault(kind, []).append(Shot(frame, recording.name, events))
    return shots


def write_samples(
    shots: Mapping[str, Sequence[Shot]], path: str | Path, classes: Sequence[str], *, title: str, min_score: float
) -> None:
    """Write the page as a PNG file, which appears when it is complete.

    Raises:
        SnnPerceptionError: if the file cannot be put there, or Pillow is missing.
        ValueError: without any frame.
    """
    image = draw_samples(shots, classes, title=title, min_score=min_score)
    path = Path(path)
    try:
        with whole_file(path) as partial:
            image.save(partial, "PNG", optimize=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def draw_samples(shots: Mapping[str, Sequence[Shot]], classes: Sequence[str], *, title: str, min_score: float) -> Any:
    """Return a Pillow image with a row of tiles for each kind of frame, and a legend."""
    if not any(shots.values()):
        raise ValueError("a page needs at least one frame")
    size = next(shot.events.size for row in shots.values() for shot in row)
    tile = _tile_size(size)
    columns = max(len(row) for row in shots.values())
    width = 2 * _MARGIN_PX + columns * (tile[0] + _GAP_PX) - _GAP_PX
    row_height = _BAND_PX + _BAND_PX + tile[1] + _GAP_PX
    top = _MARGIN_PX + 2 * _BAND_PX + 6
    canvas = np.full((top + len(shots) * row_height + _MARGIN_PX, width, 3), _THEME.band, np.uint8)
    image, pen = pillow_of(canvas)
    _head(pen, title, min_score, width, of_events=any(shot.image is None for row in shots.values() for shot in row))
    for row, (kind, line) in enumerate(shots.items()):
        y = top + row * row_height
        pen.text((_MARGIN_PX, y), HEADINGS.get(kind, kind), fill=_THEME.text, font=font(_TEXT_PX + 2))
        for column, shot in enumerate(line):
            x = _MARGIN_PX + column * (tile[0] + _GAP_PX)
            text = shortened(pen, _caption(shot), _TEXT_PX, tile[0])
            pen.text((x, y + _BAND_PX), text, fill=_THEME.text, font=font(_TEXT_PX))
            fitted = tile if shot.image is None else _fitted(shot.events.size, tile)
            image.paste(_tile(shot, fitted, classes), (x, y + 2 * _BAND_PX))
    return image


def _head(pen: ImageDraw, title: str, min_score: float, width: int, *, of_events: bool) -> None:
    text = shortened(pen, title, _TEXT_PX + 4, width - 2 * _MARGIN_PX)
    pen.text((_MARGIN_PX, _MARGIN_PX - 4), text, fill=_THEME.text, font=font(_TEXT_PX + 4))
    x, y = _MARGIN_PX, _MARGIN_PX + _BAND_PX
    for colour, text in (
        *([(_THEME.on, "brighter"), (_THEME.off, "darker")] if of_events else []),
        (_THEME.text, "corners: label, found"),
        (_MISSED, "corners: label, missed"),
        (_THEME.classes[0], f"box: detection with a score of at least {min_score:.2f}"),
    ):
        pen.rectangle((x, y + 3, x + _TEXT_PX - 3, y + _TEXT_PX), fill=colour)
        pen.text((x + _TEXT_PX + 3, y), text, fill=_THEME.text, font=font(_TEXT_PX))
        x += _TEXT_PX + 3 + int(pen.textlength(text, font=font(_TEXT_PX))) + 22


def _caption(shot: Shot) -> str:
    frame = shot.frame
    found, said = int(frame.found.sum()), len(frame.hit)
    false = said - int(frame.hit.sum())
    time = f"{frame.t_us / 1e6:.2f} s   " if shot.image is None else ""
    return f"{time}{found} of {len(frame.found)} found   {false} false   {shot.recording}"


def _tile_size(size: SensorSize) -> tuple[int, int]:
    """Return width and height of a tile: a small sensor enlarged by a whole number, a large one shrunk."""
    if size.width > _TILE_WIDTH_PX:
        return _TILE_WIDTH_PX, max(1, round(size.height * _TILE_WIDTH_PX / size.width))
    scale = max(1, _TILE_WIDTH_PX // size.width)
    return size.width * scale, size.height * scale


def _fitted(size: SensorSize, tile: tuple[int, int]) -> tuple[int, int]:
    """Return width and height of an image as large as it fits into a tile."""
    share = min(tile[0] / size.width, tile[1] / size.height)
    return max(1, round(size.width * share)), max(1, round(size.height * share))


def _tile(shot: Shot, tile: tuple[int, int], classes: Sequence[str]) -> Any:
    size, frame = shot.events.size, shot.frame
    image, pen = pillow_of(_picture(shot, tile))
    to_tile = np.array([tile[0] / size.width, tile[1] / size.height] * 2, np.float32)
    boxes = BoxPen(pen, _THEME, _TEXT_PX - 1, width=tile[0], height=tile[1])
    said = list(zip(frame.xyxy * to_tile, frame.score, frame.class_id.tolist(), frame.hit.tolist(), strict=True))[::-1]
    for xyxy, _, class_id, _ in said:
        boxes.box(xyxy, class_id)
    there = zip(frame.truth_xyxy * to_tile, frame.truth_class.tolist(), frame.found, frame.silent, strict=True)
    for xyxy, class_id, found, silent in there:
        colour = _THEME.text if found else _MISSED
        _corners(pen, xyxy, tile, colour)
        words = ([] if found else [class_name(classes, class_id)]) + (["silent"] if silent else [])
        _note(pen, xyxy, tile, ", ".join(words), colour)
    for xyxy, score, class_id, hit in said:
        boxes.label(xyxy, class_id, f"{class_name(classes, class_id)} {score:.2f}{'' if hit else ' false'}")
    return image


def _picture(shot: Shot, tile: tuple[int, int]) -> U8:
    """Return what is under the boxes, uint8 [H, W, 3] of the tile's size."""
    if shot.image is not None:
        return np.asarray(pillow_of(shot.image)[0].resize(tile))
    size = shot.events.size
    counts = shrink(_counts(shot.events), (min(size.height, tile[1]), min(size.width, tile[0])))
    picture = draw_counts(counts[1], counts[0], _THEME)
    scale = tile[0] // picture.shape[1]
    return np.repeat(np.repeat(picture, scale, axis=0), scale, axis=1)


def _counts(events: EventArray) -> Any:
    """Return OFF and ON events of each pixel, uint8 [2, H, W], saturated."""
    height, width = events.size.height, events.size.width
    at = (events.p.astype(np.int64) * height + events.y) * width + events.x
    counts = np.bincount(at, minlength=2 * height * width)
    return np.minimum(counts, 255).astype(np.uint8).reshape(2, height, width)


def _corners(pen: ImageDraw, xyxy: F32, tile: tuple[int, int], colour: Colour) -> None:
    """Draw the corners of a box, so that it shows beside a detection's outline."""
    x1, y1, x2, y2 = (float(v) for v in np.clip(xyxy, 0, [tile[0] - 1, tile[1] - 1] * 2))
    long = max(4.0, 0.22 * min(x2 - x1, y2 - y1))
    for x, y, to_x, to_y in ((x1, y1, 1, 1), (x2, y1, -1, 1), (x1, y2, 1, -1), (x2, y2, -1, -1)):
        for shade, line in ((_THEME.background, 5), (colour, 3)):
            pen.line((x, y, x + to_x * long, y), fill=shade, width=line)
            pen.line((x, y, x, y + to_y * long), fill=shade, width=line)


def _note(pen: ImageDraw, xyxy: F32, tile: tuple[int, int], text: str, colour: Colour) -> None:
    """Write what was missed or silent below the box, or inside it at the bottom edge."""
    wide = pen.textlength(text, font=font(_TEXT_PX - 2))
    x = float(np.clip(xyxy[0], 0, max(0.0, tile[0] - wide - 4)))
    y = float(xyxy[3]) + 3
    y = y if y + _TEXT_PX < tile[1] else float(np.clip(xyxy[3], 0, tile[1])) - _TEXT_PX - 4
    pen.text((x + 2, y), text, fill=colour, font=font(_TEXT_PX - 2), stroke_width=2, stroke_fill=_THEME.background)
