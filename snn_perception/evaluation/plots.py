"""Plots of an evaluation as PNG files: precision over recall, confusion, firing rates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from snn_perception.evaluation.coco import Scores
from snn_perception.evaluation.firing import SATURATED, FiringReport
from snn_perception.evaluation.operating_point import OperatingPoint
from snn_perception.whole_file import whole_file

_INK, _GRID, _SOFT = "#22252b", "#d9dce2", "#6b7280"
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c6d00", "#56b4e9", "#555555")  # after Okabe and Ito
_ALARM = "#c0392b"
_STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": _SOFT,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "legend.frameon": False,
    "figure.facecolor": "white",
}
_PLATE = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}  # behind text that crosses lines
_MOST_LAYERS = 40  # bars that can still be read


def plot_curves(path: Path, scores: Scores, point: OperatingPoint) -> None:
    """Write precision over recall of each class at IoU 0.5, and as the mean over all IoUs (dashed)."""
    with _figure(path, 8.4, 4.8) as axes:
        for (name, curve), colour in zip(scores.curves.items(), _cycle(), strict=False):
            ap50, ap = scores.per_class[name]["AP50"], scores.per_class[name]["AP"]
            axes.plot(curve.recall, _reached(curve.precision_50), color=colour, lw=2, label=f"{name}: AP50 {ap50:.3f}")
            axes.plot(
                curve.recall, _reached(curve.precision), color=colour, lw=1.4, ls="--", label=f"{name}: AP {ap:.3f}"
            )
        if point.f1 > 0:
            text = f"all classes, score {point.score:.2f}: F1 {point.f1:.2f}"
            axes.plot([point.recall], [point.precision], "o", color=_INK, ms=6, zorder=5, label=text)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
        axes.set_title("Precision over recall (solid: IoU 0.5, dashed: mean of 0.50:0.95)")
        if scores.curves:
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=10)


def _reached(precision: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return a curve that ends where recall is not reached."""
    return np.where(precision > 0, precision, np.nan)


def plot_confusion(path: Path, scores: Scores) -> None:
    """Write the confusion matrix: counts, coloured by their share of the row."""
    matrix = scores.confusion
    counts = matrix.counts
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 2.6 + 1.05 * len(matrix.names)
    with _figure(path, side + 0.5, side) as axes:
        axes.grid(visible=False)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(*counts.shape):
            if row == column == len(matrix.names) - 1:
                text = "-"  # nothing, taken for nothing, is not counted
            else:
                text = f"{counts[row, column]:,}\n{share[row, column]:.0%}"
            dark = share[row, column] > 0.55
            axes.text(column, row, text, ha="center", va="center", color="white" if dark else _INK, fontsize=10)
        ticks = range(len(matrix.names))
        axes.set_xticks(ticks, matrix.names)
        axes.set_yticks(ticks, matrix.names)
        axes.set(xlabel="what was said", ylabel="what was there")
        axes.set_title(f"Confusion (score >= {matrix.min_score:.2f}, IoU >= {matrix.min_iou:g})", fontsize=11)


def plot_firing(path: Path, firing: FiringReport) -> None:
    """Write a bar for the firing rate of each layer; dead and saturated ones stand out."""
    names = list(firing.layers)[:_MOST_LAYERS]
    rates = [firing.layers[name].rate for name in names]
    odd = {*firing.dead, *firing.saturated}
    with _figure(path, 7.6, 1.6 + 0.3 * len(names)) as axes:
        places = np.arange(len(names))
        axes.barh(places, rates, color=[_ALARM if name in odd else _COLOURS[0] for name in names], height=0.7)
        for place, name, rate in zip(places, names, rates, strict=True):
            said = " dead" if name in firing.dead else " saturated" if name in firing.saturated else ""
            mean = firing.layers[name].mean
            said += f"  (mean {mean:.3f})" if mean > rate else ""
            axes.text(rate + 0.006, place, f"{rate:.1%}{said}", va="center", fontsize=9, bbox=_PLATE)
        axes.axvline(firing.sparsity, color=_SOFT, lw=1.2, ls="--", zorder=0.5)
        axes.set_yticks(places, names, fontsize=9)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        highest = max([*rates, firing.sparsity, 0.05])
        axes.set_xlim(0, min(1.0, highest) * 1.25 if highest < SATURATED else 1.2)
        axes.set_xlabel("share of outputs that fire")
        more = f", first {_MOST_LAYERS} of {len(firing.layers)} layers" if len(firing.layers) > _MOST_LAYERS else ""
        axes.set_title(f"Firing rate per layer; dashed: all layers, {firing.sparsity:.1%}{more}")


def _cycle() -> Iterator[str]:
    while True:
        yield from _COLOURS


@contextmanager
def _figure(path: Path, width: float, height: float) -> Iterator[Any]:
    """Yield the axes of a figure that is written to `path` at the end; no global state of matplotlib is touched."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure.add_subplot()
        with whole_file(path) as partial:
            # The layout leaves out what a square matrix makes the axes lose, so cut at what is drawn.
            figure.savefig(partial, dpi=130, format="png", bbox_inches="tight", pad_inches=0.12)
