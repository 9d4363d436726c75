"""The rung of the sanity ladder that knows everything but the annotator's hand.

A perfect detector knows where an object is; the label beside it is a few pixels off, as a hand drew it. What it reaches
is the ceiling of the set. The generator keeps no boxes from before the hand, so the hand draws once more: the overlap
of a label with its own redrawing is distributed as that of the truth with its label.
"""

from __future__ import annotations

import zlib

import numpy as np

from snn_perception.data.labels import Labels
from snn_perception.evaluation.ladder_boxes import FoundBoxes
from snn_perception.synth.labelling import JITTER_PX, JITTER_SHARE
from snn_perception.types import I64, SensorSize

_KEY = 1  # tells these numbers from others drawn for the same name


def redraw(labels: Labels, size: SensorSize, name: str) -> tuple[I64, FoundBoxes]:
    """Return label times [N] and boxes as the synthetic annotator would draw them once more; lost ones are left out.

    Each edge moves by a normal number with a standard deviation of 0.6 px and 1.2 % of the side, and is rounded and cut
    to the image. Scores rise with the shorter side: the smaller a box, the less of it do drawn and true box share.

    Args:
        name: of the recording; equal names and labels give equal boxes.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([_KEY, zlib.crc32(name.encode())])))
    left_top, sides = labels.xywh[:, :2].astype(np.float64), labels.xywh[:, 2:].astype(np.float64)
    edges = np.stack([left_top, left_top + sides], axis=1)  # [M, 2, 2]: low and high edges of x and y
    moved = edges + rng.standard_normal(edges.shape) * (JITTER_PX + JITTER_SHARE * sides)[:, None]
    low, high = np.clip(np.rint(moved), 0, [size.width, size.height]).transpose(1, 0, 2)
    drawn = ((high - low) > 0).all(axis=1)
    shorter = np.minimum(*sides.T)
    score = shorter / (shorter + 1)
    xywh = np.concatenate([low, high - low], axis=1)
    found = FoundBoxes(xywh.astype(np.float32), score.astype(np.float32), labels.class_id)
    return labels.t_us[drawn], found[drawn]
