"""GEN1 and 1Mpx as RVT preprocesses them (Gehrig and Scaramuzza, CVPR 2023): histograms of 50 ms in place of events."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from snn_perception.api import (
    Dataset,
    EventDataError,
    LabelRules,
    checked_root,
    is_half_size,
    is_rvt_sequence,
    list_files,
    named_filter,
)

from .gen1 import LAYOUT as GEN1
from .one_mpx import LAYOUT as ONE_MPX
from .paired import open_paired

LAYOUTS = {"gen1": GEN1, "one_mpx": ONE_MPX}


def rvt(
    root: str | Path,
    split: str,
    *,
    camera: Literal["auto", "gen1", "one_mpx"] = "auto",
    limit: int | None = None,
    filter: str = "none",
    skip_faulty: bool = True,
    skip_label_free: bool = False,
    label_every_us: int | None = None,
) -> Dataset:
    """Return a split of a tree of RVT-preprocessed sequences.

    Labels lie in pixels of the sensor; where histograms are of half size they are halved, cut to 0..W-1 and 0..H-1, and
    dropped if nothing is left. There is one sample for each labelled frame.

    Args:
        root: folder that holds train, val and test, or the split's own folder.
        camera: which set it is; ``auto`` takes sequences of half size for 1Mpx and all others for GEN1.
        limit: at most so many sequences.
        filter: which labels count, by the name of a preset, judged at the size the boxes then have.
        skip_faulty: leave sequences out whose files are damaged as far as their first bytes tell.
        skip_label_free: leave GEN1's four training recordings out that lose every label under the ``gen1`` filter.
        label_every_us: at most one label time in each interval of this length.
    """
    root = checked_root(root)
    if camera not in ("auto", *LAYOUTS):
        raise EventDataError(f"camera: expected auto, {' or '.join(LAYOUTS)}, got {camera!r}")
    layout = LAYOUTS[_camera(root) if camera == "auto" else camera]
    rules = LabelRules(
        classes=tuple((number, number) for number in range(len(layout.classes))),
        every_us=label_every_us,
        filter=named_filter(filter),
    )
    dataset = open_paired(
        layout,
        root,
        split,
        rules=rules,
        limit=limit,
        skip_faulty=skip_faulty,
        skip_label_free=skip_label_free,
        only_sequences=True,
    )
    return replace(dataset, name="rvt")


def _camera(root: Path) -> str:
    """Return the set that the first sequence below a folder is of."""
    first = next((path for path in list_files(root, is_unit=is_rvt_sequence) if path.is_dir()), None)
    return "one_mpx" if first is not None and is_half_size(first) else "gen1"
