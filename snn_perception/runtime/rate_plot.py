"""Event rate over time as a plot: bars of text for a terminal, a strip of pixels for a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from snn_perception.runtime.render import Theme, font
from snn_perception.types import I64

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII_BLOCKS = " .:|"  # where the output has no block characters


@dataclass(frozen=True, eq=False)
class Rate:
    """Events over time.

    Attributes:
        bin_us: width of a bin. t_start_us: sensor time at which the first begins.
        events: of each bin, int64 [N]. on: those of them that are ON, int64 [N].
    """

    bin_us: int
    t_start_us: int
    events: I64
    on: I64

    @property
    def highest_hz(self) -> float:
        """Rate of the fullest bin."""
        return float(self.events.max()) * 1e6 / self.bin_us if len(self.events) else 0.0


def rate_text(hz: float) -> str:
    """Return a rate for people, such as ``1.25 M/s``."""
    for limit, unit in ((1e9, "G/s"), (1e6, "M/s"), (1e3, "k/s")):
        if hz >= 0.9995 * limit:
            return f"{hz / limit:.3g} {unit}" if hz / limit < 999.5 else f"{hz / limit:,.0f} {unit}"
    return f"{hz:.3g} /s"


def text_bars(values: npt.NDArray[np.integer], columns: int, rows: int, blocks: str = BLOCKS) -> list[str]:
    """Return `rows` lines of at most `columns` characters, a bar for each value, or for the mean of some.

    A value above 0 always shows.
    """
    if not len(values) or columns < 1:
        return []
    heights = _at_most(values, columns)
    repeats = columns // len(heights)
    levels = len(blocks) - 1
    steps = np.ceil(heights / max(heights.max(), 1e-12) * rows * levels).astype(int)
    lines = []
    for row in range(rows - 1, -1, -1):
        lines.append("".join(blocks[step] * repeats for step in np.clip(steps - row * levels, 0, levels).tolist()))
    return lines


def _at_most(values: npt.NDArray[np.integer], columns: int) -> npt.NDArray[np.floating]:
    """Return the values as means of neighbours, so that there are at most `columns`."""
    n = min(columns, len(values))
    starts = np.arange(n) * len(values) // n
    return np.add.reduceat(values.astype(float), starts) / np.diff(np.append(starts, len(values)))


@dataclass(frozen=True)
class RateStrip:
    """Draws the rate into a box of a picture: ON below and OFF above in each bar, axes, and marks of moments.

    Attributes:
        left, top, width, height: of the whole strip with its labels, in pixels.
        zero_us: the sensor time that the axis calls 0.
    """

    left: int
    top: int
    width: int
    height: int
    theme: Theme
    text_px: int
    zero_us: int = 0

    def draw(self, pen: ImageDraw, rate: Rate, marks_us: Sequence[int] = ()) -> None:
        """Draw the strip; each of `marks_us` gets a line and its number, counted from 1."""
        if not len(rate.events):
            return
        x0, y0, x1, y1 = self._area()
        pen.rectangle((x0, y0, x1, y1), fill=self.theme.background)
        self._bars(pen, rate)
        self._time_axis(pen, rate)
        high = rate_text(rate.highest_hz)
        self._put(pen, x0 - 8, y0, high, across=1, down=0)
        self._put(pen, x0 - 8, y1, "0", across=1, down=1)
        for number, t_us in enumerate(marks_us, start=1):
            x = min(max(self._x(rate, t_us), x0), x1)
            pen.line((x, y0 - 3, x, y1), fill=self.theme.text, width=1)
            self._put(pen, x, y0 - 5, str(number), across=0.5, down=1)

    def _put(self, pen: ImageDraw, x: int, y: int, text: str, *, across: float, down: float) -> None:
        """Write a text so that (x, y) lies at these shares of its box."""
        left, up, right, low = pen.textbbox((0, 0), text, font=font(self.text_px))
        at = x - left - across * (right - left), y - up - down * (low - up)
        pen.text(at, text, fill=self.theme.text, font=font(self.text_px))

    def _area(self) -> tuple[int, int, int, int]:
        """Return the corners of the plot itself."""
        line = self.text_px + 8
        return self.left + 6 * self.text_px, self.top + line, self.left + self.width, self.top + self.height - line

    def _x(self, rate: Rate, t_us: float) -> int:
        x0, _, x1, _ = self._area()
        return round(x0 + (t_us - rate.t_start_us) * (x1 - x0) / (rate.bin_us * len(rate.events)))

    def _bars(self, pen: ImageDraw, rate: Rate) -> None:
        _, y0, _, y1 = self._area()
        unit = (y1 - y0) / max(int(rate.events.max()), 1)
        for i, (n, on) in enumerate(zip(rate.events.tolist(), rate.on.tolist(), strict=True)):
            left, right = (self._x(rate, rate.t_start_us + (i + k) * rate.bin_us) for k in (0, 1))
            right = max(right - 1, left)
            top, middle = (y1 - round(count * unit) for count in (n, on))
            if n:
                pen.rectangle((left, min(top, y1 - 1), right, y1), fill=self.theme.off)
            if on:
                pen.rectangle((left, min(middle, y1), right, y1), fill=self.theme.on)

    def _time_axis(self, pen: ImageDraw, rate: Rate) -> None:
        x0, _, x1, y1 = self._area()
        begin, end = ((rate.t_start_us + k * rate.bin_us - self.zero_us) / 1e6 for k in (0, len(rate.events)))
        step = _round_step((end - begin) / max(2, (x1 - x0) // 140))
        decimals = max(0, -int(np.floor(np.log10(step))))
        for k in range(int(np.ceil(begin / step)), int(end / step) + 1):
            x = self._x(rate, k * step * 1e6 + self.zero_us)
            pen.line((x, y1, x, y1 + 4), fill=self.theme.text, width=1)
            if x0 + 8 <= x <= x1 - 20 or k == 0:
                self._put(pen, x, y1 + 7, f"{k * step:.{decimals}f} s", across=0.5, down=0)


def _round_step(least: float) -> float:
    """Return the next of 1, 2 and 5 times a power of ten."""
    power = 10.0 ** np.floor(np.log10(least))
    return float(next(k * power for k in (1, 2, 5, 10) if k * power >= least * (1 - 1e-9)))
