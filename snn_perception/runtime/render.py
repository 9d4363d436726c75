"""One window as a picture: its events, the detections with their labels, and a line of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from snn_perception.errors import SnnPerceptionError
from snn_perception.types import F32, U8, Detections, EventArray, EventWindow, ImageWindow, Window

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

Colour = tuple[int, int, int]

BRIGHTEST = 4  # events of a polarity at which a pixel has its full colour
_DASH_PX = 5
_MIN_WIDTH_PX = 600  # smaller sensors are enlarged to about this


@dataclass(frozen=True)
class Theme:
    """Colours: background, full ON and OFF, header band, header text, and the boxes of the classes in turn."""

    background: Colour
    on: Colour
    off: Colour
    band: Colour
    text: Colour
    classes: tuple[Colour, ...]


# Hues that people with the common colour blindnesses tell apart (after Okabe and Ito); no box shares a hue with events.
THEMES = {
    "dark": Theme(
        background=(16, 18, 24),
        on=(120, 200, 255),
        off=(235, 120, 60),
        band=(34, 38, 48),
        text=(232, 234, 240),
        classes=((255, 225, 70), (60, 230, 150), (255, 120, 220), (190, 160, 255), (255, 255, 255)),
    ),
    "light": Theme(
        background=(250, 250, 250),
        on=(20, 110, 200),
        off=(205, 85, 20),
        band=(226, 230, 236),
        text=(24, 28, 36),
        classes=((150, 105, 0), (0, 125, 80), (180, 20, 120), (95, 60, 190), (0, 0, 0)),
    ),
}


def draw_window(
    window: Window,
    detections: Detections,
    classes: Sequence[str],
    *,
    number: int | None = None,
    scale: int | None = None,
    theme: str = "dark",
    note: str = "",
    labels: Detections | None = None,
) -> U8:
    """Return uint8 RGB [H, W, 3]: the window's events or image enlarged `scale` times, its boxes, and a header above.

    A pixel is blue where the scene got brighter (ON) and orange where it got darker (OFF); more events, more colour.

    Args:
        window: what to show. detections: boxes in pixels of its sensor.
        classes: class names. number: of the window, for the header.
        scale: screen pixels per sensor pixel; by default as many as make the picture about 600 wide.
        theme: ``dark`` or ``light``.
        note: a line below the picture, e.g. that the model is not trained.
        labels: what is known to be there, drawn dashed below the detections, in the colour of the text.

    Raises:
        SnnPerceptionError: if Pillow is missing.
        ValueError: for an unknown theme or a scale below 1.
    """
    if theme not in THEMES:
        raise ValueError(f"theme must be one of {', '.join(THEMES)}, got {theme!r}")
    scale = default_scale(window.size.width) if scale is None else scale
    if scale < 1:
        raise ValueError(f"scale must be at least 1, got {scale}")
    colours = THEMES[theme]
    plain = window.image if isinstance(window, ImageWindow) else draw_events(window.events, colours)
    enlarged = np.repeat(np.repeat(plain, scale, axis=0), scale, axis=1)
    height, width = enlarged.shape[:2]
    text_px = int(np.clip(width / 46, 11, 18))
    picture = _picture_with_boxes(enlarged, detections, classes, scale, text_px, colours, labels)
    header, footer = text_px + 10, (text_px + 10 if note else 0)
    image, pen = pillow_of(np.full((header + height + footer, width, 3), colours.band, np.uint8))
    image.paste(picture, (0, header))
    pen.text((6, 4), _header(window, detections, number), fill=colours.text, font=font(text_px))
    pen.text((6, header + height + 4), note, fill=colours.text, font=font(text_px))
    return np.asarray(image)


def default_scale(width_px: int) -> int:
    """Return the whole number that enlarges a sensor of this width to about 600 pixels; never below 1."""
    return max(1, round(_MIN_WIDTH_PX / width_px))


def draw_events(events: EventArray, theme: Theme = THEMES["dark"]) -> U8:
    """Return uint8 RGB [height, width, 3], one picture pixel per sensor pixel."""
    cells = events.size.height * events.size.width
    at = events.y.astype(np.int64) * events.size.width + events.x
    is_on = events.p != 0
    on, off = (np.bincount(at[rows], minlength=cells) for rows in (is_on, ~is_on))
    return draw_counts(on, off, theme).reshape(events.size.height, events.size.width, 3)


def draw_counts(on: npt.NDArray[Any], off: npt.NDArray[Any], theme: Theme = THEMES["dark"]) -> U8:
    """Return uint8 RGB [..., 3] for counts of ON and OFF events [...]; from `BRIGHTEST` on the colour is full."""
    row = np.minimum(on, BRIGHTEST).astype(np.intp) * (BRIGHTEST + 1) + np.minimum(off, BRIGHTEST)
    picture: U8 = _palette(theme)[row]
    return picture


@lru_cache(maxsize=8)
def _palette(theme: Theme) -> U8:
    """Return the colour of each pair of counts, uint8 [(n + 1)^2, 3], row ``on * (n + 1) + off``."""
    on, off = (axis.ravel()[:, None] for axis in np.mgrid[: BRIGHTEST + 1, : BRIGHTEST + 1].astype(float))
    total = np.maximum(on + off, 1)
    hue = (on * np.array(theme.on) + off * np.array(theme.off)) / total
    strength = np.where(on + off > 0, 0.5 + 0.5 * (np.minimum(total, BRIGHTEST) - 1) / (BRIGHTEST - 1), 0)
    colours: U8 = np.rint(hue * strength + np.array(theme.background) * (1 - strength)).astype(np.uint8)
    return colours


def _header(window: Window, detections: Detections, number: int | None) -> str:
    parts = [f"{window.t_end_us / 1e6:.3f} s"]
    if number is not None:
        parts.append(f"window {number}")
    if isinstance(window, EventWindow):
        parts.append(_count(len(window.events), "event"))
    parts.append(_count(len(detections), "detection"))
    if window.lossy:
        parts.append("packets lost")
    if window.after_gap:
        parts.append("after a gap")
    return "   ".join(parts)


def _picture_with_boxes(
    enlarged: U8,
    detections: Detections,
    classes: Sequence[str],
    scale: int,
    text_px: int,
    theme: Theme,
    labels: Detections | None,
) -> Any:
    """Return a Pillow image of the events with the boxes and then the labels on them, the best ones on top."""
    image, draw = pillow_of(enlarged)
    pen = BoxPen(draw, theme, text_px, width=image.width, height=image.height)
    for xyxy in () if labels is None else labels.xyxy * scale:
        pen.dashed(xyxy)
    worst_first = list(zip(detections.xyxy * scale, detections.score, detections.class_id.tolist(), strict=True))[::-1]
    for xyxy, _, class_id in worst_first:
        pen.box(xyxy, class_id)
    for xyxy, score, class_id in worst_first:
        pen.label(xyxy, class_id, f"{class_name(classes, class_id)}  {score:.2f}")
    return image


@dataclass(frozen=True)
class BoxPen:
    """Draws boxes and labels into a picture of a size in pixels."""

    draw: ImageDraw
    theme: Theme
    text_px: int
    width: int
    height: int

    def box(self, xyxy: F32, class_id: int) -> None:
        """Draw the outline, with a rim in the background's colour so that it shows among events."""
        x1, y1, x2, y2 = self._corners(xyxy)
        self.draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=self.theme.background, width=4)
        self.draw.rectangle((x1, y1, x2, y2), outline=self._colour(class_id), width=2)

    def dashed(self, xyxy: F32) -> None:
        """Draw a thin dashed outline in the text's colour."""
        x1, y1, x2, y2 = self._corners(xyxy)
        for x in range(x1, x2 + 1, 2 * _DASH_PX):
            for y in (y1, y2):
                self.draw.line((x, y, min(x + _DASH_PX, x2), y), fill=self.theme.text)
        for y in range(y1, y2 + 1, 2 * _DASH_PX):
            for x in (x1, x2):
                self.draw.line((x, y, x, min(y + _DASH_PX, y2)), fill=self.theme.text)

    def label(self, xyxy: F32, class_id: int, text: str) -> None:
        """Draw the label above the box, below it where there is no room, or else inside."""
        x1, y1, _, y2 = self._corners(xyxy)
        left, up, right, down = self.draw.textbbox((0, 0), text, font=font(self.text_px))
        wide, high = right - left + 6, down - up + 5
        x = max(0, min(x1, self.width - wide))
        y = next((y for y in (y1 - high, y2 + 1) if 0 <= y < self.height - high), y1 + 2)
        colour = self._colour(class_id)
        self.draw.rectangle((x, y, x + wide, y + high), fill=colour)
        self.draw.text((x + 3 - left, y + 3 - up), text, fill=_readable_on(colour), font=font(self.text_px))

    def _corners(self, xyxy: F32) -> tuple[int, int, int, int]:
        x1, y1, x2, y2 = (int(v) for v in np.clip(np.nan_to_num(xyxy), 0, [self.width - 1, self.height - 1] * 2))
        return x1, y1, max(x1, x2), max(y1, y2)

    def _colour(self, class_id: int) -> Colour:
        return self.theme.classes[class_id % len(self.theme.classes)]


def _readable_on(colour: Colour) -> Colour:
    red, green, blue = colour
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else (255, 255, 255)


def class_name(classes: Sequence[str], class_id: int) -> str:
    """Return the name of a class, ``class N`` for one that has none."""
    return classes[class_id] if 0 <= class_id < len(classes) else f"class {class_id}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def pillow_of(canvas: U8) -> tuple[Any, ImageDraw]:
    """Return a Pillow image of `canvas` and a pen for it."""
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise SnnPerceptionError("drawing needs Pillow: pip install pillow") from error
    image = Image.fromarray(canvas)
    return image, ImageDraw.Draw(image)


@lru_cache(maxsize=8)
def font(size_px: int) -> Any:
    """Return Pillow's own font at a size; before Pillow 10.1 it has one size only."""
    from PIL import ImageFont

    try:
        return ImageFont.load_default(size_px)
    except TypeError:
        return ImageFont.load_default()
