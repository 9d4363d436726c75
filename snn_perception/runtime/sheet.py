"""A recording on one page: moments of it with their labels, and the rate of events over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from snn_perception.errors import SnnPerceptionError
from snn_perception.runtime.rate_plot import Rate, RateStrip
from snn_perception.runtime.render import BRIGHTEST, THEMES, BoxPen, Theme, class_name, draw_counts, font, pillow_of
from snn_perception.runtime.snapshots import Snapshot
from snn_perception.types import F32, I64, SensorSize
from snn_perception.whole_file import cannot_write, whole_file

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

MAX_FRAMES = 100
_TILE_WIDTH_PX = 480  # larger sensors are shrunk to it
_WIDEST_ENLARGED_PX = 610  # small ones are enlarged by whole numbers up to this
_SHAPE = 1.6  # width to height that a page comes close to
_MARGIN_PX, _GAP_PX = 16, 10
_GAIN = 2  # counts times this are drawn: at the size of a tile a single event is hard to see otherwise


@dataclass(frozen=True, eq=False)
class Boxes:
    """Labelled boxes of one moment: xyxy float32 [M, 4] in pixels of the sensor, class_id int64 [M]."""

    xyxy: F32 = field(default_factory=lambda: np.empty((0, 4), np.float32))
    class_id: I64 = field(default_factory=lambda: np.empty(0, np.int64))


@dataclass(frozen=True, eq=False)
class Tile:
    """A moment: its events and its labels (None where the recording has none at all)."""

    snapshot: Snapshot
    boxes: Boxes | None = None


@dataclass(frozen=True, eq=False)
class Sheet:
    """What a page says.

    Attributes:
        title: of the page, such as the recording's name.
        facts: a line below it.
        size: sensor size, of which boxes tell.
        t_first_us: the sensor time that the page calls 0.
        rate: events over time.
        tiles: in order.
        classes: names of the boxes' classes.
    """

    title: str
    facts: str
    size: SensorSize
    t_first_us: int
    rate: Rate
    tiles: Sequence[Tile]
    classes: Sequence[str] = ()


def tile_shape(size: SensorSize) -> tuple[int, int]:
    """Return (h, w) of the counts that a tile of a sensor shows: the sensor's, or less for one wider than 480."""
    if size.width <= _TILE_WIDTH_PX:
        return min(size.height, 4 * _TILE_WIDTH_PX), size.width
    return max(1, min(round(size.height * _TILE_WIDTH_PX / size.width), 4 * _TILE_WIDTH_PX)), _TILE_WIDTH_PX


def draw_sheet(sheet: Sheet, theme: str = "dark") -> Any:
    """Return a Pillow image of the page.

    Raises:
        SnnPerceptionError: if Pillow is missing.
        ValueError: for an unknown theme, or without tiles.
    """
    if theme not in THEMES:
        raise ValueError(f"theme must be one of {', '.join(THEMES)}, got {theme!r}")
    if not sheet.tiles:
        raise ValueError("a sheet needs at least one tile")
    return _Page(sheet, THEMES[theme]).draw()


def write_sheet(sheet: Sheet, path: str | Path, theme: str = "dark") -> None:
    """Write the page as a PNG file, which appears when it is complete.

    Raises:
        SnnPerceptionError: if the file cannot be put there, or Pillow is missing.
    """
    image = draw_sheet(sheet, theme)
    path = check_sheet(path)
    try:
        with whole_file(path) as partial:
            image.save(partial, "PNG")
    except OSError as error:  # a full disk, for instance
        raise cannot_write(path, error) from error


