"""GEN1 automotive detection (de Tournemire et al., arXiv 2001.08499): 304x240, cuts of 60 s, labels at 1 to 4 Hz."""

from __future__ import annotations

from pathlib import Path

from snn_perception.api import Dataset, LabelRules, SensorSize, named_filter

from .paired import PairedLayout, open_paired

CLASSES = ("car", "pedestrian")
LAYOUT = PairedLayout(
    name="gen1",
    classes=CLASSES,
    sensor=SensorSize(240, 304),
    inner=("detection_dataset_duration_60s_ratio_1.0",),
    # Training recordings whose labels are all smaller than the protocol's filter lets pass.
    label_free=frozenset(
        (
            "17-04-06_09-57-37_6344500000_6404500000",
            "17-04-13_19-17-27_976500000_1036500000",
            "17-04-06_15-14-36_1159500000_1219500000",
            "17-04-11_15-13-23_122500000_182500000",
        )
    ),
)


def gen1(
    root: str | Path,
    split: str,
    *,
    limit: int | None = None,
    filter: str = "none",
    skip_faulty: bool = True,
    skip_label_free: bool = False,
    label_every_us: int | None = None,
) -> Dataset:
    """Return a split of GEN1, as published, converted to HDF5 or RAW, or preprocessed by RVT.

    Args:
        root: folder that holds train, val and test (also inside the archive's own folder), or the split's own folder.
        limit: at most so many recordings.
        filter: which labels count, by the name of a preset.
        skip_faulty: leave recordings out whose files are damaged as far as their first bytes tell.
        skip_label_free: leave the four training recordings out that lose every label under the ``gen1`` filter.
        label_every_us: at most one label time in each interval of this length.
    """
    rules = rules_of(filter, label_every_us)
    return open_paired(
        LAYOUT, root, split, rules=rules, limit=limit, skip_faulty=skip_faulty, skip_label_free=skip_label_free
    )


def rules_of(filter: str, label_every_us: int | None) -> LabelRules:
    """Return what becomes of GEN1's labels; classes that the set does not have are dropped."""
    classes = tuple((number, number) for number in range(len(CLASSES)))
    return LabelRules(classes=classes, every_us=label_every_us, filter=named_filter(filter))
