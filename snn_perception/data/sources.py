"""Labels that lie in other files than those of `snn_perception.data.labels`, in the form that data sets need."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from snn_perception.data.labels import Labels


def read_sequence_labels(path: str | Path) -> tuple[Labels, tuple[str, ...]]:
    """Return the labels of an RVT-preprocessed sequence, in pixels of the sensor, and notes for a person.

    Raises:
        EventDataError: if they cannot be read.
    """
    from snn_perception.data.rvt import RvtSequence

    sequence = RvtSequence(path)
    return sequence.labels(), tuple(sequence.notes)


def read_outline_labels(path: str | Path, class_id: int, t_us: int) -> tuple[Labels, tuple[str, ...]]:
    """Return the one box of an N-Caltech101 annotation as a label at `t_us`, and notes for a person.

    Raises:
        EventDataError: if the annotation cannot be read.
    """
    from snn_perception.events.atis_bin import outline_box, read_ncaltech_annotation  # compiles kernels: late

    outline, _ = read_ncaltech_annotation(path)
    one = np.ones(1, np.int64)
    return Labels(one * t_us, outline_box(outline)[None], one * class_id, one * 0, np.ones(1, np.float32)), ()
