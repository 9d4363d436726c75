"""Draw what training runs told of themselves, side by side: the loss over the updates, and the validations.

    python tools/training_curves.py carry=runs/carry_0,runs/carry_1 reset=runs/reset_0,runs/reset_1 -o curves.png

Each argument is one group: a label, and run folders (or their metrics.jsonl) that differ in nothing but the seed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from snn_perception.errors import SnnPerceptionError
from snn_perception.whole_file import whole_file

COLOURS = ("#1f77b4", "#d95f02", "#1b9e77", "#7570b3")
STYLES = ("-", "--", ":", "-.")
SMOOTHED_UPDATES = 100  # the loss of one update is that of a few labels


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="+", metavar="LABEL=RUN[,RUN...]")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.png")
    parser.add_argument("--metric", default="AP50", help="score of the validations (default: %(default)s)")
    options = parser.parse_args(arguments)
    draw([group(text) for text in options.groups], options.metric, options.output)


def group(text: str) -> tuple[str, list[list[dict[str, Any]]]]:
    """Return the label and the metrics of each run of an argument."""
    label, _, paths = text.partition("=")
    if not paths:
        raise SystemExit(f"{text}: expected LABEL=RUN[,RUN...]")
    return label, [metrics(Path(path)) for path in paths.split(",")]


def metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics."""
    path = path / "metrics.jsonl" if path.is_dir() else path
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise SnnPerceptionError(f"{path}: expected a run folder or its metrics.jsonl ({error})") from None


def losses(run: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the updates done and the mean loss of the `SMOOTHED_UPDATES` before, for each line that follows one."""
    lines = [line for line in run if line["kind"] == "train"]
    updates = np.array([line["updates"] for line in lines], float)
    sums = np.cumsum([0.0] + [sum(line["losses"].values()) for line in lines])
    first = np.searchsorted(updates, updates - SMOOTHED_UPDATES)
    last = np.arange(1, len(lines) + 1)
    return updates, (sums[last] - sums[first]) / (last - first)


def validations(run: list[dict[str, Any]], metric: str) -> tuple[list[int], list[float]]:
    """Return the updates done at each validation, and its score."""
    at, scores, updates = [], [], 0
    for line in run:
        if line["kind"] == "validation":
            at.append(updates)
            scores.append(line["scores"][metric])
        updates = line.get("updates", updates)
    return at, scores


def draw(groups: list[tuple[str, list[list[dict[str, Any]]]]], metric: str, path: Path) -> None:
    """Draw one line for each run, of one colour for each group."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    for (label, runs), colour in zip(groups, COLOURS, strict=False):
        for run, style, number in zip(runs, STYLES, range(len(runs)), strict=False):
            how = {"color": colour, "linestyle": style, "label": f"{label}, run {number}"}
            left.plot(*losses(run), **how)
            right.plot(*validations(run, metric), marker="o", **how)
    left.set(xlabel="updates", ylabel=f"training loss, mean of {SMOOTHED_UPDATES} updates")
    right.set(xlabel="updates", ylabel=f"validation {metric}")
    for axes in (left, right):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend()
    with whole_file(path) as part:
        figure.savefig(part, format="png", dpi=110)


if __name__ == "__main__":
    main()