def check_sheet(path: str | Path) -> Path:
    """Return the path; raise SnnPerceptionError unless its name is that of a PNG file."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise SnnPerceptionError(f"{path}: a sheet ends in .png, got {path.suffix or 'no suffix'!r}")
    return path


class _Page:
    """Where things lie on the page, in pixels, and the pen that puts them there."""

    def __init__(self, sheet: Sheet, theme: Theme) -> None:
        self.sheet, self.theme = sheet, theme
        height, width = sheet.tiles[0].snapshot.counts.shape[1:]
        self.scale = max(1, min(_WIDEST_ENLARGED_PX // width, 2 * _WIDEST_ENLARGED_PX // height))
        self.tile = (max(width * self.scale, 200), height * self.scale)  # wide enough for its header
        self.text = int(np.clip(self.tile[0] / 34, 12, 18))
        self.band = self.text + 10
        self.columns = _columns(len(sheet.tiles), self.tile[0] + _GAP_PX, self.tile[1] + self.band + _GAP_PX)
        self.inner = max(self.columns * (self.tile[0] + _GAP_PX) - _GAP_PX, 480)
        self.title, self.strip = int(1.4 * self.text), int(np.clip(self.inner / 11, 130, 240))
        self.top = _MARGIN_PX + self.title + self.text + 28
        rows = -(-len(sheet.tiles) // self.columns)
        self.strip_top = self.top + rows * (self.tile[1] + self.band + _GAP_PX)
        self.size = self.strip_top + self.strip + _MARGIN_PX, self.inner + 2 * _MARGIN_PX

    def draw(self) -> Any:
        self.image, self.pen = pillow_of(np.full((*self.size, 3), self.theme.band, np.uint8))
        self._head()
        for number, tile in enumerate(self.sheet.tiles, start=1):
            self._tile(number, tile)
        marks = [(tile.snapshot.t_start_us + tile.snapshot.t_end_us) // 2 for tile in self.sheet.tiles]
        strip = RateStrip(
            _MARGIN_PX, self.strip_top, self.inner, self.strip, self.theme, self.text, self.sheet.t_first_us
        )
        strip.draw(self.pen, self.sheet.rate, marks)
        return self.image

    def _head(self) -> None:
        legend = self._legend()
        title = shortened(self.pen, self.sheet.title, self.title, self.inner - legend)
        self.pen.text((_MARGIN_PX, _MARGIN_PX - 2), title, fill=self.theme.text, font=font(self.title))
        facts = shortened(self.pen, self.sheet.facts, self.text, self.inner)
        at = (_MARGIN_PX, _MARGIN_PX + self.title + 8)
        self.pen.text(at, facts, fill=self.theme.text, font=font(self.text))

    def _legend(self) -> int:
        """Draw what the colours mean at the top right; returns how much of the line it takes."""
        x = _MARGIN_PX + self.inner
        for name, colour in (("OFF", self.theme.off), ("ON", self.theme.on)):
            x -= int(self.pen.textlength(name, font=font(self.text)))
            self.pen.text((x, _MARGIN_PX), name, fill=self.theme.text, font=font(self.text))
            x -= self.text + 5
            self.pen.rectangle((x, _MARGIN_PX + 2, x + self.text - 2, _MARGIN_PX + self.text), fill=colour)
            x -= 14
        return _MARGIN_PX + self.inner - x

    def _tile(self, number: int, tile: Tile) -> None:
        row, column = divmod(number - 1, self.columns)
        left = _MARGIN_PX + column * (self.tile[0] + _GAP_PX)
        top = self.top + row * (self.tile[1] + self.band + _GAP_PX)
        head = shortened(self.pen, self._tile_head(number, tile), self.text, self.tile[0])
        self.pen.text((left + 1, top + 3), head, fill=self.theme.text, font=font(self.text))
        off, on = tile.snapshot.counts
        colours = draw_counts(np.minimum(on, BRIGHTEST) * _GAIN, np.minimum(off, BRIGHTEST) * _GAIN, self.theme)
        enlarged = np.repeat(np.repeat(colours, self.scale, axis=0), self.scale, axis=1)
        picture, pen = pillow_of(enlarged)
        if tile.boxes is not None:
            self._boxes(pen, tile.boxes, picture.width, picture.height)
        self.image.paste(picture, (left, top + self.band))

    def _tile_head(self, number: int, tile: Tile) -> str:
        snapshot, boxes = tile.snapshot, tile.boxes
        seconds = (snapshot.t_end_us - self.sheet.t_first_us) / 1e6
        parts = [f"{number}", f"{seconds:.3f} s", f"{snapshot.events:,} events"]
        if boxes is not None:
            parts.append(f"{len(boxes.class_id)} label{'' if len(boxes.class_id) == 1 else 's'}")
        return "   ".join(parts)

    def _boxes(self, pen: ImageDraw, boxes: Boxes, width: int, height: int) -> None:
        box_pen = BoxPen(pen, self.theme, self.text - 1, width=width, height=height)
        to_tile = np.array([width / self.sheet.size.width, height / self.sheet.size.height] * 2, np.float32)
        placed = list(zip(boxes.xyxy * to_tile, boxes.class_id.tolist(), strict=True))
        for xyxy, class_id in placed:
            box_pen.box(xyxy, class_id)
        for xyxy, class_id in placed:
            box_pen.label(xyxy, class_id, class_name(self.sheet.classes, class_id))


def shortened(pen: ImageDraw, text: str, text_px: int, width_px: int) -> str:
    """Return a text with its middle left out where it would be wider than `width_px`."""
    if pen.textlength(text, font=font(text_px)) <= width_px:
        return text
    keep = len(text)
    while keep > 2 and pen.textlength(_without_middle(text, keep), font=font(text_px)) > width_px:
        keep -= 1
    return _without_middle(text, keep)


def _without_middle(text: str, keep: int) -> str:
    return f"{text[: keep - keep // 2]}...{text[len(text) - keep // 2 :]}"


def _columns(count: int, width: int, height: int) -> int:
    """Return the number of columns at which the tiles come closest to the page's shape and fill their rows best."""

    def badness(columns: int) -> tuple[float, int]:
        rows = -(-count // columns)
        return abs(np.log(columns * width / (rows * height) / _SHAPE)) + 0.5 * (rows * columns - count) / count, columns

    return min(range(1, count + 1), key=badness)
