"""Draw moments of a synthetic set: above what the camera looked at, below 50 ms of events, with the labels in both.

    python tools/synthetic_sheet.py DIR --split test -o docs/images/synthetic_sheet.png

One moment of each recording in turn; the scene is rendered again from the manifest, since a set holds events alone.
"""

from __future__ import annotations

import argparse
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from snn_perception.data.dataset import LabelledRecording, open_dataset
from snn_perception.data.labels import Labels
from snn_perception.discovery import load_registry
from snn_perception.events.window_source import events_between
from snn_perception.registry import Registry
from snn_perception.runtime.render import THEMES, BoxPen, draw_events, font, pillow_of
from snn_perception.synth.manifest import read_manifest
from snn_perception.synth.sizes import FORMATS, RecordingPlan
from snn_perception.synth.style import draw_style
from snn_perception.synth.world import World
from snn_perception.types import F32, U8
from snn_perception.whole_file import whole_file

WINDOW_US = 50_000
THEME = THEMES["dark"]
SCALE, GAP_PX, BAND_PX, TEXT_PX = 2, 8, 22, 14


def grey(luminance: F32) -> U8:
    """Return a scene [H, W] as RGB, on the log scale that the sensor sees, from its 1 % to its 99 % quantile."""
    level = np.log(luminance)
    low, high = np.quantile(level, [0.01, 0.99])
    shade = np.clip((level - low) / max(high - low, 1e-6), 0, 1) * 255
    return np.repeat(shade.astype(np.uint8)[..., None], 3, axis=2)


def with_boxes(picture: U8, labels: Labels, classes: tuple[str, ...]) -> Any:
    """Return the picture enlarged, with labels around their objects, as a Pillow image."""
    image, pen = pillow_of(np.repeat(np.repeat(picture, SCALE, axis=0), SCALE, axis=1))
    box_pen = BoxPen(pen, THEME, TEXT_PX - 2, width=image.width, height=image.height)
    for (left, top, width, height), class_id in zip(labels.xywh.tolist(), labels.class_id.tolist(), strict=True):
        corners = np.array([left, top, left + width, top + height], np.float32) * SCALE
        box_pen.box(corners, class_id)
        box_pen.label(corners, class_id, classes[class_id])
    return image


def tile(
    labelled: LabelledRecording, plan: RecordingPlan, classes: tuple[str, ...], registry: Registry, share: float
) -> tuple[str, Any, Any]:
    """Return a header, the scene and its events at the label time nearest to a share of the recording."""
    labels, recording = labelled.labels(), labelled.open(registry)
    times = np.unique(labels.t_us)
    t_us = int(times[np.argmin(np.abs(times - share * plan.duration_us))])
    here = labels[labels.t_us == t_us]
    style = draw_style(plan.split, plan.drive)
    view = World(style, plan.recording, FORMATS[plan.format].sensor, plan.duration_us).view(t_us)
    events = events_between(recording, registry, t_us - WINDOW_US, t_us)
    light = f"light {style.illumination:.2f}{', robustness' if style.robustness else ''}"
    header = f"{labelled.name}   {t_us / 1e6:.2f} s   {len(events) / 1000:.1f} k events   {light}"
    return (
        header,
        with_boxes(grey(view.luminance), here, classes),
        with_boxes(draw_events(events, THEME), here, classes),
    )


def page(tiles: list[tuple[str, Any, Any]], columns: int, title: str) -> Any:
    """Return all tiles on one page, each scene above its events."""
    width, height = tiles[0][1].size
    rows = -(-len(tiles) // columns)
    cell = BAND_PX + 2 * height + 3 * GAP_PX
    size = (rows * cell + BAND_PX + GAP_PX, columns * (width + GAP_PX) + GAP_PX, 3)
    image, pen = pillow_of(np.full(size, THEME.band, np.uint8))
    pen.text((GAP_PX, GAP_PX // 2), title, fill=THEME.text, font=font(TEXT_PX + 2))
    for number, (header, scene, events) in enumerate(tiles):
        row, column = divmod(number, columns)
        left, top = GAP_PX + column * (width + GAP_PX), BAND_PX + GAP_PX + row * cell
        pen.text((left, top), header, fill=THEME.text, font=font(TEXT_PX))
        image.paste(scene, (left, top + BAND_PX))
        image.paste(events, (left, top + BAND_PX + height + GAP_PX))
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a synthetic set")
    parser.add_argument("--split", default="test")
    parser.add_argument("--tiles", type=int, default=6)
    parser.add_argument("--columns", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.png")
    arguments = parser.parse_args()
    manifest, registry = read_manifest(arguments.folder), load_registry()
    dataset = open_dataset(f"{manifest.request.format}:{arguments.folder}", arguments.split, registry)
    plans = {plan.name: plan for plan in manifest.plans()}
    places = islice(cycle(dataset.recordings), arguments.tiles)
    tiles = [
        tile(one, plans[one.name], dataset.classes, registry, (number + 1) / (arguments.tiles + 1))
        for number, one in enumerate(places)
    ]
    title = f"{manifest.generator}, {manifest.request.size}, split {arguments.split}"
    image = page(tiles, arguments.columns, title)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(arguments.output) as partial:
        image.save(partial, "PNG", optimize=True)


if __name__ == "__main__":
    main()
