"""Which half of an EVT 2.1 word comes first, told from the words."""

from __future__ import annotations

import numpy as np

from snn_perception.events.evt2_kernels import HIGHS, TIME_HIGH

_STEP = 100_000 >> 6  # high parts of time in 100 ms


def likelier_order(data: bytes) -> tuple[str, bool]:
    """Return the encoding, ``evt21`` or ``evt21e``, in which the time words of `data` run on, and whether they tell.

    Where they do not it is ``evt21e``.
    """
    halves = np.frombuffer(data, "<u4", len(data) // 8 * 2).reshape(-1, 2)
    evt21, evt21e = _steady(halves[:, 1]), _steady(halves[:, 0])
    return "evt21" if evt21 > evt21e else "evt21e", evt21 != evt21e


def _steady(heads: np.ndarray) -> int:
    """Return how many of the time words among the upper halves uint32 [N] follow closely on the one before."""
    high = heads[heads >> 28 == TIME_HIGH].astype(np.int64) % HIGHS
    return int(np.count_nonzero(np.diff(high) % HIGHS <= _STEP))
