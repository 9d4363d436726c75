"""1 Mpx automotive detection (Perot et al., NeurIPS 2020): 1280x720, cuts of 60 s, labels at 30 or 60 Hz."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from snn_perception.api import Dataset, LabelRules, Piece, SensorSize, named_filter

from .paired import PairedLayout, open_paired

# The files also hold truck, bus, traffic sign and traffic light (3 to 6), which nobody's protocol uses: they are
# dropped, and trucks and buses are not made cars.
CLASSES = ("pedestrian", "two-wheeler", "car")
LAYOUT = PairedLayout(name="one_mpx", classes=CLASSES, sensor=SensorSize(720, 1280))


def one_mpx(
    root: str | Path,
    split: str,
    *,
    limit: int | None = None,
    filter: str = "none",
    skip_faulty: bool = True,
    label_every_us: int | None = None,
    downsample: int = 1,
    downsample_mode: Literal["merge", "nearest"] = "merge",
) -> Dataset:
    """Return a split of 1Mpx, as published, converted to HDF5 or RAW, or preprocessed by RVT.

    Args:
        root: folder that holds train, val and test, or the split's own folder.
        limit: at most so many recordings.
        filter: which labels count, by the name of a preset, judged at the size the boxes then have.
        skip_faulty: leave recordings out whose files are damaged as far as their first bytes tell.
        label_every_us: at most one label time in each interval of this length; 100000 comes near RVT's 10 Hz.
        downsample: pixels per pixel, for events and boxes. RVT's sequences are of the size they were made in.
        downsample_mode: ``merge`` keeps all events, ``nearest`` a sampled pixel's in each cell, as RVT does.
    """
    rules = LabelRules(
        classes=tuple((number, number) for number in range(len(CLASSES))),
        every_us=label_every_us,
        downsample=downsample,
        filter=named_filter(filter),
    )
    piece = Piece(downsample=downsample, downsample_mode=downsample_mode)
    return open_paired(LAYOUT, root, split, rules=rules, piece=piece, limit=limit, skip_faulty=skip_faulty)
