"""Presence of events in micro time bins: the input of ST-VGG and ResCat."""

from __future__ import annotations

from typing import Literal

import numpy as np

from snn_perception.events.grid import Bins, even_edges
from snn_perception.events.representations.counts import Counts
from snn_perception.types import I64, SensorSize

Layout = Literal["bin_major", "polarity_major", "collided", "polarity_only"]
LAYOUTS = ("bin_major", "polarity_major", "collided", "polarity_only")


class VoxelCube(Counts):
    """Presence of events per pixel, polarity and micro time bin: [1, 2 * tbin, H, W], 0 or 1.

    Bin ``b = floor((t - t_start) * tbin / window length)``. One time step; counts are discarded (unless asked for).
    With ``tbin = 1`` this is the input of ST-VGG and ResCat (Cordone, PhD thesis, 2022, ch. 5), in every layout. For
    more bins the published code has two faults, kept for weights that were trained with them: the channel formula of
    the classification code lets (OFF, bin 1) and (ON, bin 0) share a channel, and the detection code leaves the added
    channels empty.

    Args:
        size: model input size; events must lie on it.
        tbin: micro time bins per window.
        layout: channel of polarity p and bin b: ``bin_major`` 2 b + p, ``polarity_major`` tbin p + b, or, for old
            weights, ``collided`` (p + 1)(b + 1) - 1 and ``polarity_only`` p.
        presence: 1 for any number of events; otherwise their count, up to 255.
    """

    def __init__(self, size: SensorSize, *, tbin: int = 1, layout: Layout = "bin_major", presence: bool = True) -> None:
        if tbin < 1:
            raise ValueError(f"tbin must be at least 1, got {tbin}")
        super().__init__(size, 1, 2 * tbin)
        self.tbin, self._planes = tbin, channel_planes(tbin, layout)
        # Presence is a count up to 1: setting cells without looking is slower, since a load fetches ahead.
        self.limit = 1 if presence else 255

    def bins(self, t_start_us: int, t_end_us: int) -> Bins:
        return Bins(even_edges(t_start_us, t_end_us, self.tbin), self._planes)


def channel_planes(tbin: int, layout: Layout) -> I64:
    """Return the channel of each polarity and bin, int64 [2, tbin]. Raises ValueError for an unknown layout."""
    p, b = np.mgrid[:2, :tbin]
    planes: dict[str, I64] = {
        "bin_major": 2 * b + p,
        "polarity_major": tbin * p + b,
        "collided": (p + 1) * (b + 1) - 1,
        "polarity_only": p,
    }
    if layout not in planes:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    return planes[layout].astype(np.int64)
