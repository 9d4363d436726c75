"""When two runs that round differently see the same: detections that correspond, and membranes within the gate."""

import numpy as np

from snn_perception.engine.parity import ROUNDING
from snn_perception.state import named_leaves

SCORE, BOX_PX = 1e-4, 0.05


def correspond(one, other) -> bool:
    """Return whether two lists of detections are equal up to rounding.

    Equal scores may change places, and the last of a list that was cut may be another one.
    """
    if one.t_us != other.t_us or abs(len(one) - len(other)) > 1:
        return False
    return _is_in(one, other) and _is_in(other, one)


def _is_in(one, other) -> bool:
    if not len(other):
        return not len(one)
    clear = one.score > max(one.score.min(), other.score.min()) + SCORE
    for xyxy, score, class_id in zip(one.xyxy[clear], one.score[clear], one.class_id[clear], strict=True):
        near = (np.abs(other.score - score) < SCORE) & (other.class_id == class_id)
        if not (np.abs(other.xyxy[near] - xyxy) < BOX_PX).all(axis=1).any():
            return False
    return bool(len(one)) == bool(len(other))


def spikes_agree(one, other) -> bool:
    """Return whether no neuron fired in one state's window alone: a membrane that did is off by more than rounding."""
    pairs = zip(named_leaves(one), named_leaves(other), strict=True)
    return all(float((a - b).abs().max()) <= ROUNDING for (_, a), (_, b) in pairs)
